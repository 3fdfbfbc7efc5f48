//! The frames of a run, found by what they wait for, so that an event costs the same however many there are.
//!
//! A frame is taken out, changed and put back; that keeps the indexes right, and notes whose record must be written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::frame::{Frame, FrameId, Phase, ROOT, Ticket};
use crate::time::Timestamp;

/// Which frame tells where the instance stands: the least. A task at work comes first, then the wait with the nearest
/// wake-up, then the first by node.
type Rank = (u8, Timestamp, u32, FrameId);

#[derive(Clone, Debug, Default)]
pub(crate) struct Frames {
    /// The main chain's. Most instances have no other, so it is looked at where it is, and stands in no index but `waiting`.
    root: Option<Box<Frame>>,
    /// All others.
    by_id: BTreeMap<FrameId, Box<Frame>>,
    ranks: BTreeSet<Rank>,
    /// By when time moves them.
    wakes: BTreeSet<(Timestamp, FrameId)>,
    /// Those that wait for a signal, the main chain's among them, by its name, in the order in which they began to.
    waiting: HashMap<Arc<str>, BTreeSet<(u64, FrameId)>>,
    /// Branches by the frame they came from, in order.
    branches: BTreeSet<(FrameId, u32, FrameId)>,
    /// How many of the others have an attempt with the executor.
    running: usize,
    /// Those whose record is not as the store has it; the root's is the head's.
    changed: Vec<FrameId>,
}

impl Frames {
    pub(crate) fn get(&self, id: FrameId) -> Option<&Frame> {
        if id == ROOT { self.root.as_deref() } else { self.by_id.get(&id).map(|frame| &**frame) }
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.root.is_some()) + self.by_id.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (FrameId, &Frame)> {
        let root = self.root.as_deref().map(|frame| (ROOT, frame));
        root.into_iter().chain(self.by_id.iter().map(|(id, frame)| (*id, &**frame)))
    }

    /// Their ids as of now; a transition may add or remove some.
    pub(super) fn ids(&self) -> Vec<FrameId> {
        self.iter().map(|(id, _)| id).collect()
    }

    /// Takes a frame out.
    pub(super) fn take(&mut self, id: FrameId) -> Option<Box<Frame>> {
        let frame = if id == ROOT { self.root.take() } else { self.by_id.remove(&id) }?;
        self.unindex(id, &frame);
        self.note(id);
        Some(frame)
    }

    /// Puts a frame in.
    pub(super) fn put(&mut self, id: FrameId, frame: Box<Frame>) {
        self.note(id);
        self.insert(id, frame);
    }

    /// Puts a frame in that is as the store has it.
    pub(super) fn restore(&mut self, id: FrameId, frame: Frame) {
        self.insert(id, Box::new(frame));
    }

    fn insert(&mut self, id: FrameId, frame: Box<Frame>) {
        self.index(id, &frame);
        if id == ROOT {
            self.root = Some(frame);
        } else {
            self.by_id.insert(id, frame);
        }
    }

    /// Changes a frame in its place.
    pub(super) fn update<T>(&mut self, id: FrameId, change: impl FnOnce(&mut Frame) -> T) -> Option<T> {
        let mut frame = self.take(id)?;
        let done = change(&mut frame);
        self.insert(id, frame);
        Some(done)
    }

