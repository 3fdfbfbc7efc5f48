//! Milestones: rows that show whether journals and tables are of the same moment.
//!
//! The database deletes a journal once tables hold all its data. So a copy of the tables, followed
//! seconds later by a copy of the journals, may have tables that end before the oldest journal
//! begins; the database opens such a copy without an error. Milestones reveal the gap: near the end
//! of a journal the store writes this one row again and again, with increasing numbers. Each
//! milestone names the journal that it is written to, and the last milestone in an earlier journal.
//!
//! ```text
//! tables | .. 6 7 |            deleted  | .. 6 7 8 9 |
//! 4.jnl  | 10 (in 4, behind 9) ..       7 < 9: tables and journals do not meet
//! ```
//!
//! Milestones are rows, not batch numbers, since the database forgets the numbers of deleted
//! batches. A store that never filled a journal has none, and neither have journals of earlier
//! versions.

use std::path::Path;

use super::Journal;
use crate::store::directory::unreadable;
use crate::store::{StoreError, keys, tables};

/// Bytes of a milestone: three numbers, big-endian.
pub(in crate::store) const MILESTONE_BYTES: usize = 24;

/// The row stored under [`keys::MILESTONE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Milestone {
    pub(in crate::store) number: u64,
    /// The number of the newest journal when this milestone was written.
    pub(in crate::store) journal: u64,
    /// The last milestone that is known to be in an earlier journal; zero if none is known.
    pub(in crate::store) behind: u64,
}

impl Milestone {
    pub(in crate::store) fn to_bytes(self) -> [u8; MILESTONE_BYTES] {
        let mut bytes = [0; MILESTONE_BYTES];
        for (place, number) in bytes.chunks_exact_mut(8).zip([self.number, self.journal, self.behind]) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// Parses a milestone; none if the value is no such row.
    pub(in crate::store) fn parse(value: &[u8]) -> Option<Self> {
        let bytes: &[u8; MILESTONE_BYTES] = value.try_into().ok()?;
        let mut numbers =
            bytes.chunks_exact(8).filter_map(|number| Some(u64::from_be_bytes(*number.first_chunk::<8>()?)));
        Some(Self { number: numbers.next()?, journal: numbers.next()?, behind: numbers.next()? })
    }

    /// Returns the milestone that an item of a batch sets, if any.
    pub(super) fn of_item(key_and_value: &[u8]) -> Option<Self> {
        Self::parse(key_and_value.strip_prefix(keys::MILESTONE)?)
    }
}

/// Refuses journals that begin after the end of the tables and the earlier journals.
pub(super) fn check(directory: &Path, journals: &[Journal]) -> Result<(), StoreError> {
    let mut in_journals = 0;
    let mut in_tables = None;
    for journal in journals {
        let behind = journal.joint.map_or(0, |joint| joint.behind);
        if behind > in_journals {
            let in_tables = match in_tables {
                Some(known) => known,
                None => *in_tables.insert(tables::milestone(directory)?),
            };
            if in_tables.is_some_and(|in_tables| behind > in_tables.max(in_journals)) {
                let reached = in_tables.unwrap_or_default().max(in_journals);
                let why = format!(
                    "it continues after milestone {behind} of the store, but the tables and the journals before it end before \
                     milestone {}: the files were copied at different moments from a store in use, or a journal is missing; \
                     restore a copy made with FileStore::backup, or with the store closed",
                    reached + 1
                );
                return Err(unreadable(&journal.path, &why));
            }
        }
        in_journals = in_journals.max(journal.last_milestone);
    }
    Ok(())
}
