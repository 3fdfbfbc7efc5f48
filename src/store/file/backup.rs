//! Copies a store that is in use, as of one moment.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use fjall::{OwnedWriteBatch, PersistMode, Readable as _, Snapshot};

use super::damage::is_damage;
use super::walk::Step;
use super::{FileStore, Files, Open, fatal};
use crate::id::{InstanceId, Stamp};
use crate::limits::FINDINGS_MAX;
use crate::machine::{HeadIndex, RowKey, encode_quarantine};
use crate::store::directory::unreadable;
use crate::store::journal_repair::Torn;
use crate::store::kv::Hole;
use crate::store::{StoreError, keys};

/// Bytes written to the copy in one batch.
const BATCH_BYTES: usize = 4 << 20;

/// The content of a [backup](FileStore::backup), and the ranges that it could not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "it says what is not in the copy"]
#[non_exhaustive]
pub struct Backup {
    /// Keys copied.
    pub keys: u64,
    /// Bytes of these keys and their values.
    pub bytes: u64,
    /// The ranges of keys that cannot be read and are not in the copy, at most 10,000.
    pub lost: Vec<Hole>,
    /// Number of further ranges.
    pub unlisted: u64,
}

impl Backup {
    /// Returns true if everything is in the copy.
    pub fn is_whole(&self) -> bool {
        self.lost.is_empty()
    }
}

impl FileStore {
    /// Copies the store into an empty or new directory while a runtime uses the store. The copy
    /// holds everything that was acknowledged before this call, each instance as of one moment. The
    /// copy is a store of its own, synced to its disk when this returns. Restore it by opening it,
    /// or by moving it to the place of the store while no process has either open.
    ///
    /// ```no_run
    /// # async fn backup() -> Result<(), everstep::StoreError> {
    /// let store = everstep::FileStore::open("./data").await?;
    /// let backups = store.clone();
    /// // .. the store goes to a runtime; then, as often as you like:
    /// let backup = backups.backup("./backups/2026-11-28").await?;
    /// assert!(backup.is_whole(), "{:?} cannot be read", backup.lost);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A copy of the files of an open store, as `cp -r` makes it, is no backup: it may lack files
    /// that others name, and its tables and journals may be of two moments. Such a copy does not
    /// open ([`StoreError::Unreadable`]) if something is missing in its middle. Copy the files only
    /// while no process has the store open.
    ///
    /// Damaged parts of the store are left out of the copy, and the result lists them. An instance
    /// whose head is damaged is quarantined where the copy is used, as it is where the store is;
    /// index entries are rebuilt. [`FileStore::verify`] of the store lists the instances concerned.
    /// The copy itself is sound, but a lost manifest is missing there too: a runtime that registers
    /// its definition writes it again.
    ///
    /// Commits continue meanwhile and share the disk. The unfinished copy of a backup that failed
    /// does not open.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] if `to` is not empty; [`StoreError::Transient`] if the store was
    /// closed or reopened meanwhile; [`StoreError::Fatal`] if the disk of either fails.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<Backup, StoreError> {
        let (store, to) = (self.clone(), to.as_ref().to_owned());
        let copying = tokio::task::spawn_blocking(move || store.copy_to(&to));
        copying.await.unwrap_or_else(|error| Err(fatal(error)))
    }

    fn copy_to(&self, to: &Path) -> Result<Backup, StoreError> {
        if !is_empty(to).map_err(|error| unreadable(to, &error))? {
            return Err(unreadable(to, &"a backup needs a directory that is empty or does not exist"));
        }
        let begun = self.kv.shared.interruptions.load(Ordering::Acquire);
        self.kv.with(|open| {
            let copy = Open::new(to, Torn::Kept)?;
            let snapshot = {
                // The database may show a batch half applied; the lock makes sure that no commit is
                // in progress.
                let _committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
                open.database.snapshot()
            };
            let batch = copy.database.batch();
            let mut copying = Copying {
                files: &self.kv,
                begun,
                open,
                snapshot,
                copy,
                batch,
                batch_bytes: 0,
                done: Backup::default(),
            };
            copying.all()?;
            copying.recover()?;
            copying.finish(to)
        })
    }
}

/// A backup under way.
struct Copying<'a> {
    files: &'a Files,
    /// Number of interruptions of the store when the backup began.
    begun: u64,
    open: &'a Open,
    snapshot: Snapshot,
    copy: Open,
    batch: OwnedWriteBatch,
    batch_bytes: usize,
    done: Backup,
}

