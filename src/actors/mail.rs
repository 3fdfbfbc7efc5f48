//! What is sent to instances, and what they answer.

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
use crate::limits::Bound;
use crate::machine::{Damaged, NewRun, Outcome, Refusal, Ticket};
use crate::status::Status;
use crate::store::StoreError;
use crate::time::Timestamp;

/// Everything an instance actor handles.
pub(super) enum InstanceMessage {
    /// The first message: take up the instance.
    Load,
    /// The same, to an actor whose last instance has left.
    Adopt(Box<State>),
    /// Sent through the registry, which counts it.
    Mail(Mail),
    /// Every write of this run up to this transition is durable.
    Committed { run: RunId, seq: u64 },
    /// Results that wait for a later commit have waited long enough.
    WriteDeferred,
    /// A write was not committed, or may not have been: nothing in memory is to be trusted.
    NotCommitted { run: RunId, error: CommitError },
}

/// What the registry takes to an instance, awake or not.
pub(crate) enum Mail {
    /// Be awake; if there was nothing to talk to before, look again.
    TakeUp,
    /// Some time is up. Its place among the wake-ups under way is given back when this is handled.
    Wake { _place: OwnedSemaphorePermit },
    /// A signal.
    Signal { signal: Box<SignalMail>, reply: Reply },
    /// Cancel the instance.
    Cancel { reason: Arc<str>, by: Arc<str>, reply: Reply },
    /// Pause the instance.
    Pause { reason: Arc<str>, by: Arc<str>, reply: Reply },
    /// End the pause.
    Unpause { reply: Reply },
    /// Let a failed instance go on.
    Retry { deadline: Option<Duration>, reply: Reply },
    /// Let a quarantined instance go on.
    Release { reply: Reply },
    /// Delete the instance, which must have ended or be set aside.
    Delete { reply: Reply },
    /// Start a new run in place of what is there.
    Replace(Box<Replacement>),
    /// An attempt got its slot.
    Started { run: RunId, ticket: Ticket, serial: Serial, at: Timestamp },
    /// An attempt was taken back.
    Withdrawn { run: RunId, ticket: Ticket },
    /// An attempt ended.
    Finished { run: RunId, ticket: Ticket, serial: Serial, outcome: Outcome },
    /// The actor of this run died too often: set the instance aside, if it still has that run.
    SetAside { run: Option<RunId>, reason: Arc<str> },
    /// The runtime shuts down: finish what is being written, and go.
    Stop,
}

/// A signal.
pub(crate) struct SignalMail {
    pub(crate) name: Arc<str>,
    pub(crate) id: Arc<str>,
    pub(crate) payload: Bytes,
    /// The id of the codec the payload is in.
    pub(crate) codec: u8,
    /// What the definition that runs must agree with.
    pub(crate) payload_type: SignalType,
    /// Whether it is refused unless something waits for it.
    pub(crate) if_awaited: bool,
}

/// A start that terminates what is there. The actor that made the new run durable takes it up.
pub(crate) struct Replacement {
    pub(crate) definition: Arc<Definition>,
    pub(crate) new: NewRun,
    pub(crate) reply: oneshot::Sender<Result<(), StartError>>,
    pub(crate) _place: Place,
}

/// A caller's place in an instance's bounded queue, and its share of the bytes that may be under way.
pub(crate) struct Place {
    _queue: OwnedSemaphorePermit,
    _payload: PayloadShare,
}

impl Place {
    pub(super) fn new(queue: OwnedSemaphorePermit, payload: PayloadShare) -> Self {
        Self { _queue: queue, _payload: payload }
    }
}

/// Where an answer goes, and the caller's place in the instance's bounded queue until then.
pub(crate) struct Reply {
    pub(crate) sender: oneshot::Sender<Result<(), MailError>>,
    pub(crate) _place: Place,
}

impl Reply {
    pub(super) fn send(self, answer: Result<(), MailError>) {
        // Whoever asked may have gone; the answer is durable all the same.
        let _ = self.sender.send(answer);
    }
}

/// Why an instance did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MailError {
    /// It was not sent.
    Busy(Bound),
    /// The runtime is shutting down, and it was not sent.
    Closing,
    NotFound,
    Refused {
        refusal: Refusal,
        status: Status,
    },
    Quarantined(Status),
    NotQuarantined(Status),
    Damaged(Damaged),
    /// It has not ended.
    NotTerminal(Status),
    NotRegistered(DefinitionHash),
    /// The newer definition has no place for it.
    Unplaced(String),
    UnknownCodec(u8),
    /// The payload must be in the codec with this id.
    OtherCodec(u8),
    /// The definition has no such signal, or another type for it.
    Signal(SignalError),
    /// Whether it was done is unknown.
    Store(StoreError),
    /// Something else wrote to the instance: nothing was done, and it may be asked again.
    Fenced,
}

impl MailError {
    /// Whether what is in the store is not known.
    pub(super) fn is_unsettled(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Fenced)
    }
}

impl From<&CommitError> for MailError {
    fn from(error: &CommitError) -> Self {
        match error {
            CommitError::Store(error) => Self::Store(error.clone()),
            CommitError::Conflict(_) => Self::Fenced,
        }
    }
}

impl From<LoadError> for MailError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Damaged(damaged) => Self::Damaged(damaged),
            LoadError::Store(error) => Self::Store(error),
        }
    }
}

impl From<ReleaseError> for MailError {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::NotQuarantined(status) => Self::NotQuarantined(status),
            ReleaseError::Damaged(damaged) => Self::Damaged(damaged),
            ReleaseError::Commit(error) => Self::from(&error),
        }
    }
}
