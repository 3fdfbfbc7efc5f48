//! The transitions of an active instance that are not durable yet, and the effects and answers that
//! wait for them.
//!
//! ```text
//! transition ──may be deferred──> uncommitted ──the next one that may not, or some time──┐
//!     └──else──────────────────────────────────────────────────────> persistence ──> Committed ──> effects, answers
//! ```

use super::active::{ActiveInstance, context};
use super::command::{CommandError, InstanceMessage, Reply};
use crate::id::RunId;
use crate::lifecycle::Applied;
use crate::limits::{DEFERRED_FOR, DEFERRED_RESULTS_MAX};
use crate::machine::{AttemptId, Effect, Event, Refusal};
use crate::status::Status;

/// Transitions in one write that is in flight.
pub(super) struct PendingWrite {
    pub(super) seq: u64,
    pub(super) effects: Vec<Effect>,
    answers: Vec<(Reply, Result<(), CommandError>)>,
    status: Status,
    /// The attempt whose result the last transition records.
    recorded: Option<AttemptId>,
    /// The attempts whose results the other transitions record.
    deferred: Vec<AttemptId>,
}

impl ActiveInstance {
    /// Applies one event. Effects and answers wait for its commit, unless the transition may be
    /// deferred.
    pub(super) async fn step(&mut self, event: Event, reply: Option<Reply>, recorded: Option<AttemptId>) {
        let context = context(&self.shared, &self.definition);
        let Applied { deferrable, refused, effects } = match self.uncommitted.apply(&context, &mut self.snapshot, event)
        {
            Ok(applied) => applied,
            Err(refusal) => {
                self.forget_with_pending(recorded);
                return self.answer(reply, Some(refusal));
            }
        };
        if let Some(attempt_id) = recorded.filter(|_| deferrable.is_some_and(|builds_on| self.may_defer(builds_on))) {
            self.deferred.push(attempt_id);
            self.ask_to_write_in_time();
            return self.perform(effects).await;
        }
        if self.uncommitted.is_empty() {
            self.forget_with_pending(recorded);
            // Nothing to write; the effects still wait for the transitions they were computed from.
            match self.pending.back_mut() {
                Some(pending) => pending.effects.extend(effects),
                None => self.perform(effects).await,
            }
        } else {
            self.write(effects, recorded);
        }
        self.answer(reply, refused);
    }

    /// Forgets an attempt whose result changed nothing, after the writes in flight: the same result
    /// was reported before, and may not be durable yet.
    pub(super) fn forget_with_pending(&mut self, recorded: Option<AttemptId>) {
        let Some(attempt_id) = recorded else { return };
        match self.pending.back_mut() {
            _ if !self.uncommitted.is_empty() => self.deferred.push(attempt_id),
            Some(pending) => pending.deferred.push(attempt_id),
            None => self.forget(self.run(), attempt_id),
        }
    }

    /// Returns true if one more result may wait for a later commit: there is room, and the
    /// transition that it builds on is durable.
    fn may_defer(&self, builds_on: u64) -> bool {
        let being_written: usize = self.pending.iter().map(|pending| pending.deferred.len()).sum();
        let has_room = self.deferred.len() + being_written < DEFERRED_RESULTS_MAX && !self.uncommitted.is_large();
        has_room && builds_on <= self.durable
    }

    /// Schedules a write of the deferred results, in case that no other event causes one.
    fn ask_to_write_in_time(&mut self) {
        if self.is_reminded {
            return;
        }
        self.is_reminded = true;
        let (time, actor) = (self.shared.clock.sleep(DEFERRED_FOR), self.actor.clone());
        self.shared.tokio.spawn(async move {
            time.await;
            // An actor that has left has written everything.
            let _ = actor.cast(InstanceMessage::WriteDeferred);
        });
    }

    /// Writes the deferred results: the oldest has waited long enough.
    pub(super) fn write_in_time(&mut self) {
        self.is_reminded = false;
        self.write_deferred();
    }

    /// Submits the deferred transitions.
    pub(super) fn write_deferred(&mut self) {
        if !self.uncommitted.is_empty() {
            self.write(Vec::new(), None);
        }
    }

    fn write(&mut self, effects: Vec<Effect>, recorded: Option<AttemptId>) {
        let program = self.definition.program();
        let (run, seq, status) = (self.snapshot.run(), self.snapshot.seq(), self.snapshot.status(program));
        if let Some(write) = self.uncommitted.write(program, &mut self.snapshot) {
            self.weight.wrote(write.bytes());
            self.shared.persistence().submit(write, run, seq, self.actor.clone());
        }
        let (answers, deferred) = (Vec::new(), std::mem::take(&mut self.deferred));
        self.pending.push_back(PendingWrite { seq, effects, answers, status, recorded, deferred });
    }

    /// Answers a request once everything applied so far is durable.
    pub(super) fn answer(&mut self, reply: Option<Reply>, refusal: Option<Refusal>) {
        let Some(reply) = reply else { return };
        self.answer_with(reply, |status| match refusal {
            None => Ok(()),
            Some(refusal) => Err(CommandError::Refused { refusal, status }),
        });
    }

    pub(super) fn answer_with(&mut self, reply: Reply, answer: impl FnOnce(Status) -> Result<(), CommandError>) {
        let answer = answer(self.snapshot.status(self.definition.program()));
        self.write_deferred();
        match self.pending.back_mut() {
            Some(pending) => pending.answers.push((reply, answer)),
            None => reply.send(answer),
        }
    }

    /// Performs effects and sends answers up to transition `seq`, which is durable.
    pub(super) async fn committed(&mut self, run: RunId, seq: u64) {
        if run != self.run() {
            return;
        }
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.seq <= seq) {
            self.durable = pending.seq;
            for attempt_id in pending.deferred.into_iter().chain(pending.recorded) {
                self.forget(run, attempt_id);
            }
            self.tell(pending.status);
            self.perform(pending.effects).await;
            for (reply, answer) in pending.answers {
                reply.send(answer);
            }
        }
    }

    /// Fails all requests that wait, since their outcome is unknown. Tasks continue: the next actor
    /// of the instance adopts those that durable transitions started, and stops the others.
    pub(super) fn abandon(&mut self, reason: &CommandError) {
        let answers = self.pending.drain(..).flat_map(|pending| pending.answers).map(|(reply, _)| reply);
        for reply in answers.chain(self.deletion.take()) {
            reply.send(Err(reason.clone()));
        }
        if let Some(replacement) = self.replacement.take() {
            // Not tried yet: the sender sees the dropped answer and repeats the start.
            drop(replacement);
        }
        if *reason == CommandError::Fenced {
            self.shared.stop_attempts(self.snapshot.instance());
        }
    }

    /// Notifies subscribers of a changed status.
    pub(super) fn tell(&mut self, status: Status) {
        if self.told == status {
            return;
        }
        if self.is_over() {
            // First, so that later subscribers read the end from the store and do not wait for more
            // news.
            self.standing.works_on(None);
            self.shared.waiters.tell_end(&self.snapshot);
        } else {
            self.shared.waiters.tell(self.snapshot.instance());
        }
        self.told = status;
    }
}
