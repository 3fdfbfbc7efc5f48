//! Read epochs: counts of reads, which show whether an actor may have read an instance from the
//! store since some moment, and so may have changed it.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::RandomState;

use crate::id::InstanceId;

/// Ids that hash to one bucket share its counter; a collision costs one extra read.
const COUNTS: usize = 1_024;

/// The current read epochs, by the hashes of instance ids.
pub(super) struct ReadEpochs {
    counts: Box<[AtomicU32]>,
    hasher: RandomState,
}

/// The number of reads of an id from the store, at some moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadEpoch(u32);

impl ReadEpochs {
    pub(super) fn new() -> Self {
        Self { counts: (0..COUNTS).map(|_| AtomicU32::new(0)).collect(), hasher: RandomState::default() }
    }

    fn count(&self, id: &InstanceId) -> Option<&AtomicU32> {
        let hash = usize::try_from(self.hasher.hash_one(id) % COUNTS as u64).unwrap_or_default();
        self.counts.get(hash)
    }

    /// Returns the current read epoch of this id.
    pub(super) fn current(&self, id: &InstanceId) -> ReadEpoch {
        ReadEpoch(self.count(id).map_or(0, |count| count.load(Ordering::Acquire)))
    }

    /// Begins a new epoch: an actor is about to read this instance.
    pub(super) fn begin(&self, id: &InstanceId) {
        if let Some(count) = self.count(id) {
            count.fetch_add(1, Ordering::AcqRel);
        }
    }
}
