//! The storage port that every store implements, and the stores that come with the crate.
//!
//! * [`Store`]: commits a batch of conditional writes as one; each write has its own answer.
//! * [`MemoryStore`], for tests; `FileStore`, an embedded directory, the default. Both are one
//!   key-value layout (`keys`) over different maps (`kv`).
//! * `conformance` and `FaultyStore` (feature `testing`): a suite that any store can run, and a
//!   store that fails where a test says so.
//!
//! A store decides nothing about workflows: it compares versions and stamps, keeps the indexes, and
//! stores bytes.

mod batch;
#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(feature = "file-store")]
mod directory;
mod error;
#[cfg(feature = "testing")]
mod faulty;
#[cfg(feature = "file-store")]
mod file;
mod guarded;
mod head_cache;
#[cfg(feature = "file-store")]
mod journal_repair;
mod keys;
mod kv;
mod memory;
#[cfg(feature = "file-store")]
mod tables;
mod version;

use bytes::Bytes;

use crate::clock::BoxFuture;
use crate::codec::Hidden;
use crate::id::{DefinitionHash, InstanceId, RunId, Stamp};
use crate::machine::{RowChange, RowKey};
use crate::status::StatusCode;
use crate::time::Timestamp;

pub use error::StoreError;
#[cfg(feature = "testing")]
pub use faulty::{Call, CrashPoint, Fault, FaultyStore};
#[cfg(feature = "file-store")]
pub use file::{Backup, FileStore, Files, Finding, Verification};
pub(crate) use guarded::Guarded;
pub use kv::{Hole, Kv, KvStore, Ops};
pub use memory::{Memory, MemoryStore};
pub use version::{HeadVersion, Version};

/// The failures that a commit survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Power loss and a crash of the operating system: every batch is synced to the disk before it
    /// is acknowledged.
    #[default]
    Fsync,
    /// A crash or kill of the process only: batches are handed to the operating system. A power
    /// loss may lose acknowledged batches.
    ProcessCrash,
}

/// One conditional write of one instance: everything that a transition changes, or nothing.
#[derive(Clone, Debug)]
pub struct Write {
    /// The instance.
    pub instance: InstanceId,
    /// The identity of this write, stored in the head or quarantine record as well. A write that is
    /// repeated because its outcome is unknown keeps its stamp.
    pub stamp: Stamp,
    /// The condition under which the write happens.
    pub condition: Condition,
    /// The change to the instance.
    pub change: Change,
    /// Rows written together with the change, under the run in [`Write::run`].
    pub rows: Vec<RowChange>,
    /// The run the rows belong to.
    pub run: RunId,
    /// A run that this write ends: its rows are swept later, see [`Store::sweep`].
    pub superseded: Option<RunId>,
}

impl Write {
    /// Returns true if the write starts its run: where no instance exists, or in place of another
    /// run or of a head that cannot be read.
    pub(crate) fn starts_run(&self) -> bool {
        let is_first = match &self.condition {
            Condition::Absent => true,
            Condition::Seen(version) => version.run() != Some(self.run),
        };
        is_first && matches!(self.change, Change::Head(_))
    }

    /// Returns the bytes of heads and rows that it writes.
    pub(crate) fn bytes(&self) -> usize {
        let change = match &self.change {
            Change::Head(record) | Change::Quarantine(record) => record.len(),
            Change::Delete => 0,
        };
        change + self.rows.iter().filter_map(|row| row.value.as_ref()).map(Bytes::len).sum::<usize>()
    }
}

/// The condition under which a write happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The instance does not exist.
    Absent,
    /// The instance is as the writer has seen it: [`Loaded::version`], or the version that the
    /// writer's previous write leaves.
    Seen(Version),
}

/// The change that a write makes to the instance. Its `Debug` shows the number of bytes, not the
/// bytes.
#[derive(Clone)]
pub enum Change {
    /// A new head, which ends a quarantine. Under [`Condition::Absent`], or if the version seen is
    /// of another run than [`Write::run`], it starts the run. A superseded run cannot be started
    /// until all its rows are swept.
    Head(Bytes),
    /// A quarantine with this record: the head stays byte for byte, and the indexes no longer list
    /// the instance.
    Quarantine(Bytes),
    /// A deletion of head, quarantine record and index entries: the id is free. The rows of the run
    /// are swept through [`Write::superseded`]. Deleting an absent instance succeeds under every
    /// condition and changes nothing.
    Delete,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Head(head) => f.debug_tuple("Head").field(&Hidden(head)).finish(),
            Self::Quarantine(record) => f.debug_tuple("Quarantine").field(&Hidden(record)).finish(),
            Self::Delete => f.write_str("Delete"),
        }
    }
}

