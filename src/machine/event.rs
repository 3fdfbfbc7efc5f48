//! What can happen to an instance.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Ticket;
use crate::codec::{Hidden, Value};
use crate::definition::AttemptFailure;
use crate::limits::REASON_BYTES_MAX;
use crate::time::Timestamp;

/// What happens to an instance. Its `Debug` shows no payload.
#[derive(Clone)]
pub enum Event {
    /// The instance was taken up, by a process or by the successor of an actor: tasks that were handed out are handed
    /// out again, except those in `alive`.
    Resumed {
        /// Attempts that this process still runs.
        alive: Vec<Ticket>,
        /// Whether the process that handed them out died, as against its actor only.
        process_died: bool,
    },
    /// An attempt got its slot.
    AttemptStarted {
        /// Which attempt.
        ticket: Ticket,
        /// When.
        at: Timestamp,
    },
    /// An attempt that still waited for its slot was taken back, because the instance was paused.
    AttemptWithdrawn {
        /// Which attempt.
        ticket: Ticket,
    },
    /// An attempt ended.
    AttemptFinished {
        /// Which attempt.
        ticket: Ticket,
        /// How.
        outcome: Outcome,
    },
    /// A signal came.
    Signal {
        /// Its name.
        name: Arc<str>,
        /// Its id; one that is remembered is ignored. Where the snapshot was read back, it is to be looked up first:
        /// [`lifecycle::read_signal_id`](crate::lifecycle::read_signal_id).
        id: Arc<str>,
        /// Its payload, in the instance's codec.
        payload: Bytes,
    },
    /// A signal came that is not to be buffered: it is refused with [`Refusal::NotAwaited`] unless a wait takes it.
    SignalIfAwaited {
        /// Its name.
        name: Arc<str>,
        /// Its id, as for [`Event::Signal`].
        id: Arc<str>,
        /// Its payload, in the instance's codec.
        payload: Bytes,
    },
    /// Some time passed: delays, timeouts and backoffs that are due end.
    Wake,
    /// Somebody cancels the instance.
    Cancel {
        /// Why.
        reason: Arc<str>,
        /// Who.
        by: Arc<str>,
    },
    /// Somebody pauses the instance.
    Pause {
        /// Why.
        reason: Arc<str>,
        /// Who.
        by: Arc<str>,
    },
    /// Somebody ends the pause.
    Unpause,
    /// Somebody lets a failed instance go on from where it stood.
    Retry {
        /// How long it may take from now on, in place of the deadline it had.
        deadline: Option<Duration>,
    },
    /// Somebody lets a quarantined instance go on: deaths of the process are counted anew.
    Released,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Resumed { alive, process_died } => {
                f.debug_struct("Resumed").field("alive", alive).field("process_died", process_died).finish()
            }
            Self::AttemptStarted { ticket, at } => {
                f.debug_struct("AttemptStarted").field("ticket", ticket).field("at", at).finish()
            }
            Self::AttemptWithdrawn { ticket } => f.debug_struct("AttemptWithdrawn").field("ticket", ticket).finish(),
            Self::AttemptFinished { ticket, outcome } => {
                f.debug_struct("AttemptFinished").field("ticket", ticket).field("outcome", outcome).finish()
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

/// How an attempt ended: with what it gave, or a failure. A task gives one payload, behind `Again` or `Done` if it ends a
/// loop's body.
pub type Outcome = Result<Value, AttemptFailure>;

/// Why an event was refused. The snapshot is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The run has ended.
    #[error("the instance has ended")]
    Ended,
    /// The instance is not paused.
    #[error("the instance is not paused")]
    NotPaused,
    /// The instance has not failed.
    #[error("the instance has not failed")]
    NotFailed,
    /// The workflow's deadline has passed.
    #[error("the workflow's deadline has passed: give a new one with the retry")]
    DeadlinePassed,
    /// No node of the instance's definition waits for a signal of this name.
    #[error("no node waits for a signal named `{name}`")]
    UnknownSignal {
        /// The name.
        name: Arc<str>,
    },
    /// Nothing waits for the signal now, and its sender does not want it buffered.
    #[error("nothing waits for a signal named `{name}` now: send it later, or let it be buffered")]
    NotAwaited {
        /// The name.
        name: Arc<str>,
    },
    /// It is not known whether the signal is a repeated one: read that first, with
    /// [`lifecycle::read_signal_id`](crate::lifecycle::read_signal_id).
    #[error("whether the signal is a repeated one is not known: call lifecycle::read_signal_id first")]
    SignalIdNotRead,
    /// The instance's signal buffer is full.
    #[error("the instance buffers {count} signals of {bytes} bytes: its limits are {count_max} and {bytes_max}")]
    SignalBufferFull {
        /// Signals buffered.
        count: u32,
        /// Their payload bytes.
        bytes: u64,
        /// [`Limits::signals_buffered_max`](crate::Limits::signals_buffered_max).
        count_max: u32,
        /// [`Limits::signal_buffer_bytes_max`](crate::Limits::signal_buffer_bytes_max).
        bytes_max: u64,
    },
    /// A reason or a name is too long.
    #[error("a reason or name of {bytes} bytes: at most {REASON_BYTES_MAX} are kept")]
    ReasonTooLong {
        /// Its size.
        bytes: usize,
    },
}
