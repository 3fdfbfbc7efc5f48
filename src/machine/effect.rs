//! Transitions: what an event writes, and what the runtime must do once that is durable.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{AttemptId, Refusal, RowKey};
use crate::codec::{Hidden, Value};
use crate::time::Timestamp;

/// The outcome of one event.
#[derive(Clone, Debug, Default)]
pub struct Transition {
    /// True if the snapshot changed, and so must be committed.
    pub changed: bool,
    /// Rows to write in the same commit as the head.
    pub rows: Vec<RowChange>,
    /// Set if the effects may be performed before this transition's commit, as soon as the
    /// transition with this number is durable: this transition records the result of a task with
    /// [`Checkpoint::Deferred`](crate::Checkpoint::Deferred), and only starts the tasks that come
    /// next. Everything else that their input depends on (a signal, other branches) came with that
    /// transition at the latest.
    pub deferrable: Option<u64>,
    /// The refusal of a signal that came after what was due had ended; that part of the transition
    /// stands.
    pub refused: Option<Refusal>,
    /// Work for the runtime after the commit; with nothing to commit, once everything before is
    /// durable.
    pub effects: Vec<Effect>,
}

/// One row written or deleted. Its `Debug` shows only how many bytes it holds.
#[derive(Clone)]
pub struct RowChange {
    /// The row of the run.
    pub key: RowKey,
    /// The row's new content; `None` deletes it.
    pub value: Option<Bytes>,
}

impl std::fmt::Debug for RowChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.value.as_deref().map(Hidden);
        f.debug_struct("RowChange").field("key", &self.key).field("value", &value).finish()
    }
}

/// An action that the runtime must perform.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Run an attempt.
    Run(Run),
    /// Let an attempt proceed: its recorded start is durable.
    Proceed {
        /// The attempt.
        attempt_id: AttemptId,
    },
    /// Withdraw an attempt if it still waits for its slot, and report
    /// [`Event::AttemptWithdrawn`](super::Event::AttemptWithdrawn).
    Withdraw {
        /// The attempt.
        attempt_id: AttemptId,
    },
    /// Cancel an attempt's token and drop its future.
    Stop {
        /// The attempt.
        attempt_id: AttemptId,
    },
    /// Wake the instance at another time than the one asked for before.
    WakeAt(Wake),
    /// The run has ended.
    Ended,
    /// Quarantine the instance: going on would do harm. The head stays unchanged.
    Quarantine {
        /// The reason.
        reason: Arc<str>,
    },
}

/// The next wake-up that an instance asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// The time; `None` if the instance needs no wake-up.
    pub at: Option<Timestamp>,
    /// True if the store's due index lists the wake-up. While a task of the instance runs the index
    /// does not, and the instance's actor must remember the time itself.
    pub stored: bool,
}

/// An attempt to run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The attempt's identity, for every later report.
    pub attempt_id: AttemptId,
    /// The attempt's number at the task, from 1.
    pub attempt: u32,
    /// The task's node.
    pub node: u32,
    /// The task's index in the definition.
    pub task: u32,
    /// The value that flows in. Parts of it may still be unread ([`Value::unread`]): read them with
    /// [`lifecycle::fill_run`](crate::lifecycle::fill_run).
    pub value: Value,
    /// The iteration of each enclosing loop and the index in each enclosing map, outermost first.
    pub execution_path: Arc<[u64]>,
    /// The rest of the attempt's timeout.
    pub timeout: Option<Duration>,
    /// True if the attempt must report its start and wait for [`Effect::Proceed`]: the process
    /// crashed when this task may have been running.
    pub announce: bool,
    /// True if the attempt may run only while no other attempt with this mark does: the process
    /// crashed several times while this task was running.
    pub alone: bool,
}
