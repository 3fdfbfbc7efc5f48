//! The messages to instances, and the errors they answer with.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::instance::State;
use super::payloads::PayloadShare;
use crate::definition::{Definition, SignalError, SignalType};
use crate::executor::Serial;
use crate::id::{DefinitionHash, RunId};
use crate::lifecycle::{CommitError, LoadError, ReleaseError, StartError};
use crate::limits::LimitReached;
use crate::machine::{AttemptId, Damaged, NewRun, Outcome, Refusal};
use crate::status::Status;
use crate::store::StoreError;
use crate::time::Timestamp;

/// A message to an instance actor.
pub(super) enum InstanceMessage {
    /// The first message to a new actor: activate the instance.
    Load,
    /// `Load` for an idle actor, whose last instance has left.
    Assign(Box<State>),
    /// A command, sent through the registry, which counts it.
    Command(Command),
    /// Every write of this run up to this transition is durable.
    Committed { run: RunId, seq: u64 },
    /// The registry has removed the instance, which was at rest.
    Leave,
    /// The oldest deferred result has waited long enough.
    WriteDeferred,
    /// A write was not committed, or may not have been: the state in memory is not to be trusted.
    NotCommitted { run: RunId, error: CommitError },
}

/// A command that the registry sends to an instance, active or parked.
pub(crate) enum Command {
    /// Activate the instance; if the actor had nothing to load before, load again.
    Activate,
    /// A timer is due. Dropping the permit frees one of the 256 wake-ups in flight.
    Wake { _place: OwnedSemaphorePermit },
    /// A signal.
    Signal { signal: Box<SignalCommand>, reply: Reply },
    /// Cancel the instance.
    Cancel { reason: Arc<str>, by: Arc<str>, reply: Reply },
    /// Pause the instance.
    Pause { reason: Arc<str>, by: Arc<str>, reply: Reply },
    /// End the pause.
    Unpause { reply: Reply },
    /// Continue a failed instance.
    Retry { deadline: Option<Duration>, reply: Reply },
    /// Continue a quarantined instance.
    Release { reply: Reply },
    /// Delete the instance, which must have ended or be quarantined.
    Delete { reply: Reply },
    /// Start a new run in place of the present one.
    Replace(Box<Replacement>),
    /// An attempt got its slot.
    Started { run: RunId, attempt_id: AttemptId, serial: Serial, at: Timestamp },
    /// An attempt was withdrawn before it started.
    Withdrawn { run: RunId, attempt_id: AttemptId },
    /// An attempt ended.
    Finished { run: RunId, attempt_id: AttemptId, serial: Serial, outcome: Outcome },
    /// The actor of this run panicked too often: quarantine the instance, if it still has that run.
    Quarantine { run: Option<RunId>, reason: Arc<str> },
    /// The runtime shuts down: finish the writes in flight, and leave.
    Stop,
}

/// A signal.
pub(crate) struct SignalCommand {
    pub(crate) name: Arc<str>,
    pub(crate) id: Arc<str>,
    pub(crate) payload: Bytes,
    /// The id of the payload's codec.
    pub(crate) codec: u8,
    /// The signal type of the caller, which the instance's definition must match.
    pub(crate) payload_type: SignalType,
    /// True if the signal is refused unless a wait accepts it now.
    pub(crate) if_awaited: bool,
}

/// A start that terminates the present run. The actor that commits the new run activates it.
pub(crate) struct Replacement {
    pub(crate) definition: Arc<Definition>,
    pub(crate) new: NewRun,
    pub(crate) reply: oneshot::Sender<Result<(), StartError>>,
    pub(crate) _place: Place,
}

/// A caller's place in an instance's bounded queue, and its share of the payload bytes in flight.
pub(crate) struct Place {
    _queue: OwnedSemaphorePermit,
    _payload: PayloadShare,
}

impl Place {
    pub(super) fn new(queue: OwnedSemaphorePermit, payload: PayloadShare) -> Self {
        Self { _queue: queue, _payload: payload }
    }
}

/// The receiver of an answer, and the caller's place in the instance's bounded queue until then.
pub(crate) struct Reply {
    pub(crate) sender: oneshot::Sender<Result<(), CommandError>>,
    pub(crate) _place: Place,
}

impl Reply {
    pub(super) fn send(self, answer: Result<(), CommandError>) {
        // The caller may have gone; the answer is durable all the same.
        let _ = self.sender.send(answer);
    }
}

/// The reason why an instance did not do what was requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CommandError {
    /// The command was not sent: this limit is reached.
    Busy(LimitReached),
    /// The command was not sent: the runtime is shutting down.
    Closing,
    NotFound,
    Refused {
        refusal: Refusal,
        status: Status,
    },
    Quarantined(Status),
    NotQuarantined(Status),
    Damaged(Damaged),
    /// The instance has not ended.
    NotTerminal(Status),
    NotRegistered(DefinitionHash),
    /// The newer definition has no place for the instance, for this reason.
    CannotUpgrade(String),
    UnknownCodec(u8),
    /// The payload must be in the codec with this id.
    OtherCodec(u8),
    /// The definition has no such signal, or declares another type for it.
    Signal(SignalError),
    /// The store failed: the outcome is unknown.
    Store(StoreError),
    /// Another writer changed the instance: nothing was done, and the request may be repeated.
    Fenced,
}

impl CommandError {
    /// Returns true if the state in the store is not known.
    pub(super) fn is_unsettled(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Fenced)
    }
}

impl From<&CommitError> for CommandError {
    fn from(error: &CommitError) -> Self {
        match error {
            CommitError::Store(error) => Self::Store(error.clone()),
            CommitError::Conflict(_) => Self::Fenced,
        }
    }
}

impl From<LoadError> for CommandError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Damaged(damaged) => Self::Damaged(damaged),
            LoadError::Store(error) => Self::Store(error),
        }
    }
}

impl From<ReleaseError> for CommandError {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::NotQuarantined(status) => Self::NotQuarantined(status),
            ReleaseError::Damaged(damaged) => Self::Damaged(damaged),
            ReleaseError::Commit(error) => Self::from(&error),
        }
    }
}
