//! The exact version of an instance, which a write is conditional on.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::Loaded;
use crate::id::{InstanceId, RunId, Stamp};
use crate::machine::{HeadIndex, Snapshot};

/// The version of an instance when it was read: no two states of an instance have the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The version of its head.
    pub head: HeadVersion,
    /// True if it was quarantined.
    pub quarantined: bool,
}

/// The version of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadVersion {
    /// A head that can be read.
    At {
        /// The run.
        run: RunId,
        /// The last transition.
        seq: u64,
        /// The write that stored the head: two writers may each have made a transition with this
        /// number.
        stamp: Stamp,
    },
    /// A head that cannot be read.
    Unreadable {
        /// XXH3-64 of the whole head.
        hash: u64,
    },
}

impl Version {
    pub(super) fn of_head(head: &Bytes, index: Option<&HeadIndex>, quarantined: bool) -> Self {
        let head = match index {
            Some(&HeadIndex { run, seq, stamp, .. }) => HeadVersion::At { run, seq, stamp },
            None => HeadVersion::Unreadable { hash: xxh3_64(head) },
        };
        Self { head, quarantined }
    }

    /// Returns this version, quarantined.
    pub fn set_aside(self) -> Self {
        Self { quarantined: true, ..self }
    }

    /// Returns the run and its last transition; `None` if the head cannot be read.
    pub fn at(&self) -> Option<(RunId, u64)> {
        match self.head {
            HeadVersion::At { run, seq, .. } => Some((run, seq)),
            HeadVersion::Unreadable { .. } => None,
        }
    }

    /// Returns the run; `None` if the head cannot be read.
    pub fn run(&self) -> Option<RunId> {
        self.at().map(|(run, _)| run)
    }
}

impl From<&Snapshot> for Version {
    /// Returns the version of an instance whose head holds this snapshot, and which is not
    /// quarantined.
    fn from(snapshot: &Snapshot) -> Self {
        let head = HeadVersion::At { run: snapshot.run(), seq: snapshot.seq(), stamp: snapshot.stamp() };
        Self { head, quarantined: false }
    }
}

impl Loaded {
    /// Returns the instance's version.
    pub fn version(&self, instance: &InstanceId) -> Version {
        let index = HeadIndex::of_head(instance, &self.head).ok();
        Version::of_head(&self.head, index.as_ref(), self.quarantine.is_some())
    }
}
