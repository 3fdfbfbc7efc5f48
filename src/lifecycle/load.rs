//! Reading an instance back.

use std::collections::HashMap;
use std::sync::Arc;

use crate::codec::Home;
use crate::definition::{Names, Program};
use crate::id::InstanceId;
use crate::machine::{Damaged, RowKey, Snapshot, decode_head, decode_quarantine};
use crate::status::Status;
use crate::store::{Store, StoreError};

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
    let Some(loaded) = store.load(instance).await? else { return Ok(None) };
    let snapshot = decode_head(instance, &loaded.head)?;
    let quarantine = loaded.quarantine.map(|record| decode_quarantine(instance, &record));
    Ok(Some(Stored { snapshot, quarantine }))
}

/// Reads the payloads and signals of a snapshot that stand in rows of their own, and checks that it stands where its
/// program says it can.
///
/// # Errors
/// [`LoadError`].
pub async fn fill(store: &dyn Store, program: &Program, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    snapshot.check(program)?;
    fill_values(store, program, snapshot).await?;
    if snapshot.has_signals() {
        for (number, row) in store.signal_rows(snapshot.run()).await? {
            snapshot.take_signal_row(number, &row)?;
        }
    }
    Ok(())
}

/// Reads the payloads of a snapshot that stand in rows of their own.
///
/// # Errors
/// [`LoadError`].
pub async fn fill_values(store: &dyn Store, program: &Program, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    let mut read = HashMap::new();
    for home in snapshot.unread() {
        let key = match home {
            Home::Input => RowKey::Input,
            Home::Node(node) => match program.path(node) {
                Some(path) => RowKey::Result(path.clone()),
                None => continue,
            },
        };
        if let Some(row) = store.row(snapshot.run(), &key).await? {
            read.insert(home, snapshot.open_row(&key, &row)?);
        }
    }
    Ok(snapshot.fill(&read)?)
}
