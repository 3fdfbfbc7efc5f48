//! Information for a task about its attempt.

use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::handler::{Extract, TaskScope};
use super::{MissingDep, TaskOptions, WorkflowInfo};
use crate::id::{InstanceId, NodePath, RunId};
use crate::time::Timestamp;

/// The attempt that a task runs in: add it as a parameter after the input. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TaskContext {
    parts: Arc<ContextParts>,
}

#[derive(Debug)]
pub(crate) struct ContextParts {
    pub(crate) workflow: Arc<WorkflowInfo>,
    pub(crate) instance: InstanceId,
    pub(crate) run: RunId,
    pub(crate) node: NodePath,
    pub(crate) attempt: u32,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) options: Arc<TaskOptions>,
    pub(crate) cancellation: CancellationToken,
    /// The token for user code, created on first use.
    pub(crate) handed_out: OnceLock<CancellationToken>,
    pub(crate) indices: Arc<[u64]>,
}

impl TaskContext {
    pub(crate) fn new(parts: ContextParts) -> Self {
        Self { parts: Arc::new(parts) }
    }

    /// Returns the workflow's name, version, description and metadata.
    pub fn workflow(&self) -> &WorkflowInfo {
        &self.parts.workflow
    }

    /// Returns the instance's id.
    pub fn instance(&self) -> &InstanceId {
        &self.parts.instance
    }

    /// Returns the id of the instance's run.
    pub fn run(&self) -> RunId {
        self.parts.run
    }

    /// Returns the task's path in the workflow.
    pub fn node(&self) -> &NodePath {
        &self.parts.node
    }

    /// Returns the position within loops and maps, outermost first: the iteration of each enclosing
    /// loop, from 1, and the index in each enclosing map, from 0.
    pub fn indices(&self) -> &[u64] {
        &self.parts.indices
    }

    /// Returns the number of this attempt, from 1. An attempt lost in a crash did not fail: the
    /// next one has the same number.
    pub fn attempt(&self) -> u32 {
        self.parts.attempt
    }

    /// Returns the time at which this attempt times out, if it has a timeout.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.parts.deadline
    }

    /// Returns the task's options.
    pub fn options(&self) -> &TaskOptions {
        &self.parts.options
    }

    /// Returns a token that is cancelled when the attempt times out or its instance is cancelled.
    /// The task's future is dropped then as well, so only work moved elsewhere (threads, other
    /// tasks) needs the token. Cancelling it yourself cancels such work, not the attempt.
    pub fn cancellation(&self) -> &CancellationToken {
        self.parts.handed_out.get_or_init(|| self.parts.cancellation.child_token())
    }

    /// Returns a key that makes an effect outside the process happen only once: equal in every
    /// attempt at this position, also after a crash, and different at every other position. 64
    /// hexadecimal digits.
    pub fn idempotency_key(&self) -> String {
        idempotency_key(&self.parts.instance, self.parts.run, &self.parts.node, &self.parts.indices)
    }
}

/// Hashes instance id, run id, node path, and the iteration of each enclosing loop and index of
/// each enclosing map, with SHA-256.
pub(crate) fn idempotency_key(instance: &InstanceId, run: RunId, node: &NodePath, indices: &[u64]) -> String {
    let mut hasher = Sha256::new();
    for text in [instance.as_str(), node.as_str()] {
        // A fixed width, so that the key is equal on every platform.
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text);
    }
    hasher.update(run.to_bytes());
    for index in indices {
        hasher.update(index.to_be_bytes());
    }
    format!("{:x}", hasher.finalize())
}

impl Extract for TaskContext {
    fn extract(scope: &TaskScope) -> Result<Self, MissingDep> {
        Ok(scope.context.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Method: compare a key with its recorded value. A key given to an outside system must be
    /// equal in every later version, on every platform.
    #[test]
    fn idempotency_key_never_changes() {
        let (instance, node) = (InstanceId::new("order-1").unwrap(), NodePath::new("pay/charge"));
        let key = idempotency_key(&instance, RunId::from_bytes([7; 16]), &node, &[1, 300]);
        assert_eq!(key, "d9583980892489a24bdc52b2e3829420ab1c3191dd6de5cb1e5fe6afcd1df489");
    }
}
