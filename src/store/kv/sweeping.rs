//! Deletes the rows of runs that were replaced or deleted.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Kv, KvStore, Ops};
use crate::id::RunId;
use crate::store::{StoreError, keys};

/// Most runs in the queue. Markers of more runs stay in the map only, until there is room.
const QUEUED_MAX: usize = 65_536;

/// The queue of runs to be swept. It saves the sweep from searching for markers among the deleted
/// ones of earlier sweeps.
#[derive(Debug)]
pub(in crate::store) struct Sweeping(Mutex<Queue>);

#[derive(Debug)]
struct Queue {
    runs: VecDeque<Superseded>,
    /// True if the map may hold markers of runs that are not in the queue.
    unlisted: bool,
    /// Runs taken from the queue whose markers are not deleted yet.
    taken: usize,
}

/// A superseded run, and the first key at which rows of it may be left.
#[derive(Clone, Debug)]
struct Superseded {
    run: RunId,
    from: Vec<u8>,
}

impl Superseded {
    fn new(run: RunId) -> Self {
        Self { run, from: keys::rows(run) }
    }
}

impl Default for Sweeping {
    fn default() -> Self {
        Self(Mutex::new(Queue { runs: VecDeque::new(), unlisted: true, taken: 0 }))
    }
}

impl Sweeping {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues runs whose markers are stored.
    pub(super) fn add(&self, runs: impl Iterator<Item = RunId>) {
        let mut queue = self.queue();
        for run in runs {
            if queue.runs.len() < QUEUED_MAX {
                queue.runs.push_back(Superseded::new(run));
            } else {
                queue.unlisted = true;
            }
        }
    }

    /// Forgets the queue, after a write with an unknown outcome or a reopen.
    pub(super) fn forget(&self) {
        let mut queue = self.queue();
        queue.runs.clear();
        queue.unlisted = true;
    }

    fn take(&self) -> Option<Superseded> {
        let mut queue = self.queue();
        let next = queue.runs.pop_front()?;
        queue.taken += 1;
        Some(next)
    }

    /// Accounts for runs taken by a sweep: those in `back` are queued again, the others are
    /// finished.
    fn give_back(&self, taken: usize, back: GivenBack) {
        let mut queue = self.queue();
        queue.taken = queue.taken.saturating_sub(taken);
        queue.runs.extend(back.last);
        back.next.into_iter().rev().for_each(|run| queue.runs.push_front(run));
        if queue.runs.len() > QUEUED_MAX {
            queue.runs.truncate(QUEUED_MAX);
            queue.unlisted = true;
        }
    }

    fn is_done(&self) -> bool {
        let queue = self.queue();
        queue.runs.is_empty() && !queue.unlisted && queue.taken == 0
    }
}

/// Runs that are still to be swept.
#[derive(Debug, Default)]
struct GivenBack {
    /// Runs to be swept before all others.
    next: Vec<Superseded>,
    /// Runs to be swept after all others: a run whose sweep fails must not hold them up.
    last: Vec<Superseded>,
}

impl<K: Kv> KvStore<K> {
    pub(super) fn sweep_some(&self, limit: usize) -> Result<usize, StoreError> {
        let (mut taken, mut back) = (Vec::new(), GivenBack::default());
        let swept = self.sweep_taken(limit, &mut taken, &mut back);
        if swept.is_err() {
            // If the sweep is stored in part, the next one finds fewer rows.
            back = GivenBack { next: Vec::new(), last: taken.clone() };
        }
        self.sweeping.give_back(taken.len(), back);
        if self.markers.load(Ordering::Acquire) && self.sweeping.is_done() {
            // The lock keeps new markers away.
            let _committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
            if self.sweeping.is_done() {
                self.markers.store(false, Ordering::Release);
            }
        }
        swept
    }

    fn sweep_taken(
        &self,
        limit: usize,
        taken: &mut Vec<Superseded>,
        back: &mut GivenBack,
    ) -> Result<usize, StoreError> {
        let (mut ops, mut failed) = (Ops::new(), None);
        while ops.len() < limit {
            let Some(next) = self.next_superseded()? else { break };
            taken.push(next.clone());
            match self.gather(&next, limit, &mut ops) {
                Ok(rest) => back.next.extend(rest),
                Err(error) => {
                    back.last.push(next);
                    failed = Some(error);
                    break;
                }
            }
        }
        let swept = ops.len();
        // An empty write would be synced too.
        if swept > 0 {
            self.kv.write(ops)?;
        }
        match failed {
            Some(error) if swept == 0 => Err(error),
            _ => Ok(swept),
        }
    }

    /// Adds the deletion of a run's rows to `ops`, up to `limit`, and of its marker after the last
    /// of them. Returns the rest of the run, if any is left.
    fn gather(&self, next: &Superseded, limit: usize, ops: &mut Ops) -> Result<Option<Superseded>, StoreError> {
        let (run, marker) = (next.run, keys::superseded(next.run));
        if self.kv.get(&marker)?.is_none() {
            return Ok(None);
        }
        let rows = self.kv.scan(&next.from, &keys::behind(&keys::rows(run)), limit - ops.len())?;
        let last = rows.last().map(|(key, _)| [key, &[0][..]].concat());
        ops.extend(rows.into_iter().map(|(key, _)| (key.to_vec(), None)));
        match last {
            Some(from) if ops.len() >= limit => Ok(Some(Superseded { run, from })),
            _ => {
                ops.insert(marker, None);
                Ok(None)
            }
        }
    }

    fn next_superseded(&self) -> Result<Option<Superseded>, StoreError> {
        let next = self.sweeping.take();
        if next.is_some() {
            return Ok(next);
        }
        // The lock keeps new markers away.
        let _committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.sweeping.queue().unlisted {
            let markers = self.find(keys::SUPERSEDED, &keys::behind(keys::SUPERSEDED), QUEUED_MAX)?;
            let mut queue = self.sweeping.queue();
            queue.unlisted = markers.len() >= QUEUED_MAX;
            let runs = markers.iter().filter_map(|(marker, _)| keys::parse_superseded(marker));
            queue.runs = runs.map(Superseded::new).collect();
        }
        Ok(self.sweeping.take())
    }
}
