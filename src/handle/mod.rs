//! The handle of one instance: [`InstanceHandle`] (`messages`: changes it; `reads`: reads it),
//! [`StatusWatch`], and their errors.

mod ask;
mod error;
mod messages;
mod reads;
mod watch;

use std::sync::Arc;

use crate::actors::{Actors, Read, Shared};
use crate::definition::Workflow;
use crate::id::{InstanceId, RunId};
use crate::limits::WhenBusy;

pub(crate) use ask::delete;
pub use error::{HandleError, MessageError, ResultError};
pub use watch::StatusWatch;

/// A handle of one instance, for the caller that started it or any other. Cheap to clone. Keeps the
/// runtime alive, but not the instance active.
///
/// Messages go to the instance's current run, and [`status`](Self::status) is that of the current
/// run. [`result`](Self::result), [`watch`](Self::watch) and [`task_result`](Self::task_result)
/// belong to the run that the handle was made for. Every answer waits until what it says is
/// committed.
pub struct InstanceHandle<O> {
    actors: Arc<Actors>,
    workflow: Workflow<(), O>,
    instance: InstanceId,
    run: RunId,
    codec: u8,
    when_busy: WhenBusy,
}

impl<O: 'static> InstanceHandle<O> {
    pub(crate) fn new<I>(
        actors: &Arc<Actors>,
        workflow: &Workflow<I, O>,
        instance: InstanceId,
        run: RunId,
        codec: u8,
    ) -> Self {
        let when_busy = actors.shared().when_busy;
        Self { actors: Arc::clone(actors), workflow: workflow.without_input(), instance, run, codec, when_busy }
    }

    /// Sets what messages through this handle do when a limit is reached: wait, or fail with
    /// [`MessageError::Busy`]. The default is that of the
    /// [runtime](crate::RuntimeBuilder::when_busy).
    pub fn when_busy(mut self, when_busy: WhenBusy) -> Self {
        self.when_busy = when_busy;
        self
    }

    /// Returns the instance's id.
    pub fn id(&self) -> &InstanceId {
        &self.instance
    }

    /// Returns the id of the run that this handle was made for.
    pub fn run_id(&self) -> RunId {
        self.run
    }

    fn shared(&self) -> &Arc<Shared> {
        self.actors.shared()
    }
}

/// Reads an instance that must exist.
pub(crate) async fn read(shared: &Shared, instance: &InstanceId) -> Result<Read, HandleError> {
    let read = shared.read(instance).await.map_err(|error| shared.explain(error.into()))?;
    read.ok_or(HandleError::NotFound)
}

impl Shared {
    /// Turns a store error during a shutdown into [`HandleError::ShuttingDown`]: the store is
    /// closed then.
    fn explain(&self, error: HandleError) -> HandleError {
        match error {
            HandleError::Store(_) if self.is_closing() => HandleError::ShuttingDown,
            error => error,
        }
    }
}

impl<O> Clone for InstanceHandle<O> {
    fn clone(&self) -> Self {
        Self {
            actors: Arc::clone(&self.actors),
            workflow: self.workflow.clone(),
            instance: self.instance.clone(),
            run: self.run,
            codec: self.codec,
            when_busy: self.when_busy,
        }
    }
}

impl<O> std::fmt::Debug for InstanceHandle<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InstanceHandle({}, run {})", self.instance, self.run)
    }
}
