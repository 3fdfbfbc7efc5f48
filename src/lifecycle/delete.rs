//! Deleting an instance: one conditional write.

use super::{CommitError, Found, Port, Stored, find};
use crate::id::{InstanceId, RunId, Stamp};
use crate::machine::Damaged;
use crate::store::{Change, Condition, StoreError, Version, Write};

/// Why an instance was not deleted.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeleteError {
    /// There is no such instance.
    #[error("there is no such instance")]
    NotFound,
    /// It has not ended, and is not quarantined. [`Stored::status`] says where it stands.
    #[error("the instance has not ended: cancel it first")]
    NotTerminal(Box<Stored>),
    /// A newer version of this crate wrote it: only that may delete it.
    #[error(transparent)]
    Newer(Damaged),
    /// The store failed. After a failed commit it is unknown whether the instance was deleted: try again, and take
    /// [`DeleteError::NotFound`] for a yes.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Deletes an instance that has ended or is quarantined: head, quarantine record and index entries in one write, the rows
/// later ([`Store::sweep`](crate::store::Store::sweep)). Once this returns the id is free. Gives what was deleted; none if
/// its head could not be read: then nobody knows its run, and its rows stay in the store for good.
///
/// # Errors
/// [`DeleteError`].
pub async fn delete_instance(port: &dyn Port, instance: &InstanceId) -> Result<Option<Stored>, DeleteError> {
    loop {
        let found = find(port.store(), instance).await?.ok_or(DeleteError::NotFound)?;
        let Found { version, quarantine, snapshot } = found;
        let stored = match snapshot {
            Ok(snapshot) => Some(Stored { snapshot, quarantine, version }),
            Err(newer) if newer.newer => return Err(DeleteError::Newer(newer)),
            Err(_) => None,
        };
        if let Some(stored) = &stored
            && stored.quarantine.is_none()
            && stored.snapshot.end().is_none()
        {
            return Err(DeleteError::NotTerminal(Box::new(stored.clone())));
        }
        match port.commit(deletion(instance.clone(), version)).await {
            Ok(()) => return Ok(stored),
            // It has moved since it was read.
            Err(CommitError::Conflict(_)) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
}

/// The write that deletes an instance as it was seen, and leaves the rows of its run, if that is known, to be swept.
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
