//! What a transition writes, and what it asks the runtime to do once that is durable.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Refusal, RowKey, Ticket};
use crate::codec::{Hidden, Value};
use crate::time::Timestamp;

/// What one event did.
#[derive(Clone, Debug, Default)]
pub struct Transition {
    /// Whether the snapshot changed, and so must be committed.
    pub changed: bool,
    /// Rows to write beside the head, in the same commit.
    pub rows: Vec<RowChange>,
    /// Its effects may be performed before its commit, as soon as the transition with this number is durable: it records the
    /// result of a task with [`Checkpoint::Deferred`](crate::Checkpoint::Deferred), and does nothing but start what is behind it.
    /// What that is computed from besides (a signal, other branches) came with that transition at the latest.
    pub deferrable: Option<u64>,
    /// The event itself was refused, although time that had passed moved the instance.
    pub refused: Option<Refusal>,
    /// What to do once the commit returned; with nothing to commit, once everything before it is durable.
    pub effects: Vec<Effect>,
}

/// One row written or deleted. Its `Debug` shows how many bytes it holds.
#[derive(Clone)]
pub struct RowChange {
    /// Which row of the run.
    pub key: RowKey,
    /// What it holds from now on; `None` deletes it.
    pub value: Option<Bytes>,
}

impl std::fmt::Debug for RowChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.value.as_deref().map(Hidden);
        f.debug_struct("RowChange").field("key", &self.key).field("value", &value).finish()
    }
}

/// What the runtime is to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Run an attempt.
    Run(Run),
    /// The recorded start of an attempt is durable: it may go ahead.
    Proceed {
        /// Which attempt.
        ticket: Ticket,
    },
    /// Take an attempt back if it still waits for its slot, and say so by
    /// [`Event::AttemptWithdrawn`](super::Event::AttemptWithdrawn).
    Withdraw {
        /// Which attempt.
        ticket: Ticket,
    },
    /// Cancel an attempt's token and drop its future.
    Stop {
        /// Which attempt.
        ticket: Ticket,
    },
    /// Wake the instance at another time than the one asked for before.
    WakeAt(Wake),
    /// The run has ended.
    Ended,
    /// Going on would do harm: set the instance aside. The head stays as it is.
    Quarantine {
        /// Why.
        reason: Arc<str>,
    },
}

/// When an instance wants to be woken next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// The time; none for not at all.
    pub at: Option<Timestamp>,
    /// Whether the store's due index lists it. While a task of the instance runs it does not, and who wakes must remember
    /// the time himself.
    pub stored: bool,
}

/// An attempt to run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Which attempt, for everything that is said of it later.
    pub ticket: Ticket,
    /// Its number at the task, from 1.
    pub attempt: u32,
    /// The task's node.
    pub node: u32,
    /// The task's index in the definition.
    pub task: u32,
    /// The value that flows in. Parts of it may be still to be read ([`Value::unread`]), by
    /// [`lifecycle::fill_run`](crate::lifecycle::fill_run).
    pub value: Value,
    /// The iteration of each loop around it and the index in each map, outermost first.
    pub turns: Arc<[u64]>,
    /// What is left of the attempt's timeout.
    pub timeout: Option<Duration>,
    /// Wait for [`Effect::Proceed`] after reporting the start: the process died when this task may have been running.
    pub announce: bool,
    /// Run it only while no other attempt with this mark runs: the process died again and again while it was running.
    pub alone: bool,
}
