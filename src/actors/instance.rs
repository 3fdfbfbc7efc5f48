//! The actor of one active instance: the shell around [`ActiveInstance`].
//!
//! ```text
//!   Load ──> Active ──(nothing written, nothing running, nothing queued)──> rests or leaves
//!     \        \───(not committed)──> Gone: answers what is queued, leaves; a successor reloads
//!      \──> Gone (not found, quarantined, damaged, definition not registered)
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, ActorRuntime};

use super::active::ActiveInstance;
use super::command::{Command, CommandError, InstanceMessage, Reply};
use super::idle_actors::IdleActors;
use super::registry::Standing;
use super::shared::Shared;
use crate::id::{InstanceId, RunId};
use crate::lifecycle::CommitError;
use crate::machine::{Effect, Snapshot};
use crate::panic::caught;
use crate::store::Version;

/// The way in which an actor gets its instance.
pub(super) enum Activation {
    /// The instance was just started: its first snapshot is durable, and these are its effects.
    Fresh {
        snapshot: Box<Snapshot>,
        effects: Vec<Effect>,
        /// True if no actor can have loaded and changed the instance since the commit.
        is_current: bool,
    },
    /// Load from the store.
    Load,
    /// Load from the store after an actor that failed, or whose run was deleted. Writes it
    /// submitted are settled first.
    Successor,
    /// Quarantine the instance, whose actors have failed too often, if it still has the run of the
    /// last one.
    Quarantine { run: Option<RunId>, reason: Arc<str> },
}

/// The error of an actor that panicked, for its shard.
#[derive(Debug, thiserror::Error)]
#[error("the actor of instance `{instance}` {panic}")]
pub(super) struct ActorPanicked {
    pub(super) instance: InstanceId,
    /// The run that the actor had loaded, if any.
    pub(super) run: Option<RunId>,
    pub(super) panic: String,
}

pub(super) struct InstanceActor;

pub(super) struct State {
    pub(super) shared: Arc<Shared>,
    pub(super) id: InstanceId,
    pub(super) standing: Arc<Standing>,
    pub(super) phase: ActorState,
    /// Commands to be handled. They are handled at once, unless a replacement, a delete or a
    /// quarantine came before it and waits for writes in flight. Bounded by the callers' places.
    queued: VecDeque<Command>,
    stopping: bool,
    /// True after the registry has removed the entry of this actor, which was at rest.
    is_dismissed: bool,
}

pub(super) enum ActorState {
    /// The instance has left; the actor may be assigned another one.
    Idle,
    New(Activation),
    Active(Box<ActiveInstance>),
    /// The instance cannot handle commands, for this reason.
    Gone(CommandError),
}

/// Starts an actor for an instance, as a child of its shard, or assigns the instance to an idle
/// one. The actor accepts messages at once; the first one it handles is `Load` or `Assign`.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    id: InstanceId,
    standing: Arc<Standing>,
    activation: Activation,
    idle: &IdleActors,
) -> ActorRef<InstanceMessage> {
    let (shared, phase, queued) = (Arc::clone(shared), ActorState::New(activation), VecDeque::new());
    let state = Box::new(State { shared, id, standing, phase, queued, stopping: false, is_dismissed: false });
    let state = match idle.assign(state) {
        Ok(actor) => return actor,
        Err(state) => *state,
    };
    match ActorRuntime::spawn_linked_instant(None, InstanceActor, state, idle.shard.clone()) {
        Ok((actor, _started)) => {
            // An actor that does not start accepts no messages; senders see the dropped replies.
            let _ = actor.cast(InstanceMessage::Load);
            actor
        }
        // Fails only if the name is taken, and instance actors have no names.
        Err(error) => unreachable!("an actor without a name was refused: {error}"),
    }
}

impl Actor for InstanceActor {
    type Msg = InstanceMessage;
    type State = State;
    type Arguments = State;

    /// Does nothing: a failure here would not be reported to the shard.
    async fn pre_start(&self, _: ActorRef<Self::Msg>, state: State) -> Result<State, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: InstanceMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // Pinned here: as an argument the future would be stored twice, and ractor has it on the
        // stack several times.
        let handled = {
            let handling = pin!(state.handle(&myself, message));
            caught(handling).await
        };
        if let Err(panic) = handled {
            let run = if let ActorState::Active(active) = &state.phase { Some(active.run()) } else { None };
            return Err(Box::new(ActorPanicked { instance: state.id.clone(), run, panic }));
        }
        if state.is_dismissed || (state.may_leave() && !state.rests(&myself) && state.leaves(&myself)) {
            state.left();
            (state.phase, state.is_dismissed) = (ActorState::Idle, false);
            if state.stopping || !state.shared.registry.put_idle(&state.id, &myself) {
                myself.stop(None);
            }
        }
        Ok(())
    }
}

