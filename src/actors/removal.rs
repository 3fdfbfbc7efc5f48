//! The ends of a stored run other than its own: replacement, deletion, quarantine.

use std::sync::Arc;

use ractor::ActorRef;

use super::command::{CommandError, InstanceMessage, Replacement, Reply};
use super::instance::{Activation, ActorState, State};
use super::shared::Shared;
use crate::definition::Definition;
use crate::id::{InstanceId, RunId, Stamp};
use crate::lifecycle::{
    CommitError, Committer as _, ConflictPolicy, DeleteError, PrepareRunOutcome, StartError, check_existing_instance,
    delete_instance, prepare_run,
};
use crate::machine::{Context, Effect, NewRun, Snapshot, Wake, encode_quarantine};
use crate::status::Status;
use crate::store::{Change, Condition, Version, Write};

impl State {
    /// Starts the new run in place of the present one, and activates it. Returns false if that
    /// failed, or may have.
    pub(super) async fn replace(&mut self, myself: &ActorRef<InstanceMessage>, replacement: Replacement) -> bool {
        let Replacement { definition, new, reply, _place } = replacement;
        let started = start_in_place(&self.shared, &definition, new).await;
        let answer = match started {
            Ok((snapshot, effects)) => {
                self.shared.upgrades.forget(&self.id);
                // Without effects, an earlier try of the same start was committed.
                let activation = if effects.is_empty() {
                    Activation::Load
                } else {
                    Activation::Fresh { snapshot, effects, is_current: true }
                };
                self.phase = ActorState::New(activation);
                self.load(myself).await;
                self.shared.waiters.tell(&self.id);
                self.shared.persistence().sweep();
                Ok(())
            }
            Err(error) => {
                if let StartError::OutcomeUnknown(store) | StartError::Unreadable(store) = &error {
                    self.phase = ActorState::Gone(CommandError::Store(store.clone()));
                }
                Err(error)
            }
        };
        let is_replaced = answer.is_ok();
        // The caller may have gone; the new run is durable all the same.
        let _ = reply.send(answer);
        is_replaced
    }

    /// Deletes the instance if it has ended or is quarantined, and answers once the delete is
    /// durable.
    pub(super) async fn delete(&mut self, reply: Reply) {
        let answer = match delete_instance(self.shared.persistence(), &self.id).await {
            Ok(_) => {
                self.deleted();
                Ok(())
            }
            Err(DeleteError::NotFound) => {
                self.phase = ActorState::Gone(CommandError::NotFound);
                Err(CommandError::NotFound)
            }
            Err(DeleteError::Newer(newer)) => Err(CommandError::Damaged(newer)),
            Err(DeleteError::NotTerminal(stored)) => Err(match self.shared.status_of(&stored).await {
                Ok(status) => CommandError::NotTerminal(status),
                Err(error) => CommandError::Store(error),
            }),
            Err(DeleteError::Store(error)) => {
                self.phase = ActorState::Gone(CommandError::Store(error.clone()));
                Err(CommandError::Store(error))
            }
        };
        reply.send(answer);
    }

    /// Drops all that memory holds of a deleted instance. A start of its id that arrives meanwhile
    /// waits in the mailbox.
    fn deleted(&mut self) {
        let shared = &self.shared;
        // A quarantined instance has left a wake-up, which a new run would inherit.
        shared.stop_attempts(&self.id);
        shared.arm(&self.id, Wake { at: None, stored: true });
        shared.upgrades.forget(&self.id);
        shared.backlog.forget(&self.id);
        shared.waiters.tell(&self.id);
        shared.persistence().sweep();
        self.phase = ActorState::Gone(CommandError::NotFound);
    }
}

impl State {
    /// Quarantines the instance, whose actor of this run panicked too often. Returns false if there
    /// is nothing to quarantine.
    pub(super) async fn quarantine_after_panics(&mut self, run: Option<RunId>, reason: &str) -> bool {
        // The actor may have panicked before it notified.
        self.shared.waiters.tell(&self.id);
        let gone = match quarantine_run(&self.shared, &self.id, run, reason).await {
            Ok(false) => return false,
            Ok(true) => {
                self.shared.stop_attempts(&self.id);
                CommandError::Quarantined(Status::Quarantined { reason: reason.into() })
            }
            Err(error) => {
                tracing::error!(instance = %self.id, %error, "the instance could not be quarantined");
                CommandError::from(&error)
            }
        };
        self.phase = ActorState::Gone(gone);
        true
    }
}

async fn start_in_place(
    shared: &Arc<Shared>,
    definition: &Definition,
    new: NewRun,
) -> Result<(Box<Snapshot>, Vec<Effect>), StartError> {
    let (committer, policy) = (shared.persistence(), ConflictPolicy::TerminateExisting);
    let context = Context { program: definition.program(), limits: &shared.limits, now: shared.clock.now() };
    let existing = check_existing_instance(committer, definition, &new.instance, policy).await?;
    match prepare_run(committer, &context, definition, new, policy, existing).await? {
        PrepareRunOutcome::Fresh { snapshot, effects } => Ok((snapshot, effects)),
        PrepareRunOutcome::ExistingStatus(_) => unreachable!("this conflict policy never returns an existing instance"),
    }
}

/// Quarantines an instance whose actor panicked, at the version that is stored after all its writes
/// are settled. `run` is the run of that actor, if it had loaded one; another run is not at fault.
/// Returns false if there is nothing to quarantine.
async fn quarantine_run(
    shared: &Arc<Shared>,
    id: &InstanceId,
    run: Option<RunId>,
    reason: &str,
) -> Result<bool, CommitError> {
    shared.persistence().barrier().await;
    loop {
        let Some(loaded) = shared.store.load(id).await? else { return Ok(false) };
        let seen = loaded.version(id);
        if seen.quarantined || run.is_some_and(|run| seen.run().is_some_and(|found| found != run)) {
            return Ok(false);
        }
        match quarantine(shared, id, reason, seen).await {
            // Another writer has changed the instance meanwhile.
            Err(CommitError::Conflict(_)) => {}
            done => return done.map(|()| true),
        }
    }
}

/// Writes the quarantine record beside the head, if the instance is still at version `seen`.
pub(super) async fn quarantine(
    shared: &Arc<Shared>,
    id: &InstanceId,
    reason: &str,
    seen: Version,
) -> Result<(), CommitError> {
    let stamp = Stamp::generate();
    let write = Write {
        instance: id.clone(),
        stamp,
        condition: Condition::Seen(seen),
        change: Change::Quarantine(encode_quarantine(id, reason, stamp)),
        rows: Vec::new(),
        run: RunId::from_bytes([0; 16]),
        superseded: None,
    };
    shared.persistence().commit(write).await?;
    shared.waiters.tell(id);
    Ok(())
}
