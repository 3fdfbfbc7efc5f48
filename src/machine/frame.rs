//! One cursor through the program, and what it is doing there.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::codec::{Place, Value};
use crate::time::Timestamp;

/// A frame's number within its run; the main chain's is 0. A branch's is larger than that of the frame it came from.
pub type FrameId = u64;

/// About what a frame takes without its value.
const FRAME_BYTES: usize = 768;

/// The main chain's frame.
pub(super) const ROOT: FrameId = 0;

/// Which attempt is meant: its frame, and the transition that issued it, so that a late report of an earlier task or
/// attempt of the same frame is never taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// The frame.
    pub frame: FrameId,
    /// The number of the transition that issued the attempt.
    pub issued: u64,
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
    pub(super) lineage: Lineage,
    /// Bytes of those parts of the value that were not read with the frame.
    pub(super) unread_bytes: u64,
    /// The node at which it began to wait for its branches, if it was taken over since: their rows are found by that.
    pub(super) began: Option<Began>,
    /// What its branches gave that ended since the instance was read; the others are in the store.
    pub(super) gathered: BTreeMap<u32, Value>,
}

/// Where a frame came from, and how often it went round.
#[derive(Clone, Debug, Default)]
pub(super) struct Lineage {
    /// The frame that waits for it; none for the main chain's.
    pub(super) origin: Option<Origin>,
    /// The iteration of each loop it has entered and not left, outermost first, from 1.
    pub(super) loops: Vec<u64>,
    /// The index in each map around it, outermost first.
    pub(super) indices: Arc<[u32]>,
    /// The iterations and map indices around the whole frame, outermost first.
    pub(super) around: Arc<[u64]>,
}

/// Which branch of which frame a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) parent: FrameId,
    pub(super) index: u32,
}

/// A node as it was in an earlier era of the run. Its path is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Began {
    pub(super) era: u32,
    pub(super) node: u32,
}

/// What a frame is doing at its op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// User code is to run here.
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
        /// The number of the transition that began it: of several that wait, the first is served first.
        since: u64,
    },
    /// Waiting for the branches of a fork.
    Fork {
        /// Branches that have not ended.
        live: u32,
    },
    /// Waiting for the items of a map.
    Map {
        /// All items.
        total: u32,
        /// Items that have started, from the first on.
        started: u32,
        /// Items that have started and not ended.
        live: u32,
        /// Bytes that the ended ones gave.
        bytes: u64,
        /// Items in each row of the list.
        per_row: u32,
    },
    /// The op itself failed and ended the run: a loop at its limit, a list that became too large. Or the run ended before
    /// this branch got to its first op. A retry tries it again.
    Failed,
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

impl Frame {
    /// A frame on its way to this position.
    pub(super) fn new(lineage: Lineage, position: u32, value: Value) -> Self {
        let (phase, gathered) = (Phase::Failed, BTreeMap::new());
        Self { position, node: 0, value, phase, lineage, unread_bytes: 0, began: None, gathered }
    }

    /// The place of its op, for what is stored under it, in this era of the run.
    pub(super) fn place(&self, era: u32) -> Place {
        let Began { era, node } = self.began.unwrap_or(Began { era, node: self.node });
        Place { era, node, indices: Arc::clone(&self.lineage.indices) }
    }

    /// The bytes of its value, read or not.
    pub(super) fn value_bytes(&self) -> u64 {
        let unread = if self.value.unread().is_empty() { 0 } else { self.unread_bytes };
        self.value.bytes() as u64 + unread
    }

    /// Returns about how many bytes of memory it takes, with its places in indexes.
    pub(super) fn memory_bytes(&self) -> usize {
        let gathered = self.gathered.values().map(Value::memory_bytes).sum::<usize>();
        FRAME_BYTES + self.value.memory_bytes() + gathered
    }

    /// The ticket of its attempt, if that is with the executor.
    pub(super) fn running(&self, id: FrameId) -> Option<Ticket> {
        match self.phase {
            Phase::Task { issued, stage: Stage::Running { .. }, .. } => Some(Ticket { frame: id, issued }),
            _ => None,
        }
    }

    /// When time moves it.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::Delay { until } | Phase::Task { stage: Stage::Backoff { until }, .. } => Some(*until),
            Phase::Signal { until, .. } => *until,
            _ => None,
        }
    }
}

impl Lineage {
    /// Iterations and map indices, outermost first: what makes this execution of a node different from the others.
    pub(super) fn turns(&self) -> Arc<[u64]> {
        if self.loops.is_empty() {
            Arc::clone(&self.around)
        } else {
            self.around.iter().chain(&self.loops).copied().collect()
        }
    }

    /// Returns whether a loop is around it, so that it may come again.
    pub(super) fn is_in_loop(&self) -> bool {
        self.loops.len() + self.around.len() > self.indices.len()
    }

    /// That of a branch of a fork in this frame.
    pub(super) fn branch(&self, parent: FrameId, index: u32) -> Self {
        let origin = Some(Origin { parent, index });
        Self { origin, loops: Vec::new(), indices: Arc::clone(&self.indices), around: self.turns() }
    }

    /// That of an item of a map in this frame.
    pub(super) fn item(&self, parent: FrameId, index: u32) -> Self {
        let origin = Some(Origin { parent, index });
        let indices = self.indices.iter().copied().chain([index]).collect();
        let around = self.turns().iter().copied().chain([u64::from(index)]).collect();
        Self { origin, loops: Vec::new(), indices, around }
    }
}