impl State {
    async fn handle(&mut self, myself: &ActorRef<InstanceMessage>, message: InstanceMessage) {
        match message {
            InstanceMessage::Load => Box::pin(self.load(myself)).await,
            InstanceMessage::Assign(assigned) => {
                *self = *assigned;
                Box::pin(self.load(myself)).await;
            }
            InstanceMessage::Command(command) => {
                self.standing.handled();
                match command {
                    Command::Stop => self.stopping = true,
                    command => self.queued.push_back(command),
                }
            }
            InstanceMessage::Committed { run, seq } => {
                if let ActorState::Active(active) = &mut self.phase {
                    active.committed(run, seq).await;
                }
            }
            InstanceMessage::Leave => self.is_dismissed = true,
            InstanceMessage::WriteDeferred => {
                if let ActorState::Active(active) = &mut self.phase {
                    active.write_in_time();
                }
            }
            InstanceMessage::NotCommitted { run, error } => self.not_committed(run, &error).await,
        }
        self.follow_up(myself).await;
        while !self.is_leaving()
            && let Some(command) = self.queued.pop_front()
        {
            self.handle_command(myself, command).await;
            self.follow_up(myself).await;
        }
    }

    fn is_leaving(&self) -> bool {
        matches!(&self.phase, ActorState::Active(active) if active.is_leaving())
    }

    fn may_leave(&self) -> bool {
        if !self.queued.is_empty() {
            return false;
        }
        match &self.phase {
            ActorState::New(_) | ActorState::Idle => false,
            ActorState::Active(active) => active.is_settled() && (self.stopping || !active.is_running()),
            ActorState::Gone(_) => true,
        }
    }

    fn leaves(&self, myself: &ActorRef<InstanceMessage>) -> bool {
        self.shared.registry.leave(&self.id, myself.get_id())
    }

    /// Lets the instance rest if reading it again would cost much. Returns true if the instance
    /// rests.
    fn rests(&mut self, myself: &ActorRef<InstanceMessage>) -> bool {
        let ActorState::Active(active) = &mut self.phase else { return false };
        let bytes = if self.stopping { None } else { active.rest_bytes() };
        bytes.is_some_and(|bytes| self.shared.registry.rest(&self.shared, &self.id, myself.get_id(), bytes))
    }

    pub(super) async fn load(&mut self, myself: &ActorRef<InstanceMessage>) {
        let ActorState::New(activation) = std::mem::replace(&mut self.phase, ActorState::Gone(CommandError::NotFound))
        else {
            return;
        };
        let may_have_crashed = match activation {
            Activation::Fresh { snapshot, is_current, .. } if !is_current && !self.is_stored(&snapshot).await => {
                // Callers that wait for the run that was started here must read the store.
                self.standing.works_on(None);
                self.shared.waiters.tell(&self.id);
                false
            }
            Activation::Fresh { snapshot, effects, .. } => {
                // Attempts of an earlier run.
                self.shared.stop_attempts(&self.id);
                self.phase = match self.active_instance(myself, *snapshot) {
                    Ok(mut active) => {
                        active.perform(effects).await;
                        ActorState::Active(active)
                    }
                    Err(reason) => ActorState::Gone(reason),
                };
                return;
            }
            Activation::Quarantine { run, reason } => {
                if self.quarantine_after_panics(run, &reason).await {
                    return;
                }
                false
            }
            Activation::Load => true,
            Activation::Successor => {
                self.shared.persistence().barrier().await;
                // The predecessor may have failed before it notified.
                self.shared.waiters.tell(&self.id);
                false
            }
        };
        match self.activate(myself, may_have_crashed).await {
            Ok(active) => self.phase = ActorState::Active(active),
            Err(reason) => {
                if !reason.is_unsettled() {
                    self.shared.stop_attempts(&self.id);
                }
                self.phase = ActorState::Gone(reason);
            }
        }
    }

    /// Schedules what is still to be done for the instance, after this actor has left: recovery
    /// skips instances in the registry.
    fn left(&self) {
        let is_over = matches!(&self.phase, ActorState::Active(active) if active.is_over());
        self.shared.waiters.tell_left(&self.id, is_over);
        match &self.phase {
            ActorState::Gone(CommandError::Store(error)) => self.shared.recover_instance(&self.id, error),
            ActorState::Gone(CommandError::Fenced) => self.shared.backlog.push(self.id.clone()),
            ActorState::Gone(_) => self.shared.backlog.forget(&self.id),
            _ => {}
        }
    }

