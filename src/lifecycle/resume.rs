//! Loads an instance to continue it.

use crate::codec::Value;
use crate::definition::Definition;
use crate::id::{DefinitionHash, InstanceId};
use crate::lifecycle::{Committer, LoadError, fill_frames, fill_values, load};
use crate::machine::{Damaged, Snapshot};
use crate::status::{Status, StatusCode};
use crate::store::StoreError;
use crate::time::Timestamp;

/// The state of an instance that is to be continued.
#[derive(Clone, Debug)]
pub enum ResumeOutcome {
    /// There is no such instance.
    NotFound,
    /// The run has ended.
    AlreadyTerminal(Status),
    /// The run is paused.
    Paused(Status),
    /// The instance is quarantined.
    Quarantined(Status),
    /// The instance is parked: no delay is over, and no awaited signal has arrived.
    NotReady(Status),
    /// The instance continues: apply [`Event::Resumed`](crate::machine::Event::Resumed), commit,
    /// and perform the effects.
    Ready {
        /// Its state.
        snapshot: Box<Snapshot>,
        /// The value that it continues with.
        input: Value,
    },
}

/// The reason why an instance could not be loaded to be continued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// The instance runs on another definition, and stays unchanged: resume it with that one.
    #[error("the instance runs on definition {found}, not {expected}: resume it with that one")]
    DefinitionMismatch {
        /// The definition that was passed.
        expected: DefinitionHash,
        /// The definition that the instance runs on.
        found: DefinitionHash,
    },
    /// A record cannot be read. Nothing was written.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The store failed. Nothing was written, except by a failed commit, whose outcome is unknown.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no value to continue with. Nothing was written.
    #[error(transparent)]
    Input(#[from] ResumeInputError),
}

impl From<LoadError> for ResumeError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Damaged(damaged) => Self::Damaged(damaged),
            LoadError::Store(store) => Self::Store(store),
        }
    }
}

/// The reason why there is no value to continue with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeInputError {
    /// The instance has ended or is paused.
    #[error("the instance is not in progress: it has ended or is paused")]
    NotInProgress,
    /// The value's row was not read.
    #[error("the value with which the instance continues was not read")]
    Missing,
}

/// Loads an instance, and returns its state if it can continue now.
///
/// # Errors
/// [`ResumeError`].
pub async fn prepare_resume(
    committer: &dyn Committer,
    definition: &Definition,
    instance: &InstanceId,
    now: Timestamp,
) -> Result<ResumeOutcome, ResumeError> {
    let Some(mut stored) = load(committer.store(), instance).await? else { return Ok(ResumeOutcome::NotFound) };
    let (expected, found) = (definition.hash(), stored.snapshot.definition());
    if expected != found {
        return Err(ResumeError::DefinitionMismatch { expected, found });
    }
    let status = stored.status(definition.program());
    match status.code() {
        StatusCode::Completed | StatusCode::Failed | StatusCode::Cancelled => {
            return Ok(ResumeOutcome::AlreadyTerminal(status));
        }
        StatusCode::Paused => return Ok(ResumeOutcome::Paused(status)),
        StatusCode::Quarantined => return Ok(ResumeOutcome::Quarantined(status)),
        _ => {}
    }
    fill_frames(committer.store(), definition.program(), &mut stored.snapshot).await?;
    if !stored.snapshot.is_running() && stored.snapshot.next_wake().is_none_or(|at| at > now) {
        return Ok(ResumeOutcome::NotReady(status));
    }
    fill_values(committer.store(), definition.program(), &mut stored.snapshot).await?;
    let input = get_resume_input(&stored.snapshot)?;
    Ok(ResumeOutcome::Ready { snapshot: Box::new(stored.snapshot), input })
}

/// Returns the value that an instance continues with: that of the frame that has work to do, or
/// else of the frame that wakes next.
///
/// # Errors
/// [`ResumeInputError`].
pub fn get_resume_input(snapshot: &Snapshot) -> Result<Value, ResumeInputError> {
    if snapshot.end().is_some() || snapshot.is_paused() {
        return Err(ResumeInputError::NotInProgress);
    }
    let frame = snapshot.deciding_frame().ok_or(ResumeInputError::NotInProgress)?;
    if frame.value().tokens().is_empty() || !frame.value().unread().is_empty() {
        return Err(ResumeInputError::Missing);
    }
    Ok(frame.value().clone())
}