/// A write that did not happen because its condition did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write conflict: the instance is no longer at the expected transition")]
pub struct Conflict {
    /// The run and transition found; none if the instance does not exist or its head cannot be
    /// read.
    pub found: Option<(RunId, u64)>,
    /// True if the write was to start a run that existed before and was replaced or deleted since.
    pub is_over: bool,
}

/// An instance's head and quarantine record. Its `Debug` shows the number of bytes, not the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The head.
    pub head: Bytes,
    /// The quarantine record, if it is quarantined.
    pub quarantine: Option<Bytes>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let quarantine = self.quarantine.as_deref().map(Hidden);
        f.debug_struct("Loaded").field("head", &Hidden(&self.head)).field("quarantine", &quarantine).finish()
    }
}

/// The answers to a batch, one for each write, in order.
pub type Answers = Vec<Result<(), Conflict>>;

/// The storage port. Object-safe; every read sees committed data, and only that.
pub trait Store: Send + Sync + 'static {
    /// Commits a batch as one: on return, the writes whose conditions held are durable and visible,
    /// and the others did not happen. A write sees the writes of its instance before it in the
    /// batch. Called from one place at a time; may block its thread.
    ///
    /// A batch may be repeated after an error, whole or in part. A write whose stamp is the stored
    /// one is stored already: it succeeds and changes nothing, and so do the writes before it in
    /// the batch that led to it. No other write counts as a repeat.
    fn commit<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>>;

    /// Reads an instance's head and quarantine record.
    fn load<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Result<Option<Loaded>, StoreError>>;

    /// Reads one row of a run.
    fn row<'a>(&'a self, run: RunId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Returns the rows of a run whose keys start with `prefix`, in order, beginning at the key
    /// `from`: each key as [`RowKey::to_bytes`] returns it, and its row. Rows before `from`,
    /// deleted ones included, must cost nothing: a long run may have any number of them.
    fn rows<'a>(
        &'a self,
        run: RunId,
        prefix: &'a [u8],
        from: Option<&'a RowKey>,
    ) -> BoxFuture<'a, Result<Vec<(Bytes, Bytes)>, StoreError>>;

    /// Returns the instances due next after `after`, in order, at most `limit`.
    fn due<'a>(
        &'a self,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>>;

    /// Returns the instances of a definition in a status, with ids after `after`, at most `limit`.
    /// Quarantined instances are listed by [`Store::quarantined`] only.
    fn instances<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        status: StatusCode,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>>;

    /// Returns the quarantined instances with ids after `after`, at most `limit`.
    fn quarantined<'a>(
        &'a self,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>>;

    /// Returns the instances whose run ended in this status before `before`, ordered by end time
    /// and then by id, after `after`, at most `limit`. Only instances whose head says when the run
    /// ended ([`HeadIndex::ended`]); no quarantined ones.
    ///
    /// Callers list from the start again and again while they delete the instances listed: entries
    /// deleted before must cost nothing.
    ///
    /// [`HeadIndex::ended`]: crate::machine::HeadIndex::ended
    fn ended<'a>(
        &'a self,
        status: StatusCode,
        before: Timestamp,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>>;

    /// Returns the definitions that have instances.
    fn definitions(&self) -> BoxFuture<'_, Result<Vec<DefinitionHash>, StoreError>>;

    /// Stores a definition's manifest.
    fn save_manifest<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        manifest: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Reads a definition's manifest.
    fn manifest<'a>(&'a self, definition: &'a DefinitionHash) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Deletes up to `limit` rows of superseded runs and returns the number deleted; less than
    /// `limit` means done.
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, StoreError>>;

    /// Reopens the store after a [`StoreError::Fatal`].
    fn reopen(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Releases files and locks. Every later call fails with [`StoreError::Fatal`], until
    /// [`Store::reopen`].
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Returns the failures that a commit survives.
    fn durability(&self) -> Durability;
}
