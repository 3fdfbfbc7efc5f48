//! A store over any ordered map of bytes that can write several keys atomically.

mod hidden;
mod marks;
mod sweeping;
mod unreadable;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use hidden::Hidden;
pub use hidden::Hole;
use marks::Marks;
use sweeping::Sweeping;
pub(in crate::store) use unreadable::Trace;

use super::batch::{BatchPlan, Stored, StoredInstance, plan};
use super::head_cache::HeadCache;
use super::keys::Needs;
#[cfg(feature = "file-store")]
use super::tables;
use super::{Answers, Change, Durability, Loaded, Store, StoreError, Write, keys};
use crate::clock::BoxFuture;
use crate::id::{DefinitionHash, InstanceId, RunId, Stamp};
#[cfg(feature = "file-store")]
use crate::machine::FORMAT;
use crate::machine::{HeadIndex, RowKey, quarantine_stamp};
use crate::status::StatusCode;
use crate::time::Timestamp;

/// Keys to set, or to delete where the value is `None`.
pub type Ops = BTreeMap<Vec<u8>, Option<Bytes>>;

/// An ordered map of bytes. Reads are point reads and short scans, and may block their thread that
/// long.
pub trait Kv: Send + Sync + 'static {
    /// Reads the value of a key.
    ///
    /// # Errors
    /// [`StoreError`], as for every call here.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Returns up to `limit` entries with keys from `from` (inclusive) to `to` (exclusive), in
    /// order. Looks at no key outside of that range, not even at a deleted one: there may be any
    /// number of them.
    ///
    /// # Errors
    /// [`StoreError`].
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError>;

    /// Writes all keys or none, durably.
    ///
    /// # Errors
    /// [`StoreError`]; the outcome is unknown then.
    fn write(&self, ops: Ops) -> Result<(), StoreError>;

    /// Reopens the map, see [`Store::reopen`].
    ///
    /// # Errors
    /// [`StoreError`].
    fn reopen(&self) -> Result<(), StoreError>;

    /// Closes the map, see [`Store::close`].
    fn close(&self);

    /// Returns the failures that a write survives, see [`Store::durability`].
    fn durability(&self) -> Durability;

    /// Returns the damaged ranges of keys, which scans skip. For a key in one [`Kv::get`] returns
    /// an empty value, which no record is. The list only grows until the map is reopened.
    fn holes(&self) -> Vec<Hole> {
        Vec::new()
    }

    /// Returns the location of the map, for errors.
    fn place(&self) -> String {
        "memory".to_owned()
    }
}

/// A [`Store`] over a [`Kv`].
#[derive(Debug)]
pub struct KvStore<K> {
    pub(super) kv: K,
    /// The instances written last. Locked from the check of a batch's conditions to its write,
    /// since two runtimes may use clones for a moment. The map has no other writer, so cached
    /// instances are the stored ones.
    pub(super) committing: Arc<Mutex<HeadCache>>,
    /// True if any instance may be quarantined; while false, no quarantine record is looked for.
    pub(super) quarantines: Arc<AtomicBool>,
    /// True if any run may be superseded and not swept; while false, a start looks for no marker.
    pub(super) markers: Arc<AtomicBool>,
    /// True if the next record written makes the store one that earlier versions must not open.
    pub(super) raises: Arc<AtomicBool>,
    pub(super) marks: Arc<Marks>,
    pub(super) sweeping: Arc<Sweeping>,
    pub(super) hidden: Arc<Hidden>,
}

/// Reads the stored data that one batch asks for.
struct Reading<'a, K> {
    store: &'a KvStore<K>,
    cache: &'a mut HeadCache,
}

impl<K: Kv> Stored for Reading<'_, K> {
    fn instance(&mut self, id: &InstanceId) -> Result<StoredInstance, StoreError> {
        self.cache.take(id).map_or_else(|| self.store.stored_instance(id), Ok)
    }

    fn superseded_by(&self, run: RunId) -> Result<Option<Stamp>, StoreError> {
        if !self.store.markers.load(Ordering::Acquire) {
            return Ok(None);
        }
        let marker = self.store.certain(&keys::superseded(run))?;
        // Markers of earlier versions are empty.
        let stamp = |marker: Bytes| marker.first_chunk().map_or(Stamp::NONE, |stamp| Stamp::from_bytes(*stamp));
        Ok(marker.map(stamp))
    }
}

