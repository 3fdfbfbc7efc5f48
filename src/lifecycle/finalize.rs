//! Commits the last event before a run ends, pauses or parks.

use std::sync::Arc;

use crate::definition::{NodeNames, Program};
use crate::lifecycle::{CommitError, Committer, step};
use crate::machine::{AttemptId, Context, Effect, Event, Outcome, Refusal, Snapshot};
use crate::status::Status;

/// The last event before a run ends, pauses or parks.
#[derive(Clone, Debug)]
pub enum Ending {
    /// The last task's result: the workflow completes or fails, or continues if the task was not
    /// the last one after all.
    Task {
        /// The attempt.
        attempt_id: AttemptId,
        /// The attempt's result.
        outcome: Outcome,
    },
    /// A request to cancel.
    Cancelled {
        /// The reason.
        reason: Arc<str>,
        /// The person or service that cancelled it.
        by: Arc<str>,
    },
    /// A request to pause.
    Paused {
        /// The reason.
        reason: Arc<str>,
        /// The person or service that paused it.
        by: Arc<str>,
    },
    /// No event: the run is parked, durably.
    Parked,
}

/// The durable state of the instance after its last event.
#[derive(Clone, Debug)]
pub struct Finalized {
    /// The status.
    pub status: Status,
    /// The effects to perform now: none once the run has ended.
    pub effects: Vec<Effect>,
}

/// The reason why an ending was not recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FinalizeError {
    /// The ending is not valid now. Nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The write was not committed: see [`CommitError`].
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Applies the event of an ending, and commits it in one write. Does nothing to a run that has
/// ended.
///
/// # Errors
/// [`FinalizeError`]. After a store error the outcome is unknown, and the snapshot may be ahead of
/// the store: load it again.
pub async fn finalize_execution(
    committer: &dyn Committer,
    context: &Context<'_>,
    snapshot: &mut Snapshot,
    ending: Ending,
) -> Result<Finalized, FinalizeError> {
    let event = match ending {
        _ if snapshot.end().is_some() => return Ok(finalized(context.program, snapshot, Vec::new())),
        Ending::Parked => return Ok(finalized(context.program, snapshot, Vec::new())),
        Ending::Task { attempt_id, outcome } => Event::AttemptFinished { attempt_id, outcome },
        Ending::Cancelled { reason, by } => Event::Cancel { reason, by },
        Ending::Paused { reason, by } => Event::Pause { reason, by },
    };
    let done = step(context, snapshot, event)?;
    if let Some(write) = done.write {
        committer.commit(write).await?;
    }
    match done.refused {
        Some(refusal) => Err(refusal.into()),
        None => Ok(finalized(context.program, snapshot, done.effects)),
    }
}

fn finalized(program: &Program, snapshot: &Snapshot, effects: Vec<Effect>) -> Finalized {
    let names: &dyn NodeNames = program;
    Finalized { status: snapshot.status(names), effects }
}
