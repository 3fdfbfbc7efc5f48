//! The embedded store: a directory on a local disk.

mod backup;
mod damage;
mod merges;
mod milestones;
mod verification;
mod verify;
mod walk;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

pub use backup::Backup;
use bytes::Bytes;
use damage::Holes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use merges::Merges;
use milestones::Milestones;
pub use verification::{Finding, Verification};
use walk::Step;

use super::directory::{Directory, is_established, unreadable};
use super::journal_repair::{self, Milestone, Position, Torn};
use super::kv::{Hole, Kv, KvStore, Ops};
use super::{Durability, StoreError, keys, tables};
use crate::cause::Cause;

/// An embedded store in a directory, on the log-structured store `fjall`; the default choice.
///
/// One process at a time may have it open. Each batch is one checksummed journal record, written
/// and, with [`Durability::Fsync`], synced before it is acknowledged. The directory is made
/// readable by its owner only; it must be on a local file system that honours `fdatasync` and file
/// locks.
///
/// An existing directory keeps its mode and owner, since volumes come as they are; the store warns
/// if every user can write it. The directory may hold other files, but none in place of the
/// store's: data of another program, an incomplete copy, or a symbolic link is refused and left as
/// it was. The directory itself may be a link.
///
/// # After a crash
/// A power loss may tear the batch that was being written, which was not acknowledged. The next
/// open cuts it from the end of the journal, warns with the range of bytes, and keeps them as
/// `everstep.torn-N` in the directory (the newest 8; you may delete them). Damage with whole
/// batches after it is no torn end: the store does not open ([`StoreError::Unreadable`]), and its
/// files stay as they were.
///
/// Two cases look like a torn batch: an *acknowledged* last batch that rots on the disk, and
/// batches missing from the end of a copy of the directory. Both are detected for all data that was
/// there at the last open or [`close`]: that position is noted in `everstep.durable`, and a journal
/// that ends before it does not open. With [`Durability::ProcessCrash`] a power loss may take any
/// data written since then, so that the loss looks like damage.
///
/// # Copies
/// [`FileStore::backup`] copies a store that is in use. A copy of the files themselves is correct
/// only while no process has the store open. A copy of the files of a store in use may hold tables
/// and journals of different moments: if the journals begin after the end of the tables, or a
/// journal is missing between others, it does not open. Such gaps are detected up to the last 16
/// KiB of each journal.
///
/// # Damage
/// A damaged block of a table costs the records in it. When tables that hold it are merged, writes
/// fail; from the second time on [`reopen`] fails with [`StoreError::Unreadable`] and names the
/// file. Reads and backups still work: replace the directory by a backup, which leaves the block
/// out. [`FileStore::verify`] finds damage before a read meets it. If a store does not open because
/// of a table, the error names that file: restore a backup.
///
/// [`reopen`]: super::Store::reopen
/// [`close`]: super::Store::close
pub type FileStore = KvStore<Files>;

/// Memory that the store buffers before it writes a table, in bytes. Small, since the journal is
/// replayed at open.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Journal on disk before tables are written out, in bytes. The database's own lower bound.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// Memory of tables not yet written, in bytes, above which a commit waits.
const BUFFERED_BYTES_MAX: u64 = 4 * MEMTABLE_BYTES;
/// Length and number of those waits: one second in all, so that a commit cannot wait for ever.
const TABLES_WAIT: Duration = Duration::from_millis(1);
const TABLES_WAITS_MAX: u32 = 1_000;
/// Cache for table blocks, in bytes.
const CACHE_BYTES: u64 = 32 << 20;

/// The map behind a [`FileStore`]. Clones share it.
#[derive(Clone)]
pub struct Files {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    durability: Durability,
    /// The open database; none while the store is closed.
    open: RwLock<Option<Open>>,
    /// Number of calls to close or reopen the store: a backup in progress stops when it changes.
    interruptions: AtomicU64,
    merges: Merges,
}

