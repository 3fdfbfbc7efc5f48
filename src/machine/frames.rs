//! The frames of a run, indexed by what they wait for, so that an event costs the same however many
//! there are.
//!
//! A frame is taken out, changed and put back: that keeps the indexes right, and notes the records
//! to write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::frame::{AttemptId, Frame, FrameId, Phase, ROOT};
use super::waits::Waits;
use crate::time::Timestamp;

/// The sort key of frames; the least decides where the instance stands: a task comes first
/// (running, ready or in backoff), then the wait with the nearest wake-up, then the first by node.
type Rank = (u8, Timestamp, u32, FrameId);

#[derive(Clone, Debug, Default)]
pub(crate) struct Frames {
    /// The main chain's frame. Most instances have no other, so it is looked at directly, and
    /// stands in no index but `waits`.
    root: Option<Box<Frame>>,
    /// All branches.
    by_id: BTreeMap<FrameId, Box<Frame>>,
    ranks: BTreeSet<Rank>,
    /// Frames by what they wait for, and by their wake-ups.
    waits: Waits,
    /// Branches by the frame they came from, in order.
    branches: BTreeSet<(FrameId, u32, FrameId)>,
    /// How many branches have an attempt with the executor.
    running: usize,
    /// Branches whose record differs from the stored one. The root's record is in the head.
    changed: Vec<FrameId>,
}

impl Frames {
    pub(crate) fn get(&self, id: FrameId) -> Option<&Frame> {
        #[cfg(test)]
        looks::count();
        if id == ROOT { self.root.as_deref() } else { self.by_id.get(&id).map(|frame| &**frame) }
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.root.is_some()) + self.by_id.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (FrameId, &Frame)> {
        let root = self.root.as_deref().map(|frame| (ROOT, frame));
        root.into_iter().chain(self.by_id.iter().map(|(id, frame)| (*id, &**frame)))
    }

    /// Returns the lowest number of a branch.
    pub(super) fn first_branch(&self) -> FrameId {
        self.by_id.first_key_value().map_or(ROOT, |(id, _)| *id)
    }

    /// Returns the ids of the present frames; a transition may add or remove some.
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

    /// Puts a frame in, and notes that its record must be written.
    pub(super) fn put(&mut self, id: FrameId, frame: Box<Frame>) {
        self.note(id);
        self.insert(id, frame);
    }

    /// Puts a frame in as the store has it.
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

    /// Returns every value for changes. No index and no record depends on them.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut crate::codec::Value> {
        self.root.iter_mut().chain(self.by_id.values_mut()).map(|frame| &mut frame.value)
    }

    /// Returns the branches whose records must be written or deleted, each once.
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

    /// Returns the frame that decides where the instance stands.
    pub(super) fn deciding(&self) -> Option<&Frame> {
        let root = self.root.as_deref().map(|frame| (rank(ROOT, frame), frame));
        let branch = self.ranks.first().and_then(|rank| Some((*rank, self.get(rank.3)?)));
        root.into_iter().chain(branch).min_by_key(|(rank, _)| *rank).map(|(_, frame)| frame)
    }

    /// Returns true if any attempt is with the executor.
    pub(super) fn is_any_running(&self) -> bool {
        self.running > 0 || self.root.as_ref().is_some_and(|root| root.running(ROOT).is_some())
    }

    /// Returns the attempts that are with the executor.
    pub(super) fn running(&self) -> impl Iterator<Item = AttemptId> {
        self.iter().filter_map(|(id, frame)| frame.running(id))
    }

    /// Returns the first wake-up of a frame. In a pause, a wait with a signal that came in time has
    /// none: both wait for the end of the pause.
    pub(super) fn next_wake(&self, paused: bool) -> Option<Timestamp> {
        self.root_wake(paused).into_iter().chain(self.waits.next_wake(paused)).min()
    }

    /// Returns the frames that are due, without those held back in a pause.
    pub(super) fn due(&self, now: Timestamp, paused: bool) -> Vec<FrameId> {
        let is_root_due = self.root_wake(paused).is_some_and(|at| at <= now);
        let mut due: Vec<_> = is_root_due.then_some(ROOT).into_iter().chain(self.waits.due(now, paused)).collect();
        due.sort_unstable();
        due
    }

    fn root_wake(&self, paused: bool) -> Option<Timestamp> {
        let at = self.root.as_ref()?.wake_at();
        at.filter(|_| !paused || !self.is_held(ROOT))
    }

    /// Updates how many signals of this name are buffered.
    pub(super) fn set_buffered(&mut self, signal: &Arc<str>, count: usize) {
        self.waits.set_buffered(signal, count);
    }

    /// Returns the frame that has waited longest for this signal.
    pub(super) fn first_waiting(&self, signal: &str) -> Option<FrameId> {
        self.waits.first(signal).map(|(_, id)| id)
    }

    /// Returns how many frames wait for this signal.
    pub(super) fn waiting_for(&self, signal: &str) -> usize {
        self.waits.count(signal)
    }

    /// Returns true if a frame that begins to wait in this transition would be the first to wait
    /// for this signal.
    pub(super) fn would_be_first(&self, signal: &str, since: (u64, FrameId)) -> bool {
        self.waits.first(signal).is_none_or(|first| since < first)
    }

    /// Returns true if a signal would be buffered for a frame that begins to wait in this
    /// transition.
    pub(super) fn would_be_held(&self, signal: &str, since: (u64, FrameId)) -> bool {
        self.waits.would_be_held(signal, since)
    }

    /// Returns true if a frame waits for a signal and one is buffered for it. Buffered signals go
    /// to the frames that have waited longest.
    pub(super) fn is_held(&self, id: FrameId) -> bool {
        match self.get(id).map(|frame| &frame.phase) {
            Some(Phase::Signal { signal, since, .. }) => self.waits.is_held(signal, (*since, id)),
            _ => false,
        }
    }

    /// Returns the branches of a frame that have not ended.
    pub(super) fn branches_of(&self, parent: FrameId) -> impl Iterator<Item = FrameId> {
        self.branches.range((parent, 0, 0)..=(parent, u32::MAX, FrameId::MAX)).map(|(.., id)| *id)
    }

    fn index(&mut self, id: FrameId, frame: &Frame) {
        self.waits.add(id, frame);
        if id == ROOT {
            return;
        }
        self.ranks.insert(rank(id, frame));
        if let Some(origin) = frame.lineage.origin {
            self.branches.insert((origin.parent, origin.index, id));
        }
        self.running += usize::from(frame.running(id).is_some());
    }

    fn unindex(&mut self, id: FrameId, frame: &Frame) {
        self.waits.remove(id, frame);
        if id == ROOT {
            return;
        }
        self.ranks.remove(&rank(id, frame));
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

#[cfg(test)]
mod looks;
