//! A copy of a store that is in use, as it stands at one moment.

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
use crate::id::InstanceId;
use crate::limits::FINDINGS_MAX;
use crate::machine::{HeadIndex, RowKey};
use crate::store::directory::unreadable;
use crate::store::journal::Torn;
use crate::store::kv::Hole;
use crate::store::{StoreError, keys};

/// Bytes written to the copy in one batch.
const BATCH_BYTES: usize = 4 << 20;

/// What a [backup](FileStore::backup) holds, and what it could not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "it says what is not in the copy"]
#[non_exhaustive]
pub struct Backup {
    /// Keys copied.
    pub keys: u64,
    /// Bytes of them and their values.
    pub bytes: u64,
    /// The ranges of keys that cannot be read and are not in the copy, at most 10,000 of them.
    pub lost: Vec<Hole>,
    /// How many more there are.
    pub unlisted: u64,
}

impl Backup {
    /// Whether everything is in the copy.
    pub fn is_whole(&self) -> bool {
        self.lost.is_empty()
    }
}

impl FileStore {
    /// Copies the store into a directory that is not there yet, or empty, while a runtime uses it: everything that was
    /// acknowledged before this call is in the copy, each instance as of one moment. The copy is a store of its own,
    /// synced to its disk when this returns; restore it by opening it, or by moving it to where the store was while no process
    /// has either open.
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
    /// A copy of the files of a store that is open, as `cp -r` makes it, is no backup: it may lack files that others name, and its
    /// tables and journals may be of two moments. Such a copy does not open ([`StoreError::Unreadable`]) where something is
    /// missing in its middle. Copy the files only while no process has the store open.
    ///
    /// What is damaged in the store is left out of the copy, and the result says so: an instance whose head it concerns is set
    /// aside where the copy is used, as it is where the store is; index entries are made anew. [`FileStore::verify`] of the
    /// store says which instances are concerned. The copy itself is sound.
    ///
    /// Commits go on meanwhile; the disk is shared with them. What was written so far of a copy that fails does not open.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] if `to` is not empty; [`StoreError::Transient`] if the store was closed or reopened
    /// meanwhile; [`StoreError::Fatal`] if the disk of either fails.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<Backup, StoreError> {
        let (store, to) = (self.clone(), to.as_ref().to_owned());
        let copying = tokio::task::spawn_blocking(move || store.copy_to(&to));
        copying.await.unwrap_or_else(|error| Err(fatal(error)))
    }

    fn copy_to(&self, to: &Path) -> Result<Backup, StoreError> {
        if !is_empty(to).map_err(|error| unreadable(to, &error))? {
            return Err(unreadable(to, &"a backup needs a directory that is empty or not there yet"));
        }
        let begun = self.kv.shared.interruptions.load(Ordering::Acquire);
        self.kv.with(|open| {
            let copy = Open::new(to, Torn::Kept)?;
            let snapshot = {
                // The database may show a batch half applied, but not while none is under way.
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
    /// How often the store had been interrupted when it began.
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
                // The first comes last; the other is about journals that the copy has not got.
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
        // Whoever wants to close the store waits for this.
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

    /// What can be told of what stands in holes. A key in one may stand in another table too: then it is read if it is asked for,
    /// and only scans miss it.
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

    /// An instance that is listed, and whose head cannot be read, has an empty one in the copy, which no head is: so it is found
    /// damaged there too.
    fn recover_head(&mut self, id: &InstanceId) -> Result<(), StoreError> {
        let key = keys::head(id);
        if !self.is_lost(&key) {
            return Ok(());
        }
        let head = self.open.get(&self.snapshot, &key)?.unwrap_or_default();
        self.put(key.into(), head.clone())?;
        self.complete(id, &head)
    }

    /// Puts the index entries of a head and its input into the copy, where they stand in a hole.
    fn complete(&mut self, id: &InstanceId, head: &Bytes) -> Result<(), StoreError> {
        let Ok(index) = HeadIndex::of_head(id, head) else { return Ok(()) };
        let input = keys::row(index.run, &RowKey::Input);
        if self.is_lost(&input)
            && let Some(row) = self.open.get(&self.snapshot, &input)?.filter(|row| !row.is_empty())
        {
            self.put(input.into(), row)?;
        }
        let entries: Vec<_> = keys::index_entries(id, &index).filter(|(entry, _)| self.is_lost(entry)).collect();
        // What is set aside is in no index.
        if entries.is_empty() || self.open.certain(&self.snapshot, &keys::quarantine(id))?.is_some() {
            return Ok(());
        }
        entries.into_iter().try_for_each(|(entry, says)| self.put(entry.into(), says))
    }

    fn finish(mut self, to: &Path) -> Result<Backup, StoreError> {
        self.write()?;
        let Self { open, snapshot, copy, done, .. } = self;
        copy.database.persist(PersistMode::SyncAll).map_err(fatal)?;
        // What says that it is a store of ours: a copy that was not finished does not open.
        let marker = match snapshot.get(&open.map, keys::VERSION) {
            Ok(marker) => marker.map(Bytes::from),
            // It was there when the store was opened, and said no more than this version writes.
            Err(error) if is_damage(&error) => Some(keys::Needs::WRITTEN.marker()),
            Err(error) => return Err(fatal(error)),
        };
        if let Some(marker) = marker {
            copy.map.insert(keys::VERSION, marker).map_err(fatal)?;
        }
        copy.database.persist(PersistMode::SyncAll).map_err(fatal)?;
        copy.note_end(to);
        // Last: without this it does not open as a store that holds something.
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