impl<K: Kv> KvStore<K> {
    pub(super) fn over(kv: K) -> Self {
        let is_in_hole = |from: &[u8], to: &[u8]| kv.holes().iter().any(|hole| *hole.from < *to && *from < *hole.to);
        let has_any = |prefix: &[u8]| {
            let to = keys::behind(prefix);
            kv.scan(prefix, &to, 1).map_or(true, |found| !found.is_empty()) || is_in_hole(prefix, &to)
        };
        let quarantines = Arc::new(AtomicBool::new(has_any(keys::QUARANTINES)));
        let markers = Arc::new(AtomicBool::new(has_any(keys::SUPERSEDED)));
        let (marks, sweeping, hidden) = Default::default();
        Self { kv, committing: Arc::default(), quarantines, markers, raises: Arc::default(), marks, sweeping, hidden }
    }

    /// Returns the same store over another handle to its map.
    pub(super) fn share(&self, kv: K) -> Self {
        let (committing, quarantines) = (Arc::clone(&self.committing), Arc::clone(&self.quarantines));
        let (marks, sweeping) = (Arc::clone(&self.marks), Arc::clone(&self.sweeping));
        let (markers, raises) = (Arc::clone(&self.markers), Arc::clone(&self.raises));
        Self { kv, committing, quarantines, markers, raises, marks, sweeping, hidden: Arc::clone(&self.hidden) }
    }

    /// Scans as [`Kv::scan`] does, but skips the part of an index that was consumed from its front.
    fn find(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        // An empty result means that the range is empty only if the limit allows a result.
        let reading = if limit == 0 { None } else { self.marks.begin(from) };
        let Some(reading) = reading else { return self.kv.scan(from.min(to), to, limit) };
        // Also scans an empty range, since the map may be closed.
        let found = self.kv.scan(reading.from.as_slice().min(to), to, limit);
        let first = match &found {
            Ok(found) => found.first().map_or(to, |(key, _)| key),
            Err(_) => &[],
        };
        self.marks.end(reading, first);
        found
    }

    #[cfg(feature = "file-store")]
    /// Marks a new map as a store. Refuses a map with another layout, and an empty one that was a
    /// store before.
    pub(super) fn check_layout(&self, at: &str, established: bool) -> Result<(), StoreError> {
        let unreadable = |why: String| StoreError::Unreadable { at: at.to_owned(), why };
        let written = Needs::WRITTEN;
        match self.kv.get(keys::VERSION)? {
            Some(marker) => match Needs::parse(&marker) {
                Some(needs) if needs.are_met() => {
                    let is_raised = needs.min_reader < written.min_reader || needs.min_writer < written.min_writer;
                    self.raises.store(is_raised, Ordering::Release);
                    Ok(())
                }
                Some(Needs { min_reader, min_writer }) => Err(unreadable(format!(
                    "its records have format {}, this version of the crate knows up to {FORMAT}: use the newer version \
                     that wrote it",
                    min_reader.max(min_writer)
                ))),
                None if marker.is_empty() => Err(tables::explain(at.as_ref(), &"its marker is damaged")),
                None => Err(unreadable("another version of this crate wrote it: use that version".into())),
            },
            None if established => Err(unreadable("its contents are lost: restore a backup".into())),
            None if self.kv.scan(&[], &[u8::MAX], 1)?.is_empty() => {
                self.kv.write(Ops::from([(keys::VERSION.to_vec(), Some(written.marker()))]))
            }
            None => Err(unreadable("it holds data that this crate did not write: choose an empty place".into())),
        }
    }

    fn stored_instance(&self, id: &InstanceId) -> Result<StoredInstance, StoreError> {
        let head = self.kv.get(&keys::head(id))?;
        let index = head.as_ref().and_then(|head| HeadIndex::of_head(id, head).ok());
        let quarantine = if head.is_some() { self.quarantine(id, || index)? } else { None };
        let quarantine = quarantine.map(|record| quarantine_stamp(id, &record));
        let is_unreadable = head.is_some() && index.is_none();
        let trace = is_unreadable.then(|| self.trace(id, quarantine.is_some()).map(Box::new)).transpose()?;
        Ok(StoredInstance { head, index, quarantine, trace })
    }

