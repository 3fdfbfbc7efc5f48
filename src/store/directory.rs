//! The directory of a file store: who owns it, and whether it ever held data.
//!
//! ```text
//! DIR/everstep.lock    held while the store is open
//! DIR/everstep         exists once a write is durable: an empty database beside it lost its data
//! DIR/everstep.durable how far the journal was once known to be durable (`journal_repair`)
//! DIR/everstep.torn-N  bytes cut from the end of a journal at an open (`journal_repair`), the newest few
//! DIR/...              the database's own files
//! ```

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::StoreError;

const LOCK: &str = "everstep.lock";
const MARKER: &str = "everstep";
/// File that the database writes before any other file with content.
const VERSION: &str = "version";
const DATABASE_VERSION: &[u8] = b"FJL\x03";
/// A directory that no other process uses as long as this value lives.
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

pub(super) fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable { at: path.display().to_string(), why: why.to_string() }
}

impl Directory {
    /// Creates the directory if it does not exist, and locks it for this process.
    pub(super) fn claim(path: &Path) -> Result<Self, StoreError> {
        let failed = |error: io::Error| unreadable(path, &error);
        create_private(path).map_err(failed)?;
        check_files(path)?;
        warn_if_open_to_all(path);
        let lock = File::options().create(true).append(true).open(path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked(path.display().to_string())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Returns true if data was once made durable here.
    pub(super) fn is_established(&self) -> bool {
        is_established(&self.path)
    }

    /// Notes that data is durable here. Also syncs the directory's own name: the process that
    /// created it may have been killed before the name was durable.
    pub(super) fn establish(&self) -> io::Result<()> {
        let is_new = !self.is_established();
        File::create(self.path.join(MARKER))?.sync_all()?;
        File::open(&self.path)?.sync_all()?;
        if !is_new {
            return Ok(());
        }
        match File::open(parent(&self.path)) {
            // In this case another program created the directory.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            parent => parent?.sync_all(),
        }
    }

    /// Removes the files of a first open that was killed: none of its writes was acknowledged.
    /// Removes only files that such an open leaves, and only empty ones; anything else in their
    /// place may belong to another program, and the directory is refused.
    pub(super) fn clear_unfinished(&self) -> Result<(), StoreError> {
        let failed = |error: io::Error| unreadable(&self.path, &error);
        if let Some(version) = self.version().map_err(failed)? {
            if version.starts_with(DATABASE_VERSION) {
                return Ok(());
            }
            let why = "it belongs to another program or another version of the database: choose another directory";
            return Err(unreadable(&self.path.join(VERSION), &why));
        }
        if self.is_established() {
            return Ok(());
        }
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if is_of_database(&path) && !is_unfinished(&path).map_err(failed)? {
                let why = "it may hold data, but the files that identify its owner are missing: nothing was changed; choose \
                           an empty directory, or finish the copy if this is one";
                return Err(unreadable(&path, &why));
            }
        }
        self.remove_unfinished().map_err(failed)
    }

    /// Returns the beginning of the database's version; none if the file is incomplete or holds
    /// zeros.
    fn version(&self) -> io::Result<Option<Vec<u8>>> {
        let path = self.path.join(VERSION);
        Ok(if path.try_exists()? { Some(head_of(&path)?).filter(|version| !is_part_of_version(version)) } else { None })
    }

    /// Removes the files of an unfinished open; directories only if they are empty.
    fn remove_unfinished(&self) -> io::Result<()> {
        for name in ["keyspaces/0", "keyspaces"] {
            no_matter_if_gone(std::fs::remove_dir(self.path.join(name)))?;
        }
        for name in ["lock", "0.jnl", VERSION] {
            no_matter_if_gone(std::fs::remove_file(self.path.join(name)))?;
        }
        Ok(())
    }
}

fn no_matter_if_gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Returns true if a file of this name in the directory is the database's, or one of this crate's
/// notes about it.
fn is_of_database(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_note = name.starts_with("everstep.") && name != LOCK;
    matches!(name, "lock" | "keyspaces" | VERSION) || is_note || path.extension().is_some_and(|end| end == "jnl")
}

/// Returns true if this file is one that a killed first open leaves, and empty. The database writes
/// content only once the version file exists.
fn is_unfinished(path: &Path) -> io::Result<bool> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name {
        "lock" => Ok(path.metadata()?.len() == 0),
        "0.jnl" => Ok(super::journal_repair::is_blank(path)),
        "keyspaces" => {
            only_in(path, |entry| entry == "0").and_then(|only| Ok(only && only_in(&path.join("0"), |_| false)?))
        }
        VERSION => Ok(is_part_of_version(&head_of(path)?)),
        _ => Ok(false),
    }
}

/// Returns the first bytes of a file: a file of another program may be of any size.
fn head_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(64).read_to_end(&mut head)?;
    Ok(head)
}

fn is_part_of_version(version: &[u8]) -> bool {
    let is_part = version.len() < DATABASE_VERSION.len() && DATABASE_VERSION.starts_with(version);
    is_part || version.iter().all(|byte| *byte == 0)
}

