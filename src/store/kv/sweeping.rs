//! Clears away the rows of runs that were replaced or deleted.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Kv, KvStore, Ops};
use crate::id::RunId;
use crate::store::{StoreError, keys};

/// Runs that are known to be swept next. More than that stand in the map only, until there is room.
const QUEUED_MAX: usize = 65_536;

/// The runs to be swept, so that nobody looks for their markers among those of runs that were.
#[derive(Debug)]
pub(in crate::store) struct Sweeping(Mutex<Queue>);

#[derive(Debug)]
struct Queue {
    runs: VecDeque<Superseded>,
    /// Whether the map may hold markers of other runs.
    unlisted: bool,
}

/// A superseded run, and the key from which on rows of it may be left.
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
        Self(Mutex::new(Queue { runs: VecDeque::new(), unlisted: true }))
    }
}

impl Sweeping {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The markers of these runs are stored.
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

    /// Nobody knows which markers are stored.
    pub(super) fn forget(&self) {
        let mut queue = self.queue();
        queue.runs.clear();
        queue.unlisted = true;
    }

    fn put_back(&self, runs: impl DoubleEndedIterator<Item = Superseded>) {
        let mut queue = self.queue();
        runs.rev().for_each(|run| queue.runs.push_front(run));
    }
}

impl<K: Kv> KvStore<K> {
    pub(super) fn sweep_some(&self, limit: usize) -> Result<usize, StoreError> {
        let mut taken = Vec::new();
        let swept = self.sweep_taken(limit, &mut taken);
        if swept.is_err() {
            // Some of it may be gone: then less is found the next time.
            self.sweeping.put_back(taken.into_iter());
        }
        swept
    }

    fn sweep_taken(&self, limit: usize, taken: &mut Vec<Superseded>) -> Result<usize, StoreError> {
        let (mut ops, mut rest) = (Ops::new(), None);
        while ops.len() < limit {
            let Some(next) = self.next_superseded()? else { break };
            taken.push(next.clone());
            let (run, marker, room) = (next.run, keys::superseded(next.run), limit - ops.len());
            if self.kv.get(&marker)?.is_none() {
                continue;
            }
            let rows = self.kv.scan(&next.from, &keys::behind(&keys::rows(run)), room)?;
            let last = rows.last().map(|(key, _)| [key, &[0][..]].concat());
            ops.extend(rows.into_iter().map(|(key, _)| (key.to_vec(), None)));
            if let Some(from) = last
                && ops.len() >= limit
            {
                rest = Some(Superseded { run, from });
                break;
            }
            ops.insert(marker, None);
        }
        let swept = ops.len();
        // An empty write would be synced too.
        if swept > 0 {
            self.kv.write(ops)?;
        }
        self.sweeping.put_back(rest.into_iter());
        Ok(swept)
    }

    fn next_superseded(&self) -> Result<Option<Superseded>, StoreError> {
        let next = self.sweeping.queue().runs.pop_front();
        if next.is_some() {
            return Ok(next);
        }
        // No marker comes meanwhile.
        let _committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.sweeping.queue().unlisted {
            let markers = self.find(keys::SUPERSEDED, &keys::behind(keys::SUPERSEDED), QUEUED_MAX)?;
            let mut queue = self.sweeping.queue();
            queue.unlisted = markers.len() >= QUEUED_MAX;
            let runs = markers.iter().filter_map(|(marker, _)| keys::parse_superseded(marker));
            queue.runs = runs.map(Superseded::new).collect();
        }
        let mut queue = self.sweeping.queue();
        let next = queue.runs.pop_front();
        self.markers.store(next.is_some() || queue.unlisted, Ordering::Release);
        Ok(next)
    }
}
