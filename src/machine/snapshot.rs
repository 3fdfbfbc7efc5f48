//! The whole durable state of an instance, as the machine works on it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::Value;
use crate::definition::FailureKind;
use crate::id::{DefinitionHash, InstanceId, RunId};
use crate::time::Timestamp;

/// A frame's number within its run; the main chain's is 0.
pub type FrameId = u32;

/// Which attempt is meant: its frame, and the transition that issued it, so that a late report of an earlier task or
/// attempt of the same frame is never taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// The frame.
    pub frame: FrameId,
    /// The number of the transition that issued the attempt.
    pub issued: u64,
}

/// The main chain's frame.
pub(super) const ROOT: FrameId = 0;

/// The whole durable state of an instance after transition number [`seq`](Snapshot::seq).
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) instance: InstanceId,
    pub(crate) run: RunId,
    pub(crate) seq: u64,
    pub(crate) definition: DefinitionHash,
    pub(crate) codec: u8,
    pub(crate) started_at: Timestamp,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) traceparent: Option<Arc<str>>,
    pub(crate) frames: BTreeMap<FrameId, Frame>,
    pub(crate) signals: Signals,
    pub(crate) pause: Option<Request>,
    pub(crate) end: Option<End>,
    /// In the index part of the head, not in its record.
    pub(crate) ended_at: Option<Timestamp>,
}

/// One cursor through the program, with the value it carries.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The index of its op.
    pub(crate) position: u32,
    /// The index of its op's node.
    pub(crate) node: u32,
    pub(crate) value: Value,
    pub(crate) phase: Phase,
}

/// What a frame is doing at its op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// At a task.
    Task {
        /// The attempt's number, from 1.
        attempt: u32,
        /// The number of the transition that issued it.
        issued: u64,
        /// How far the attempt is.
        stage: Stage,
        /// Deaths of the process in a row while this task was running.
        deaths: u32,
    },
    /// In a delay.
    Delay {
        /// When it ends.
        until: Timestamp,
    },
    /// Waiting for a signal.
    Signal {
        /// The signal's name.
        signal: Arc<str>,
        /// When it stops waiting.
        until: Option<Timestamp>,
    },
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not handed out: the instance is paused.
    Ready,
    /// Handed to the executor; once its start is recorded, since when it runs.
    Running {
        /// When it got its slot.
        since: Option<Timestamp>,
    },
    /// Waiting for the next attempt.
    Backoff {
        /// When that is due.
        until: Timestamp,
    },
}

/// Who asked for something, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) reason: Arc<str>,
    pub(crate) by: Arc<str>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With an output.
    Completed {
        /// The output.
        output: Value,
    },
    /// By a task's final failure.
    TaskFailed {
        /// The task's node.
        node: u32,
        /// The attempt that was its last.
        attempt: u32,
        /// What made it fail.
        kind: FailureKind,
        /// The error's text.
        message: String,
    },
    /// By the workflow's deadline.
    DeadlineExceeded,
    /// By a request.
    Cancelled {
        /// Why.
        reason: Arc<str>,
        /// By whom.
        by: Arc<str>,
    },
}

/// A signal that came before anything waited for it.
#[derive(Clone, Debug)]
pub(crate) struct Buffered {
    pub(crate) number: u64,
    pub(crate) id: Arc<str>,
    pub(crate) payload: Bytes,
}

/// The signals of a run: those buffered, and the ids of those remembered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    /// How many were accepted so far; a signal's number is this before it.
    pub(crate) accepted: u64,
    pub(crate) buffered: HashMap<Arc<str>, VecDeque<Buffered>>,
    pub(crate) buffered_count: u32,
    pub(crate) buffered_bytes: u64,
    /// Signal id by number, of the last accepted ones.
    pub(crate) remembered: BTreeMap<u64, Arc<str>>,
    /// The same the other way round.
    pub(crate) numbers: HashMap<Arc<str>, u64>,
}

impl Snapshot {
    /// The instance's id.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// The execution of that id.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// How many transitions led here.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The definition it runs on.
    pub fn definition(&self) -> DefinitionHash {
        self.definition
    }

    /// The id of its codec.
    pub fn codec(&self) -> u8 {
        self.codec
    }

    /// When the run was started.
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// How it ended, if it did.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// When it ended; none while it has not, and for a run that ended before this was recorded.
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.ended_at.filter(|_| self.end.is_some())
    }

    /// The output of a completed run.
    pub fn output(&self) -> Option<&Value> {
        match &self.end {
            Some(End::Completed { output }) => Some(output),
            _ => None,
        }
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.pause.is_some() && self.end.is_none()
    }

    /// Whether a task is with the executor.
    pub fn is_running(&self) -> bool {
        self.end.is_none()
            && self.frames.values().any(|frame| matches!(frame.phase, Phase::Task { stage: Stage::Running { .. }, .. }))
    }

    /// The attempts that are with the executor.
    pub fn running(&self) -> impl Iterator<Item = Ticket> {
        self.frames.iter().filter_map(|(frame, at)| match at.phase {
            Phase::Task { issued, stage: Stage::Running { .. }, .. } if self.end.is_none() => {
                Some(Ticket { frame: *frame, issued })
            }
            _ => None,
        })
    }

    /// The traceparent given at the start.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }
}
