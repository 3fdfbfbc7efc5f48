//! The directory of a file store: whose it is, and whether it ever held anything.
//!
//! ```text
//! DIR/everstep.lock    held while the store is open
//! DIR/everstep         there once the first write is durable: an empty database beside it has lost everything
//! DIR/everstep.durable how far the journal was once known to be durable (`journal`)
//! DIR/everstep.torn-N  what was cut from the end of a journal at an open, the newest few (`journal`)
//! DIR/...              the database's own files
//! ```

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::StoreError;

const LOCK: &str = "everstep.lock";
const MARKER: &str = "everstep";
/// The database writes this when it is complete; without it, what else it has written is a first open that was killed.
const DATABASE_COMPLETE: &str = "version";
const DATABASE_VERSION: &[u8] = b"FJL\x03";
/// What a first open that was killed may leave.
const UNFINISHED: [&str; 4] = ["lock", "keyspaces", "0.jnl", DATABASE_COMPLETE];

/// A directory that no other process uses while this lives.
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

pub(super) fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable { at: path.display().to_string(), why: why.to_string() }
}

impl Directory {
    /// Creates the directory if there is none, and takes it for this process.
    pub(super) fn claim(path: &Path) -> Result<Self, StoreError> {
        let failed = |error: io::Error| unreadable(path, &error);
        create_private(path).map_err(failed)?;
        let lock = File::options().create(true).append(true).open(path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked(path.display().to_string())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Whether something was once made durable here.
    pub(super) fn is_established(&self) -> bool {
        is_established(&self.path)
    }

    /// Notes that something is durable here, the directory itself included: whoever created it may have been killed before
    /// its name was.
    pub(super) fn establish(&self) -> io::Result<()> {
        let is_new = !self.is_established();
        File::create(self.path.join(MARKER))?.sync_all()?;
        File::open(&self.path)?.sync_all()?;
        if !is_new {
            return Ok(());
        }
        match File::open(parent(&self.path)) {
            // Then it was not us who created the directory.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            parent => parent?.sync_all(),
        }
    }

    /// Whether the database has written what it writes last: not only a part of it, or zeros in its place, beside a journal
    /// and tables that are still empty.
    fn is_complete(&self) -> io::Result<bool> {
        let version = match std::fs::read(self.path.join(DATABASE_COMPLETE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            version => version?,
        };
        let is_part = version.len() < DATABASE_VERSION.len() && DATABASE_VERSION.starts_with(&version);
        if !is_part && version.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        let tables = self.path.join("keyspaces");
        let no_tables = !tables.exists() || std::fs::read_dir(tables)?.next().is_none();
        Ok(!(no_tables && super::journal::is_blank(&self.path.join("0.jnl"))))
    }

    /// Removes what a first open left that was killed: nothing was ever acknowledged of it.
    pub(super) fn clear_unfinished(&self) -> io::Result<()> {
        if self.is_established() || self.is_complete()? {
            return Ok(());
        }
        for name in UNFINISHED {
            let path = self.path.join(name);
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        }
        Ok(())
    }
}

/// Whether something was once made durable in this directory, if it is there.
pub(super) fn is_established(path: &Path) -> bool {
    path.join(MARKER).exists()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates the directory, and those above it that are missing, for their owner only, and makes each name durable in its
/// parent.
fn create_private(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.exists() {
        return Ok(());
    }
    let parent = parent(path);
    create_private(parent)?;
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FileStore;
    use crate::store::Store as _;

    /// Method: leave the files that the database writes first, and no others.
    #[tokio::test]
    async fn a_first_open_that_was_killed_does_not_spoil_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lock"), "").unwrap();
        std::fs::write(dir.path().join("0.jnl"), "").unwrap();
        std::fs::create_dir_all(dir.path().join("keyspaces/0")).unwrap();
        FileStore::open(dir.path()).await.unwrap();
    }

    /// Method: what the database writes last is there in part, or as zeros; another program's version is left alone.
    #[tokio::test]
    async fn a_first_open_that_was_killed_at_its_last_file_does_not_spoil_the_directory() {
        for version in [&b""[..], b"FJL", &[0; 4]] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join("keyspaces")).unwrap();
            std::fs::write(dir.path().join("0.jnl"), [0; 100]).unwrap();
            std::fs::write(dir.path().join("version"), version).unwrap();
            FileStore::open(dir.path()).await.unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("version"), b"FJL\x02").unwrap();
        let opened = FileStore::open(dir.path()).await;
        assert!(matches!(opened, Err(StoreError::Unreadable { .. })), "{opened:?}");
        assert_eq!(std::fs::read(dir.path().join("version")).unwrap(), b"FJL\x02");
    }

    /// Method: delete the directory under an open store, which is then opened anew, as after a failure.
    #[tokio::test]
    async fn a_store_whose_directory_is_gone_does_not_come_back_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = FileStore::open(&path).await.unwrap();
        std::fs::remove_dir_all(&path).unwrap();
        for _ in 0..3 {
            let reopened = store.reopen().await;
            assert!(matches!(reopened, Err(StoreError::Unreadable { .. })), "{reopened:?}");
        }
        assert!(!path.exists());
    }

    /// Method: lose the journal of a store that held something; an empty store in its place would be a lie.
    #[tokio::test]
    async fn a_store_that_lost_its_journal_does_not_open_as_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        drop(FileStore::open(dir.path()).await.unwrap());
        std::fs::write(dir.path().join("0.jnl"), "").unwrap();
        let opened = FileStore::open(dir.path()).await;
        assert!(matches!(opened, Err(StoreError::Unreadable { .. })), "{opened:?}");
    }
}