impl Copying<'_> {
    fn all(&mut self) -> Result<(), StoreError> {
        let (open, snapshot) = (self.open, self.snapshot.clone());
        open.walk(&snapshot, (&[], &[u8::MAX]), |step| {
            match step {
                // The version is written last; the milestone is about journals that the copy does
                // not have.
                Step::Entry(key, _) if *key == *keys::VERSION || *key == *keys::MILESTONE => {}
                Step::Entry(key, value) => self.put(key, value)?,
                Step::Hole(hole) if self.done.lost.len() < FINDINGS_MAX => self.done.lost.push(hole),
                Step::Hole(_) => self.done.unlisted += 1,
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), StoreError> {
        let bytes = key.len() + value.len();
        self.done.keys += 1;
        self.done.bytes += bytes as u64;
        self.batch.insert(&self.copy.map, key, value);
        self.batch_bytes += bytes;
        if self.batch_bytes < BATCH_BYTES {
            return Ok(());
        }
        self.write()?;
        // A caller that closes the store waits for this backup.
        if self.files.shared.interruptions.load(Ordering::Acquire) == self.begun {
            return Ok(());
        }
        Err(StoreError::Transient("the store was closed or reopened: back it up again".into()))
    }

    fn write(&mut self) -> Result<(), StoreError> {
        self.copy.wait_for_tables().map_err(fatal)?;
        self.batch_bytes = 0;
        std::mem::replace(&mut self.batch, self.copy.database.batch()).commit().map_err(fatal)
    }

    /// Copies records and index entries within holes, as far as they can be found. A key in a hole
    /// may be in another table too: then a read by key finds it, and only scans miss it.
    fn recover(&mut self) -> Result<(), StoreError> {
        if self.done.is_whole() {
            return Ok(());
        }
        let (open, snapshot) = (self.open, self.snapshot.clone());
        for prefix in [keys::HEADS, keys::QUARANTINES, keys::STATUSES] {
            open.walk(&snapshot, (prefix, &keys::behind(prefix)), |step| {
                let Step::Entry(key, value) = step else { return Ok(ControlFlow::Continue(())) };
                let id_at = if prefix == keys::STATUSES { keys::STATUS_PREFIX_BYTES } else { prefix.len() };
                match keys::instance(&key, id_at) {
                    Some(id) if prefix == keys::HEADS => self.complete(&id, &value)?,
                    Some(id) => self.recover_head(&id)?,
                    None => {}
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(())
    }

    fn is_lost(&self, key: &[u8]) -> bool {
        self.done.lost.iter().any(|hole| hole.holds(key))
    }

    /// Recovers the head of a listed instance. If it cannot be read, the copy gets an empty one,
    /// which is no valid head: so the instance is found damaged there too.
    fn recover_head(&mut self, id: &InstanceId) -> Result<(), StoreError> {
        let key = keys::head(id);
        if !self.is_lost(&key) {
            return Ok(());
        }
        let head = self.open.get(&self.snapshot, &key)?.unwrap_or_default();
        self.put(key.into(), head.clone())?;
        self.complete(id, &head)
    }

    /// Puts the input and the index entries of a head into the copy, if they are within a hole.
    fn complete(&mut self, id: &InstanceId, head: &Bytes) -> Result<(), StoreError> {
        let index = HeadIndex::of_head(id, head).ok();
        let input = index.map(|index| keys::row(index.run, &RowKey::Input));
        if let Some(input) = input.filter(|input| self.is_lost(input))
            && let Some(row) = self.open.get(&self.snapshot, &input)?.filter(|row| !row.is_empty())
        {
            self.put(input.into(), row)?;
        }
        if let Some(record) = self.quarantine(id, index.as_ref())? {
            // Quarantined instances are in no index.
            let key = keys::quarantine(id);
            return if self.is_lost(&key) { self.put(key.into(), record) } else { Ok(()) };
        }
        let Some(index) = index else { return Ok(()) };
        let entries: Vec<_> = keys::index_entries(id, &index).filter(|(entry, _)| self.is_lost(entry)).collect();
        entries.into_iter().try_for_each(|(entry, says)| self.put(entry.into(), says))
    }

    /// Returns the quarantine record of an instance, or a new one if the record cannot be read and
    /// the instance must be quarantined: no index lists it, or its head cannot be read and its run
    /// is stored beside it.
    fn quarantine(&self, id: &InstanceId, index: Option<&HeadIndex>) -> Result<Option<Bytes>, StoreError> {
        let found = self.open.get(&self.snapshot, &keys::quarantine(id))?;
        if found.as_ref().is_none_or(|record| !record.is_empty()) {
            return Ok(found);
        }
        let is_quarantined = match index {
            Some(index) => self.open.get(&self.snapshot, &keys::status(&index.definition, index.status, id))?.is_none(),
            None => self.open.certain(&self.snapshot, &keys::run_of(id))?.is_some(),
        };
        let lost = || encode_quarantine(id, "the quarantine record could not be read", Stamp::NONE);
        Ok(is_quarantined.then(lost))
    }

    fn finish(mut self, to: &Path) -> Result<Backup, StoreError> {
        self.write()?;
        let Self { open, snapshot, copy, done, .. } = self;
        copy.database.persist(PersistMode::SyncAll).map_err(fatal)?;
        // The marker of a store: an unfinished copy has none and does not open.
        let marker = match snapshot.get(&open.map, keys::VERSION) {
            Ok(marker) => marker.map(Bytes::from),
            // The marker was there when the store was opened, with needs that this version's needs
            // include.
            Err(error) if is_damage(&error) => Some(keys::Needs::WRITTEN.marker()),
            Err(error) => return Err(fatal(error)),
        };
        if let Some(marker) = marker {
            copy.map.insert(keys::VERSION, marker).map_err(fatal)?;
        }
        copy.database.persist(PersistMode::SyncAll).map_err(fatal)?;
        copy.note_end(to);
        // Last, since a copy without it does not open as a store that holds data.
        copy.directory.establish().map_err(fatal)?;
        Ok(done)
    }
}

fn is_empty(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}
