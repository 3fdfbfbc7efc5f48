//! Rows by which journals and tables of two moments are told from those of one.
//!
//! The database deletes a journal once tables hold all that stands in it. So whoever copies the tables first and the journals
//! seconds later gets tables that end before the oldest journal begins; the database opens that without a word. Milestones
//! show it: near the end of a journal the store writes this one row again and again, numbered upwards, and each names the
//! journal that it is written to, and the last milestone that stands in an earlier one.
//!
//! ```text
//! tables | .. 6 7 |            deleted  | .. 6 7 8 9 |
//! 4.jnl  | 10 (in 4, behind 9) ..       7 < 9: tables and journals do not meet
//! ```
//!
//! They are rows, not batch numbers, since the database forgets the numbers of what was deleted. A store that never filled a
//! journal has none, and journals of earlier versions say nothing.

use std::path::Path;

use super::Journal;
use crate::store::directory::unreadable;
use crate::store::{StoreError, keys, tables};

/// Bytes of a milestone: three numbers, big-endian.
pub(in crate::store) const MILESTONE_BYTES: usize = 24;

/// The row that is stored under [`keys::MILESTONE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Milestone {
    pub(in crate::store) number: u64,
    /// The number of the journal that was the newest one when this was written.
    pub(in crate::store) journal: u64,
    /// A milestone that stands in an earlier journal, the last one that is known to; zero if none is known.
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

    /// None if this is no such row.
    pub(in crate::store) fn parse(value: &[u8]) -> Option<Self> {
        let bytes: &[u8; MILESTONE_BYTES] = value.try_into().ok()?;
        let mut numbers =
            bytes.chunks_exact(8).filter_map(|number| Some(u64::from_be_bytes(*number.first_chunk::<8>()?)));
        Some(Self { number: numbers.next()?, journal: numbers.next()?, behind: numbers.next()? })
    }

    /// The milestone that an item of a batch sets, if it does.
    pub(super) fn of_item(key_and_value: &[u8]) -> Option<Self> {
        Self::parse(key_and_value.strip_prefix(keys::MILESTONE)?)
    }
}

/// Refuses journals that begin behind what the tables and earlier journals hold.
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
                    "it goes on behind milestone {behind} of the store, but the tables and the journals before it hold only \
                     what stands before milestone {}: these are files of a store in use, copied at different moments, or a \
                     journal is missing; restore a copy made with FileStore::backup, or with the store closed",
                    reached + 1
                );
                return Err(unreadable(&journal.path, &why));
            }
        }
        in_journals = in_journals.max(journal.last_milestone);
    }
    Ok(())
}