    async fn handle_command(&mut self, myself: &ActorRef<InstanceMessage>, command: Command) {
        match (&mut self.phase, command) {
            // The run was deleted and the id started again, bypassing this actor, before it has
            // left: activate the new run.
            (ActorState::Active(active), Command::Activate) if active.is_over() => {
                self.phase = ActorState::New(Activation::Successor);
                Box::pin(self.load(myself)).await;
            }
            (ActorState::Active(active), command) => active.handle_command(command).await,
            (ActorState::Gone(_), Command::Activate) => {
                self.phase = ActorState::New(Activation::Load);
                Box::pin(self.load(myself)).await;
            }
            (ActorState::Gone(_), Command::Replace(replacement)) => {
                Box::pin(self.replace(myself, *replacement)).await;
            }
            (ActorState::Gone(_), Command::Release { reply }) => {
                let released = Box::pin(self.release(myself)).await;
                reply.send(released);
            }
            // An instance that cannot continue here can still be deleted.
            (ActorState::Gone(reason), Command::Delete { reply }) if !reason.is_unsettled() => {
                Box::pin(self.delete(reply)).await;
            }
            (ActorState::Gone(_), Command::Quarantine { run, reason }) => {
                Box::pin(self.quarantine_after_panics(run, &reason)).await;
            }
            (ActorState::Gone(CommandError::Store(_)), Command::Finished { .. }) => {
                // The executor keeps the result and reports it again to the next actor.
            }
            // Attempts were stopped and their results forgotten when the actor got into this state.
            (ActorState::Gone(reason), command) => {
                if let Some(reply) = command.into_reply() {
                    reply.send(Err(reason.clone()));
                }
            }
            (ActorState::New(_) | ActorState::Idle, _) => unreachable!("Load is the first message an actor handles"),
        }
    }

    async fn not_committed(&mut self, run: RunId, error: &CommitError) {
        let ActorState::Active(active) = &mut self.phase else { return };
        if active.run() != run {
            return;
        }
        let reason = CommandError::from(error);
        active.abandon(&reason);
        // Queued writes of this actor are settled before the instance is loaded again.
        self.shared.persistence().barrier().await;
        self.phase = ActorState::Gone(reason);
    }

    /// Does what a handled message has requested of the actor: leaving a failed state, a
    /// quarantine, a replacement, a delete.
    async fn follow_up(&mut self, myself: &ActorRef<InstanceMessage>) {
        let ActorState::Active(active) = &mut self.phase else { return };
        if let Some(error) = active.broken.take() {
            let run = active.run();
            return self.not_committed(run, &error).await;
        }
        if self.stopping || active.is_leaving() {
            active.write_deferred();
        }
        if !active.is_settled() {
            return;
        }
        if std::mem::take(&mut active.is_on_trial) {
            self.shared.backlog.forget(&self.id);
        }
        if let Some(reason) = active.to_quarantine.take() {
            tracing::error!(instance = %self.id, reason = &*reason, "an instance is quarantined");
            let seen = Version::from(&active.snapshot);
            let gone = Box::pin(self.quarantine(&reason, seen)).await;
            self.phase = ActorState::Gone(gone);
        } else if let Some(newer) = active.to_leave.take() {
            self.phase = ActorState::Gone(self.leave_alone(newer));
        } else if let Some(replacement) = active.replacement.take() {
            let unread = if active.is_over() { BTreeMap::new() } else { active.snapshot.buffered_signals() };
            // Settled: the stored state equals that in memory, and there is no other writer.
            let is_replaced = Box::pin(self.replace(myself, *replacement)).await;
            if is_replaced && !unread.is_empty() {
                tracing::warn!(instance = %self.id, ?unread, "a run was replaced that had buffered signals which no node received");
            }
        } else if let Some(reply) = active.deletion.take() {
            Box::pin(self.delete(reply)).await;
        }
    }
}

impl Command {
    /// Returns the reply with which to refuse the command.
    fn into_reply(self) -> Option<Reply> {
        match self {
            Self::Signal { reply, .. }
            | Self::Cancel { reply, .. }
            | Self::Pause { reply, .. }
            | Self::Unpause { reply }
            | Self::Retry { reply, .. }
            | Self::Release { reply }
            | Self::Delete { reply } => Some(reply),
            Self::Replace(_)
            | Self::Activate
            | Self::Wake { .. }
            | Self::Started { .. }
            | Self::Withdrawn { .. }
            | Self::Finished { .. }
            | Self::Quarantine { .. }
            | Self::Stop => None,
        }
    }
}
