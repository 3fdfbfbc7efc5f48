//! Ends the quarantine of an instance.

use crate::definition::Program;
use crate::lifecycle::{CommitError, Committer, LoadError, Step, Stored, fill_frames};
use crate::machine::{Context, Damaged, Effect, Event, Snapshot, apply};
use crate::status::Status;
use crate::store::StoreError;

/// The reason why an instance was not released. The instance stays unchanged, except after a failed
/// commit, whose outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The instance is not quarantined: there is nothing to release.
    #[error("the instance is not quarantined ({0})")]
    NotQuarantined(Status),
    /// The instance cannot be read, so it cannot continue. Its bytes stay as they are.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The write was not committed: see [`CommitError`].
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

/// Ends the quarantine of an instance in one write, after which it continues as after a restart.
/// Resets its count of process crashes. Returns its state and the effects to perform now.
///
/// # Errors
/// [`ReleaseError`]; a conflict if the instance has changed since it was loaded. After a store
/// error the outcome is unknown.
pub async fn release(
    committer: &dyn Committer,
    context: &Context<'_>,
    stored: Stored,
) -> Result<(Box<Snapshot>, Vec<Effect>), ReleaseError> {
    let program: &Program = context.program;
    if stored.quarantine.is_none() {
        return Err(ReleaseError::NotQuarantined(stored.status(program)));
    }
    let Stored { mut snapshot, version, .. } = stored;
    fill_frames(committer.store(), program, &mut snapshot).await?;
    let Ok(transition) = apply(context, &mut snapshot, Event::Released) else {
        unreachable!("a release is never refused")
    };
    let Step { write, effects, .. } = Step::new(program, &mut snapshot, transition, version);
    match write {
        Some(write) => committer.commit(write).await?,
        None => return Err(CommitError::Store(StoreError::Fatal("a release wrote nothing".into())).into()),
    }
    Ok((Box::new(snapshot), effects))
}