struct Open {
    // Fields are dropped in this order: the directory is released only after the database is
    // closed.
    database: Database,
    /// One keyspace for everything: a second one that is rarely written would pin the journal.
    map: Keyspace,
    directory: Arc<Directory>,
    /// End of the journal when it was opened.
    reached: Position,
    milestones: Milestones,
    holes: Holes,
}

impl FileStore {
    /// Opens the store in `path`, creating the directory if there is none, with
    /// [`Durability::Fsync`].
    ///
    /// # Errors
    /// [`StoreError::Locked`] if it is open elsewhere; [`StoreError::Unreadable`] if it cannot be
    /// opened.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path, Durability::Fsync).await
    }

    /// Opens the store with a durability of your choice.
    ///
    /// # Errors
    /// As [`FileStore::open`].
    pub async fn open_with(path: impl AsRef<Path>, durability: Durability) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let opening = tokio::task::spawn_blocking(move || {
            let open = Open::new(&path, Torn::Kept)?;
            let directory = Arc::clone(&open.directory);
            let store = Self::over(Files::new(path.clone(), durability, open));
            store.check_layout(&path.display().to_string(), directory.is_established())?;
            directory.establish().map_err(fatal)?;
            Ok(store)
        });
        opening.await.unwrap_or_else(|error| Err(fatal(error)))
    }
}

impl Open {
    fn new(path: &Path, torn: Torn) -> Result<Self, StoreError> {
        let directory = Directory::claim(path)?;
        directory.clear_unfinished()?;
        let reached = journal_repair::mend(path, torn)?;
        let convert = |error: fjall::Error| match error {
            fjall::Error::Locked => StoreError::Locked(path.display().to_string()),
            other => tables::explain(path, &other),
        };
        let builder = Database::builder(path).max_journaling_size(JOURNAL_BYTES_MAX).cache_size(CACHE_BYTES);
        let database = builder.worker_threads(1).open().map_err(convert)?;
        if database.keyspace_count() > 0 && !database.keyspace_exists("everstep") {
            return Err(unreadable(path, &"it is a database of another program: choose another directory"));
        }
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let map = database.keyspace("everstep", options).map_err(convert)?;
        note_durable(path, reached.position);
        // One that cannot be read need not stop the store: the journals name theirs as well.
        let last = map.get(keys::MILESTONE).ok().flatten().and_then(|row| Milestone::parse(&row));
        let milestones = Milestones::new(path.to_owned(), &reached, last.map_or(0, |last| last.number));
        let (directory, reached, holes) = (Arc::new(directory), reached.position, Holes::default());
        Ok(Self { database, map, directory, reached, milestones, holes })
    }

    /// Holds back a writer that is faster than tables are written. The database does so too late:
    /// while its threads are busy with tables that make no progress, it takes everything into
    /// memory; and with four tables waiting it blocks a commit for ever if they fail.
    fn wait_for_tables(&self) -> Result<(), fjall::Error> {
        for _ in 0..TABLES_WAITS_MAX {
            if self.database.write_buffer_size() <= BUFFERED_BYTES_MAX {
                break;
            }
            // Writes nothing, since every batch was handed over; it fails if the database has
            // failed.
            self.database.persist(PersistMode::Buffer)?;
            std::thread::sleep(TABLES_WAIT);
        }
        Ok(())
    }

    /// Syncs the journal and notes how far it is durable.
    fn note_end(&self, path: &Path) {
        // Read the position before the sync: the journal may grow meanwhile.
        let reached = journal_repair::reach(path, self.reached).ok().flatten();
        if let Some(reached) = reached
            && self.database.persist(PersistMode::SyncAll).is_ok()
        {
            note_durable(path, reached);
        }
    }
}

/// Notes how far the journal is durable. A failure is only logged: without the note less damage can
/// be told from a torn end, which is no reason not to open.
fn note_durable(path: &Path, reached: Position) {
    if let Err(error) = journal_repair::note_durable(path, reached) {
        tracing::warn!(path = %path.display(), %error, "the position up to which the journal is durable could not be recorded");
    }
}

