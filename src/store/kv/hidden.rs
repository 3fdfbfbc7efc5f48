//! Index entries that scans cannot see, because they are within a hole in a table. They are rebuilt
//! from the heads, which hold the same facts, and kept in memory as long as the hole exists.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::{Kv, KvStore, Ops};
use crate::machine::HeadIndex;
use crate::store::{StoreError, keys};

/// Heads read in one scan.
const PAGE: usize = 1_000;

/// A range of keys that scans skip: from the first key that cannot be read to the first one after
/// it that can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// First key of the range, inclusive.
    pub from: Vec<u8>,
    /// End of the range, exclusive.
    pub to: Vec<u8>,
}

impl Hole {
    /// Returns true if a key is within the hole.
    pub fn holds(&self, key: &[u8]) -> bool {
        self.from.as_slice() <= key && key < self.to.as_slice()
    }
}

#[derive(Debug, Default)]
pub(in crate::store) struct Hidden {
    /// Number of holes that the entries are rebuilt for.
    holes: AtomicUsize,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    holes: Vec<Hole>,
    entries: BTreeMap<Vec<u8>, Bytes>,
}

impl Hidden {
    fn is_for(&self, holes: usize) -> bool {
        self.holes.load(Ordering::Acquire) == holes
    }

    /// Forgets the entries; they are rebuilt when an index is listed next.
    pub(super) fn forget(&self) {
        self.holes.store(0, Ordering::Release);
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Found::default();
    }

    /// Brings the entries in line with a batch that was written.
    pub(super) fn written(&self, changes: &[(Vec<u8>, Option<Bytes>)]) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => found.entries.insert(key.clone(), value.clone()),
                None => found.entries.remove(key),
            };
        }
    }

    /// Returns the index entries of a batch that are within a hole; none if there is no hole.
    pub(super) fn of(&self, ops: &Ops) -> Vec<(Vec<u8>, Option<Bytes>)> {
        if self.is_for(0) {
            return Vec::new();
        }
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let is_hidden = |key: &[u8]| is_index(key) && found.holes.iter().any(|hole| hole.holds(key));
        ops.iter().filter(|(key, _)| is_hidden(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Adds the hidden entries to the entries of a scan.
    fn add_to(&self, from: &[u8], to: &[u8], limit: usize, seen: &mut Vec<(Bytes, Bytes)>) {
        if self.is_for(0) || from >= to {
            return;
        }
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let hidden = found.entries.range(from.to_vec()..to.to_vec());
        let hidden: Vec<_> = hidden.map(|(key, value)| (Bytes::from(key.clone()), value.clone())).collect();
        drop(found);
        if hidden.is_empty() {
            return;
        }
        // A full page ends at its last entry: entries after it belong to the next page.
        let last = if seen.len() >= limit { seen.last().map(|(key, _)| key.clone()) } else { None };
        seen.extend(hidden.into_iter().filter(|(key, _)| last.as_ref().is_none_or(|last| key < last)));
        seen.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        seen.dedup_by(|one, other| one.0 == other.0);
        seen.truncate(limit);
    }
}

fn is_index(key: &[u8]) -> bool {
    [keys::STATUSES, keys::DUES, keys::ENDS, keys::QUARANTINES].iter().any(|index| key.starts_with(index))
}

impl<K: Kv> KvStore<K> {
    /// Returns a page of an index, including entries within holes.
    pub(super) fn list(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut found = self.find(from, to, limit)?;
        if !self.hidden.is_for(self.kv.holes().len()) {
            self.make_hidden_entries()?;
        }
        self.hidden.add_to(from, to, limit, &mut found);
        Ok(found)
    }

    /// Returns a page of an index, with hidden entries as far as they are rebuilt already: for
    /// callers that hold up commits.
    pub(super) fn list_seen(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut found = self.find(from, to, limit)?;
        self.hidden.add_to(from, to, limit, &mut found);
        Ok(found)
    }

    /// Rebuilds the hidden entries from all heads. Reading the heads may show further holes.
    /// Commits wait meanwhile.
    fn make_hidden_entries(&self) -> Result<(), StoreError> {
        let _committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let holes = self.kv.holes();
            if self.hidden.is_for(holes.len()) {
                return Ok(());
            }
            let mut entries = BTreeMap::new();
            let (mut from, to) = (keys::HEADS.to_vec(), keys::behind(keys::HEADS));
            loop {
                let page = self.kv.scan(&from, &to, PAGE)?;
                for (key, head) in &page {
                    entries.extend(self.entries_in(&holes, key, head)?);
                }
                match page.last() {
                    Some((last, _)) if page.len() == PAGE => from = [&last[..], &[0]].concat(),
                    _ => break,
                }
            }
            let to = keys::behind(keys::HEADS);
            if holes.iter().any(|hole| hole.holds(keys::HEADS) && hole.to >= to) {
                let why = "no head can be read, the index of a table is damaged: restore a backup".to_owned();
                return Err(StoreError::Unreadable { at: self.kv.place(), why });
            }
            let (count, made) = (holes.len(), entries.len());
            let mut found = self.hidden.found.lock().unwrap_or_else(PoisonError::into_inner);
            // Quarantine records are written after a hole was met, mostly, and no head names them.
            found.entries.retain(|key, _| key.starts_with(keys::QUARANTINES));
            found.entries.extend(entries);
            found.holes = holes;
            drop(found);
            self.hidden.holes.store(count, Ordering::Release);
            tracing::warn!(
                holes = count,
                entries = made,
                "index entries in damaged parts of tables were rebuilt from the heads"
            );
        }
    }

    fn entries_in(&self, holes: &[Hole], key: &[u8], head: &Bytes) -> Result<Vec<(Vec<u8>, Bytes)>, StoreError> {
        let Some(id) = keys::instance(key, keys::HEADS.len()) else { return Ok(Vec::new()) };
        let index = HeadIndex::of_head(&id, head).ok();
        let is_hidden = |(key, _): &(Vec<u8>, Bytes)| holes.iter().any(|hole| hole.holds(key));
        let entries = index.iter().flat_map(|index| keys::index_entries(&id, index));
        let hidden: Vec<_> = entries.filter(is_hidden).collect();
        let quarantine = keys::quarantine(&id);
        let is_hidden = holes.iter().any(|hole| hole.holds(&quarantine));
        if hidden.is_empty() && !is_hidden {
            return Ok(hidden);
        }
        // Quarantined instances are in no other index.
        Ok(match self.quarantine(&id, || index)? {
            Some(record) if is_hidden => vec![(quarantine, record)],
            Some(_) => Vec::new(),
            None => hidden,
        })
    }
}
