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
use super::registry::Standing;
use super::writing::Pending;
use crate::codec::Codec;
use crate::definition::{Definition, Op};
use crate::executor::Serial;
use crate::id::RunId;
use crate::lifecycle::{
    CommitError, Ending, FinalizeError, Kept, LoadError, Port as _, Unwritten, finalize_execution, read_signal_id,
};
use crate::machine::{Damaged, Effect, Event, Refusal, Setting, Snapshot, Ticket};
use crate::status::Status;

pub(super) struct Live {
    pub(super) hub: Arc<Hub>,
    pub(super) standing: Arc<Standing>,
    pub(super) actor: ActorRef<InstanceMessage>,
    pub(super) definition: Arc<Definition>,
    pub(super) codec: Codec,
    pub(super) snapshot: Snapshot,
    /// What was read for the last items that started.
    pub(super) kept: Kept,
    /// Transitions that may wait for a later write.
    pub(super) unwritten: Unwritten,
    /// The attempts whose outcomes these record.
    pub(super) deferred: Vec<Ticket>,
    /// The last transition that is known to be durable.
    pub(super) durable: u64,
    /// Whether a reminder to write them is on its way.
    pub(super) is_reminded: bool,
    /// What waits for a commit, oldest first.
    pub(super) pending: VecDeque<Pending>,
    /// The last status that listeners were told of, so that they are told of changes only.
    pub(super) told: Status,
    /// Whether it was read and has not shown yet that it can go on: what it needs besides may be unreadable, or its writes may
    /// fail.
    pub(super) is_on_trial: bool,
    /// Set aside as soon as everything is written.
    pub(super) to_quarantine: Option<Arc<str>>,
    /// Left alone as soon as everything is written: a newer version wrote this record.
    pub(super) to_leave: Option<Damaged>,
    /// Replaced as soon as everything is written.
    pub(super) replacement: Option<Box<Replacement>>,
    /// Deleted as soon as everything is written; answered then.
    pub(super) deletion: Option<Reply>,
    /// A write of this handler failed.
    pub(super) broken: Option<CommitError>,
}

impl Live {
    pub(super) fn new(
        hub: Arc<Hub>,
        standing: Arc<Standing>,
        actor: ActorRef<InstanceMessage>,
        definition: Arc<Definition>,
        codec: Codec,
        snapshot: Snapshot,
    ) -> Self {
        let (told, durable) = (snapshot.status(definition.program()), snapshot.seq());
        Self {
            hub,
            standing,
            actor,
            definition,
            codec,
            snapshot,
            kept: Kept::default(),
            unwritten: Unwritten::default(),
            deferred: Vec::new(),
            durable,
            is_reminded: false,
            pending: VecDeque::new(),
            told,
            is_on_trial: false,
            to_quarantine: None,
            to_leave: None,
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
        self.replacement.is_some() || self.deletion.is_some() || self.is_unreadable()
    }

    fn is_unreadable(&self) -> bool {
        self.to_quarantine.is_some() || self.to_leave.is_some()
    }

    /// A record cannot be read without which it does not go on.
    pub(super) fn cannot_read(&mut self, damaged: Damaged) {
        if damaged.newer {
            self.to_leave = Some(damaged);
        } else {
            self.to_quarantine = Some(damaged.to_string().into());
        }
    }

    /// Whether the run has ended, durably.
    pub(super) fn is_over(&self) -> bool {
        self.snapshot.end().is_some() && self.is_settled()
    }

    /// Whether everything is written, and answered.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.unwritten.is_empty()
    }

    pub(super) fn is_running(&self) -> bool {
        self.snapshot.is_running()
    }

    /// Goes on after a predecessor: attempts that the executor still has are adopted, the others handed out again.
    pub(super) async fn resume(&mut self, process_died: bool) {
        let executor = Arc::clone(&self.hub.running().executor);
        let mut running: Vec<_> = self.snapshot.running().collect();
        running.sort_unstable();
        executor.stop_others(self.snapshot.instance(), Some((self.run(), &running)));
        let alive: Vec<_> = running.into_iter().filter(|ticket| self.knows(*ticket)).collect();
        self.step(Event::Resumed { alive: alive.clone(), process_died }, None, None).await;
        for ticket in alive {
            executor.report_again(&self.key(ticket));
        }
    }

