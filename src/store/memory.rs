//! A store in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::kv::{Kv, KvStore, Ops};
use super::{Durability, StoreError};

/// A store in memory, for tests and first steps: its contents survive a stop of the runtime, but
/// not of the process. Clones share the contents, so that a test can stop a runtime and start
/// another on the same store.
pub type MemoryStore = KvStore<Memory>;

/// The map behind a [`MemoryStore`].
#[derive(Clone, Default)]
pub struct Memory {
    map: Arc<RwLock<BTreeMap<Vec<u8>, Bytes>>>,
}

impl MemoryStore {
    /// Returns an empty store.
    pub fn new() -> Self {
        Self::over(Memory::default())
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        self.share(self.kv.clone())
    }
}

impl std::fmt::Debug for Memory {
    /// Shows the number of keys, not their contents, which may be payloads.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} keys)", self.map.read().unwrap_or_else(PoisonError::into_inner).len())
    }
}

impl Kv for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.map.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let found = map.range(from.to_vec()..to.to_vec()).take(limit);
        Ok(found.map(|(key, value)| (key.clone().into(), value.clone())).collect())
    }

    fn write(&self, ops: Ops) -> Result<(), StoreError> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in ops {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(&self) {}

    /// Returns the weaker guarantee, although the contents end with the process.
    fn durability(&self) -> Durability {
        Durability::ProcessCrash
    }
}
