//! Letting a quarantined instance go on.

use crate::definition::Program;
use crate::lifecycle::{CommitError, LoadError, Port, Step, Stored, fill_frames};
use crate::machine::{Damaged, Effect, Event, Setting, Snapshot, apply};
use crate::status::Status;
use crate::store::StoreError;

/// Why an instance was not released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// It is not quarantined.
    #[error("the instance is not quarantined ({0})")]
    NotQuarantined(Status),
    /// It cannot be read, so it cannot go on. Its bytes stay as they are.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// It was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<LoadError> for ReleaseError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Damaged(damaged) => Self::Damaged(damaged),
            LoadError::Store(store) => Self::Commit(store.into()),
        }
    }
}

/// Lets a quarantined instance go on as after a restart, in one write that ends the quarantine. Deaths of the process that
/// were counted before are forgotten. Gives its state and what is to be done now.
///
/// # Errors
/// [`ReleaseError`]; a conflict if the instance is not any more what was loaded. After a store error the outcome is unknown.
pub async fn release(
    port: &dyn Port,
    setting: &Setting<'_>,
    stored: Stored,
) -> Result<(Box<Snapshot>, Vec<Effect>), ReleaseError> {
    let program: &Program = setting.program;
    if stored.quarantine.is_none() {
        return Err(ReleaseError::NotQuarantined(stored.status(program)));
    }
    let Stored { mut snapshot, version, .. } = stored;
    fill_frames(port.store(), program, &mut snapshot).await?;
    let Ok(transition) = apply(setting, &mut snapshot, Event::Released) else {
        unreachable!("a release is never refused")
    };
    let Step { write, effects, .. } = Step::new(program, &mut snapshot, transition, version);
    match write {
        Some(write) => port.commit(write).await?,
        None => return Err(CommitError::Store(StoreError::Fatal("a release wrote nothing".into())).into()),
    }
    Ok((Box::new(snapshot), effects))
}
