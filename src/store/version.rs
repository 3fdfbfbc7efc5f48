//! Where an instance stands, exactly: what a write says that it has seen.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::Loaded;
use crate::id::{InstanceId, RunId, Stamp};
use crate::machine::{HeadIndex, Snapshot};

/// Where an instance stood when it was read: no two states of an instance have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its head.
    pub head: HeadVersion,
    /// Whether it was quarantined.
    pub quarantined: bool,
}

/// What a head is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadVersion {
    /// By what it says.
    At {
        /// The run.
        run: RunId,
        /// Its last transition.
        seq: u64,
        /// The write that left it there: two writers may each have made a transition of this number.
        stamp: Stamp,
    },
    /// By its bytes, since it cannot be read.
    Unreadable {
        /// XXH3-64 of all of them.
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

    /// The same, set aside.
    pub fn set_aside(self) -> Self {
        Self { quarantined: true, ..self }
    }

    /// The run and its last transition; none if the head cannot be read.
    pub fn at(&self) -> Option<(RunId, u64)> {
        match self.head {
            HeadVersion::At { run, seq, .. } => Some((run, seq)),
            HeadVersion::Unreadable { .. } => None,
        }
    }

    /// The run; none if the head cannot be read.
    pub fn run(&self) -> Option<RunId> {
        self.at().map(|(run, _)| run)
    }
}

impl From<&Snapshot> for Version {
    /// That of an instance whose head holds this snapshot, and which is not quarantined.
    fn from(snapshot: &Snapshot) -> Self {
        let head = HeadVersion::At { run: snapshot.run(), seq: snapshot.seq(), stamp: snapshot.stamp() };
        Self { head, quarantined: false }
    }
}

impl Loaded {
    /// Where the instance stands.
    pub fn version(&self, instance: &InstanceId) -> Version {
        let index = HeadIndex::of_head(instance, &self.head).ok();
        Version::of_head(&self.head, index.as_ref(), self.quarantine.is_some())
    }
}
