//! What becomes of a store whose tables cannot be merged.
//!
//! The database merges tables by itself. A damaged block in one fails that, and with it everything that is written from then on;
//! opened anew, it does the same again, for ever. So after the second time the tables are read: if one is damaged, the store is
//! not opened anew. What can be read is read on, and so a backup can be made, which leaves the damaged block out.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::fatal;
use crate::store::StoreError;
use crate::store::directory::unreadable;
use crate::store::tables::{self, DamagedFile};

/// The merges that failed.
#[derive(Debug, Default)]
pub(super) struct Merges {
    /// Whether one may have since the store was opened.
    has_failed: AtomicBool,
    failures: AtomicU32,
    /// Why the store is not opened anew.
    verdict: OnceLock<StoreError>,
}

impl Merges {
    /// Takes notice of the error of a write.
    pub(super) fn failed(&self, error: fjall::Error) -> StoreError {
        // The work on tables has failed, or an earlier write: which of them it does not say.
        if matches!(error, fjall::Error::Poisoned) {
            self.has_failed.store(true, Ordering::Release);
        }
        fatal(error)
    }

    /// Looks for the reason, before the store is opened anew.
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
        // All tables are read for it, which takes as long as that takes: a full disk fails that work too, again and again.
        if failures < 2 || !failures.is_power_of_two() {
            return Ok(());
        }
        let damaged = tables::check(directory, |_| Ok::<_, StoreError>(()))?;
        // A disk that fails may do better later.
        let damaged = damaged.into_iter().find(|damaged| !damaged.is_unknown);
        let Some(DamagedFile { path, why, .. }) = damaged else { return Ok(()) };
        let why = format!(
            "{why}: work on the tables fails again and again, and nothing is written any more; reads go on. Copy the store \
             with FileStore::backup, which leaves out what is damaged and says what, and start again with the copy in place of the \
             directory, or with an earlier backup"
        );
        Err(self.verdict.get_or_init(|| unreadable(&path, &why)).clone())
    }
}
