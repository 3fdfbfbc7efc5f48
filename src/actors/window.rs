//! The wake-ups in memory: the nearest rows of the due index, and those of instances with running
//! attempts, which have no row.
//!
//! Pure: it names no store, no clock and no actor. The timers read the store and wake instances;
//! the window says which rows and which instances.
//!
//! ```text
//!        now            read to
//!   ------|---in memory----|---in the store only------->
//! ```
//!
//! Every row of the due index is in memory or after `read_to`, except for wake-ups that were taken
//! and are in flight. After a failure of the store neither is certain, so [`Window::reset`] forgets
//! all rows: a window that kept them would be too full to read those that it has lost.

use std::collections::{BTreeSet, HashMap};

use crate::id::InstanceId;
use crate::machine::Wake;
use crate::time::Timestamp;

/// A wake-up time and its instance, as the due index orders them.
pub(super) type Due = (Timestamp, InstanceId);

/// The origin of a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A row of the due index: the instance is parked, or about to be.
    Stored,
    /// An instance with running attempts, which has no row.
    Resident,
    /// A row that was due when there was no room for its instance.
    Waiting,
}

pub(super) struct Window {
    rows_max: usize,
    /// The nearest rows of the due index, at most twice `rows_max`.
    stored: BTreeSet<Due>,
    /// Wake-ups of instances with running attempts. Bounded by the limit of active instances.
    resident: BTreeSet<Due>,
    /// Due rows whose instances found no room. At most `rows_max`, plus those that were `Resident`.
    waiting: BTreeSet<Due>,
    /// All wake-ups by instance.
    times: HashMap<InstanceId, (Timestamp, Source)>,
    /// The last row of the due index that was read; `None` before the first.
    read_to: Option<Due>,
    /// True if there may be rows after `read_to`.
    more: bool,
}

impl Window {
    /// Returns an empty window that has read no rows.
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

    /// Forgets every row of the due index, so that it is read again from its start.
    pub(super) fn reset(&mut self) {
        self.stored.clear();
        self.waiting.clear();
        self.times.retain(|_, (_, source)| *source == Source::Resident);
        (self.read_to, self.more) = (None, true);
    }

    /// Sets the wake-up of an instance, which replaces the previous one.
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

    /// Sets the wake-up of an instance that was just started. Keeps an earlier time that is known;
    /// replaces a later one, since it may belong to a run that was deleted.
    pub(super) fn arm_fresh(&mut self, instance: InstanceId, wake: Wake) {
        if wake.at.is_some_and(|at| self.is_news(&instance, at)) {
            self.arm(instance, wake);
        }
    }

    /// Returns true if more of the due index should be read, from [`read_to`](Self::read_to).
    pub(super) fn is_low(&self) -> bool {
        self.more && self.stored.len() + self.waiting.len() < self.rows_max / 2
    }

    /// Returns the last row of the due index that was read; `None` if it is to be read from its
    /// start.
    pub(super) fn read_to(&self) -> Option<&Due> {
        self.read_to.as_ref()
    }

    /// Returns the number of rows to read at once.
    pub(super) fn page_rows(&self) -> usize {
        self.rows_max
    }

    /// Adds the rows that follow [`read_to`](Self::read_to): [`page_rows`](Self::page_rows) of
    /// them, or all that are left.
    pub(super) fn fill(&mut self, page: Vec<Due>) {
        self.more = page.len() == self.rows_max;
        if let Some(last) = page.last() {
            self.read_to = Some(last.clone());
        }
        for due in page {
            // The earlier of two times counts: either may be out of date, and waking too early does
            // no harm.
            if self.is_news(&due.1, due.0) {
                self.disarm(&due.1);
                self.insert(due, Source::Stored);
            }
        }
    }

    /// Returns the time of the next wake-up from this source.
    pub(super) fn next(&self, source: Source) -> Option<Timestamp> {
        self.of(source).first().map(|(at, _)| *at)
    }

    /// Takes the next wake-up from this source, if it is due.
    pub(super) fn take(&mut self, source: Source, now: Timestamp) -> Option<Due> {
        let due = self.of(source).first().filter(|(at, _)| *at <= now).cloned()?;
        self.disarm(&due.1);
        Some(due)
    }

    /// Puts back the wake-up of a parked instance that found no room.
    pub(super) fn put_back(&mut self, due: Due) {
        self.insert(due, Source::Waiting);
    }

    /// Returns true if so many rows wait for room that no more may be taken.
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

    /// Forgets the latest rows when there are too many, and moves the horizon before them.
    fn shrink(&mut self) {
        if self.stored.len() <= 2 * self.rows_max {
            return;
        }
        let Some(first_behind) = self.stored.iter().nth(self.rows_max).cloned() else { return };
        for (_, instance) in self.stored.split_off(&first_behind) {
            self.times.remove(&instance);
        }
        let kept_to = self.stored.last().cloned();
        // Never forward: rows between the two times were not read.
        self.read_to = if self.more { kept_to.min(self.read_to.take()) } else { kept_to };
        self.more = true;
    }
}

#[cfg(test)]
mod tests;
