//! Errors of reads, messages and results of an instance.

use std::sync::Arc;

use crate::cause::Cause;
use crate::codec::CodecError;
use crate::definition::SignalError;
use crate::id::{DefinitionHash, IdError};
use crate::lifecycle::LoadError;
use crate::limits::LimitReached;
use crate::machine::{Damaged, Refusal};
use crate::status::{Failure, Status};
use crate::store::StoreError;

/// Error of a read of an instance. A read writes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// The instance id is not valid: use another one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The instance was never started, or was deleted.
    #[error("the instance does not exist")]
    NotFound,
    /// The instance runs on another definition: get the handle with the workflow of that one.
    #[error("the instance runs on definition {found}, not {expected}: use that workflow for its handle")]
    DefinitionMismatch {
        /// The definition of the workflow that was given.
        expected: DefinitionHash,
        /// The definition that the instance runs on.
        found: DefinitionHash,
    },
    /// A record of the instance cannot be read: [`Damaged::cause`] says what to do.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// A value does not decode as the type of the workflow or the call: check the type.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Another run has replaced the run of the handle: get a new one with `Runtime::handle`.
    #[error("another run has replaced this one: get a new handle with Runtime::handle")]
    Superseded,
    /// The workflow has no task at this path: check the path.
    #[error("workflow `{workflow}` has no task `{path}`: check the path")]
    NoSuchTask {
        /// The workflow.
        workflow: String,
        /// The path given.
        path: String,
    },
    /// The number of indices is not the number of maps around the task: pass one for each map.
    #[error("task `{path}` is within {maps} maps: pass an index for each to task_result_at, found {given}")]
    WrongIndices {
        /// The path given.
        path: String,
        /// The number of maps around the task.
        maps: usize,
        /// The number of indices given.
        given: usize,
    },
    /// The runtime has shut down: read again with a new one.
    #[error("the runtime has shut down: read again with a new one")]
    ShuttingDown,
    /// The codec of the instance is not registered with this runtime: add it.
    #[error("the instance's codec {0} is not registered: add it with RuntimeBuilder::add_codec")]
    UnknownCodec(u8),
    /// The store failed: read again.
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

/// Error of a message to an instance. The message had no effect, except where a variant says that
/// it may have had one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// A limit of the runtime is reached, and this call does not wait
    /// ([`WhenBusy::Refuse`](crate::WhenBusy::Refuse)): repeat the message later.
    #[error("busy, nothing was done, try again later: {0}")]
    Busy(LimitReached),
    /// The instance was never started, or was deleted.
    #[error("the instance does not exist")]
    NotFound,
    /// The instance has ended: it accepts a delete, and a retry if it has failed.
    #[error("the instance has already ended ({0})")]
    AlreadyTerminal(Status),
    /// The message was an unpause, and the instance is not paused.
    #[error("the instance is not paused ({0})")]
    NotPaused(Status),
    /// The message was a retry, and the instance has not failed.
    #[error("the instance has not failed ({0})")]
    NotFailed(Status),
    /// The message was a retry, and the deadline of the instance has passed: use `retry_within`.
    #[error("the workflow's deadline has passed: set a new one with retry_within")]
    DeadlinePassed,
    /// The message was a release, and the instance is not quarantined.
    #[error("the instance is not quarantined ({0})")]
    NotQuarantined(Status),
    /// A record of the instance cannot be read by this process, or not at all while it is to be
    /// released: [`Damaged::cause`] says what to do.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The instance is quarantined: find the cause, then release or delete it.
    #[error("the instance is {0}")]
    Quarantined(Status),
    /// The message was a delete, and the instance has not ended: cancel it first.
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
    /// The instance's signal buffer is full, no node waits for the signal now, or a text is too
    /// long.
    #[error(transparent)]
    Refused(Refusal),
    /// The instance's definition or codec is not registered with this runtime: register it.
    #[error("the instance's definition or codec is not registered with this runtime: register it first")]
    NotRegistered,
    /// The instance runs on an older definition, and cannot be upgraded to the newer one. The
    /// instance stays unchanged: mend the upgrade, or register the older definition again.
    #[error("{0}; the instance stays on its definition, unchanged")]
    CannotUpgrade(String),
    /// The runtime is shutting down. The message may have taken effect: read the status after the
    /// restart.
    #[error("the runtime is shutting down, the message may have taken effect: read the status later")]
    ShuttingDown,
    /// The message may or may not have taken effect: read the status, or repeat the message if that
    /// is harmless.
    #[error("the outcome is unknown, the message may have taken effect (read the status): {0}")]
    OutcomeUnknown(#[source] Cause),
}

/// Error of a wait for a result. A wait writes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// The run failed: resume it with `InstanceHandle::retry`, once the cause is removed.
    #[error(transparent)]
    Failed(Failure),
    /// The run was cancelled.
    #[error("the instance was cancelled by {by}: {reason}")]
    Cancelled {
        /// The reason given.
        reason: Arc<str>,
        /// The person or service that cancelled it.
        by: Arc<str>,
    },
    /// The instance is quarantined. Find the cause, then resume it with `InstanceHandle::release`,
    /// or start it anew with `ConflictPolicy::TerminateExisting`.
    #[error("the instance is quarantined: {reason}")]
    Quarantined {
        /// The reason.
        reason: Arc<str>,
    },
    /// Another run has replaced this one: get a new handle with `Runtime::handle`.
    #[error("another run has replaced this one: get a new handle with Runtime::handle")]
    Superseded,
    /// The runtime has shut down. The instance goes on at the next start of the runtime.
    #[error("the runtime shut down before the instance ended: it continues at the next start")]
    ShuttingDown,
    /// The instance or its output cannot be read.
    #[error(transparent)]
    Handle(#[from] HandleError),
}
