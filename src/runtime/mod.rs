//! The runtime a service embeds: builder, starts, lists, deletes, health, shutdown.

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

pub use crate::actors::{Health, Retention, Unplaced, Unreadable};
pub use crate::executor::{StallCause, Stalled};
pub use builder::{RuntimeBuilder, RuntimeError};
pub use cursor::{Cursor, CursorError};
pub use list::{InstanceFilter, ListError, Listed, Page};
pub use report::{StartReport, Unregistered};
pub use start::{StartOptions, Started};

/// A running Everstep: starts instances, keeps them going, and picks up by itself what a crash left behind.
///
/// Cheap to clone. [`Runtime::shutdown`] stops it gently. Otherwise it stops when the last clone is dropped and the last
/// handle and watch of it, at once and without losing anything that was acknowledged; the store is let go of a moment
/// later, so shut it down first if you mean to open the same directory again.
///
/// A service that is provided to tasks must not hold a clone of the runtime it is provided to, since the runtime holds its
/// services: it would never stop by itself. Let it hold a [`WeakRuntime`].
///
/// Runs on the tokio runtime it is started on, which needs its time driver.
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
    /// Begins a runtime on a store.
    pub fn builder(store: impl Store) -> RuntimeBuilder {
        RuntimeBuilder::new(Arc::new(store))
    }

    fn new(actors: Actors, codec: Codec, report: StartReport) -> Self {
        Self { inner: Arc::new(Inner { actors: Arc::new(actors), codec, report }) }
    }

    /// What was found at the start.
    pub fn report(&self) -> &StartReport {
        &self.inner.report
    }

    /// Instances of older definitions that the one which takes them over has no place for, and those of which a newer version of
    /// this crate has written a record, as far as they were activated, at most 1,000. They are left as they are, and looked at again when they are next activated.
    pub fn unplaced(&self) -> Vec<Unplaced> {
        self.inner.actors.hub().upgrades.unplaced()
    }

    /// Instances that the store fails to read while they should go on: five times in a row or more, by id, at most 1,000. Each is
    /// tried again by itself, at least once a minute, and leaves the list once it was read. If most instances are listed, the
    /// store is at fault.
    pub fn unreadable(&self) -> Vec<Unreadable> {
        self.inner.actors.hub().unreadable()
    }

    /// Attempts that block their thread at present: they have not come to an await for half a second or more, and are not
    /// declared [`blocking`](crate::Task::blocking). Each takes one thread from everything else on this tokio runtime; it is
    /// listed within a second, and logged once as a warning. Measured in real time, whatever the runtime's clock.
    ///
    /// Also attempts that hold all places ([`Limits::tasks_running_max`](crate::Limits::tasks_running_max)) while each waits for another
    /// instance's [`result`](crate::InstanceHandle::result): see [`StallCause`](crate::StallCause).
    pub fn stalled(&self) -> Vec<Stalled> {
        self.inner.actors.hub().stalled()
    }

    /// Whether anything can be made durable at present.
    pub fn health(&self) -> Health {
        self.inner.actors.hub().health()
    }

    /// A handle of an instance that exists.
    ///
    /// # Errors
    /// [`HandleError::NotFound`] if there is none, [`HandleError::DefinitionMismatch`] if it runs on another definition
    /// than this workflow's, and on none that this one takes over.
    pub async fn handle<I, O: 'static>(
        &self,
        workflow: &Workflow<I, O>,
        instance: impl AsRef<str>,
    ) -> Result<InstanceHandle<O>, HandleError> {
        let instance = InstanceId::stored(instance.as_ref())?;
        let read = read(self.inner.actors.hub(), &instance).await?;
        let snapshot = &read.stored.snapshot;
        let (expected, found) = (workflow.hash(), snapshot.definition());
        if !workflow.definition().accepts(found) {
            return Err(HandleError::DefinitionMismatch { expected, found });
        }
        Ok(InstanceHandle::new(&self.inner.actors, workflow, instance, snapshot.run(), snapshot.codec()))
    }

    /// Deletes an instance that has ended or is quarantined, whatever its workflow, registered here or not: see
    /// [`InstanceHandle::delete`]. Also the way to get rid of an instance that no handle can be had of, because its head is
    /// damaged; which run that was is unknown then, and the run's rows stay in the store.
    ///
    /// # Errors
    /// [`MessageError`], as [`InstanceHandle::delete`].
    pub async fn delete(&self, instance: &InstanceId) -> Result<(), MessageError> {
        let hub = self.inner.actors.hub();
        delete(hub, instance, hub.when_busy).await
    }

    /// For tests, see [`TestRuntime::crash`](crate::testing::TestRuntime::crash).
    #[cfg(feature = "testing")]
    pub(crate) async fn crash(&self) {
        self.inner.actors.crash().await;
    }

    #[cfg(feature = "testing")]
    pub(crate) fn actors(&self) -> std::sync::Weak<Actors> {
        Arc::downgrade(&self.inner.actors)
    }

    /// For tests: none while there is something to do at this time; else what is due next, if anything is.
    #[cfg(feature = "testing")]
    pub(crate) async fn next_due(&self, now: Timestamp) -> Result<Option<Option<Timestamp>>, StoreError> {
        next_due(self.inner.actors.hub(), now).await
    }

    /// Stops gently: new work is refused, running tasks may finish until `grace` is over, then they are cancelled and run
    /// again at the next start. When this returns, everything is written and the store is closed.
    ///
    /// Callers who wait for a result stay without one: [`ResultError::ShuttingDown`](crate::ResultError::ShuttingDown). A
    /// message that was under way may have taken effect although its answer says that the runtime is shutting down; what was
    /// acknowledged has. It may be called several times, also at once: the shortest grace counts.
    ///
    /// A thread cannot be stopped: a [`blocking`](crate::Task::blocking) task that looks at no token runs on, and what it gives
    /// is nobody's. This does not wait for it. A tokio runtime that is dropped does: a service that must not wait ends its
    /// own with `tokio::runtime::Runtime::shutdown_timeout`, or exits.
    ///
    /// Comes to its end also if the caller gives up, as long as the caller's tokio runtime lives: a task of this runtime may
    /// call it, and is cancelled with the others once the grace is over.
    pub async fn shutdown(&self, grace: Duration) {
        let actors = Arc::clone(&self.inner.actors);
        let shutdown = async move { actors.shutdown(grace).await };
        match tokio::runtime::Handle::try_current() {
            // An error means that the caller's tokio runtime ends.
            Ok(tokio) => drop(tokio.spawn(shutdown).await),
            Err(_) => shutdown.await,
        }
    }

    /// Returns a reference that does not keep this running: for a service that its own tasks use, which would otherwise hold
    /// the runtime that holds the service.
    pub fn downgrade(&self) -> WeakRuntime {
        WeakRuntime { inner: Arc::downgrade(&self.inner) }
    }
}

/// A reference to a [`Runtime`] that does not keep it running; from [`Runtime::downgrade`].
#[derive(Clone)]
pub struct WeakRuntime {
    inner: Weak<Inner>,
}

impl WeakRuntime {
    /// Returns the runtime, if a clone of it is still there.
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