    fn knows(&self, ticket: Ticket) -> bool {
        self.hub.running().executor.knows(&self.key(ticket))
    }

    /// Whether a report is of the attempt that the executor has for this run and ticket.
    fn has(&self, run: RunId, ticket: Ticket, serial: Serial) -> bool {
        run == self.run() && self.hub.running().executor.is_current(&self.key(ticket), serial)
    }

    pub(super) async fn mail(&mut self, mail: Mail) {
        match mail {
            Mail::Wake { .. } => {
                self.apply(Event::Wake, None).await;
                self.ask_to_be_woken();
            }
            Mail::Signal { signal, reply } => {
                let SignalMail { name, id, payload, codec, payload_type, if_awaited } = *signal;
                if let Err(error) = self.definition.check_signal(&name, payload_type) {
                    reply.send(Err(MailError::Signal(error)));
                } else if codec == self.codec.id() {
                    match Box::pin(self.look_up(&id)).await {
                        Ok(()) if if_awaited => {
                            self.apply(Event::SignalIfAwaited { name, id, payload }, Some(reply)).await;
                        }
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
            Mail::SetAside { run, reason } if run.is_none_or(|run| run == self.run()) => {
                self.to_quarantine.get_or_insert(reason);
            }
            Mail::Started { run, ticket, serial, at } if self.has(run, ticket, serial) => {
                self.apply(Event::AttemptStarted { ticket, at }, None).await;
            }
            // The executor does not have what it has taken back; it may have handed the ticket's attempt out again.
            Mail::Withdrawn { run, ticket } if run == self.run() && !self.knows(ticket) => {
                self.apply(Event::AttemptWithdrawn { ticket }, None).await;
            }
            Mail::Finished { run, ticket, serial, outcome } if self.has(run, ticket, serial) => {
                self.apply(Event::AttemptFinished { ticket, outcome }, None).await;
            }
            // Late ones: of a run that was replaced, or of an attempt that something has stopped.
            Mail::SetAside { .. }
            | Mail::Finished { .. }
            | Mail::Started { .. }
            | Mail::Withdrawn { .. }
            | Mail::Stop => {}
            // It was replaced or released while it was to be tried again.
            Mail::TakeUp => self.is_on_trial = true,
        }
    }

    /// Reads whether a signal with this id is a repeated one. Ids of writes under way are in memory.
    async fn look_up(&mut self, id: &Arc<str>) -> Result<(), MailError> {
        let read = read_signal_id(self.hub.persistence().store(), &mut self.snapshot, id).await;
        match &read {
            Ok(()) => {}
            Err(LoadError::Store(error)) => self.broken = Some(error.clone().into()),
            Err(LoadError::Damaged(damaged)) => self.cannot_read(damaged.clone()),
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
        if !self.unwritten.is_empty() {
            // It goes with what waits.
            return self.step(event, reply, recorded).await;
        }
        match self.as_ending(event) {
            Ok(ending) => Box::pin(self.finalize(ending, reply, recorded)).await,
            Err(event) => self.step(event, reply, recorded).await,
        }
    }

    /// A wake-up that came is spent, also if it came too early and changed nothing.
    fn ask_to_be_woken(&mut self) {
        let wake = self.snapshot.wake();
        self.write_deferred();
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
                self.durable = self.snapshot.seq();
                self.tell(finalized.status);
                self.perform(finalized.effects).await;
                if let Some(ticket) = recorded {
                    self.forget(self.run(), ticket);
                }
                self.answer(reply, None);
            }
            Err(FinalizeError::Refused(refusal)) => {
                self.forget_with_pending(recorded);
                self.answer(reply, Some(refusal));
            }
            Err(FinalizeError::Commit(error)) => {
                if let Some(reply) = reply {
                    reply.send(Err(MailError::from(&error)));
                }
                self.broken = Some(error);
            }
        }
    }
}

pub(super) fn setting<'a>(hub: &'a Hub, definition: &'a Definition) -> Setting<'a> {
    Setting { program: definition.program(), limits: &hub.limits, now: hub.clock.now() }
}
