//! The whole durable state of an instance, as the machine works on it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{FrameId, Phase, Ticket};
use super::frames::Frames;
use super::results::KeptResults;
use super::row::RowKey;
use crate::codec::{Hidden, Value};
use crate::definition::FailureKind;
use crate::id::{DefinitionHash, InstanceId, RunId, Stamp};
use crate::time::Timestamp;

/// About what a signal's id and its places in maps take.
const SIGNAL_BYTES: usize = 256;

/// The whole durable state of an instance after transition number [`seq`](Snapshot::seq).
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) instance: InstanceId,
    pub(crate) run: RunId,
    pub(crate) seq: u64,
    /// The stamp of the write that holds this state, or of the last one before it; set by whoever writes.
    pub(crate) stamp: Stamp,
    pub(crate) definition: DefinitionHash,
    /// How many times the run was taken over; the definitions it had before stand in rows, [`RowKey::Era`](super::RowKey::Era).
    pub(crate) era: u32,
    pub(crate) codec: u8,
    pub(crate) started_at: Timestamp,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) traceparent: Option<Arc<str>>,
    pub(crate) frames: Frames,
    /// The number of the next branch.
    pub(crate) next_frame: FrameId,
    /// Branches whose records are not read yet, and what they wait for.
    pub(crate) unread_frames: u32,
    /// No branch that is not read has a lower number.
    pub(crate) unread_from: FrameId,
    pub(crate) shown: Option<Shown>,
    pub(crate) results: KeptResults,
    pub(crate) signals: Signals,
    pub(crate) pause: Option<Request>,
    pub(crate) end: Option<End>,
    /// In the index part of the head, not in its record.
    pub(crate) ended_at: Option<Timestamp>,
}

/// What an instance waits for, as its head tells it while the frames that wait are not read.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) node: u32,
    pub(crate) phase: Phase,
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
    /// By a task's final failure, or that of a route or loop.
    TaskFailed {
        /// Its node.
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
#[derive(Clone)]
pub(crate) struct Buffered {
    pub(crate) number: u64,
    pub(crate) id: Arc<str>,
    pub(crate) payload: Bytes,
    /// The transition that accepted it; 0 if it was read from the store.
    pub(crate) accepted_in: u64,
}

impl std::fmt::Debug for Buffered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, id, payload, accepted_in } = self;
        let mut buffered = f.debug_struct("Buffered");
        buffered.field("number", number).field("id", id).field("payload", &Hidden(payload));
        buffered.field("accepted_in", accepted_in).finish()
    }
}

/// The signals of a run: those buffered, and the ids of those remembered, as far as they are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    /// How many were accepted so far; a signal's number is this before it.
    pub(crate) accepted: u64,
    /// No signal below this number has a row of those that are buffered. Moves on now and then.
    pub(crate) from: u64,
    /// The numbers of those that have such a row: those buffered, and `bare`.
    pub(crate) rows: BTreeSet<u64>,
    pub(crate) buffered: HashMap<Arc<str>, VecDeque<Buffered>>,
    pub(crate) buffered_count: u32,
    pub(crate) buffered_bytes: u64,
    /// Signal id by number, of the last accepted ones: those of this life and those buffered, and those that were looked up.
    pub(crate) remembered: BTreeMap<u64, Arc<str>>,
    /// The same the other way round.
    pub(crate) numbers: HashMap<Arc<str>, u64>,
    /// Numbers of remembered signals that were consumed and have no other row than a buffered one's, as earlier versions wrote
    /// them.
    pub(crate) bare: BTreeSet<u64>,
    /// An id that was looked up in the store, and is not there.
    pub(crate) absent: Option<Arc<str>>,
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

    /// The stamp of the write that holds this state, or of the last one before it.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The definition it runs on.
    pub fn definition(&self) -> DefinitionHash {
        self.definition
    }

    /// How many times the run was taken over by a newer definition.
    pub fn era(&self) -> u32 {
        self.era
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

    /// Whether a task is with the executor. Known once the branches are read.
    pub fn is_running(&self) -> bool {
        self.end.is_none() && self.frames.is_any_running()
    }

    /// The attempts that are with the executor.
    pub fn running(&self) -> impl Iterator<Item = Ticket> {
        self.frames.running().filter(|_| self.end.is_none())
    }

    /// Whether this very attempt is with the executor.
    pub fn runs(&self, ticket: Ticket) -> bool {
        let frame = self.frames.get(ticket.frame).filter(|_| self.end.is_none());
        frame.and_then(|frame| frame.running(ticket.frame)) == Some(ticket)
    }

    /// How many signals of each name are buffered. Known once the signals are read.
    pub fn buffered_signals(&self) -> BTreeMap<Arc<str>, u32> {
        let count = |queue: &VecDeque<Buffered>| u32::try_from(queue.len()).unwrap_or(u32::MAX);
        self.signals.buffered.iter().map(|(name, queue)| (Arc::clone(name), count(queue))).collect()
    }

    /// Branches whose records are not read yet.
    pub fn unread_frames(&self) -> u32 {
        self.unread_frames
    }

    /// Returns how many rows beside the head must be read to take it up, apart from payloads: those of its branches and buffered
    /// signals.
    pub(crate) fn live_rows(&self) -> usize {
        self.frames.len().saturating_sub(1) + self.signals.rows.len()
    }

    /// Returns about how many bytes of memory it takes. Goes through all frames.
    pub(crate) fn memory_bytes(&self) -> usize {
        let values = self.frames.iter().map(|(_, frame)| frame.memory_bytes()).sum::<usize>();
        let ids = (self.signals.rows.len() + self.signals.remembered.len()) * SIGNAL_BYTES;
        let buffered = usize::try_from(self.signals.buffered_bytes).unwrap_or(usize::MAX);
        values.saturating_add(ids).saturating_add(buffered)
    }

    /// Returns where the rows of its branches begin: those before have been deleted.
    pub fn first_frame_row(&self) -> RowKey {
        RowKey::Frame(self.unread_from)
    }

    /// Returns where the rows of its buffered signals begin: those before have been deleted, all but a few.
    pub fn first_signal_row(&self) -> RowKey {
        RowKey::Signal(self.signals.from)
    }

    /// The traceparent given at the start.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }
}
