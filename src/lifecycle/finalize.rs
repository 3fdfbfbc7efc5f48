//! The last event of a stretch of work.

use std::sync::Arc;

use crate::definition::{Names, Program};
use crate::lifecycle::{CommitError, Port, step};
use crate::machine::{Effect, Event, Outcome, Refusal, Setting, Snapshot, Ticket};
use crate::status::Status;

/// How a stretch of work ended.
#[derive(Clone, Debug)]
pub enum Ending {
    /// With the last task's outcome: the workflow completes, or fails, or goes on if it was not the last after all.
    Task {
        /// Which attempt.
        ticket: Ticket,
        /// Its outcome.
        outcome: Outcome,
    },
    /// Somebody cancelled it.
    Cancelled {
        /// Why.
        reason: Arc<str>,
        /// Who.
        by: Arc<str>,
    },
    /// Somebody paused it.
    Paused {
        /// Why.
        reason: Arc<str>,
        /// Who.
        by: Arc<str>,
    },
    /// It is parked; that is durable already.
    Parked,
}

/// Where a stretch of work left the instance. Durable.
#[derive(Clone, Debug)]
pub struct Finalized {
    /// The status.
    pub status: Status,
    /// What is still to be done: nothing once the run has ended.
    pub effects: Vec<Effect>,
}

/// Why an ending was not recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FinalizeError {
    /// The ending is not valid now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Builds the ending event, applies it, and commits it together with the last result, in one write. Does nothing to a
/// run that has ended.
///
/// # Errors
/// [`FinalizeError`]. After a store error the outcome is unknown, and the snapshot is ahead of what is known to be
/// stored: load it again.
pub async fn finalize_execution(
    port: &dyn Port,
    setting: &Setting<'_>,
    snapshot: &mut Snapshot,
    ending: Ending,
) -> Result<Finalized, FinalizeError> {
    let event = match ending {
        _ if snapshot.end().is_some() => return Ok(finalized(setting.program, snapshot, Vec::new())),
        Ending::Parked => return Ok(finalized(setting.program, snapshot, Vec::new())),
        Ending::Task { ticket, outcome } => Event::AttemptFinished { ticket, outcome },
        Ending::Cancelled { reason, by } => Event::Cancel { reason, by },
        Ending::Paused { reason, by } => Event::Pause { reason, by },
    };
    let done = step(setting, snapshot, event)?;
    if let Some(write) = done.write {
        port.commit(write).await?;
    }
    match done.refused {
        Some(refusal) => Err(refusal.into()),
        None => Ok(finalized(setting.program, snapshot, done.effects)),
    }
}

fn finalized(program: &Program, snapshot: &Snapshot, effects: Vec<Effect>) -> Finalized {
    let names: &dyn Names = program;
    Finalized { status: snapshot.status(names), effects }
}