    fn commit_batch(&self, batch: &[Write]) -> Result<Answers, StoreError> {
        let mut cache = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let BatchPlan { mut ops, answers, left } = plan(batch, &mut Reading { store: self, cache: &mut cache })?;
        if batch.iter().any(|write| matches!(write.change, Change::Quarantine(_))) {
            self.quarantines.store(true, Ordering::Release);
        }
        let mut markers = ops.range(keys::SUPERSEDED.to_vec()..);
        if markers.next().is_some_and(|(key, _)| key.starts_with(keys::SUPERSEDED)) {
            self.markers.store(true, Ordering::Release);
        }
        if !ops.is_empty() {
            if self.raises.load(Ordering::Acquire) {
                ops.insert(keys::VERSION.to_vec(), Some(Needs::WRITTEN.marker()));
            }
            self.write(ops)?;
            self.raises.store(false, Ordering::Release);
        }
        // Ended instances are hardly ever written again.
        let goes_on = |current: &StoredInstance| current.index.is_some_and(|index| !index.status.is_terminal());
        for (id, current) in left.into_iter().filter(|(_, current)| goes_on(current)) {
            cache.put(id.clone(), current);
        }
        Ok(answers)
    }

    fn write(&self, ops: Ops) -> Result<(), StoreError> {
        let markers = ops.range(keys::SUPERSEDED.to_vec()..keys::behind(keys::SUPERSEDED));
        let superseded: Vec<_> =
            markers.filter(|(_, value)| value.is_some()).filter_map(|(key, _)| keys::parse_superseded(key)).collect();
        self.marks.begin_write(&ops);
        let hidden = self.hidden.of(&ops);
        let written = self.kv.write(ops);
        self.marks.end_write();
        if written.is_ok() {
            self.sweeping.add(superseded.into_iter());
            self.hidden.written(&hidden);
        } else {
            self.sweeping.forget();
            self.hidden.forget();
        }
        written
    }

    fn load_instance(&self, id: &InstanceId) -> Result<Option<Loaded>, StoreError> {
        let key = keys::head(id);
        let mut read = self.kv.get(&key)?;
        while let Some(head) = read {
            let quarantine = self.quarantine(id, || HeadIndex::of_head(id, &head).ok())?;
            if quarantine.as_ref().is_none_or(|record| !record.is_empty()) {
                return Ok(Some(Loaded { head, quarantine }));
            }
            // The quarantine was inferred from the head and an index, which must be of one moment.
            read = self.kv.get(&key)?;
            if read.as_ref() == Some(&head) {
                return Ok(Some(Loaded { head, quarantine }));
            }
        }
        Ok(None)
    }

    /// Returns the quarantine record of an instance; empty if the record cannot be read. Then the
    /// quarantine is inferred: no index lists the instance, or its head cannot be read and its run
    /// is stored beside it, as only a quarantine does.
    fn quarantine(
        &self,
        id: &InstanceId,
        index: impl FnOnce() -> Option<HeadIndex>,
    ) -> Result<Option<Bytes>, StoreError> {
        if !self.quarantines.load(Ordering::Acquire) {
            return Ok(None);
        }
        let key = keys::quarantine(id);
        let found = self.kv.get(&key)?;
        if found.as_ref().is_none_or(|record| !record.is_empty()) {
            return Ok(found);
        }
        if let Some(record) = self.certain(&key)? {
            return Ok(Some(record));
        }
        let is_quarantined = match index() {
            Some(index) => self.kv.get(&keys::status(&index.definition, index.status, id))?.is_none(),
            None => self.kv.get(&keys::run_of(id))?.is_some_and(|run| keys::parse_run(&run).is_some()),
        };
        Ok(is_quarantined.then(Bytes::new))
    }

    /// Returns the value of a key whose absence has a meaning. In a damaged part of a table
    /// [`Kv::get`] cannot tell an absent key from an unreadable value; a scan finds neither.
    fn certain(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.kv.get(key)? {
            Some(value) if value.is_empty() => {
                Ok(self.kv.scan(key, &[key, &[0]].concat(), 1)?.pop().map(|(_, value)| value))
            }
            value => Ok(value),
        }
    }

    /// Returns the instance ids after a prefix.
    fn page(&self, prefix: &[u8], after: Option<&InstanceId>, limit: usize) -> Result<Vec<InstanceId>, StoreError> {
        let from = match after {
            // The next possible key: ids hold no control characters.
            Some(id) => [prefix, id.as_str().as_bytes(), &[0]].concat(),
            None => prefix.to_vec(),
        };
        let found = self.list(&from, &keys::behind(prefix), limit)?;
        Ok(found.iter().filter_map(|(key, _)| keys::instance(key, prefix.len())).collect())
    }

