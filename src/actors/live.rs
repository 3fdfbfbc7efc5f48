//! An awake instance: its snapshot, ahead of the store by what is being written, and what waits for that.
//!
//! ```text
//! message -> event -> step ──write──> persistence ──Committed──> effects, answers
//!                        └─ pending: seq, effects, answers ──────────┘
//! ```
//!
//! Nothing is performed or answered before the write it was computed from is durable: refusals and "already done" too.

use std::collections::VecDeque;
use std::sync::Arc;

use ractor::ActorRef;

use super::hub::Hub;
use super::mail::{InstanceMessage, Mail, MailError, Replacement, Reply, SignalMail};
use crate::codec::Codec;
use crate::definition::{Definition, Op};
use crate::executor::{AttemptKey, Job};
use crate::id::RunId;
use crate::lifecycle::{
    Caller, CommitError, Ending, FinalizeError, ListRows, LoadError, Port as _, fill_next_run, finalize_execution,
    read_signal_id, step,
};
use crate::limits::PayloadLimits;
use crate::machine::{Effect, Event, Refusal, Run, Setting, Snapshot, Ticket};
use crate::status::Status;

pub(super) struct Live {
    hub: Arc<Hub>,
    actor: ActorRef<InstanceMessage>,
    definition: Arc<Definition>,
    codec: Codec,
    snapshot: Snapshot,
    /// Rows of the lists of its maps, read for the last items that started.
    lists: ListRows,
    /// What waits for a commit, oldest first.
    pending: VecDeque<Pending>,
    /// The last status that listeners were told of, so that they are told of changes only.
    told: Status,
    /// Set aside as soon as everything is written.
    pub(super) to_quarantine: Option<Arc<str>>,
    /// Replaced as soon as everything is written.
    pub(super) replacement: Option<Box<Replacement>>,
    /// Deleted as soon as everything is written; answered then.
    pub(super) deletion: Option<Reply>,
    /// A write of this handler failed.
    pub(super) broken: Option<CommitError>,
}

/// A transition that is being written.
struct Pending {
    seq: u64,
    effects: Vec<Effect>,
    answers: Vec<(Reply, Result<(), MailError>)>,
    status: Status,
    /// The attempt whose outcome this records.
    recorded: Option<Ticket>,
}

impl Live {
    pub(super) fn new(
        hub: Arc<Hub>,
        actor: ActorRef<InstanceMessage>,
        definition: Arc<Definition>,
        codec: Codec,
        snapshot: Snapshot,
    ) -> Self {
        let told = snapshot.status(definition.program());
        Self {
            hub,
            actor,
            definition,
            codec,
            snapshot,
            lists: ListRows::new(),
            pending: VecDeque::new(),
            told,
            to_quarantine: None,
            replacement: None,
            deletion: None,
            broken: None,
        }
    }

    pub(super) fn run(&self) -> RunId {
        self.snapshot.run()
    }

    /// Whether the run is to be replaced, deleted or set aside: nothing more is applied to it.
    pub(super) fn is_leaving(&self) -> bool {
        self.replacement.is_some() || self.deletion.is_some() || self.to_quarantine.is_some()
    }

    /// Whether the run has ended, durably.
    pub(super) fn is_over(&self) -> bool {
        self.snapshot.end().is_some() && self.is_settled()
    }

