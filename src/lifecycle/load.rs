//! Reading an instance back.

use std::sync::Arc;

use bytes::Bytes;

use super::rows::{Kept, Rows};
use crate::definition::{Names, Program};
use crate::id::InstanceId;
use crate::machine::{Damaged, RowKey, Run, Snapshot, decode_head, decode_quarantine};
use crate::status::Status;
use crate::store::{Loaded, Store, StoreError, Version};

/// Why an instance could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A record is damaged. The instance is set aside, its bytes stay as they are.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An instance as stored: its head, without the payloads and signals that stand in rows of their own.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The state; [`fill`] completes it.
    pub snapshot: Snapshot,
    /// Why it is quarantined, if it is.
    pub quarantine: Option<Arc<str>>,
    /// Where it stands: what a write must name that builds on this.
    pub version: Version,
}

/// An instance as found, whether it can be read or not.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) version: Version,
    pub(crate) quarantine: Option<Arc<str>>,
    pub(crate) snapshot: Result<Snapshot, Damaged>,
}

impl Stored {
    /// The status, with the names of the instance's definition.
    pub fn status(&self, names: &dyn Names) -> Status {
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

/// Looks for an instance. One whose head cannot be read is there all the same, and may be quarantined already.
pub(crate) async fn find(store: &dyn Store, instance: &InstanceId) -> Result<Option<Found>, StoreError> {
    Ok(store.load(instance).await?.map(|loaded| Found::of(instance, loaded)))
}

impl Found {
    /// What a head and a quarantine record say.
    pub(crate) fn of(instance: &InstanceId, loaded: Loaded) -> Self {
        let (version, snapshot) = (loaded.version(instance), decode_head(instance, &loaded.head));
        let quarantine = loaded.quarantine.map(|record| decode_quarantine(instance, &record));
        Self { version, quarantine, snapshot }
    }
}

/// Reads the branches and signals of a snapshot and the items of lists that they carry, and checks that it stands where its
/// program says it can. What else its frames carry is read when it is needed: [`fill_values`], [`fill_run`].
///
/// # Errors
/// [`LoadError`].
pub async fn fill_frames(store: &dyn Store, program: &Program, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    read_branches(store, snapshot).await?;
    snapshot.check(program)?;
    read_items(store, program, snapshot).await?;
    read_signals(store, snapshot).await
}

/// Reads the items of lists that frames carry: many stand in one row, which is read once for all of them.
pub(super) async fn read_items(store: &dyn Store, program: &Program, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    let homes = snapshot.unread_items();
    if !homes.is_empty() {
        let mut rows = Rows::new(store, program);
        rows.read_into(snapshot, homes).await?;
    }
    Ok(())
}

/// Reads the signals that a snapshot buffers. The ids of those remembered are looked up one by one: [`read_signal_id`].
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

/// Looks up whether a signal with this id is a repeated one. Call it before [`Event::Signal`](crate::machine::Event::Signal).
/// Reads two rows at most, and none where the snapshot knows all ids.
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

/// Whether the instance was moved since its head was read. Head and rows are read one by one: what was read does not belong
/// together then, which looks as if something was damaged.
pub(crate) async fn has_moved(store: &dyn Store, snapshot: &Snapshot) -> Result<bool, StoreError> {
    let Some(loaded) = store.load(snapshot.instance()).await? else { return Ok(true) };
    Ok(loaded.version(snapshot.instance()).head != Version::from(snapshot).head)
}

/// Rows whose keys are a letter and a number. A key that is not is none of ours, and what is missing is noticed.
fn numbered(rows: Vec<(Bytes, Bytes)>) -> Vec<(u64, Bytes)> {
    let number = |key: &Bytes| Some(u64::from_be_bytes(key.get(1..)?.try_into().ok()?));
    rows.into_iter().filter_map(|(key, row)| Some((number(&key)?, row))).collect()
}

/// Reads everything of a snapshot that stands in rows of its own, and checks that it stands where its program says it can.
///
/// # Errors
/// [`LoadError`].
pub async fn fill(store: &dyn Store, program: &Program, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    fill_frames(store, program, snapshot).await?;
    fill_values(store, program, snapshot).await
}

/// Reads the payloads of a snapshot that stand in rows of their own.
///
/// # Errors
/// [`LoadError`].
pub async fn fill_values(store: &dyn Store, names: &dyn Names, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    let mut rows = Rows::new(store, names);
    loop {
        let unread = snapshot.unread();
        if unread.is_empty() {
            return Ok(());
        }
        rows.read_into(snapshot, unread).await?;
    }
}

/// Reads what is still to be read of the value that an attempt is to run with. Call it when the effect is performed: what it
/// reads is durable by then.
///
/// # Errors
/// [`LoadError`].
pub async fn fill_run(
    store: &dyn Store,
    names: &dyn Names,
    snapshot: &Snapshot,
    run: &mut Run,
) -> Result<(), LoadError> {
    fill_next_run(store, names, snapshot, run, &mut Kept::default()).await
}

/// The same for one run after the other, with what was read for those before.
pub(crate) async fn fill_next_run(
    store: &dyn Store,
    names: &dyn Names,
    snapshot: &Snapshot,
    run: &mut Run,
    kept: &mut Kept,
) -> Result<(), LoadError> {
    let mut rows = Rows::with(store, names, std::mem::take(kept));
    let filled = rows.complete(snapshot, &mut run.value).await;
    *kept = rows.into_kept();
    filled
}
