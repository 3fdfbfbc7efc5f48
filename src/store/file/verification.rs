//! The result of verifying a store.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use crate::id::{DefinitionHash, InstanceId, RunId};
use crate::limits::FINDINGS_MAX;
use crate::machine::Damaged;
use crate::store::Hole;

/// The counts and findings of [`FileStore::verify`](super::FileStore::verify).
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
    /// Defects found, at most 10,000.
    pub findings: Vec<Finding>,
    /// Number of further defects.
    pub unlisted: u64,
}

/// A defect: data that is not as it was written, or that does not fit the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A file is damaged or missing.
    File {
        /// The file.
        path: PathBuf,
        /// The damage.
        why: String,
    },
    /// A range of keys cannot be read. Instances that may have data there are found too, as far as
    /// their heads are known.
    Range(Hole),
    /// A head, a quarantine record or a row is damaged.
    Record {
        /// The instance that owns the record.
        instance: InstanceId,
        /// The damage.
        why: Damaged,
    },
    /// Rows of the instance may stand in a range that cannot be read.
    Rows {
        /// The instance that would own the rows.
        instance: InstanceId,
    },
    /// An index lists an instance differently from its head, or lists one that does not exist.
    EntryWithoutHead {
        /// The instance.
        instance: InstanceId,
        /// The index.
        index: &'static str,
    },
    /// An index lacks an entry that the head of an instance has.
    HeadWithoutEntry {
        /// The instance.
        instance: InstanceId,
        /// The index.
        index: &'static str,
    },
    /// The manifest of a definition is missing or cannot be read, and instances have that
    /// definition or had it before an upgrade. A runtime that registers the definition writes it
    /// again.
    NoManifest {
        /// The definition.
        definition: DefinitionHash,
    },
    /// Rows belong to a run that no head names, and nothing will delete them.
    OrphanRows {
        /// The run.
        run: RunId,
        /// Number of rows.
        rows: u64,
    },
}

impl Finding {
    /// Returns the instance concerned, if it is known.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Record { instance, .. }
            | Self::Rows { instance }
            | Self::EntryWithoutHead { instance, .. }
            | Self::HeadWithoutEntry { instance, .. } => Some(instance),
            Self::File { .. } | Self::Range(_) | Self::NoManifest { .. } | Self::OrphanRows { .. } => None,
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
            Self::Rows { instance } => write!(f, "rows of instance `{instance}` may be in a damaged part of a table"),
            Self::EntryWithoutHead { instance, index } => {
                write!(f, "the {index} index lists instance `{instance}`, but its head has no such entry")
            }
            Self::HeadWithoutEntry { instance, index } => {
                write!(f, "the {index} index lacks an entry for instance `{instance}`, which its head has")
            }
            Self::NoManifest { definition } => {
                write!(f, "the manifest of definition {definition} is missing: register that definition once")
            }
            Self::OrphanRows { run, rows } => write!(f, "{rows} rows of run {run} belong to no instance"),
        }
    }
}

impl Verification {
    /// Returns true if no defect was found.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Returns the instances that have defects, as far as they are known and listed.
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
