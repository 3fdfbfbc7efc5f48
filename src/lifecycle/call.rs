//! One attempt of a task, as a future.

use std::sync::{Arc, OnceLock};

use futures_util::future::Either;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::clock::BoxFuture;
use crate::codec::Codec;
use crate::definition::{
    AttemptFailure, ContextParts, Definition, Deps, FailureKind, NodeNames as _, TaskContext, TaskOptions, TaskScope,
};
use crate::id::{InstanceId, NodePath, RunId};
use crate::limits::PayloadLimits;
use crate::machine::{Outcome, Run};
use crate::panic::caught;
use crate::time::Timestamp;

/// The parts that an attempt needs besides its input. Runs tasks of one definition.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The definition.
    pub definition: Arc<Definition>,
    /// The services that its tasks ask for.
    pub deps: Arc<Deps>,
    /// The instance's codec.
    pub codec: Codec,
    /// The payload limits of task inputs and outputs.
    pub limits: PayloadLimits,
}

impl Caller {
    /// Returns the options of the task to run.
    pub fn options(&self, run: &Run) -> Option<&Arc<TaskOptions>> {
        self.definition.task(run.task).map(|task| &task.options)
    }

    /// Runs one attempt, including the decoding of its input and the encoding of its output. The
    /// future returns the result even if user code panics. No timeout applies: the caller drops it
    /// after `run.timeout`.
    pub fn call(
        &self,
        instance: &InstanceId,
        run_id: RunId,
        run: Run,
        now: Timestamp,
        cancellation: CancellationToken,
    ) -> impl Future<Output = Outcome> + Send + use<> {
        let Some(task) = self.definition.task(run.task) else {
            let failure = AttemptFailure::new(FailureKind::Codec, "the definition has no such task");
            return Either::Left(std::future::ready(Err(failure)));
        };
        let node = self.definition.program().path(run.node).cloned().unwrap_or_else(|| NodePath::new(""));
        let span = tracing::info_span!(
            "task",
            workflow = self.definition.info().name(),
            instance = instance.as_str(),
            task = node.as_str(),
            attempt = run.attempt,
        );
        let context = TaskContext::new(ContextParts {
            workflow: Arc::clone(self.definition.info()),
            instance: instance.clone(),
            run: run_id,
            node,
            attempt: run.attempt,
            deadline: run.timeout.map(|left| now.after(left)),
            options: Arc::clone(&task.options),
            cancellation,
            handed_out: OnceLock::new(),
            indices: run.execution_path,
        });
        let scope = TaskScope { context, deps: Arc::clone(&self.deps), codec: self.codec.clone(), limits: self.limits };
        Either::Right(catch_panic(task.run(run.value, scope)).instrument(span))
    }
}

/// Turns a panic into a failed attempt.
async fn catch_panic(attempt: BoxFuture<'static, Outcome>) -> Outcome {
    match caught(attempt).await {
        Ok(outcome) => outcome,
        Err(panic) => Err(AttemptFailure::new(FailureKind::Panicked, panic)),
    }
}
