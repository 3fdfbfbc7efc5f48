//! Events: the inputs of the machine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::AttemptId;
use crate::codec::{Hidden, Value};
use crate::definition::AttemptFailure;
use crate::limits::REASON_BYTES_MAX;
use crate::time::Timestamp;

/// An event that happens to an instance. Its `Debug` shows no payload.
#[derive(Clone)]
pub enum Event {
    /// The instance was activated, by a new process or by a new actor: tasks that were handed out
    /// are handed out again, except the attempts in `alive`.
    Resumed {
        /// Attempts that this process still runs.
        alive: Vec<AttemptId>,
        /// True if attempts missing from `alive` count as a process crash. False if only the actor
        /// was replaced, or if the attempts may have been waiting for room.
        process_crashed: bool,
    },
    /// An attempt got its slot.
    AttemptStarted {
        /// The attempt.
        attempt_id: AttemptId,
        /// The time when it got the slot.
        at: Timestamp,
    },
    /// An attempt that still waited for its slot was withdrawn, because the instance was paused.
    AttemptWithdrawn {
        /// The attempt.
        attempt_id: AttemptId,
    },
    /// An attempt ended.
    AttemptFinished {
        /// The attempt.
        attempt_id: AttemptId,
        /// Its result or failure.
        outcome: Outcome,
    },
    /// A signal came.
    Signal {
        /// The signal's name.
        name: Arc<str>,
        /// The signal's id; a remembered one is ignored. For a snapshot that was read from the
        /// store, look the id up first:
        /// [`lifecycle::read_signal_id`](crate::lifecycle::read_signal_id).
        id: Arc<str>,
        /// The payload, in the instance's codec.
        payload: Bytes,
    },
    /// A signal came that must not be buffered: refused with [`Refusal::NotAwaited`] unless a wait
    /// takes it.
    SignalIfAwaited {
        /// The signal's name.
        name: Arc<str>,
        /// The signal's id, as for [`Event::Signal`].
        id: Arc<str>,
        /// The payload, in the instance's codec.
        payload: Bytes,
    },
    /// Time passed: delays, timeouts and backoffs that are due end.
    Wake,
    /// A request to cancel the instance.
    Cancel {
        /// The reason.
        reason: Arc<str>,
        /// The requester.
        by: Arc<str>,
    },
    /// A request to pause the instance.
    Pause {
        /// The reason.
        reason: Arc<str>,
        /// The requester.
        by: Arc<str>,
    },
    /// A request to end the pause.
    Unpause,
    /// A request to let a failed instance go on from where it stood.
    Retry {
        /// The time allowed from now on, in place of the previous deadline.
        deadline: Option<Duration>,
    },
    /// A request to let a quarantined instance go on: process crashes are counted from zero again.
    Released,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Resumed { alive, process_crashed } => {
                f.debug_struct("Resumed").field("alive", alive).field("process_crashed", process_crashed).finish()
            }
            Self::AttemptStarted { attempt_id, at } => {
                f.debug_struct("AttemptStarted").field("attempt_id", attempt_id).field("at", at).finish()
            }
            Self::AttemptWithdrawn { attempt_id } => {
                f.debug_struct("AttemptWithdrawn").field("attempt_id", attempt_id).finish()
            }
            Self::AttemptFinished { attempt_id, outcome } => {
                f.debug_struct("AttemptFinished").field("attempt_id", attempt_id).field("outcome", outcome).finish()
            }
            Self::Signal { name, id, payload } | Self::SignalIfAwaited { name, id, payload } => {
                let kind = if matches!(self, Self::Signal { .. }) { "Signal" } else { "SignalIfAwaited" };
                let mut signal = f.debug_struct(kind);
                signal.field("name", name).field("id", id).field("payload", &Hidden(payload)).finish()
            }
            Self::Wake => f.write_str("Wake"),
            Self::Cancel { reason, by } => f.debug_struct("Cancel").field("reason", reason).field("by", by).finish(),
            Self::Pause { reason, by } => f.debug_struct("Pause").field("reason", reason).field("by", by).finish(),
            Self::Unpause => f.write_str("Unpause"),
            Self::Retry { deadline } => f.debug_struct("Retry").field("deadline", deadline).finish(),
            Self::Released => f.write_str("Released"),
        }
    }
}

/// The end of an attempt: its result or a failure. A result is one payload, with `Again` or `Done`
/// before it if the task ends a loop's body.
pub type Outcome = Result<Value, AttemptFailure>;

/// The reason why an event was refused. As an error it leaves the snapshot unchanged; with
/// [`Transition::refused`](super::Transition::refused), only time that had passed can have changed
/// the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The run has ended.
    #[error("the instance has already ended")]
    Ended,
    /// The instance is not paused.
    #[error("the instance is not paused: there is nothing to unpause")]
    NotPaused,
    /// The instance has not failed.
    #[error("the instance has not failed: there is nothing to retry")]
    NotFailed,
    /// The workflow's deadline has passed.
    #[error("the workflow's deadline has passed: retry with a new deadline")]
    DeadlinePassed,
    /// No node of the instance's definition waits for a signal of this name.
    #[error("no node of the workflow waits for signal `{name}`: check the name")]
    UnknownSignal {
        /// The name.
        name: Arc<str>,
    },
    /// Nothing waits for the signal now, and its sender does not want it buffered.
    #[error("no node waits for signal `{name}` now: send it later, or with `signal`, which buffers it")]
    NotAwaited {
        /// The name.
        name: Arc<str>,
    },
    /// The machine does not know whether the signal is a repeated one: read its id first, with
    /// [`lifecycle::read_signal_id`](crate::lifecycle::read_signal_id).
    #[error("the signal id was not looked up in the store: call lifecycle::read_signal_id first")]
    SignalIdNotRead,
    /// The instance's signal buffer has no room for the signal: send it again later.
    #[error(
        "the signal buffer has no room ({count} of {count_max} signals, {bytes} of {bytes_max} bytes): send it later"
    )]
    SignalBufferFull {
        /// Signals in the buffer.
        count: u32,
        /// Their payload bytes.
        bytes: u64,
        /// [`Limits::signals_buffered_max`](crate::Limits::signals_buffered_max).
        count_max: u32,
        /// [`Limits::signal_buffer_bytes_max`](crate::Limits::signal_buffer_bytes_max).
        bytes_max: u64,
    },
    /// A reason or a name is too long: shorten it.
    #[error("the reason or name has {bytes} bytes: at most {REASON_BYTES_MAX} are allowed")]
    ReasonTooLong {
        /// Its size in bytes.
        bytes: usize,
    },
}
