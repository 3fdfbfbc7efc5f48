//! Why an instance could not be read, did not take a message, or has no result.

use std::sync::Arc;

use crate::cause::Cause;
use crate::codec::CodecError;
use crate::definition::SignalError;
use crate::id::{DefinitionHash, IdError};
use crate::lifecycle::LoadError;
use crate::limits::Bound;
use crate::machine::{Damaged, Refusal};
use crate::status::{Failure, Status};
use crate::store::StoreError;

/// Why an instance could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// The instance id is not valid.
    #[error(transparent)]
    Id(#[from] IdError),
    /// There is no such instance.
    #[error("there is no such instance")]
    NotFound,
    /// The instance runs on another definition.
    #[error("the instance runs on definition {found}, not {expected}: use that workflow for its handle")]
    DefinitionMismatch {
        /// The definition given.
        expected: DefinitionHash,
        /// The definition it runs on.
        found: DefinitionHash,
    },
    /// A record of it is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// A value does not decode.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Another run has taken the place of the handle's.
    #[error("another run has taken the place of this one: get a new handle with Runtime::handle")]
    Superseded,
    /// The workflow has no task at this path.
    #[error("workflow `{workflow}` has no task `{path}`: is the path right?")]
    NoSuchTask {
        /// The workflow.
        workflow: String,
        /// The path given.
        path: String,
    },
    /// A task within maps is asked for with another number of indices.
    #[error("task `{path}` is within {maps} maps: give an index for each, not {given}, with task_result_at")]
    WrongIndices {
        /// The path given.
        path: String,
        /// The maps around it.
        maps: usize,
        /// The indices given.
        given: usize,
    },
    /// The runtime has shut down.
    #[error("the runtime has shut down")]
    ShuttingDown,
    /// Its codec is not registered with this runtime.
    #[error("the instance's codec {0} is not registered: add it with RuntimeBuilder::also_codec")]
    UnknownCodec(u8),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<LoadError> for HandleError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Damaged(damaged) => Self::Damaged(damaged),
            LoadError::Store(store) => Self::Store(store),
        }
    }
}

/// Why an instance did not take a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Too much is under way, and this call does not wait ([`WhenBusy::Refuse`](crate::WhenBusy::Refuse)). Nothing was done:
    /// the message had no effect and may be repeated.
    #[error("busy, nothing was done: {0}")]
    Busy(Bound),
    /// There is no such instance.
    #[error("there is no such instance")]
    NotFound,
    /// The instance has ended.
    #[error("the instance has ended already ({0})")]
    AlreadyTerminal(Status),
    /// Unpause of an instance that is not paused.
    #[error("the instance is not paused ({0})")]
    NotPaused(Status),
    /// Retry of an instance that has not failed.
    #[error("the instance has not failed ({0})")]
    NotFailed(Status),
    /// Retry of an instance whose deadline has passed.
    #[error("the workflow's deadline has passed: retry with a new one, by retry_within")]
    DeadlinePassed,
    /// Release of an instance that is not set aside.
    #[error("the instance is not set aside ({0})")]
    NotQuarantined(Status),
    /// The instance cannot be read.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The instance is set aside.
    #[error("the instance is set aside ({0})")]
    Quarantined(Status),
    /// Delete of an instance that has not ended.
    #[error("the instance has not ended ({0}): cancel it first")]
    NotTerminal(Status),
    /// The signal's name or payload type is not what the workflow declares.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// The signal id is not valid.
    #[error(transparent)]
    SignalId(#[from] IdError),
    /// The payload does not encode, or is too large.
    #[error(transparent)]
    Payload(#[from] CodecError),
    /// The instance's signal buffer is full, or a text is too long.
    #[error(transparent)]
    Refused(Refusal),
    /// The instance's definition or codec is not registered in this process.
    #[error("the instance's definition or codec is not registered in this process: it is left alone")]
    NotRegistered,
    /// The instance runs on an older definition, and the one that takes it over has no place for it: it is left alone.
    #[error("the instance has no place in the newer definition: {0}")]
    Unplaced(String),
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    ShuttingDown,
    /// Whether the message took effect is unknown: look at the status, or send it again where that is harmless.
    #[error("whether the message took effect is unknown: {0}")]
    OutcomeUnknown(#[source] Cause),
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// The run failed.
    #[error(transparent)]
    Failed(Failure),
    /// The run was cancelled.
    #[error("cancelled by {by}: {reason}")]
    Cancelled {
        /// Why.
        reason: Arc<str>,
        /// By whom.
        by: Arc<str>,
    },
    /// The instance is set aside: look into why, and let it go on with `InstanceHandle::release`, or start it anew with
    /// `ConflictPolicy::TerminateExisting`.
    #[error("the instance is set aside: {reason}")]
    Quarantined {
        /// Why.
        reason: Arc<str>,
    },
    /// Another run has taken the place of this one.
    #[error("another run has taken the place of this one")]
    Superseded,
    /// The runtime has shut down; the instance goes on at the next start.
    #[error("the runtime has shut down before the instance ended")]
    ShuttingDown,
    /// The instance cannot be read.
    #[error(transparent)]
    Handle(#[from] HandleError),
}
