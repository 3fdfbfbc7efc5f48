//! The embedded store: a directory on a local disk.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::kv::{Kv, KvStore, Ops};
use super::{Durability, StoreError};

/// An embedded store in a directory, on the log-structured store `fjall`; the default choice.
///
/// One process at a time may have it open. Each batch is one checksummed journal record, written and, with
/// [`Durability::Fsync`], synced before it is acknowledged. The directory is made readable by its owner only; it must be
/// on a local file system that honours `fdatasync` and file locks.
pub type FileStore = KvStore<Files>;

/// Memory the store buffers before it writes a table, in bytes. Small, since the journal is replayed at open.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Journal on disk before tables are written out, in bytes. The store's own lower bound.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// Cache for table blocks, in bytes.
const CACHE_BYTES: u64 = 32 << 20;

/// The map behind a [`FileStore`].
pub struct Files {
    path: PathBuf,
    durability: Durability,
    /// None while it is closed.
    open: RwLock<Option<Open>>,
}

#[derive(Clone)]
struct Open {
    database: Database,
    /// One for everything: a second one that is rarely written would pin the journal.
    map: Keyspace,
}

impl FileStore {
    /// Opens the store in `path`, creating the directory if there is none, with [`Durability::Fsync`].
    ///
    /// # Errors
    /// [`StoreError::Locked`] if it is open elsewhere; [`StoreError::Unreadable`] if it cannot be opened.
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
            create_private(&path).map_err(|error| unreadable(&path, &error))?;
            let open = Open::new(&path)?;
            let at = path.display().to_string();
            let store = Self::over(Files { path, durability, open: RwLock::new(Some(open)) });
            store.check_layout(&at).map(|()| store)
        });
        opening.await.unwrap_or_else(|error| Err(StoreError::Fatal(error.to_string())))
    }
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable { at: path.display().to_string(), why: error.to_string() }
}

/// Creates the directory, and those above it that are missing, for their owner only, and makes each name durable in its
/// parent.
fn create_private(path: &Path) -> std::io::Result<()> {
    if path.as_os_str().is_empty() || path.exists() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_private(parent)?;
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    std::fs::File::open(parent)?.sync_all()
}

impl Open {
    fn new(path: &Path) -> Result<Self, StoreError> {
        let convert = |error: fjall::Error| match error {
            fjall::Error::Locked => StoreError::Locked(path.display().to_string()),
            other => unreadable(path, &other),
        };
        let builder = Database::builder(path).max_journaling_size(JOURNAL_BYTES_MAX).cache_size(CACHE_BYTES);
        let database = builder.worker_threads(2).open().map_err(convert)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let map = database.keyspace("everstep", options).map_err(convert)?;
        Ok(Self { database, map })
    }
}

fn fatal(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Fatal(error.to_string())
}

impl Files {
    fn open(&self) -> Result<Open, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.clone().ok_or_else(|| StoreError::Fatal("the store is closed".into()))
    }
}

impl Kv for Files {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.open()?.map.get(key).map_err(|error| fatal(&error))?;
        Ok(value.map(Bytes::from))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut found = Vec::new();
        for entry in self.open()?.map.range(from..).take(limit) {
            let (key, value) = entry.into_inner().map_err(|error| fatal(&error))?;
            if !key.starts_with(prefix) {
                break;
            }
            found.push((key.into(), value.into()));
        }
        Ok(found)
    }

    fn write(&self, ops: Ops) -> Result<(), StoreError> {
        let open = self.open()?;
        let batch = open.database.batch();
        let mut batch = match self.durability {
            Durability::Fsync => batch.durability(Some(PersistMode::SyncData)),
            // Without a mode the journal record is handed to the operating system.
            Durability::ProcessCrash => batch,
        };
        for (key, value) in ops {
            match value {
                Some(value) => batch.insert(&open.map, key, value),
                None => batch.remove(&open.map, key),
            }
        }
        batch.commit().map_err(|error| fatal(&error))
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // First let go of the old one: it holds the lock.
        drop(open.take());
        *open = Some(Open::new(&self.path)?);
        Ok(())
    }

    fn close(&self) {
        drop(self.open.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn durability(&self) -> Durability {
        self.durability
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Files({}, {:?})", self.path.display(), self.durability)
    }
}