    fn due_page(
        &self,
        after: Option<&(Timestamp, InstanceId)>,
        limit: usize,
    ) -> Result<Vec<(Timestamp, InstanceId)>, StoreError> {
        let mut from = after.map_or_else(|| keys::DUES.to_vec(), |(at, id)| keys::due(*at, id));
        if after.is_some() {
            from.push(0);
        }
        let found = self.list(&from, &keys::behind(keys::DUES), limit)?;
        Ok(found.iter().filter_map(|(key, _)| keys::parse_due(key)).collect())
    }

    fn ended_page(
        &self,
        status: StatusCode,
        before: Timestamp,
        after: Option<&(Timestamp, InstanceId)>,
        limit: usize,
    ) -> Result<Vec<(Timestamp, InstanceId)>, StoreError> {
        let prefix = keys::ended_prefix(status);
        let mut from = after.map_or_else(|| prefix.clone(), |(at, id)| keys::ended(status, *at, id));
        if after.is_some() {
            from.push(0);
        }
        let found = self.list(&from, &keys::ended_before(status, before), limit)?;
        Ok(found.iter().filter_map(|(key, _)| keys::parse_ended(key)).collect())
    }

    /// Lists definitions with one seek for each, however many instances it has. `page` reads a page
    /// of the index.
    fn listed_definitions(
        page: impl Fn(&[u8], &[u8], usize) -> Result<Vec<(Bytes, Bytes)>, StoreError>,
    ) -> Result<Vec<DefinitionHash>, StoreError> {
        let mut definitions = Vec::new();
        let (mut from, to) = (keys::STATUSES.to_vec(), keys::behind(keys::STATUSES));
        while let Some((key, _)) = page(&from, &to, 1)?.pop() {
            let Some(definition) = keys::parse_definition(&key) else { break };
            definitions.push(definition);
            let Some(of_definition) = key.get(..33) else { break };
            from = keys::behind(of_definition);
        }
        Ok(definitions)
    }
}

impl<K: Kv> Store for KvStore<K> {
    fn commit<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        Box::pin(async move { self.commit_batch(batch) })
    }

    fn load<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Result<Option<Loaded>, StoreError>> {
        Box::pin(async move { self.load_instance(instance) })
    }

    fn row<'a>(&'a self, run: RunId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move { self.kv.get(&keys::row(run, key)) })
    }

    fn rows<'a>(
        &'a self,
        run: RunId,
        prefix: &'a [u8],
        from: Option<&'a RowKey>,
    ) -> BoxFuture<'a, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        Box::pin(async move {
            let of_run = keys::rows(run);
            let prefix = [&of_run, prefix].concat();
            let from = from.map(|key| keys::row(run, key)).filter(|from| *from > prefix);
            let found = self.find(from.as_ref().unwrap_or(&prefix), &keys::behind(&prefix), usize::MAX)?;
            Ok(found.into_iter().map(|(key, row)| (key.slice(of_run.len()..), row)).collect())
        })
    }

    fn due<'a>(
        &'a self,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>> {
        Box::pin(async move { self.due_page(after, limit) })
    }

    fn instances<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        status: StatusCode,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        Box::pin(async move { self.page(&keys::status_prefix(definition, status), after, limit) })
    }

    fn quarantined<'a>(
        &'a self,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        Box::pin(async move { self.page(keys::QUARANTINES, after, limit) })
    }

    fn ended<'a>(
        &'a self,
        status: StatusCode,
        before: Timestamp,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>> {
        Box::pin(async move { self.ended_page(status, before, after, limit) })
    }

    fn definitions(&self) -> BoxFuture<'_, Result<Vec<DefinitionHash>, StoreError>> {
        Box::pin(async move { Self::listed_definitions(|from, to, limit| self.list(from, to, limit)) })
    }

    fn save_manifest<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        manifest: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let key = keys::manifest(definition);
            if self.kv.get(&key)?.as_ref() == Some(&manifest) {
                return Ok(());
            }
            self.kv.write(Ops::from([(key, Some(manifest))]))
        })
    }

    fn manifest<'a>(&'a self, definition: &'a DefinitionHash) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move { self.kv.get(&keys::manifest(definition)) })
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, StoreError>> {
        Box::pin(async move { self.sweep_some(limit) })
    }

    fn reopen(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut cache = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
            cache.clear();
            let reopened = self.kv.reopen();
            // Keys deleted last may be back, and runs superseded last may not be superseded any
            // more.
            self.marks.clear();
            self.sweeping.forget();
            self.hidden.forget();
            reopened
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.kv.close() })
    }

    fn durability(&self) -> Durability {
        self.kv.durability()
    }
}

#[cfg(test)]
mod tests;
