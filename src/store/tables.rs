//! The tables of a store as files, without its journals.

use std::path::{Path, PathBuf};

use lsm_tree::{AbstractTree as _, Error, SeqNo, SequenceNumberCounter};

use super::directory::unreadable;
use super::journal::Milestone;
use super::{StoreError, keys};

/// Where the database keeps the tables of our one keyspace.
const TREE: &str = "keyspaces/1";
/// Names the version of the tables that counts.
const CURRENT: &str = "current";

/// Whether an error says that bytes are not what was written, as against a disk that fails.
pub(super) fn is_damage(error: &Error) -> bool {
    !matches!(error, Error::Io(_) | Error::InvalidVersion(_))
}

fn tree(directory: &Path) -> PathBuf {
    directory.join(TREE)
}

/// The number of the last milestone that tables hold; zero if they hold none. None if what they hold there is damaged. The store
/// must be closed.
pub(super) fn milestone(directory: &Path) -> Result<Option<u64>, StoreError> {
    let path = tree(directory);
    if !path.join(CURRENT).exists() {
        return Ok(Some(0));
    }
    let counter = SequenceNumberCounter::default;
    let failed = |error: Error| unreadable(&path, &error);
    let tree = lsm_tree::Config::new(&path, counter(), counter()).open().map_err(failed)?;
    match tree.get(keys::MILESTONE, SeqNo::MAX) {
        Ok(row) => Ok(Some(row.and_then(|row| Milestone::parse(&row)).map_or(0, |milestone| milestone.number))),
        Err(error) if is_damage(&error) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}
