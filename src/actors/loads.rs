//! Counts of loads, which show whether an actor may have read an instance from the store since some
//! moment, and so may have changed it.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::RandomState;

use crate::id::InstanceId;

/// Ids that hash to one bucket share its counter; a collision costs one extra read.
const COUNTS: usize = 1_024;

/// The number of loads from the store, by the hashes of instance ids.
pub(super) struct Loads {
    counts: Box<[AtomicU32]>,
    hasher: RandomState,
}

/// The load count of an id at some moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoadsSoFar(u32);

impl Loads {
    pub(super) fn new() -> Self {
        Self { counts: (0..COUNTS).map(|_| AtomicU32::new(0)).collect(), hasher: RandomState::default() }
    }

    fn count(&self, id: &InstanceId) -> Option<&AtomicU32> {
        let hash = usize::try_from(self.hasher.hash_one(id) % COUNTS as u64).unwrap_or_default();
        self.counts.get(hash)
    }

    pub(super) fn so_far(&self, id: &InstanceId) -> LoadsSoFar {
        LoadsSoFar(self.count(id).map_or(0, |count| count.load(Ordering::Acquire)))
    }

    /// Counts a load: an actor is about to read this instance.
    pub(super) fn note(&self, id: &InstanceId) {
        if let Some(count) = self.count(id) {
            count.fetch_add(1, Ordering::AcqRel);
        }
    }
}
