//! Handles a store whose tables cannot be merged.
//!
//! The database merges tables by itself. A damaged block in one table fails the merge, and with it
//! every later write; a reopened database fails the same way again, for ever. So after the second
//! failure the tables are read: if one is damaged, the store is not reopened. Readable data stays
//! readable, so that a backup can be made, which leaves the damaged block out.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::fatal;
use crate::store::StoreError;
use crate::store::directory::unreadable;
use crate::store::tables::{self, DamagedFile};

/// The failed merges.
#[derive(Debug, Default)]
pub(super) struct Merges {
    /// True if a merge may have failed since the store was opened.
    has_failed: AtomicBool,
    failures: AtomicU32,
    /// The reason why the store is not reopened.
    verdict: OnceLock<StoreError>,
}

impl Merges {
    /// Notes the error of a write.
    pub(super) fn failed(&self, error: fjall::Error) -> StoreError {
        // The database does not say whether a merge failed or an earlier write.
        if matches!(error, fjall::Error::Poisoned) {
            self.has_failed.store(true, Ordering::Release);
        }
        fatal(error)
    }

    /// Looks for a damaged table before the store is reopened.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] if a table is damaged.
    pub(super) fn check(&self, directory: &Path) -> Result<(), StoreError> {
        if let Some(verdict) = self.verdict.get() {
            return Err(verdict.clone());
        }
        if !self.has_failed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let failures = self.failures.fetch_add(1, Ordering::AcqRel) + 1;
        // Reading all tables takes long, so it is done at the failures 2, 4, 8 and so on: a full
        // disk fails merges too, again and again.
        if failures < 2 || !failures.is_power_of_two() {
            return Ok(());
        }
        let damaged = tables::check(directory, |_| Ok::<_, StoreError>(()))?;
        // A disk that fails now may work later.
        let damaged = damaged.into_iter().find(|damaged| !damaged.is_unknown);
        let Some(DamagedFile { path, why, .. }) = damaged else { return Ok(()) };
        let why = format!(
            "{why}: compaction of the tables keeps failing; writes have stopped, reads continue. Make a copy with \
             FileStore::backup, which reports the damaged parts that it leaves out, and replace the directory by the \
             copy, or by an earlier backup"
        );
        Err(self.verdict.get_or_init(|| unreadable(&path, &why)).clone())
    }
}