    /// Changes every value, which no index and no record depends on.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut crate::codec::Value> {
        self.root.iter_mut().chain(self.by_id.values_mut()).map(|frame| &mut frame.value)
    }

    /// Those whose records are to be written or deleted, each once.
    pub(super) fn take_changed(&mut self) -> Vec<FrameId> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    fn note(&mut self, id: FrameId) {
        if id != ROOT {
            self.changed.push(id);
        }
    }

    /// The frame that tells where the instance stands.
    pub(super) fn deciding(&self) -> Option<&Frame> {
        let root = self.root.as_deref().map(|frame| (rank(ROOT, frame), frame));
        let branch = self.ranks.first().and_then(|rank| Some((*rank, self.get(rank.3)?)));
        root.into_iter().chain(branch).min_by_key(|(rank, _)| *rank).map(|(_, frame)| frame)
    }

    /// Whether any attempt is with the executor.
    pub(super) fn is_any_running(&self) -> bool {
        self.running > 0 || self.root.as_ref().is_some_and(|root| root.running(ROOT).is_some())
    }

    /// The attempts that are with the executor.
    pub(super) fn running(&self) -> impl Iterator<Item = Ticket> {
        self.iter().filter_map(|(id, frame)| frame.running(id))
    }

    /// When time moves the first frame that `counts`.
    pub(super) fn next_wake(&self, counts: impl Fn(FrameId, &Frame) -> bool) -> Option<Timestamp> {
        let root = self.root.as_ref().and_then(|root| root.wake_at().filter(|_| counts(ROOT, root)));
        let mut wakes = self.wakes.iter();
        let branch = wakes.find(|(_, id)| self.get(*id).is_some_and(|frame| counts(*id, frame))).map(|(at, _)| *at);
        root.into_iter().chain(branch).min()
    }

    /// The frames that are due.
    pub(super) fn due(&self, now: Timestamp) -> Vec<FrameId> {
        let is_root_due = self.root.as_ref().and_then(|root| root.wake_at()).is_some_and(|at| at <= now);
        let branches = self.wakes.range(..=(now, FrameId::MAX)).map(|(_, id)| *id);
        let mut due: Vec<_> = is_root_due.then_some(ROOT).into_iter().chain(branches).collect();
        due.sort_unstable();
        due
    }

    /// The frame that has waited longest for this signal.
    pub(super) fn first_waiting(&self, signal: &str) -> Option<FrameId> {
        self.waiting.get(signal)?.first().map(|(_, id)| *id)
    }

    /// How many frames wait for this signal.
    pub(super) fn waiting_for(&self, signal: &str) -> usize {
        self.waiting.get(signal).map_or(0, BTreeSet::len)
    }

    /// Whether a frame that began to wait in this transition would be among the first so many that wait for this signal.
    pub(super) fn would_be_among_first(&self, count: usize, signal: &str, since: (u64, FrameId)) -> bool {
        let before = self.waiting.get(signal).map_or(0, |waiting| waiting.range(..since).take(count).count());
        before < count
    }

    /// Whether a frame is among the first so many that wait for this signal.
    pub(super) fn is_among_first(&self, count: usize, signal: &str, id: FrameId) -> bool {
        self.waiting.get(signal).is_some_and(|waiting| waiting.iter().take(count).any(|(_, waits)| *waits == id))
    }

    /// The branches of a frame that have not ended.
    pub(super) fn branches_of(&self, parent: FrameId) -> impl Iterator<Item = FrameId> {
        self.branches.range((parent, 0, 0)..=(parent, u32::MAX, FrameId::MAX)).map(|(.., id)| *id)
    }

    fn index(&mut self, id: FrameId, frame: &Frame) {
        if let Phase::Signal { signal, since, .. } = &frame.phase {
            self.waiting.entry(Arc::clone(signal)).or_default().insert((*since, id));
        }
        if id == ROOT {
            return;
        }
        self.ranks.insert(rank(id, frame));
        self.wakes.extend(frame.wake_at().map(|at| (at, id)));
        if let Some(origin) = frame.lineage.origin {
            self.branches.insert((origin.parent, origin.index, id));
        }
        self.running += usize::from(frame.running(id).is_some());
    }

    fn unindex(&mut self, id: FrameId, frame: &Frame) {
        if let Phase::Signal { signal, since, .. } = &frame.phase
            && let Some(waiting) = self.waiting.get_mut(signal)
        {
            waiting.remove(&(*since, id));
            if waiting.is_empty() {
                self.waiting.remove(signal);
            }
        }
        if id == ROOT {
            return;
        }
        self.ranks.remove(&rank(id, frame));
        if let Some(at) = frame.wake_at() {
            self.wakes.remove(&(at, id));
        }
        if let Some(origin) = frame.lineage.origin {
            self.branches.remove(&(origin.parent, origin.index, id));
        }
        self.running -= usize::from(frame.running(id).is_some());
    }
}

fn rank(id: FrameId, frame: &Frame) -> Rank {
    let (class, at) = match &frame.phase {
        Phase::Task { .. } => (0, Timestamp::EPOCH),
        Phase::Delay { until } | Phase::Signal { until: Some(until), .. } => (1, *until),
        Phase::Signal { until: None, .. } => (2, Timestamp::EPOCH),
        Phase::Fork { .. } | Phase::Map { .. } | Phase::Failed => (3, Timestamp::EPOCH),
    };
    (class, at, frame.node, id)
}