/// Returns true if the directory holds only such entries, or does not exist.
fn only_in(path: &Path, may_hold: impl Fn(&std::ffi::OsStr) -> bool) -> io::Result<bool> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        if !may_hold(&entry?.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Refuses links and other file types in place of files that are written here: a link may lead to
/// files of another program. The directory itself may be a link.
fn check_files(path: &Path) -> Result<(), StoreError> {
    for entry in std::fs::read_dir(path).map_err(|error| unreadable(path, &error))? {
        let entry = entry.map_err(|error| unreadable(path, &error))?;
        let (name, file) = (entry.file_name(), entry.path());
        let is_ours = name == LOCK || name == MARKER || is_of_database(&file);
        let kind = entry.file_type().map_err(|error| unreadable(&file, &error))?;
        if is_ours && name != "keyspaces" && !kind.is_file() {
            return Err(unreadable(
                &file,
                &"it is a link, folder or other special file: put the store's own file in its place",
            ));
        }
    }
    Ok(())
}

/// Warns if every user can write the directory, and so change every instance. The store opens all
/// the same: a mounted volume may come with such a mode.
#[cfg(unix)]
fn warn_if_open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o002 != 0) {
        tracing::warn!(path = %path.display(), "every user of this machine can write to the data directory: run chmod o-w on it");
    }
}

#[cfg(not(unix))]
fn warn_if_open_to_all(_path: &Path) {}

/// Returns true if data was once made durable in this directory; false if it does not exist.
pub(super) fn is_established(path: &Path) -> bool {
    path.join(MARKER).exists()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates the directory and its missing parents, for their owner only, and makes each name durable
/// in its parent.
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

    /// Method: leave a part of the file that the database writes last, or zeros in its place; the
    /// version of another program is left alone.
    #[tokio::test]
    async fn first_open_killed_at_its_last_file_can_be_repeated() {
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

    /// Method: delete the directory of an open store, then reopen the store, as after a failure.
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

    /// Method: lose the journal of a store that held data; opening it as an empty store would hide
    /// the loss.
    #[tokio::test]
    async fn a_store_that_lost_its_journal_does_not_open_as_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        drop(FileStore::open(dir.path()).await.unwrap());
        std::fs::write(dir.path().join("0.jnl"), "").unwrap();
        let opened = FileStore::open(dir.path()).await;
        assert!(matches!(opened, Err(StoreError::Unreadable { .. })), "{opened:?}");
    }

    /// Returns every path below a directory, with the content of files.
    fn all_in(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                all.extend(all_in(&path));
            } else if path.file_name().unwrap() != LOCK {
                all.push((path.clone(), std::fs::read(&path).unwrap()));
            }
        }
        all.sort();
        all
    }

    /// Method: put one file of another program, or of an incomplete copy of a store, in place of
    /// one of the database's.
    #[tokio::test]
    async fn a_directory_that_may_hold_data_is_refused_as_it_is() {
        let files = ["keyspaces/customers/data.db", "keyspaces/1/tables/7", "keyspaces", "lock", "0.jnl", "7.jnl"];
        for file in files.into_iter().chain(["everstep.durable", "everstep.torn-1"]) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "years of work").unwrap();
            std::fs::write(dir.path().join("README"), "of another program").unwrap();
            let before = all_in(dir.path());
            let opened = FileStore::open(dir.path()).await.map(drop).unwrap_err();
            let name = Path::new(file).components().next().unwrap();
            let named = dir.path().join(name).display().to_string();
            assert!(matches!(&opened, StoreError::Unreadable { at, .. } if *at == named), "{file}: {opened}");
            assert_eq!(all_in(dir.path()), before, "{file}");
        }
    }

    #[tokio::test]
    async fn a_new_store_may_stand_beside_files_of_others() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lost+found")).unwrap();
        std::fs::write(dir.path().join(".keep"), "").unwrap();
        FileStore::open(dir.path()).await.unwrap();
    }

    /// Method: put a link to an existing or a missing file in place of each file that the store
    /// writes.
    #[cfg(unix)]
    #[tokio::test]
    async fn a_link_in_place_of_a_file_is_refused() {
        for name in [LOCK, MARKER, "everstep.durable", "everstep.torn-1", "lock", "0.jnl", VERSION] {
            for is_there in [true, false] {
                let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                let other = dir.path().join("other");
                if is_there {
                    std::fs::write(&other, "precious").unwrap();
                }
                std::os::unix::fs::symlink(&other, data.path().join(name)).unwrap();
                let opened = FileStore::open(data.path()).await.map(drop).unwrap_err();
                assert!(opened.to_string().contains(name), "{name}: {opened}");
                let left = std::fs::read_to_string(&other).ok();
                assert_eq!(left.as_deref(), is_there.then_some("precious"), "{name}");
            }
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_link_to_the_directory_itself_is_followed() {
        let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let link = dir.path().join("data");
        std::os::unix::fs::symlink(data.path(), &link).unwrap();
        FileStore::open(&link).await.unwrap();
        assert!(data.path().join(MARKER).exists());
    }
}
