//! The whole durable state of an instance, in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{AttemptId, FrameId, Phase};
use super::frames::Frames;
use super::inline_results::InlineResults;
use super::row::RowKey;
use crate::codec::{Hidden, Value};
use crate::definition::FailureKind;
use crate::id::{DefinitionHash, InstanceId, RunId, Stamp};
use crate::time::Timestamp;

/// Approximate bytes that a signal's id takes with its map entries.
const SIGNAL_BYTES: usize = 256;

/// The whole durable state of an instance after transition number [`seq`](Snapshot::seq).
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) instance: InstanceId,
    pub(super) run: RunId,
    pub(super) seq: u64,
    /// The stamp of the write that holds this state, or of the previous one; set by the code that
    /// writes the head.
    pub(super) stamp: Stamp,
    pub(super) definition: DefinitionHash,
    /// How many times the run was upgraded. The definitions it had before stand in rows,
    /// [`RowKey::Era`](super::RowKey::Era).
    pub(super) era: u32,
    pub(super) codec: u8,
    pub(super) started_at: Timestamp,
    pub(super) deadline: Option<Timestamp>,
    pub(super) traceparent: Option<Arc<str>>,
    pub(super) frames: Frames,
    /// The number of the next branch.
    pub(super) next_frame: FrameId,
    /// How many branches the run waits for whose records are not read yet.
    pub(super) unread_frames: u32,
    /// A lower bound on the numbers of unread branches.
    pub(super) unread_from: FrameId,
    pub(super) shown: Option<Shown>,
    pub(super) results: InlineResults,
    pub(super) signals: Signals,
    pub(super) pause: Option<Request>,
    pub(super) end: Option<End>,
    /// Stored in the index part of the head, not in its record.
    pub(super) ended_at: Option<Timestamp>,
}

/// The node and phase that an instance waits at according to its head, while the frames that wait
/// are not read.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(super) node: u32,
    pub(super) phase: Phase,
}

/// A request's reason and requester.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(super) reason: Arc<str>,
    pub(super) by: Arc<str>,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Completed with an output.
    Completed {
        /// The output.
        output: Value,
    },
    /// Failed by the final failure of a task, or of a route or loop.
    TaskFailed {
        /// The failed node.
        node: u32,
        /// The number of the last attempt.
        attempt: u32,
        /// The kind of failure.
        kind: FailureKind,
        /// The error's text.
        message: String,
    },
    /// Ended by the workflow's deadline.
    DeadlineExceeded,
    /// Cancelled by a request.
    Cancelled {
        /// The reason.
        reason: Arc<str>,
        /// The requester.
        by: Arc<str>,
    },
}

/// A signal that came before any frame waited for it.
#[derive(Clone)]
pub(crate) struct Buffered {
    pub(super) number: u64,
    pub(super) id: Arc<str>,
    pub(super) payload: Bytes,
    /// The transition that accepted it; 0 if it was read from the store.
    pub(super) accepted_in: u64,
}

impl std::fmt::Debug for Buffered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, id, payload, accepted_in } = self;
        let mut buffered = f.debug_struct("Buffered");
        buffered.field("number", number).field("id", id).field("payload", &Hidden(payload));
        buffered.field("accepted_in", accepted_in).finish()
    }
}

/// The signals of a run: the buffered ones, and the ids of the remembered ones, as far as they are
/// read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    /// How many signals were accepted so far. A signal's number is this count before the signal.
    pub(super) accepted: u64,
    /// A lower bound on the numbers of signals that have a row of the buffered kind. Advanced now
    /// and then.
    pub(super) from: u64,
    /// Numbers of the signals that have such a row: the buffered ones, and `bare`.
    pub(super) rows: BTreeSet<u64>,
    pub(super) buffered: HashMap<Arc<str>, VecDeque<Buffered>>,
    pub(super) buffered_count: u32,
    pub(super) buffered_bytes: u64,
    /// Ids by number, of the last accepted signals: those accepted since activation, those
    /// buffered, and those looked up in the store.
    pub(super) remembered: BTreeMap<u64, Arc<str>>,
    /// `remembered` the other way round: numbers by id.
    pub(super) numbers: HashMap<Arc<str>, u64>,
    /// Numbers of consumed signals that are remembered and have only a row of the buffered kind, as
    /// earlier versions wrote them.
    pub(super) bare: BTreeSet<u64>,
    /// An id that was looked up in the store and not found.
    pub(super) absent: Option<Arc<str>>,
}

