//! What a look at everything that is stored has found.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use crate::id::{InstanceId, RunId};
use crate::limits::FINDINGS_MAX;
use crate::machine::Damaged;
use crate::store::Hole;

/// What [`FileStore::verify`](super::FileStore::verify) has read, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// Files read: tables and journals.
    pub files: u64,
    /// Heads read, one for each instance.
    pub instances: u64,
    /// Rows of runs read: inputs, results, signals, frames, branches and pieces of lists.
    pub rows: u64,
    /// Index entries read.
    pub entries: u64,
    /// What is wrong, at most 10,000 of it.
    pub findings: Vec<Finding>,
    /// How much more is wrong.
    pub unlisted: u64,
}

/// Something that is not as it was written, or that does not go with the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A file is damaged or missing.
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A range of keys cannot be read. Instances of which something may stand there are found too, as far as their heads are
    /// known.
    Range(Hole),
    /// A head, a quarantine record or a row is damaged.
    Record {
        /// Whose it is.
        instance: InstanceId,
        /// What is wrong with it.
        why: Damaged,
    },
    /// Rows of the instance may stand in a range that cannot be read.
    Rows {
        /// Whose they would be.
        instance: InstanceId,
    },
    /// An index lists an instance otherwise than its head says, or one that is not there.
    EntryWithoutHead {
        /// Which instance.
        instance: InstanceId,
        /// Which index.
        index: &'static str,
    },
    /// An index does not list an instance as its head says.
    HeadWithoutEntry {
        /// Which instance.
        instance: InstanceId,
        /// Which index.
        index: &'static str,
    },
    /// Rows of a run that no head names, and that nothing will delete.
    OrphanRows {
        /// Which run.
        run: RunId,
        /// How many.
        rows: u64,
    },
}

impl Finding {
    /// The instance that it is about, if one is known.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Record { instance, .. }
            | Self::Rows { instance }
            | Self::EntryWithoutHead { instance, .. }
            | Self::HeadWithoutEntry { instance, .. } => Some(instance),
            Self::File { .. } | Self::Range(_) | Self::OrphanRows { .. } => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, why } => write!(f, "{}: {why}", path.display()),
            Self::Range(Hole { from, to }) => {
                write!(f, "keys from {} to {} cannot be read", from.escape_ascii(), to.escape_ascii())
            }
            Self::Record { why, .. } => write!(f, "{why}"),
            Self::Rows { instance } => write!(f, "rows of instance `{instance}` may stand where nothing can be read"),
            Self::EntryWithoutHead { instance, index } => {
                write!(f, "the {index} index lists instance `{instance}`, which its head does not say")
            }
            Self::HeadWithoutEntry { instance, index } => {
                write!(f, "the {index} index does not list instance `{instance}`, as its head says")
            }
            Self::OrphanRows { run, rows } => write!(f, "{rows} rows of run {run} belong to no instance"),
        }
    }
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// The instances that something is wrong with, as far as they are known and listed.
    pub fn instances_found(&self) -> BTreeSet<&InstanceId> {
        self.findings.iter().filter_map(Finding::instance).collect()
    }

    pub(super) fn find(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.unlisted += 1;
        }
    }
}
