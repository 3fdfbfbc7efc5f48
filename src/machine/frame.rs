//! Frames: cursors through the program, and what each does at its op.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::codec::{Place, Value};
use crate::time::Timestamp;

/// A frame's number within its run; the main chain's is 0. A branch has a larger number than the
/// frame that started it.
pub type FrameId = u64;

/// Approximate bytes that a frame takes without its value.
const FRAME_BYTES: usize = 768;

/// The main chain's frame.
pub(super) const ROOT: FrameId = 0;

/// Identifies one attempt by its frame and the transition that issued it. A report with another
/// attempt id than the frame's current one comes from an earlier task or attempt, and is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The frame.
    pub frame: FrameId,
    /// The number of the transition that issued the attempt.
    pub issued: u64,
}

/// One cursor through the program, with the value it carries.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The index of its op.
    pub(super) position: u32,
    /// The index of its op's node.
    pub(super) node: u32,
    pub(super) value: Value,
    pub(super) phase: Phase,
    pub(super) lineage: Lineage,
    /// Bytes of the parts of the value that were not read with the frame.
    pub(super) unread_bytes: u64,
    /// The node at which the frame began to wait for its branches, if the run was upgraded since:
    /// rows of the branches are found by that node.
    pub(super) began: Option<Began>,
    /// Results of branches that ended since the instance was activated; the others are in the
    /// store.
    pub(super) branch_results: BTreeMap<u32, Value>,
}

/// The origin of a frame, and its loop iterations and map indices.
#[derive(Clone, Debug, Default)]
pub(super) struct Lineage {
    /// The frame that waits for this one; none for the main chain's.
    pub(super) origin: Option<Origin>,
    /// The iteration of each loop that the frame has entered and not left, outermost first, from 1.
    pub(super) loops: Vec<u64>,
    /// The index in each enclosing map, outermost first.
    pub(super) indices: Arc<[u32]>,
    /// The iterations and map indices around the whole frame, outermost first.
    pub(super) outer_path: Arc<[u64]>,
}

/// The parent of a branch, and the branch's index there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) parent: FrameId,
    pub(super) index: u32,
}

/// A node as it was in an earlier era of the run. Its path is unchanged since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Began {
    pub(super) era: u32,
    pub(super) node: u32,
}

/// The activity of a frame at its op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// At user code that is to run.
    Task {
        /// The attempt's number, from 1.
        attempt: u32,
        /// The number of the transition that issued the attempt.
        issued: u64,
        /// The attempt's stage.
        stage: Stage,
        /// Consecutive process crashes while this task was running.
        crashes: u32,
    },
    /// At a delay.
    Delay {
        /// The end of the delay.
        until: Timestamp,
    },
    /// Waiting for a signal.
    Signal {
        /// The signal's name.
        signal: Arc<str>,
        /// The end of the wait's timeout.
        until: Option<Timestamp>,
        /// The number of the transition that began the wait: of several waiting frames, the longest
        /// waiting is served first.
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
        /// Items that have started, counted from the first item.
        started: u32,
        /// Items that have started and not ended.
        live: u32,
        /// Bytes of the results of ended items.
        bytes: u64,
        /// Items in each row of the list.
        per_row: u32,
    },
    /// Failed at the op itself, which ended the run (a loop at its limit, a list that became too
    /// large); or at its first op, because the run ended before this branch got there. A retry
    /// tries the op again.
    Failed,
}

/// The stage of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not handed out: the instance is paused.
    Ready,
    /// Handed to the executor. It counts as running once its start is recorded.
    Running {
        /// The time when the attempt got its slot; `None` until its start is recorded.
        since: Option<Timestamp>,
    },
    /// Waiting for the next attempt.
    Backoff {
        /// The time of the next attempt.
        until: Timestamp,
    },
}

impl Frame {
    /// Returns a frame on its way to this position.
    pub(super) fn new(lineage: Lineage, position: u32, value: Value) -> Self {
        let (phase, branch_results) = (Phase::Failed, BTreeMap::new());
        Self { position, node: 0, value, phase, lineage, unread_bytes: 0, began: None, branch_results }
    }

    /// Returns the place of its op in this era of the run, for what is stored under it.
    pub(super) fn place(&self, era: u32) -> Place {
        let Began { era, node } = self.began.unwrap_or(Began { era, node: self.node });
        Place { era, node, indices: Arc::clone(&self.lineage.indices) }
    }

    /// Returns the bytes of its value, read or not.
    pub(super) fn value_bytes(&self) -> u64 {
        let unread = if self.value.unread().is_empty() { 0 } else { self.unread_bytes };
        self.value.bytes() as u64 + unread
    }

    /// Returns the value that the frame carries.
    pub(crate) fn value(&self) -> &Value {
        &self.value
    }

    /// Returns approximately how many bytes of memory the frame takes, index entries included.
    pub(super) fn memory_bytes(&self) -> usize {
        let branch_results = self.branch_results.values().map(Value::memory_bytes).sum::<usize>();
        FRAME_BYTES + self.value.memory_bytes() + branch_results
    }

    /// Returns the id of its attempt, if the attempt is with the executor.
    pub(super) fn running(&self, id: FrameId) -> Option<AttemptId> {
        match self.phase {
            Phase::Task { issued, stage: Stage::Running { .. }, .. } => Some(AttemptId { frame: id, issued }),
            _ => None,
        }
    }

    /// Returns when its delay, backoff or timeout ends.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::Delay { until } | Phase::Task { stage: Stage::Backoff { until }, .. } => Some(*until),
            Phase::Signal { until, .. } => *until,
            _ => None,
        }
    }
}

impl Lineage {
    /// Returns the iterations and map indices, outermost first, which tell this execution of a node
    /// from all others.
    pub(super) fn execution_path(&self) -> Arc<[u64]> {
        if self.loops.is_empty() {
            Arc::clone(&self.outer_path)
        } else {
            self.outer_path.iter().chain(&self.loops).copied().collect()
        }
    }

    /// Returns true if a loop encloses the frame, so that it may come here again.
    pub(super) fn is_in_loop(&self) -> bool {
        self.loops.len() + self.outer_path.len() > self.indices.len()
    }

    /// Returns the lineage of a branch of a fork in this frame.
    pub(super) fn branch(&self, parent: FrameId, index: u32) -> Self {
        let origin = Some(Origin { parent, index });
        Self { origin, loops: Vec::new(), indices: Arc::clone(&self.indices), outer_path: self.execution_path() }
    }

    /// Returns the lineage of an item of a map in this frame.
    pub(super) fn item(&self, parent: FrameId, index: u32) -> Self {
        let origin = Some(Origin { parent, index });
        let indices = self.indices.iter().copied().chain([index]).collect();
        let outer_path = self.execution_path().iter().copied().chain([u64::from(index)]).collect();
        Self { origin, loops: Vec::new(), indices, outer_path }
    }
}