impl Snapshot {
    /// Returns the instance's id.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// Returns the id of this execution of the instance.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Returns the number of the last transition.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Returns the stamp of the write that holds this state, or of the previous one.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Sets the stamp of the write that will hold this state.
    pub(crate) fn set_stamp(&mut self, stamp: Stamp) {
        self.stamp = stamp;
    }

    /// Returns the definition that the run has now.
    pub fn definition(&self) -> DefinitionHash {
        self.definition
    }

    /// Returns how many times the run was upgraded to a newer definition.
    pub fn era(&self) -> u32 {
        self.era
    }

    /// Returns the id of the run's codec.
    pub fn codec(&self) -> u8 {
        self.codec
    }

    /// Returns when the run was started.
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Returns how the run ended; `None` if it has not.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Returns when the run ended; `None` while it has not, and for a run that ended before this
    /// was recorded.
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.ended_at.filter(|_| self.end.is_some())
    }

    /// Returns the output of a completed run.
    pub fn output(&self) -> Option<&Value> {
        match &self.end {
            Some(End::Completed { output }) => Some(output),
            _ => None,
        }
    }

    /// Returns true if the run is paused and has not ended.
    pub fn is_paused(&self) -> bool {
        self.pause.is_some() && self.end.is_none()
    }

    /// Returns true if a task is with the executor. Known once the branches are read.
    pub fn is_running(&self) -> bool {
        self.end.is_none() && self.frames.is_any_running()
    }

    /// Returns the attempts that are with the executor.
    pub fn running(&self) -> impl Iterator<Item = AttemptId> {
        self.frames.running().filter(|_| self.end.is_none())
    }

    /// Returns true if exactly this attempt is with the executor.
    pub fn runs(&self, attempt_id: AttemptId) -> bool {
        let frame = self.frames.get(attempt_id.frame).filter(|_| self.end.is_none());
        frame.and_then(|frame| frame.running(attempt_id.frame)) == Some(attempt_id)
    }

    /// Returns how many signals of each name are buffered. Known once the signals are read.
    pub fn buffered_signals(&self) -> BTreeMap<Arc<str>, u32> {
        let count = |queue: &VecDeque<Buffered>| u32::try_from(queue.len()).unwrap_or(u32::MAX);
        self.signals.buffered.iter().map(|(name, queue)| (Arc::clone(name), count(queue))).collect()
    }

    /// Returns how many branches have records that are not read yet.
    pub fn unread_frames(&self) -> u32 {
        self.unread_frames
    }

    /// Returns how many rows beside the head an activation must read, apart from payloads: those of
    /// the branches and the buffered signals.
    pub(crate) fn live_rows(&self) -> usize {
        self.frames.len().saturating_sub(1) + self.signals.rows.len()
    }

    /// Returns approximately how many bytes of memory the snapshot takes. Visits every frame.
    pub(crate) fn memory_bytes(&self) -> usize {
        let values = self.frames.iter().map(|(_, frame)| frame.memory_bytes()).sum::<usize>();
        let ids = (self.signals.rows.len() + self.signals.remembered.len()) * SIGNAL_BYTES;
        let buffered = usize::try_from(self.signals.buffered_bytes).unwrap_or(usize::MAX);
        values.saturating_add(ids).saturating_add(buffered)
    }

    /// Returns the key from which on branch rows may exist; rows before it have been deleted.
    pub fn first_frame_row(&self) -> RowKey {
        RowKey::Frame(self.unread_from)
    }

    /// Returns the key from which on rows of buffered signals may exist: no row before it is left,
    /// and few deleted rows come after it.
    pub fn first_signal_row(&self) -> RowKey {
        RowKey::Signal(self.signals.from)
    }

    /// Returns the traceparent given at the start.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }
}
