//! An active instance: its snapshot, ahead of the store by the writes in flight, and the effects
//! and answers that wait for those.
//!
//! ```text
//! message -> event -> step ──write──> persistence ──Committed──> effects, answers
//!                        └─ pending: seq, effects, answers ──────────┘
//! ```
//!
//! Nothing is performed or answered before the write it was computed from is durable, not even
//! refusals and "already done".

use std::collections::VecDeque;
use std::sync::Arc;

use ractor::ActorRef;

use super::command::{Command, CommandError, InstanceMessage, Replacement, Reply, SignalCommand};
use super::pending::PendingWrite;
use super::registry::Standing;
use super::shared::Shared;
use super::weight::Weight;
use crate::codec::Codec;
use crate::definition::Definition;
use crate::executor::Serial;
use crate::id::RunId;
use crate::lifecycle::{CommitError, Committer as _, LoadError, RowCache, UncommittedBatch, read_signal_id};
use crate::limits::RESTING_ROWS_MIN;
use crate::machine::{AttemptId, Context, Damaged, Effect, Event, Snapshot};
use crate::status::Status;

pub(super) struct ActiveInstance {
    pub(super) shared: Arc<Shared>,
    pub(super) standing: Arc<Standing>,
    pub(super) actor: ActorRef<InstanceMessage>,
    pub(super) definition: Arc<Definition>,
    pub(super) codec: Codec,
    pub(super) snapshot: Snapshot,
    /// Rows and names that were read for the last items that started, and may serve the next.
    pub(super) row_cache: RowCache,
    /// An estimate of the memory that the snapshot takes.
    pub(super) weight: Weight,
    /// Transitions that wait for a later write.
    pub(super) uncommitted: UncommittedBatch,
    /// The attempts whose results these transitions record.
    pub(super) deferred: Vec<AttemptId>,
    /// The last transition known to be durable.
    pub(super) durable: u64,
    /// True while a reminder to write the deferred transitions is pending.
    pub(super) is_reminded: bool,
    /// Effects and answers that wait for a commit, oldest first.
    pub(super) pending: VecDeque<PendingWrite>,
    /// The last status that subscribers were notified of: they are notified of changes only.
    pub(super) told: Status,
    /// True from a load until everything that the load led to is written: a row it needs may be
    /// unreadable, or its writes may fail.
    pub(super) is_on_trial: bool,
    /// The reason for a quarantine, which begins as soon as everything is written.
    pub(super) to_quarantine: Option<Arc<str>>,
    /// A record that a newer version of this crate wrote: the instance is left alone as soon as
    /// everything is written.
    pub(super) to_leave: Option<Damaged>,
    /// A start that replaces the run as soon as everything is written.
    pub(super) replacement: Option<Box<Replacement>>,
    /// The reply to a delete, which is done as soon as everything is written.
    pub(super) deletion: Option<Reply>,
    /// The error of a read or write that failed in this handler.
    pub(super) broken: Option<CommitError>,
}

