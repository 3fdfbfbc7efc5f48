//! Taking an instance up again.

use crate::codec::Value;
use crate::definition::Definition;
use crate::id::{DefinitionHash, InstanceId};
use crate::lifecycle::{LoadError, Port, fill_frames, fill_values, load};
use crate::machine::{Damaged, Snapshot};
use crate::status::{Status, StatusCode};
use crate::store::StoreError;
use crate::time::Timestamp;

/// Whether an instance can go on.
#[derive(Clone, Debug)]
pub enum ResumeOutcome {
    /// There is no such instance.
    NotFound,
    /// It has ended.
    AlreadyTerminal(Status),
    /// It is paused.
    Paused(Status),
    /// It is set aside.
    Quarantined(Status),
    /// It is parked: not yet due, and nothing it waits for is there.
    NotReady(Status),
    /// It goes on: apply [`Event::Resumed`](crate::machine::Event::Resumed), commit, and do what the effects say.
    Ready {
        /// Its state.
        snapshot: Box<Snapshot>,
        /// The value it goes on with.
        input: Value,
    },
}

/// Why an instance could not be taken up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// It runs on another definition. It is left as it is.
    #[error("the instance runs on definition {found}, not {expected}: resume it with that one")]
    DefinitionMismatch {
        /// The definition given.
        expected: DefinitionHash,
        /// The definition it runs on.
        found: DefinitionHash,
    },
    /// A record is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The value it would go on with is missing.
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

/// Why there is no value to go on with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeInputError {
    /// The instance has ended or is paused.
    #[error("the instance is not in progress")]
    NotInProgress,
    /// The value was not read from its row.
    #[error("the value the instance would go on with is missing")]
    Missing,
}

/// Loads an instance and says whether it can go on now.
///
/// # Errors
/// [`ResumeError`].
pub async fn prepare_resume(
    port: &dyn Port,
    definition: &Definition,
    instance: &InstanceId,
    now: Timestamp,
) -> Result<ResumeOutcome, ResumeError> {
    let Some(mut stored) = load(port.store(), instance).await? else { return Ok(ResumeOutcome::NotFound) };
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
    fill_frames(port.store(), definition.program(), &mut stored.snapshot).await?;
    if !stored.snapshot.is_running() && stored.snapshot.next_wake().is_none_or(|at| at > now) {
        return Ok(ResumeOutcome::NotReady(status));
    }
    fill_values(port.store(), definition.program(), &mut stored.snapshot).await?;
    let input = get_resume_input(&stored.snapshot)?;
    Ok(ResumeOutcome::Ready { snapshot: Box::new(stored.snapshot), input })
}

/// The value an instance goes on with: that of the frame that has work to do, else of the one that wakes next.
///
/// # Errors
/// [`ResumeInputError`].
pub fn get_resume_input(snapshot: &Snapshot) -> Result<Value, ResumeInputError> {
    if snapshot.end.is_some() || snapshot.pause.is_some() {
        return Err(ResumeInputError::NotInProgress);
    }
    let frame = snapshot.deciding_frame().ok_or(ResumeInputError::NotInProgress)?;
    if frame.value.tokens().is_empty() || !frame.value.unread().is_empty() {
        return Err(ResumeInputError::Missing);
    }
    Ok(frame.value.clone())
}