    /// Whether everything is written, and answered.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn is_running(&self) -> bool {
        self.snapshot.is_running()
    }

    /// Goes on after a predecessor: attempts that the executor still has are adopted, the others handed out again.
    pub(super) async fn resume(&mut self, process_died: bool) {
        let executor = Arc::clone(&self.hub.running().executor);
        let running = self.snapshot.running();
        let alive: Vec<_> = running.filter(|ticket| executor.knows(&self.key(*ticket))).collect();
        self.step(Event::Resumed { alive: alive.clone(), process_died }, None, None).await;
        for ticket in alive {
            executor.report_again(&self.key(ticket));
        }
        self.hub.waiters.tell(self.snapshot.instance());
    }

    pub(super) async fn mail(&mut self, mail: Mail) {
        match mail {
            Mail::Wake => {
                self.apply(Event::Wake, None).await;
                self.ask_to_be_woken();
            }
            Mail::Signal { signal, reply } => {
                let SignalMail { name, id, payload, codec, payload_type } = *signal;
                if let Err(error) = self.definition.check_signal(&name, payload_type) {
                    reply.send(Err(MailError::Signal(error)));
                } else if codec == self.codec.id() {
                    match Box::pin(self.look_up(&id)).await {
                        Ok(()) => self.apply(Event::Signal { name, id, payload }, Some(reply)).await,
                        Err(error) => reply.send(Err(error)),
                    }
                } else {
                    reply.send(Err(MailError::OtherCodec(self.codec.id())));
                }
            }
            Mail::Cancel { reason, by, reply } => self.apply(Event::Cancel { reason, by }, Some(reply)).await,
            Mail::Pause { reason, by, reply } => self.apply(Event::Pause { reason, by }, Some(reply)).await,
            Mail::Unpause { reply } => self.apply(Event::Unpause, Some(reply)).await,
            Mail::Retry { deadline, reply } => self.apply(Event::Retry { deadline }, Some(reply)).await,
            Mail::Release { reply } => self.answer_with(reply, |status| Err(MailError::NotQuarantined(status))),
            Mail::Delete { reply } if self.snapshot.end().is_some() => self.deletion = Some(reply),
            Mail::Delete { reply } => self.answer_with(reply, |status| Err(MailError::NotTerminal(status))),
            Mail::Replace(replacement) => self.replacement = Some(replacement),
            // Reports of a run that was replaced are stale.
            Mail::Started { run, ticket, at } if run == self.run() => {
                self.apply(Event::AttemptStarted { ticket, at }, None).await;
            }
            Mail::Withdrawn { run, ticket } if run == self.run() => {
                self.apply(Event::AttemptWithdrawn { ticket }, None).await;
            }
            Mail::Finished { run, ticket, outcome } if run == self.run() => {
                self.apply(Event::AttemptFinished { ticket, outcome }, None).await;
            }
            Mail::Finished { run, ticket, .. } => self.forget(run, ticket),
            Mail::Started { .. } | Mail::Withdrawn { .. } | Mail::TakeUp | Mail::Stop => {}
        }
    }

    /// Reads whether a signal with this id is a repeated one. Ids of writes under way are in memory.
    async fn look_up(&mut self, id: &Arc<str>) -> Result<(), MailError> {
        let read = read_signal_id(self.hub.persistence().store(), &mut self.snapshot, id).await;
        match &read {
            Ok(()) => {}
            Err(LoadError::Store(error)) => self.broken = Some(error.clone().into()),
            Err(LoadError::Damaged(damaged)) => self.to_quarantine = Some(damaged.to_string().into()),
        }
        read.map_err(MailError::from)
    }

    /// Moves the instance by one event. What ends the run is written at once, since nothing can follow it; anything else
    /// goes into the batch now forming, and the next event is applied on top meanwhile.
    async fn apply(&mut self, event: Event, reply: Option<Reply>) {
        let recorded = match &event {
            Event::AttemptFinished { ticket, .. } => Some(*ticket),
            _ => None,
        };
        match self.as_ending(event) {
            Ok(ending) => Box::pin(self.finalize(ending, reply, recorded)).await,
            Err(event) => self.step(event, reply, recorded).await,
        }
    }

    /// A wake-up that came is spent, also if it came too early and changed nothing.
    fn ask_to_be_woken(&mut self) {
        let wake = self.snapshot.wake();
        match self.pending.back_mut() {
            Some(pending) => pending.effects.push(Effect::WakeAt(wake)),
            None => self.hub.arm(self.snapshot.instance(), wake),
        }
    }

    /// An event that is known to end the run, if it can.
    fn as_ending(&self, event: Event) -> Result<Ending, Event> {
        match event {
            Event::Cancel { reason, by } => Ok(Ending::Cancelled { reason, by }),
            Event::AttemptFinished { ticket, outcome } if self.is_last(ticket) => Ok(Ending::Task { ticket, outcome }),
            event => Err(event),
        }
    }

    fn is_last(&self, ticket: Ticket) -> bool {
        if !self.snapshot.runs(ticket) {
            return false;
        }
        let position = self.snapshot.frames.get(ticket.frame).map(|frame| frame.position + 1);
        let next = position.and_then(|next| self.definition.program().op(next));
        matches!(next, Some(Op::End))
    }

    async fn step(&mut self, event: Event, reply: Option<Reply>, recorded: Option<Ticket>) {
        let setting = setting(&self.hub, &self.definition);
        let done = match step(&setting, &mut self.snapshot, event) {
            Ok(done) => done,
            Err(refusal) => return self.answer(reply, Some(refusal)),
        };
        if let Some(write) = done.write {
            let (run, seq) = (self.snapshot.run(), self.snapshot.seq());
            self.hub.persistence().submit(write, run, seq, self.actor.clone());
            let (status, answers) = (self.snapshot.status(self.definition.program()), Vec::new());
            self.pending.push_back(Pending { seq, effects: done.effects, answers, status, recorded });
        } else {
            if let Some(ticket) = recorded {
                self.forget(self.run(), ticket);
            }
            // Nothing to write; the effects still wait for what they were computed from.
            match self.pending.back_mut() {
                Some(pending) => pending.effects.extend(done.effects),
                None => self.perform(done.effects).await,
            }
        }
        self.answer(reply, done.refused);
    }

    async fn finalize(&mut self, ending: Ending, reply: Option<Reply>, recorded: Option<Ticket>) {
        if self.snapshot.end().is_some() {
            // Only a caller's request comes here for a run that has ended.
            return self.answer(reply, Some(Refusal::Ended));
        }
        let setting = setting(&self.hub, &self.definition);
        match finalize_execution(self.hub.persistence(), &setting, &mut self.snapshot, ending).await {
            Ok(finalized) => {
                // An ending of a run that had not ended is a write, and writes are committed in order: everything before
                // this one is durable as well.
                self.committed(self.snapshot.run(), self.snapshot.seq()).await;
                self.tell(finalized.status);
                self.perform(finalized.effects).await;
                if let Some(ticket) = recorded {
                    self.forget(self.run(), ticket);
                }
                self.answer(reply, None);
            }
            Err(FinalizeError::Refused(refusal)) => self.answer(reply, Some(refusal)),
            Err(FinalizeError::Commit(error)) => {
                if let Some(reply) = reply {
                    reply.send(Err(MailError::from(&error)));
                }
                self.broken = Some(error);
            }
        }
    }

    /// Answers an event once everything applied so far is durable.
    fn answer(&mut self, reply: Option<Reply>, refusal: Option<Refusal>) {
        let Some(reply) = reply else { return };
        self.answer_with(reply, |status| match refusal {
            None => Ok(()),
            Some(refusal) => Err(MailError::Refused { refusal, status }),
        });
    }

    fn answer_with(&mut self, reply: Reply, answer: impl FnOnce(Status) -> Result<(), MailError>) {
        let answer = answer(self.snapshot.status(self.definition.program()));
        match self.pending.back_mut() {
            Some(pending) => pending.answers.push((reply, answer)),
            None => reply.send(answer),
        }
    }

    /// Everything up to `seq` is durable: its effects are performed, its answers given.
    pub(super) async fn committed(&mut self, run: RunId, seq: u64) {
        if run != self.run() {
            return;
        }
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.seq <= seq) {
            if let Some(ticket) = pending.recorded {
                self.forget(run, ticket);
            }
            self.tell(pending.status);
            self.perform(pending.effects).await;
            for (reply, answer) in pending.answers {
                reply.send(answer);
            }
        }
    }

    /// Ends what waits: nobody is told "done". Tasks go on; whoever takes the instance up next finds them.
    pub(super) fn abandon(&mut self, reason: &MailError) {
        let answers = self.pending.drain(..).flat_map(|pending| pending.answers).map(|(reply, _)| reply);
        for reply in answers.chain(self.deletion.take()) {
            reply.send(Err(reason.clone()));
        }
        if let Some(replacement) = self.replacement.take() {
            // Not tried yet: its sender sees the dropped answer and repeats it.
            drop(replacement);
        }
        if *reason == MailError::Fenced {
            self.stop_tasks();
        }
    }

    pub(super) fn stop_tasks(&self) {
        for ticket in self.snapshot.running() {
            self.hub.running().executor.stop(&self.key(ticket));
        }
    }

    fn tell(&mut self, status: Status) {
        if self.told == status {
            return;
        }
        if self.is_over() {
            self.hub.waiters.tell_end(&self.snapshot);
        } else {
            self.hub.waiters.tell(self.snapshot.instance());
        }
        self.told = status;
    }

    /// The outcome of an attempt need not be kept any more.
    fn forget(&self, run: RunId, ticket: Ticket) {
        self.hub.running().executor.forget(&AttemptKey { run, ..self.key(ticket) });
    }

    pub(super) async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let executor = &self.hub.running().executor;
            match effect {
                // The instance may have moved on while this was being written.
                Effect::Run(run) if !self.snapshot.runs(run.ticket) => {}
                Effect::Run(run) => self.submit(run).await,
                Effect::Proceed { ticket } => executor.proceed(&self.key(ticket)),
                Effect::Withdraw { ticket } => executor.withdraw(&self.key(ticket)),
                Effect::Stop { ticket } => executor.stop(&self.key(ticket)),
                Effect::WakeAt(wake) => self.hub.arm(self.snapshot.instance(), wake),
                Effect::Ended => tracing::debug!(instance = %self.snapshot.instance(), "an instance has ended"),
                Effect::Quarantine { reason } => self.to_quarantine = Some(reason),
            }
        }
    }

    /// Hands an attempt to the executor, with what it is still to be given from the store.
    async fn submit(&mut self, mut run: Run) {
        let (store, names) = (self.hub.persistence().store(), self.definition.program());
        // Rare, and large as a future: only what was taken up from the store has anything to read.
        let filled = if run.value.unread().is_empty() {
            Ok(())
        } else {
            Box::pin(fill_next_run(store, names, &self.snapshot, &mut run, &mut self.lists)).await
        };
        match filled {
            Ok(()) => {}
            Err(LoadError::Store(error)) => {
                self.broken = Some(error.into());
                return;
            }
            Err(LoadError::Damaged(damaged)) => {
                self.to_quarantine = Some(damaged.to_string().into());
                return;
            }
        }
        let caller = Caller {
            definition: Arc::clone(&self.definition),
            deps: Arc::clone(&self.hub.deps),
            codec: self.codec.clone(),
            limits: PayloadLimits::from(&self.hub.limits),
        };
        self.hub.running().executor.submit(Job { key: self.key(run.ticket), run, caller });
    }

    fn key(&self, ticket: Ticket) -> AttemptKey {
        AttemptKey { instance: self.snapshot.instance().clone(), run: self.snapshot.run(), ticket }
    }
}

fn setting<'a>(hub: &'a Hub, definition: &'a Definition) -> Setting<'a> {
    Setting { program: definition.program(), limits: &hub.limits, now: hub.clock.now() }
}
