//! Where instances are kept: the port that every store implements, and the stores that come with the crate.
//!
//! * [`Store`]: a batch of conditional writes is committed as one; each write has its own answer.
//! * [`MemoryStore`], for tests; `FileStore`, an embedded directory, the default. Both are one key-value layout
//!   (`keys`) over different maps (`kv`).
//! * `conformance` and `FaultyStore` (feature `testing`): a suite that any store can run, and a store that fails where a
//!   test says so.
//!
//! A store decides nothing about workflows: it compares versions and stamps, keeps the indexes, and stores bytes.

#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(feature = "file-store")]
mod directory;
mod error;
#[cfg(feature = "testing")]
mod faulty;
#[cfg(feature = "file-store")]
mod file;
mod fold;
mod guarded;
#[cfg(feature = "file-store")]
mod journal;
mod keys;
mod kv;
mod memory;
mod recent;
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

/// What a commit survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Power loss and a crash of the operating system: every batch is synced to the disk before it is acknowledged.
    #[default]
    Fsync,
    /// A crash or kill of the process only: batches are handed to the operating system. Power loss may take back what
    /// was acknowledged.
    ProcessCrash,
}

/// One conditional write of one instance: everything a transition changes, or nothing.
#[derive(Clone, Debug)]
pub struct Write {
    /// The instance.
    pub instance: InstanceId,
    /// Tells this write from every other; a head and a quarantine record say it too. If the write comes again, since nobody
    /// knows what became of it, it has the same.
    pub stamp: Stamp,
    /// What must be so for the write to happen.
    pub condition: Condition,
    /// What is written.
    pub change: Change,
    /// Rows written beside it, under the run in [`Write::run`].
    pub rows: Vec<RowChange>,
    /// The run the rows belong to.
    pub run: RunId,
    /// A run that this write ends: its rows are swept later, see [`Store::sweep`].
    pub superseded: Option<RunId>,
}

impl Write {
    /// Returns whether it begins its run: where nothing is, or in place of another run or of a head that nobody can read.
    pub(crate) fn starts_run(&self) -> bool {
        let is_first = match &self.condition {
            Condition::Absent => true,
            Condition::Seen(version) => version.run() != Some(self.run),
        };
        is_first && matches!(self.change, Change::Head(_))
    }

    /// Returns how many bytes of heads and rows it writes.
    pub(crate) fn bytes(&self) -> usize {
        let change = match &self.change {
            Change::Head(record) | Change::Quarantine(record) => record.len(),
            Change::Delete => 0,
        };
        change + self.rows.iter().filter_map(|row| row.value.as_ref()).map(Bytes::len).sum::<usize>()
    }
}

/// What must be so for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no such instance.
    Absent,
    /// The instance is what the writer has seen: [`Loaded::version`], or what a write before this one has left.
    Seen(Version),
}

/// What a write does to the instance. Its `Debug` shows how many bytes are written.
#[derive(Clone)]
pub enum Change {
    /// Replaces the head, which ends a quarantine. Under [`Condition::Absent`], or where what was seen is not of
    /// [`Write::run`], it starts the run: never one that is superseded itself, as long as its rows are not all swept.
    Head(Bytes),
    /// Sets the instance aside: its head stays byte for byte, the indexes no longer list it.
    Quarantine(Bytes),
    /// Removes head, quarantine record and index entries: the id is free. The rows of the run go with
    /// [`Write::superseded`]. What is not there is deleted already: that succeeds under every condition, and does nothing.
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
#[error("the instance is not where its writer thought it was: another one has moved it")]
pub struct Conflict {
    /// The run and transition found; none if there is no instance or its head cannot be read.
    pub found: Option<(RunId, u64)>,
    /// Whether the write was to start a run that was there already, and was replaced or deleted.
    pub is_over: bool,
}

/// An instance's head and quarantine record. Its `Debug` shows how many bytes they have.
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

/// Where instances are kept. Object-safe; every read sees what is committed, and only that.
pub trait Store: Send + Sync + 'static {
    /// Commits a batch as one: when this returns, the writes whose conditions held are durable and visible, and the
    /// others did not happen. Writes of one instance see those before them in the batch. Called from one place at a
    /// time; may block its thread.
    ///
    /// A batch may be repeated after an error, whole or in part. A write whose stamp is the stored one is stored already: it
    /// succeeds and changes nothing, and so do those before it in the batch that led to it. Nothing else is taken for a repeat.
    fn commit<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>>;

    /// An instance's head and quarantine record.
    fn load<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Result<Option<Loaded>, StoreError>>;

    /// One row of a run.
    fn row<'a>(&'a self, run: RunId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Returns the rows of a run whose keys start with `prefix`, in order, from the key `from` on: each key as
    /// [`RowKey::to_bytes`] gives it, and its row. What lies before `from` must not cost anything, deleted rows neither: of a run
    /// that lives long there may be any number.
    fn rows<'a>(
        &'a self,
        run: RunId,
        prefix: &'a [u8],
        from: Option<&'a RowKey>,
    ) -> BoxFuture<'a, Result<Vec<(Bytes, Bytes)>, StoreError>>;

    /// The instances due next behind `after`, in order, at most `limit`.
    fn due<'a>(
        &'a self,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>>;

    /// The instances of a definition in a status, behind `after` by id, at most `limit`. Quarantined ones are listed by
    /// [`Store::quarantined`].
    fn instances<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        status: StatusCode,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>>;

    /// The quarantined instances, behind `after` by id, at most `limit`.
    fn quarantined<'a>(
        &'a self,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>>;

    /// The instances whose run ended in this status earlier than `before`, by the time of their end and then by id, behind
    /// `after`, at most `limit`. Only those whose head says when it ended ([`HeadIndex::ended`]); no quarantined ones.
    ///
    /// Asked from the start again and again, while what it lists is deleted: that must not cost what was there before.
    ///
    /// [`HeadIndex::ended`]: crate::machine::HeadIndex::ended
    fn ended<'a>(
        &'a self,
        status: StatusCode,
        before: Timestamp,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>>;

    /// The definitions that have instances.
    fn definitions(&self) -> BoxFuture<'_, Result<Vec<DefinitionHash>, StoreError>>;

    /// Keeps a definition's manifest.
    fn save_manifest<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        manifest: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// A definition's manifest.
    fn manifest<'a>(&'a self, definition: &'a DefinitionHash) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Deletes up to `limit` rows of superseded runs; gives how many, so that less than `limit` means done.
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, StoreError>>;

    /// Opens the store anew after a [`StoreError::Fatal`].
    fn reopen(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Lets go of files and locks. Everything after this is [`StoreError::Fatal`], until [`Store::reopen`].
    fn close(&self) -> BoxFuture<'_, ()>;

    /// What a commit survives.
    fn durability(&self) -> Durability;
}
