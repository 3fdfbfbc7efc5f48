//! Deleting an instance: one conditional write.

use super::{CommitError, LoadError, Port, Stored, load};
use crate::id::{InstanceId, RunId};
use crate::store::{Change, Condition, StoreError, Write};

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
        let stored = match load(port.store(), instance).await {
            Ok(None) => return Err(DeleteError::NotFound),
            Ok(Some(stored)) => Some(stored),
            Err(LoadError::Damaged(_)) => None,
            Err(LoadError::Store(error)) => return Err(error.into()),
        };
        let condition = match &stored {
            Some(stored) if stored.quarantine.is_none() => {
                if stored.snapshot.end().is_none() {
                    return Err(DeleteError::NotTerminal(Box::new(stored.clone())));
                }
                Condition::At { run: stored.snapshot.run(), seq: stored.snapshot.seq() }
            }
            // Nothing moves it, so it needs no place to be proven.
            _ => Condition::Present,
        };
        let run = stored.as_ref().map(|stored| stored.snapshot.run());
        match port.commit(deletion(instance.clone(), condition, run)).await {
            Ok(()) => return Ok(stored),
            // It has moved since it was read.
            Err(CommitError::Conflict(_)) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
}

/// The write that deletes an instance and leaves the rows of its run, if that is known, to be swept.
pub(crate) fn deletion(instance: InstanceId, condition: Condition, run: Option<RunId>) -> Write {
    Write {
        instance,
        condition,
        change: Change::Delete,
        rows: Vec::new(),
        run: run.unwrap_or(RunId::from_bytes([0; 16])),
        superseded: run,
    }
}
