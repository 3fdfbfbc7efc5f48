//! Frames by the signal they wait for and by their wake-ups. Frames for which a signal is buffered
//! are kept apart, so that the next wake-up and the next frame to be served are each the first of a
//! set, however many wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::frame::{Frame, FrameId, Phase, ROOT};
use crate::time::Timestamp;

/// A frame's place in the order in which frames began to wait.
type Since = (u64, FrameId);

/// All waits of a run. The main chain's frame is here only when it waits for a signal; its wake-up
/// is looked at directly.
#[derive(Clone, Debug, Default)]
pub(super) struct Waits {
    by_signal: HashMap<Arc<str>, Waiting>,
    wakes: Wakes,
}

/// The frames that wait for one signal, each with its wake-up.
#[derive(Clone, Debug, Default)]
struct Waiting {
    /// How many signals are buffered.
    buffered: usize,
    /// The longest waiting frames: a signal is buffered for each.
    held: BTreeMap<Since, Option<Timestamp>>,
    /// The other frames, all later in the order; empty while more signals are buffered than frames
    /// wait.
    free: BTreeMap<Since, Option<Timestamp>>,
}

/// Frames by their wake-ups. In a pause, held frames are left alone: their signals came in time.
#[derive(Clone, Debug, Default)]
struct Wakes {
    held: BTreeSet<(Timestamp, FrameId)>,
    free: BTreeSet<(Timestamp, FrameId)>,
}

impl Waits {
    pub(super) fn add(&mut self, id: FrameId, frame: &Frame) {
        if let Phase::Signal { signal, since, until } = &frame.phase {
            let waiting = self.by_signal.entry(Arc::clone(signal)).or_default();
            waiting.add((*since, id), *until, &mut self.wakes);
        } else {
            insert(&mut self.wakes.free, frame.wake_at(), id);
        }
    }

    pub(super) fn remove(&mut self, id: FrameId, frame: &Frame) {
        if let Phase::Signal { signal, since, until } = &frame.phase {
            self.change(signal, |waiting, wakes| waiting.remove((*since, id), *until, wakes));
        } else {
            remove(&mut self.wakes.free, frame.wake_at(), id);
        }
    }

    /// Updates how many signals of this name are buffered.
    pub(super) fn set_buffered(&mut self, signal: &Arc<str>, count: usize) {
        if count > 0 {
            self.by_signal.entry(Arc::clone(signal)).or_default();
        }
        self.change(signal, |waiting, wakes| {
            waiting.buffered = count;
            waiting.balance(wakes);
        });
    }

    fn change(&mut self, signal: &str, change: impl FnOnce(&mut Waiting, &mut Wakes)) {
        let Some(waiting) = self.by_signal.get_mut(signal) else { return };
        change(waiting, &mut self.wakes);
        if waiting.buffered == 0 && waiting.len() == 0 {
            self.by_signal.remove(signal);
        }
    }

    /// Returns the frame that has waited longest for this signal, and since when.
    pub(super) fn first(&self, signal: &str) -> Option<Since> {
        let waiting = self.by_signal.get(signal)?;
        let (since, _) = waiting.held.first_key_value().or_else(|| waiting.free.first_key_value())?;
        Some(*since)
    }

    /// Returns how many frames wait for this signal.
    pub(super) fn count(&self, signal: &str) -> usize {
        self.by_signal.get(signal).map_or(0, Waiting::len)
    }

    /// Returns true if a signal is buffered for this frame.
    pub(super) fn is_held(&self, signal: &str, since: Since) -> bool {
        self.by_signal.get(signal).is_some_and(|waiting| waiting.held.contains_key(&since))
    }

    /// Returns true if a signal would be buffered for a frame that began to wait then.
    pub(super) fn would_be_held(&self, signal: &str, since: Since) -> bool {
        self.by_signal.get(signal).is_some_and(|waiting| {
            let is_one_left = waiting.held.len() < waiting.buffered;
            is_one_left || waiting.held.last_key_value().is_some_and(|(last, _)| since < *last)
        })
    }

    /// Returns the first wake-up of a frame; in a pause, of a frame that is not held.
    pub(super) fn next_wake(&self, paused: bool) -> Option<Timestamp> {
        let held = self.wakes.held.first().filter(|_| !paused);
        self.wakes.free.first().into_iter().chain(held).map(|(at, _)| *at).min()
    }

    /// Returns the frames that are due; in a pause, those that are not held.
    pub(super) fn due(&self, now: Timestamp, paused: bool) -> impl Iterator<Item = FrameId> {
        let until_now = ..=(now, FrameId::MAX);
        let held = (!paused).then(|| self.wakes.held.range(until_now)).into_iter().flatten();
        self.wakes.free.range(until_now).chain(held).map(|(_, id)| *id)
    }
}

impl Waiting {
    fn len(&self) -> usize {
        self.held.len() + self.free.len()
    }

    fn add(&mut self, since: Since, until: Option<Timestamp>, wakes: &mut Wakes) {
        let is_held = self.held.last_key_value().is_some_and(|(last, _)| since < *last);
        if is_held {
            self.held.insert(since, until);
            insert(&mut wakes.held, until, since.1);
        } else {
            self.free.insert(since, until);
            insert(&mut wakes.free, until, since.1);
        }
        self.balance(wakes);
    }

    fn remove(&mut self, since: Since, until: Option<Timestamp>, wakes: &mut Wakes) {
        if self.held.remove(&since).is_some() {
            remove(&mut wakes.held, until, since.1);
        } else {
            self.free.remove(&since);
            remove(&mut wakes.free, until, since.1);
        }
        self.balance(wakes);
    }

    /// Moves frames between `held` and `free` until as many are held as signals are buffered. Each
    /// change of the counts moves one frame at most.
    fn balance(&mut self, wakes: &mut Wakes) {
        while self.held.len() > self.buffered
            && let Some((since, until)) = self.held.pop_last()
        {
            self.free.insert(since, until);
            remove(&mut wakes.held, until, since.1);
            insert(&mut wakes.free, until, since.1);
        }
        while self.held.len() < self.buffered
            && let Some((since, until)) = self.free.pop_first()
        {
            self.held.insert(since, until);
            remove(&mut wakes.free, until, since.1);
            insert(&mut wakes.held, until, since.1);
        }
    }
}

fn insert(wakes: &mut BTreeSet<(Timestamp, FrameId)>, at: Option<Timestamp>, id: FrameId) {
    wakes.extend(at.filter(|_| id != ROOT).map(|at| (at, id)));
}

fn remove(wakes: &mut BTreeSet<(Timestamp, FrameId)>, at: Option<Timestamp>, id: FrameId) {
    if let Some(at) = at.filter(|_| id != ROOT) {
        wakes.remove(&(at, id));
    }
}
