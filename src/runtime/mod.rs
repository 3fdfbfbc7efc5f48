//! The runtime that a service embeds: builder, starts, lists, deletes, health, shutdown.

mod builder;
mod cursor;
mod list;
mod report;
mod start;

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::actors::Actors;
#[cfg(feature = "testing")]
use crate::actors::next_due;
use crate::codec::Codec;
use crate::definition::Workflow;
use crate::handle::{HandleError, InstanceHandle, MessageError, delete, read};
use crate::id::InstanceId;
use crate::store::Store;
#[cfg(feature = "testing")]
use crate::store::StoreError;
#[cfg(feature = "testing")]
use crate::time::Timestamp;

pub use crate::actors::{Health, LeftAlone, Retention, Unreadable};
pub use crate::executor::{StallCause, Stalled};
pub use builder::{RuntimeBuilder, RuntimeError};
pub use cursor::{ListCursor, ParseCursorError};
pub use list::{InstanceFilter, InstancePage, InstanceSummary, ListError};
pub use report::{StartReport, Unregistered};
pub use start::{StartOptions, StartOutcome};

/// A running Everstep: starts instances, keeps them going, and resumes by itself those that a crash
/// interrupted.
///
/// Cheap to clone. [`Runtime::shutdown`] stops it gently. Otherwise the runtime stops at once when
/// the last clone and the last of its handles and watches are dropped. Nothing acknowledged is
/// lost. The store is released a moment later, so call shutdown first to open the same directory
/// again.
///
/// A service that is provided to tasks must not hold a clone of the same runtime: the runtime holds
/// its services, so it would never stop by itself. Let the service hold a [`WeakRuntime`].
///
/// Runs on the tokio runtime it is started on, which must have a time driver.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    actors: Arc<Actors>,
    codec: Codec,
    report: StartReport,
}

impl Runtime {
    /// Begins to build a runtime on a store.
    pub fn builder(store: impl Store) -> RuntimeBuilder {
        RuntimeBuilder::new(Arc::new(store))
    }

    fn new(actors: Actors, codec: Codec, report: StartReport) -> Self {
        Self { inner: Arc::new(Inner { actors: Arc::new(actors), codec, report }) }
    }

    /// Returns the findings of the start.
    pub fn report(&self) -> &StartReport {
        &self.inner.report
    }

    /// Returns the instances of older definitions that cannot be upgraded to the newer one, and
    /// those with a record written by a newer version of this crate. Only instances activated so
    /// far are listed, at most 1,000. They stay unchanged, and are tried again when next activated.
    pub fn left_alone(&self) -> Vec<LeftAlone> {
        self.inner.actors.shared().upgrades.left_alone()
    }

    /// Returns the unfinished instances that the store has failed to read five times in a row or
    /// more, by id, at most 1,000. Each is tried again at least once a minute, and leaves the list
    /// once read. If most instances are listed, the store is at fault.
    pub fn unreadable(&self) -> Vec<Unreadable> {
        self.inner.actors.shared().unreadable()
    }

    /// Returns the attempts that block their thread now: they have not come to an await for half a
    /// second or more, and are not declared [`blocking`](crate::Task::blocking). Each takes one
    /// thread from everything else on this tokio runtime. An attempt is listed within a second, and
    /// logged once as a warning. Measured in real time, not by the runtime's clock.
    ///
    /// Also returns attempts that hold all slots
    /// ([`Limits::tasks_running_max`](crate::Limits::tasks_running_max)) while each waits for
    /// another instance's [`result`](crate::InstanceHandle::result): see
    /// [`StallCause`](crate::StallCause).
    pub fn stalled(&self) -> Vec<Stalled> {
        self.inner.actors.shared().stalled()
    }

    /// Returns the health of the runtime: whether anything can be made durable now.
    pub fn health(&self) -> Health {
        self.inner.actors.shared().health()
    }

