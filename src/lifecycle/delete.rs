//! Deletes an instance, in one conditional write.

use super::{CommitError, Committer, Found, Stored, find};
use crate::id::{InstanceId, RunId, Stamp};
use crate::machine::Damaged;
use crate::store::{Change, Condition, StoreError, Version, Write};

/// The reason why an instance was not deleted. Nothing was written, except by a failed commit,
/// whose outcome is unknown.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeleteError {
    /// The instance does not exist.
    #[error("the instance does not exist")]
    NotFound,
    /// The instance has not ended and is not quarantined: cancel it first. [`Stored::status`]
    /// returns its status.
    #[error("the instance has not ended: cancel it first")]
    NotTerminal(Box<Stored>),
    /// A newer version of this crate wrote the instance: only that version may delete it.
    #[error(transparent)]
    Newer(Damaged),
    /// The store failed. After a failed commit the outcome is unknown: try again, and take
    /// [`DeleteError::NotFound`] as success.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Deletes an instance that has ended or is quarantined: head, quarantine record and index entries
/// in one write, its rows later ([`Store::sweep`](crate::store::Store::sweep)). On return the id is
/// free. Returns the deleted instance; `None` if its head could not be read: its run is then
/// unknown, and its rows stay in the store for ever.
///
/// # Errors
/// [`DeleteError`].
pub async fn delete_instance(committer: &dyn Committer, instance: &InstanceId) -> Result<Option<Stored>, DeleteError> {
    loop {
        let found = find(committer.store(), instance).await?.ok_or(DeleteError::NotFound)?;
        let Found { version, quarantine, snapshot } = found;
        let stored = match snapshot {
            Ok(snapshot) => Some(Stored { snapshot, quarantine, version }),
            Err(newer) if newer.is_readable_elsewhere() => return Err(DeleteError::Newer(newer)),
            Err(_) => None,
        };
        if let Some(stored) = &stored
            && stored.quarantine.is_none()
            && stored.snapshot.end().is_none()
        {
            return Err(DeleteError::NotTerminal(Box::new(stored.clone())));
        }
        match committer.commit(deletion(instance.clone(), version)).await {
            Ok(()) => return Ok(stored),
            // The instance has changed since it was read.
            Err(CommitError::Conflict(_)) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
}

/// Returns the write that deletes an instance at version `seen`. The rows of its run, if known, are
/// left to be swept.
pub(crate) fn deletion(instance: InstanceId, seen: Version) -> Write {
    let run = seen.run();
    Write {
        instance,
        stamp: Stamp::generate(),
        condition: Condition::Seen(seen),
        change: Change::Delete,
        rows: Vec::new(),
        run: run.unwrap_or(RunId::from_bytes([0; 16])),
        superseded: run,
    }
}