fn fatal(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Fatal(Cause::of(error))
}

/// Clones share everything, so that a service can keep one for [backups](FileStore::backup) while a
/// runtime uses the other. One runtime at a time may use them.
impl Clone for FileStore {
    fn clone(&self) -> Self {
        self.share(self.kv.clone())
    }
}

impl Files {
    fn new(path: PathBuf, durability: Durability, open: Open) -> Self {
        let (open, interruptions) = (RwLock::new(Some(open)), AtomicU64::new(0));
        Self { shared: Arc::new(Shared { path, durability, open, interruptions, merges: Merges::default() }) }
    }

    /// Takes the store away from all its users, to close or reopen it.
    fn interrupt(&self) -> RwLockWriteGuard<'_, Option<Open>> {
        self.shared.interruptions.fetch_add(1, Ordering::AcqRel);
        self.shared.open.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses the store. Closing it waits for the call, since the directory must be free afterwards.
    fn with<T>(&self, call: impl FnOnce(&Open) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let open = self.shared.open.read().unwrap_or_else(PoisonError::into_inner);
        call(open.as_ref().ok_or_else(|| StoreError::Fatal("the store is closed".into()))?)
    }
}

impl Kv for Files {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.with(|open| open.get(&open.database.snapshot(), key))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.with(|open| {
            let snapshot = open.database.snapshot();
            let mut found = Vec::new();
            if limit > 0 {
                open.walk(&snapshot, (from, to), |step| {
                    if let Step::Entry(key, value) = step {
                        found.push((key, value));
                    }
                    Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
                })?;
            }
            Ok(found)
        })
    }

    fn write(&self, ops: Ops) -> Result<(), StoreError> {
        self.with(|open| {
            let failed = |error: fjall::Error| self.shared.merges.failed(error);
            open.wait_for_tables().map_err(failed)?;
            let batch = open.database.batch();
            let mut batch = match self.shared.durability {
                Durability::Fsync => batch.durability(Some(PersistMode::SyncData)),
                // Without a mode the database hands the journal record to the operating system.
                Durability::ProcessCrash => batch,
            };
            let mut bytes = journal_repair::BATCH_BYTES;
            for (key, value) in ops {
                bytes += journal_repair::ITEM_BYTES + (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64;
                match value {
                    Some(value) => batch.insert(&open.map, key, value),
                    None => batch.remove(&open.map, key),
                }
            }
            let due = open.milestones.pass(bytes);
            if let Some(due) = &due {
                batch.insert(&open.map, keys::MILESTONE, due.milestone.to_bytes());
            }
            batch.commit().map_err(failed)?;
            if let Some(due) = due {
                due.written();
            }
            Ok(())
        })
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let path = &self.shared.path;
        // Before the store is closed: if a table is damaged, reads must go on.
        self.shared.merges.check(path)?;
        let mut open = self.interrupt();
        // First release the old one, which holds the lock.
        drop(open.take());
        if !is_established(path) {
            return Err(unreadable(path, &"the data directory no longer exists: restore a backup"));
        }
        let reopened = Open::new(path, Torn::Dropped)?;
        match reopened.get(&reopened.database.snapshot(), keys::VERSION)? {
            None => return Err(unreadable(path, &"its contents are lost: restore a backup")),
            Some(marker) if marker.is_empty() => return Err(tables::explain(path, &"its marker is damaged")),
            Some(_) => {}
        }
        *open = Some(reopened);
        Ok(())
    }

    fn close(&self) {
        if let Some(open) = self.interrupt().take() {
            open.note_end(&self.shared.path);
        }
    }

    fn durability(&self) -> Durability {
        self.shared.durability
    }

    fn place(&self) -> String {
        self.shared.path.display().to_string()
    }

    fn holes(&self) -> Vec<Hole> {
        self.with(|open| Ok(open.holes.all())).unwrap_or_default()
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Files({}, {:?})", self.shared.path.display(), self.shared.durability)
    }
}

#[cfg(test)]
mod tests;
