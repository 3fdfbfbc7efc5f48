//! The instances that were written last, as stored, so that the next commit need not read them.
//!
//! A commit takes out the instances it writes and puts them back as it leaves them. So instances
//! that a failed commit may have changed are not in the cache.

use std::mem;

use foldhash::HashMap;

use super::batch::StoredInstance;
use crate::id::InstanceId;

/// Instances in each of the two halves. With heads of some 250 bytes each, all take about four
/// megabytes.
const HALF: usize = 4_096;
/// Most bytes of heads in each half.
const HALF_BYTES: usize = 4 << 20;
/// Most bytes of a head in the cache. Reading a larger one costs little beside writing it, and a
/// few would take the place of thousands.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A cache in two halves. Instances are added to the younger half; when it is full, it replaces the
/// older one. Instances in use move to the younger half.
#[derive(Debug, Default)]
pub(super) struct HeadCache {
    younger: Half,
    older: Half,
}

#[derive(Debug, Default)]
struct Half {
    instances: HashMap<InstanceId, StoredInstance>,
    /// Bytes of all heads in this half.
    bytes: usize,
}

impl Half {
    fn take(&mut self, id: &InstanceId) -> Option<StoredInstance> {
        let current = self.instances.remove(id)?;
        self.bytes -= head_bytes(&current);
        Some(current)
    }

    fn put(&mut self, id: InstanceId, current: StoredInstance) {
        self.bytes += head_bytes(&current);
        self.instances.insert(id, current);
    }
}

fn head_bytes(current: &StoredInstance) -> usize {
    current.head.as_ref().map_or(0, bytes::Bytes::len)
}

impl HeadCache {
    /// Takes out the instance as stored, if it is cached.
    pub(super) fn take(&mut self, id: &InstanceId) -> Option<StoredInstance> {
        self.younger.take(id).or_else(|| self.older.take(id))
    }

    /// Puts back an instance that a commit took out, as the commit leaves it.
    pub(super) fn put(&mut self, id: InstanceId, current: StoredInstance) {
        let bytes = head_bytes(&current);
        if bytes > HEAD_BYTES_MAX {
            return;
        }
        if self.younger.instances.len() >= HALF || self.younger.bytes + bytes > HALF_BYTES {
            self.older = mem::take(&mut self.younger);
        }
        self.younger.put(id, current);
    }

    /// Forgets everything: all instances are read anew.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.younger.instances.len() + self.older.instances.len()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn current(bytes: usize) -> StoredInstance {
        StoredInstance { head: Some(Bytes::from(vec![0; bytes])), ..StoredInstance::default() }
    }

    fn id(number: usize) -> InstanceId {
        InstanceId::new(&format!("id-{number}")).unwrap()
    }

    /// Method: put heads of the largest size, more than both halves have room for; a head one byte
    /// larger is not cached.
    #[test]
    fn large_heads_are_kept_up_to_byte_bound() {
        let mut cache = HeadCache::default();
        let heads = 3 * HALF_BYTES / HEAD_BYTES_MAX;
        for number in 0..heads {
            cache.put(id(number), current(HEAD_BYTES_MAX));
            let halves = [&cache.younger, &cache.older];
            for half in halves {
                assert_eq!(half.bytes, half.instances.values().map(head_bytes).sum::<usize>());
                assert!(half.bytes <= HALF_BYTES);
            }
        }
        assert!(cache.take(&id(0)).is_none(), "the older half was dropped");
        assert!(cache.take(&id(heads - 1)).is_some());
        cache.put(id(heads - 1), current(HEAD_BYTES_MAX + 1));
        assert!(cache.take(&id(heads - 1)).is_none());
        for number in 0..heads {
            drop(cache.take(&id(number)));
        }
        assert_eq!((cache.len(), cache.younger.bytes, cache.older.bytes), (0, 0, 0));
    }
}