    /// Returns a handle of an instance that exists.
    ///
    /// # Errors
    /// [`HandleError::NotFound`] if it does not exist, [`HandleError::DefinitionMismatch`] if it
    /// runs on a definition that is neither this workflow's nor one that this workflow upgrades.
    pub async fn handle<I, O: 'static>(
        &self,
        workflow: &Workflow<I, O>,
        instance: impl AsRef<str>,
    ) -> Result<InstanceHandle<O>, HandleError> {
        let instance = InstanceId::stored(instance.as_ref())?;
        let read = read(self.inner.actors.shared(), &instance).await?;
        let snapshot = &read.stored.snapshot;
        let (expected, found) = (workflow.hash(), snapshot.definition());
        if !workflow.definition().accepts(found) {
            return Err(HandleError::DefinitionMismatch { expected, found });
        }
        Ok(InstanceHandle::new(&self.inner.actors, workflow, instance, snapshot.run(), snapshot.codec()))
    }

    /// Deletes an instance that has ended or is quarantined, of any workflow, registered here or
    /// not: see [`InstanceHandle::delete`]. Also deletes an instance with a damaged head, of which
    /// there is no handle. Its run is unknown then, and the rows of that run stay in the store.
    ///
    /// # Errors
    /// [`MessageError`], as [`InstanceHandle::delete`].
    pub async fn delete(&self, instance: &InstanceId) -> Result<(), MessageError> {
        let shared = self.inner.actors.shared();
        delete(shared, instance, shared.when_busy).await
    }

    /// Crashes the runtime, for tests: see
    /// [`TestRuntime::crash`](crate::testing::TestRuntime::crash).
    #[cfg(feature = "testing")]
    pub(crate) async fn crash(&self) {
        self.inner.actors.crash().await;
    }

    #[cfg(feature = "testing")]
    pub(crate) fn actors(&self) -> std::sync::Weak<Actors> {
        Arc::downgrade(&self.inner.actors)
    }

    /// Returns `None` while there is something to do at this time; else the time at which something
    /// is due next, if ever. For tests.
    #[cfg(feature = "testing")]
    pub(crate) async fn next_due(&self, now: Timestamp) -> Result<Option<Option<Timestamp>>, StoreError> {
        next_due(self.inner.actors.shared(), now).await
    }

    /// Stops gently: new work is refused, and running tasks may finish until `grace` is over. Then
    /// they are cancelled, and run again at the next start. When this returns, everything is
    /// written and the store is closed.
    ///
    /// Callers that wait for a result get
    /// [`ResultError::ShuttingDown`](crate::ResultError::ShuttingDown). A message may have taken
    /// effect even if its answer says that the runtime is shutting down; an acknowledged message
    /// always has. Shutdown may be called several times, also at once: the shortest grace counts.
    ///
    /// A thread cannot be stopped: a [`blocking`](crate::Task::blocking) task that ignores its
    /// token runs on, and its result is dropped. Shutdown does not wait for it, but dropping a
    /// tokio runtime does: a service that must not wait ends its own with
    /// `tokio::runtime::Runtime::shutdown_timeout`, or exits.
    ///
    /// Shutdown completes even if the caller drops this future, as long as the caller's tokio
    /// runtime lives. A task of this runtime may call it too, and is cancelled with the others once
    /// the grace is over.
    pub async fn shutdown(&self, grace: Duration) {
        let actors = Arc::clone(&self.inner.actors);
        let shutdown = async move { actors.shutdown(grace).await };
        match tokio::runtime::Handle::try_current() {
            // An error means that the caller's tokio runtime ends.
            Ok(tokio) => drop(tokio.spawn(shutdown).await),
            Err(_) => shutdown.await,
        }
    }

    /// Returns a reference that does not keep the runtime running: for a service used by its own
    /// tasks, which would otherwise hold the runtime that holds the service.
    pub fn downgrade(&self) -> WeakRuntime {
        WeakRuntime { inner: Arc::downgrade(&self.inner) }
    }
}

/// A reference to a [`Runtime`] that does not keep it running, from [`Runtime::downgrade`].
#[derive(Clone)]
pub struct WeakRuntime {
    inner: Weak<Inner>,
}

impl WeakRuntime {
    /// Returns the runtime, if a clone of it still exists.
    pub fn upgrade(&self) -> Option<Runtime> {
        Some(Runtime { inner: self.inner.upgrade()? })
    }
}

impl std::fmt::Debug for WeakRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WeakRuntime")
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Runtime({:?})", self.health())
    }
}
