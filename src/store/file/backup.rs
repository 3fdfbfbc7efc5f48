//! A copy of a store that is in use, as it stands at one moment.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use fjall::{PersistMode, Readable as _};

use super::{FileStore, Files, Open, fatal};
use crate::store::directory::unreadable;
use crate::store::journal::Torn;
use crate::store::{StoreError, keys};

/// Bytes written to the copy in one batch.
const BATCH_BYTES: usize = 4 << 20;

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
    /// backups.backup("./backups/2026-11-28").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A copy of the files of a store that is open, as `cp -r` makes it, is no backup: it may lack files that others name, and its
    /// tables and journals may be of two moments. Such a copy does not open ([`StoreError::Unreadable`]) where something is
    /// missing in its middle. Copy the files only while no process has the store open.
    ///
    /// Commits go on meanwhile; the disk is shared with them. What was written so far of a copy that fails does not open.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] if `to` is not empty; [`StoreError::Transient`] if the store was closed or reopened
    /// meanwhile; [`StoreError::Fatal`] if either could not be read or written.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<(), StoreError> {
        let (files, to) = (self.kv.clone(), to.as_ref().to_owned());
        let copying = tokio::task::spawn_blocking(move || files.copy_to(&to));
        copying.await.unwrap_or_else(|error| Err(fatal(error)))
    }
}

impl Files {
    fn copy_to(&self, to: &Path) -> Result<(), StoreError> {
        if !is_empty(to).map_err(|error| unreadable(to, &error))? {
            return Err(unreadable(to, &"a backup needs a directory that is empty or not there yet"));
        }
        let begun = self.shared.interruptions.load(Ordering::Acquire);
        self.with(|open| {
            let copy = Open::new(to, Torn::Kept)?;
            let (mut batch, mut bytes) = (copy.database.batch(), 0);
            let snapshot = open.database.snapshot();
            for entry in snapshot.range::<&[u8], _>(&open.map, ..) {
                let (key, value) = entry.into_inner().map_err(fatal)?;
                // The first comes last; the other is about journals that the copy has not got.
                if *key == *keys::VERSION || *key == *keys::MILESTONE {
                    continue;
                }
                bytes += key.len() + value.len();
                batch.insert(&copy.map, key, value);
                if bytes >= BATCH_BYTES {
                    copy.wait_for_tables()?;
                    std::mem::replace(&mut batch, copy.database.batch()).commit().map_err(fatal)?;
                    bytes = 0;
                    // Whoever wants to close the store waits for this.
                    if self.shared.interruptions.load(Ordering::Acquire) != begun {
                        return Err(StoreError::Transient("the store was closed or reopened: back it up again".into()));
                    }
                }
            }
            batch.commit().map_err(fatal)?;
            copy.database.persist(PersistMode::SyncAll).map_err(fatal)?;
            // What says that it is a store of ours: a copy that was not finished does not open.
            if let Some(marker) = snapshot.get(&open.map, keys::VERSION).map_err(fatal)? {
                copy.map.insert(keys::VERSION, marker).map_err(fatal)?;
            }
            copy.database.persist(PersistMode::SyncAll).map_err(fatal)?;
            copy.note_end(to);
            // Last: without this it does not open as a store that holds something.
            copy.directory.establish().map_err(fatal)
        })
    }
}

fn is_empty(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}
