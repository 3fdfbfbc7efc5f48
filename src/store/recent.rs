//! The instances that were written last, as they are stored: the next commit need not read them.
//!
//! A commit takes out what it is about, and puts it back as it has left it. So what a failed one may have changed is not here.

use std::mem;

use foldhash::HashMap;

use super::fold::Present;
use crate::id::InstanceId;

/// Instances in each of the two halves. Kept with a head of some 250 bytes each, all take about four megabytes.
const HALF: usize = 4_096;

/// The younger half is looked up and added to; when it is full, it takes the place of the older one. What is used moves to the
/// younger half.
#[derive(Debug, Default)]
pub(super) struct Recent {
    younger: HashMap<InstanceId, Present>,
    older: HashMap<InstanceId, Present>,
}

impl Recent {
    /// Takes out the instance as stored, if that is known.
    pub(super) fn take(&mut self, id: &InstanceId) -> Option<Present> {
        self.younger.remove(id).or_else(|| self.older.remove(id))
    }

    /// What a commit has left.
    pub(super) fn put(&mut self, id: InstanceId, present: Present) {
        if self.younger.len() >= HALF {
            self.older = mem::take(&mut self.younger);
        }
        self.younger.insert(id, present);
    }

    /// Everything is read anew.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.younger.len() + self.older.len()
    }
}
