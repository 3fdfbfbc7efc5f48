//! The wake-ups in memory: the nearest rows of the due index, and those of instances whose tasks run, which have no row.
//!
//! Pure: it names no store, no clock and no actor. The timers read and wake; this says what to read and whom to wake.
//!
//! ```text
//!        now            read to
//!   ------|---in memory----|---in the store only------->
//! ```
//!
//! Every row of the due index is in memory or behind `read_to`, except for wake-ups that were taken and are on their way. After
//! a failure of the store neither is known, so [`Window::reset`] forgets all rows: a window that kept them would be too full
//! to read those that it has lost.

use std::collections::{BTreeSet, HashMap};

use crate::id::InstanceId;
use crate::machine::Wake;
use crate::time::Timestamp;

/// When an instance is to be woken, as the due index orders them.
pub(super) type Due = (Timestamp, InstanceId);

/// Where a wake-up comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A row of the due index: the instance sleeps, or is about to.
    Stored,
    /// An instance whose tasks run, which has no row.
    Resident,
    /// A row that was due while there was no room for its instance.
    Waiting,
}

pub(super) struct Window {
    rows_max: usize,
    /// The nearest rows of the due index, at most twice `rows_max`.
    stored: BTreeSet<Due>,
    /// Wake-ups of instances whose tasks run. Bounded by how many may be awake.
    resident: BTreeSet<Due>,
    /// Rows that were due, for whose instances there was no room. At most `rows_max`, and those that were resident.
    waiting: BTreeSet<Due>,
    /// All of them by instance.
    times: HashMap<InstanceId, (Timestamp, Source)>,
    /// Rows of the due index up to here were read; `None` is before the first.
    read_to: Option<Due>,
    /// Whether there may be rows behind that.
    more: bool,
}

impl Window {
    /// Returns an empty window that knows nothing of the due index.
    pub(super) fn new(rows_max: usize) -> Self {
        Self {
            rows_max,
            stored: BTreeSet::new(),
            resident: BTreeSet::new(),
            waiting: BTreeSet::new(),
            times: HashMap::new(),
            read_to: None,
            more: true,
        }
    }

    /// Forgets every row of the due index, so that it is read from the start again.
    pub(super) fn reset(&mut self) {
        self.stored.clear();
        self.waiting.clear();
        self.times.retain(|_, (_, source)| *source == Source::Resident);
        (self.read_to, self.more) = (None, true);
    }

    /// Wakes an instance at this time instead of the one before.
    pub(super) fn arm(&mut self, instance: InstanceId, Wake { at, stored }: Wake) {
        self.disarm(&instance);
        let Some(at) = at else { return };
        let (due, source) = ((at, instance), if stored { Source::Stored } else { Source::Resident });
        if source == Source::Stored && self.is_behind_horizon(&due) {
            return;
        }
        self.insert(due, source);
        self.shrink();
    }

    /// Wakes an instance that was just started. An earlier time that is known stays, a later one does not: it may be of a run
    /// that was deleted.
    pub(super) fn arm_fresh(&mut self, instance: InstanceId, wake: Wake) {
        if wake.at.is_some_and(|at| self.is_news(&instance, at)) {
            self.arm(instance, wake);
        }
    }

    /// Whether the due index should be read on, from [`read_to`](Self::read_to).
    pub(super) fn is_low(&self) -> bool {
        self.more && self.stored.len() + self.waiting.len() < self.rows_max / 2
    }

    /// The last row of the due index that was read; `None` if it is to be read from the start.
    pub(super) fn read_to(&self) -> Option<&Due> {
        self.read_to.as_ref()
    }

    /// How many rows to read at once.
    pub(super) fn page_rows(&self) -> usize {
        self.rows_max
    }

    /// Takes in the rows that follow [`read_to`](Self::read_to), [`page_rows`](Self::page_rows) of them, or all there are.
    pub(super) fn fill(&mut self, page: Vec<Due>) {
        self.more = page.len() == self.rows_max;
        if let Some(last) = page.last() {
            self.read_to = Some(last.clone());
        }
        for due in page {
            // Of two times the earlier one counts: either may be out of date, and waking too early does no harm.
            if self.is_news(&due.1, due.0) {
                self.disarm(&due.1);
                self.insert(due, Source::Stored);
            }
        }
    }

    /// When the next wake-up from there is due.
    pub(super) fn next(&self, source: Source) -> Option<Timestamp> {
        self.of(source).first().map(|(at, _)| *at)
    }

    /// Takes the next wake-up from there that is due.
    pub(super) fn take(&mut self, source: Source, now: Timestamp) -> Option<Due> {
        let due = self.of(source).first().filter(|(at, _)| *at <= now).cloned()?;
        self.disarm(&due.1);
        Some(due)
    }

    /// Puts back a wake-up of an instance that is asleep, for which there was no room.
    pub(super) fn put_back(&mut self, due: Due) {
        self.insert(due, Source::Waiting);
    }

    /// Whether so many rows wait for room that no more may be taken.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting.len() >= self.rows_max
    }

    fn of(&self, source: Source) -> &BTreeSet<Due> {
        match source {
            Source::Stored => &self.stored,
            Source::Resident => &self.resident,
            Source::Waiting => &self.waiting,
        }
    }

    fn of_mut(&mut self, source: Source) -> &mut BTreeSet<Due> {
        match source {
            Source::Stored => &mut self.stored,
            Source::Resident => &mut self.resident,
            Source::Waiting => &mut self.waiting,
        }
    }

    fn is_news(&self, instance: &InstanceId, at: Timestamp) -> bool {
        self.times.get(instance).is_none_or(|(known, _)| at < *known)
    }

    fn is_behind_horizon(&self, due: &Due) -> bool {
        self.more && self.read_to.as_ref().is_none_or(|read_to| due > read_to)
    }

    fn insert(&mut self, due: Due, source: Source) {
        self.times.insert(due.1.clone(), (due.0, source));
        self.of_mut(source).insert(due);
    }

    fn disarm(&mut self, instance: &InstanceId) {
        if let Some((at, source)) = self.times.remove(instance) {
            self.of_mut(source).remove(&(at, instance.clone()));
        }
    }

    /// Forgets the farthest rows when there are too many, and draws the horizon in before them.
    fn shrink(&mut self) {
        if self.stored.len() <= 2 * self.rows_max {
            return;
        }
        let Some(first_behind) = self.stored.iter().nth(self.rows_max).cloned() else { return };
        for (_, instance) in self.stored.split_off(&first_behind) {
            self.times.remove(&instance);
        }
        let kept_to = self.stored.last().cloned();
        // Never forward: rows between the two were not read.
        self.read_to = if self.more { kept_to.min(self.read_to.take()) } else { kept_to };
        self.more = true;
    }
}

#[cfg(test)]
mod tests;
