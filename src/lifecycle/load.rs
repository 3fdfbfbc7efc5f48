//! Reads instances from the store.

use std::sync::Arc;

use bytes::Bytes;

use super::rows::{RowCache, Rows};
use crate::definition::{NodeNames, Program};
use crate::id::InstanceId;
use crate::machine::{Damaged, RowKey, Run, Snapshot, decode_head, decode_quarantine};
use crate::status::Status;
use crate::store::{Loaded, Store, StoreError, Version};

/// The reason why an instance could not be read. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A record cannot be read. The caller quarantines the instance, unless
    /// [`Damaged::is_readable_elsewhere`] returns true.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The store failed: read again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An instance as stored: its head, without the payloads and signals in rows of their own.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The state; [`fill`] completes it.
    pub snapshot: Snapshot,
    /// The reason of its quarantine, if it is quarantined.
    pub quarantine: Option<Arc<str>>,
    /// The version read; a write that builds on this state must name it.
    pub version: Version,
}

/// An instance as found; its head may be unreadable.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) version: Version,
    pub(crate) quarantine: Option<Arc<str>>,
    pub(crate) snapshot: Result<Snapshot, Damaged>,
}

impl Stored {
    /// Returns the status, with the names of the instance's definition.
    pub fn status(&self, names: &dyn NodeNames) -> Status {
        match &self.quarantine {
            Some(reason) => Status::Quarantined { reason: Arc::clone(reason) },
            None => self.snapshot.status(names),
        }
    }
}

/// Reads an instance's head.
///
/// # Errors
/// [`LoadError`].
pub async fn load(store: &dyn Store, instance: &InstanceId) -> Result<Option<Stored>, LoadError> {
    let Some(Found { version, quarantine, snapshot }) = find(store, instance).await? else { return Ok(None) };
    Ok(Some(Stored { snapshot: snapshot?, quarantine, version }))
}

/// Looks for an instance. An instance with an unreadable head counts as found; it may be
/// quarantined already.
pub(crate) async fn find(store: &dyn Store, instance: &InstanceId) -> Result<Option<Found>, StoreError> {
    Ok(store.load(instance).await?.map(|loaded| Found::of(instance, loaded)))
}

impl Found {
    /// Decodes a head and a quarantine record.
    pub(crate) fn of(instance: &InstanceId, loaded: Loaded) -> Self {
        let (version, snapshot) = (loaded.version(instance), decode_head(instance, &loaded.head));
        let quarantine = loaded.quarantine.map(|record| decode_quarantine(instance, &record));
        Self { version, quarantine, snapshot }
    }
}

/// Reads a snapshot's branches and signals, and the list items that its frames carry; checks that
/// every frame is at a valid node of its program. Other values that frames carry are read when they
/// are needed: [`fill_values`], [`fill_run`].
///
/// # Errors
/// [`LoadError`].
pub async fn fill_frames(store: &dyn Store, program: &Program, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    read_branches(store, snapshot).await?;
    snapshot.check(program)?;
    read_items(store, program, snapshot).await?;
    read_signals(store, snapshot).await
}

/// Reads the list items that frames carry. Many items share one row, which is read once.
pub(super) async fn read_items(store: &dyn Store, program: &Program, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    let homes = snapshot.unread_items();
    if !homes.is_empty() {
        let mut rows = Rows::new(store, program);
        rows.read_into(snapshot, homes).await?;
    }
    Ok(())
}

/// Reads the signals that a snapshot buffers. The ids of earlier signals are looked up one by one:
/// [`read_signal_id`].
///
/// # Errors
/// [`LoadError`].
pub async fn read_signals(store: &dyn Store, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    if snapshot.has_signals() {
        let from = snapshot.first_signal_row();
        for (number, row) in numbered(store.rows(snapshot.run(), RowKey::SIGNALS, Some(&from)).await?) {
            snapshot.take_signal_row(number, &row)?;
        }
    }
    Ok(())
}

/// Looks up whether a signal with this id is a repeat. Call it before
/// [`Event::Signal`](crate::machine::Event::Signal). Reads two rows at most, and none if the
/// snapshot knows all ids.
///
/// # Errors
/// [`LoadError`].
pub async fn read_signal_id(store: &dyn Store, snapshot: &mut Snapshot, id: &Arc<str>) -> Result<(), LoadError> {
    for key in snapshot.unread_signal_rows(id) {
        let row = store.row(snapshot.run(), &key).await?;
        snapshot.take_remembered(&key, row.as_ref())?;
    }
    Ok(())
}

/// Reads the branches of a snapshot.
///
/// # Errors
/// [`LoadError`].
pub async fn read_branches(store: &dyn Store, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    if snapshot.unread_frames() > 0 {
        let from = snapshot.first_frame_row();
        let rows = store.rows(snapshot.run(), RowKey::FRAMES, Some(&from)).await?;
        snapshot.take_frame_rows(numbered(rows))?;
    }
    Ok(())
}

/// Returns true if the instance was written or deleted since its head was read. Head and rows are
/// read one by one, so rows read after such a write do not fit the head and look like damage.
pub(crate) async fn has_moved(store: &dyn Store, snapshot: &Snapshot) -> Result<bool, StoreError> {
    let Some(loaded) = store.load(snapshot.instance()).await? else { return Ok(true) };
    Ok(loaded.version(snapshot.instance()).head != Version::from(snapshot).head)
}

/// Returns rows whose keys are a letter and a number, by that number. Other keys are skipped; a row
/// that is missing then is noticed by the snapshot.
fn numbered(rows: Vec<(Bytes, Bytes)>) -> Vec<(u64, Bytes)> {
    let number = |key: &Bytes| Some(u64::from_be_bytes(key.get(1..)?.try_into().ok()?));
    rows.into_iter().filter_map(|(key, row)| Some((number(&key)?, row))).collect()
}

/// Reads everything of a snapshot that is stored in rows of its own, and checks that every frame is
/// at a valid node of its program.
///
/// # Errors
/// [`LoadError`].
pub async fn fill(store: &dyn Store, program: &Program, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    fill_frames(store, program, snapshot).await?;
    fill_values(store, program, snapshot).await
}

/// Reads the payloads of a snapshot that are stored in rows of their own.
///
/// # Errors
/// [`LoadError`].
pub async fn fill_values(store: &dyn Store, names: &dyn NodeNames, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    let mut rows = Rows::new(store, names);
    loop {
        let unread = snapshot.unread();
        if unread.is_empty() {
            return Ok(());
        }
        rows.read_into(snapshot, unread).await?;
    }
}

/// Reads the unread parts of the value that an attempt is to run with. Call it when the effect is
/// performed: everything it reads is durable by then.
///
/// # Errors
/// [`LoadError`].
pub async fn fill_run(
    store: &dyn Store,
    names: &dyn NodeNames,
    snapshot: &Snapshot,
    run: &mut Run,
) -> Result<(), LoadError> {
    fill_next_run(store, names, snapshot, run, &mut RowCache::default()).await
}

/// Does the same as [`fill_run`] for one of several runs in turn; `cache` passes what was read on
/// to the next.
pub(crate) async fn fill_next_run(
    store: &dyn Store,
    names: &dyn NodeNames,
    snapshot: &Snapshot,
    run: &mut Run,
    cache: &mut RowCache,
) -> Result<(), LoadError> {
    let mut rows = Rows::with(store, names, std::mem::take(cache));
    let filled = rows.complete(snapshot, &mut run.value).await;
    *cache = rows.into_cache();
    filled
}