impl ActiveInstance {
    pub(super) fn new(
        shared: Arc<Shared>,
        standing: Arc<Standing>,
        actor: ActorRef<InstanceMessage>,
        definition: Arc<Definition>,
        codec: Codec,
        snapshot: Snapshot,
    ) -> Self {
        let (told, durable) = (snapshot.status(definition.program()), snapshot.seq());
        Self {
            shared,
            standing,
            actor,
            definition,
            codec,
            snapshot,
            row_cache: RowCache::default(),
            weight: Weight::default(),
            uncommitted: UncommittedBatch::default(),
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

    /// Returns true if the run is to be replaced, deleted, quarantined or left alone: no more
    /// events are applied to it.
    pub(super) fn is_leaving(&self) -> bool {
        self.replacement.is_some() || self.deletion.is_some() || self.is_unreadable()
    }

    fn is_unreadable(&self) -> bool {
        self.to_quarantine.is_some() || self.to_leave.is_some()
    }

    /// Stops the instance because of a record that it needs and that cannot be read.
    pub(super) fn cannot_read(&mut self, damaged: Damaged) {
        if damaged.is_readable_elsewhere() {
            self.to_leave = Some(damaged);
        } else {
            self.to_quarantine = Some(damaged.to_string().into());
        }
    }

    /// Returns true if the run has ended, durably.
    pub(super) fn is_over(&self) -> bool {
        self.snapshot.end().is_some() && self.is_settled()
    }

    /// Returns true if everything is written and answered.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.uncommitted.is_empty()
    }

    /// Returns the bytes of memory that the instance takes at rest, if reading it again would cost
    /// so much that it should rest before it leaves.
    pub(super) fn rest_bytes(&mut self) -> Option<usize> {
        if self.snapshot.end().is_some() || self.snapshot.live_rows() < RESTING_ROWS_MIN {
            return None;
        }
        self.row_cache = RowCache::default();
        Some(self.weight.of(&self.snapshot))
    }

    pub(super) fn is_running(&self) -> bool {
        self.snapshot.is_running()
    }

    /// Continues a run that was loaded: adopts attempts that the executor still has, and submits
    /// the others again.
    pub(super) async fn resume(&mut self, process_crashed: bool) {
        let executor = Arc::clone(&self.shared.running().executor);
        let mut running: Vec<_> = self.snapshot.running().collect();
        running.sort_unstable();
        executor.stop_others(self.snapshot.instance(), Some((self.run(), &running)));
        let alive: Vec<_> = running.into_iter().filter(|attempt_id| self.knows(*attempt_id)).collect();
        self.step(Event::Resumed { alive: alive.clone(), process_crashed }, None, None).await;
        for attempt_id in alive {
            executor.report_again(&self.key(attempt_id));
        }
    }

    fn knows(&self, attempt_id: AttemptId) -> bool {
        self.shared.running().executor.knows(&self.key(attempt_id))
    }

    /// Returns true if a report is about the job that the executor has for this run and attempt.
    fn has(&self, run: RunId, attempt_id: AttemptId, serial: Serial) -> bool {
        run == self.run() && self.shared.running().executor.is_current(&self.key(attempt_id), serial)
    }

    pub(super) async fn handle_command(&mut self, command: Command) {
        match command {
            Command::Wake { .. } => {
                self.apply(Event::Wake, None).await;
                self.ask_to_be_woken();
            }
            Command::Signal { signal, reply } => {
                let SignalCommand { name, id, payload, codec, payload_type, if_awaited } = *signal;
                if let Err(error) = self.definition.check_signal(&name, payload_type) {
                    reply.send(Err(CommandError::Signal(error)));
                } else if codec == self.codec.id() {
                    match Box::pin(self.look_up(&id)).await {
                        Ok(()) if if_awaited => {
                            self.apply(Event::SignalIfAwaited { name, id, payload }, Some(reply)).await;
                        }
                        Ok(()) => self.apply(Event::Signal { name, id, payload }, Some(reply)).await,
                        Err(error) => reply.send(Err(error)),
                    }
                } else {
                    reply.send(Err(CommandError::OtherCodec(self.codec.id())));
                }
            }
            Command::Cancel { reason, by, reply } => self.apply(Event::Cancel { reason, by }, Some(reply)).await,
            Command::Pause { reason, by, reply } => self.apply(Event::Pause { reason, by }, Some(reply)).await,
            Command::Unpause { reply } => self.apply(Event::Unpause, Some(reply)).await,
            Command::Retry { deadline, reply } => self.apply(Event::Retry { deadline }, Some(reply)).await,
            Command::Release { reply } => self.answer_with(reply, |status| Err(CommandError::NotQuarantined(status))),
            Command::Delete { reply } if self.snapshot.end().is_some() => self.deletion = Some(reply),
            Command::Delete { reply } => self.answer_with(reply, |status| Err(CommandError::NotTerminal(status))),
            Command::Replace(replacement) => self.replacement = Some(replacement),
            Command::Quarantine { run, reason } if run.is_none_or(|run| run == self.run()) => {
                self.to_quarantine.get_or_insert(reason);
            }
            Command::Started { run, attempt_id, serial, at } if self.has(run, attempt_id, serial) => {
                self.apply(Event::AttemptStarted { attempt_id, at }, None).await;
            }
            // Only if the executor no longer has the attempt: it may have been submitted again
            // meanwhile.
            Command::Withdrawn { run, attempt_id } if run == self.run() && !self.knows(attempt_id) => {
                self.apply(Event::AttemptWithdrawn { attempt_id }, None).await;
            }
            Command::Finished { run, attempt_id, serial, outcome } if self.has(run, attempt_id, serial) => {
                self.apply(Event::AttemptFinished { attempt_id, outcome }, None).await;
            }
            // Late reports: of a run that was replaced, or of an attempt that was stopped.
            Command::Quarantine { .. }
            | Command::Finished { .. }
            | Command::Started { .. }
            | Command::Withdrawn { .. }
            | Command::Stop => {}
            // The instance was replaced or released while a retry was scheduled.
            Command::Activate => self.is_on_trial = true,
        }
    }

    /// Reads whether a signal with this id was accepted before. Ids in uncommitted writes are in
    /// memory.
    async fn look_up(&mut self, id: &Arc<str>) -> Result<(), CommandError> {
        let read = read_signal_id(self.shared.persistence().store(), &mut self.snapshot, id).await;
        match &read {
            Ok(()) => {}
            Err(LoadError::Store(error)) => self.broken = Some(error.clone().into()),
            Err(LoadError::Damaged(damaged)) => self.cannot_read(damaged.clone()),
        }
        read.map_err(CommandError::from)
    }

    async fn apply(&mut self, event: Event, reply: Option<Reply>) {
        let recorded = match &event {
            Event::AttemptFinished { attempt_id, .. } => Some(*attempt_id),
            _ => None,
        };
        self.step(event, reply, recorded).await;
    }

    /// Arms the timer again after a wake-up: a timer fires once, even if it fired early and nothing
    /// changed.
    fn ask_to_be_woken(&mut self) {
        let wake = self.snapshot.wake();
        self.write_deferred();
        match self.pending.back_mut() {
            Some(pending) => pending.effects.push(Effect::WakeAt(wake)),
            None => self.shared.arm(self.snapshot.instance(), wake),
        }
    }
}

pub(super) fn context<'a>(shared: &'a Shared, definition: &'a Definition) -> Context<'a> {
    Context { program: definition.program(), limits: &shared.limits, now: shared.clock.now() }
}
