//! Makes transitions durable, many in one commit, on a thread of its own.
//!
//! The actor runs alone on a tokio runtime of one thread, so a commit may block it. Writes are not messages but stand in a
//! queue; the first one casts `Flush`, which takes all that are there, so a batch is exactly what arrived while the last
//! one was being committed: group commit without a timer.
//!
//! ```text
//!  Healthy --transient error--> the same batch again, with backoff
//!     ^  \--fatal error--> Poisoned: everything not answered ends as an unknown outcome
//!     \------ reopened --------/     (reopens with backoff, then asks for recovery)
//! ```

use std::sync::{Arc, Weak};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use super::hub::{Health, Hub};
use super::mail::InstanceMessage;
use super::starts::{StartKind, StartPlace, StartPlaces};
use super::submissions::{Answering, Queue, ReplyTo, Submission, gone};
use super::unsure::UnsureStarts;
use crate::clock::BoxFuture;
use crate::id::RunId;
use crate::lifecycle::{CommitError, Port};
use crate::limits::{Bound, WhenBusy};
use crate::store::{Answers, Store, StoreError, Write};

/// Most writes in one commit.
const BATCH_WRITES_MAX: usize = 4_096;
/// Most bytes in one commit, but for its last write.
const BATCH_BYTES_MAX: usize = 32 << 20;
/// Rows of superseded runs deleted between two commits, at least; twice as many as were written since, if that is more, so
/// that what is left behind cannot outgrow what is cleared.
const SWEEP_ROWS: usize = 256;
/// The first and the longest wait before the store is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

pub(super) enum PersistenceMessage {
    /// Commit what is queued.
    Flush,
    /// Answer once everything submitted before is settled.
    Barrier(oneshot::Sender<()>),
    /// There are rows of superseded runs to be deleted.
    Sweep,
    /// Delete some of them; sent by the actor to itself, behind whatever came meanwhile.
    SweepOn,
}

/// How others reach the actor.
#[derive(Clone)]
pub(crate) struct PersistenceHandle {
    actor: ActorRef<PersistenceMessage>,
    queue: Arc<Queue>,
    store: Arc<dyn Store>,
    starts: StartPlaces,
    unsure: Arc<UnsureStarts>,
}

impl PersistenceHandle {
    /// A place for a start, held until it is answered: whatever it writes is not queued otherwise.
    pub(crate) async fn admit(&self, kind: StartKind, when_busy: WhenBusy) -> Result<StartPlace, Bound> {
        self.starts.take(kind, when_busy).await.ok_or(Bound::WritesQueued)
    }

    /// A start is about to be carried out by an actor that may die with the answer, or to be repeated.
    pub(crate) fn note_start(&self, run: RunId) {
        self.unsure.note_run(run);
    }

    /// Commits a write of an instance, which is told by a message. It does not wait, so that it can go on meanwhile.
    pub(super) fn submit(&self, write: Write, run: RunId, seq: u64, actor: ActorRef<InstanceMessage>) {
        self.push(Submission { write, reply: ReplyTo::Instance { actor, run, seq } });
    }

    fn push(&self, submission: Submission) {
        if self.queue.push(submission) {
            // Refused only when the actor is gone, behind which the queue is closed.
            let _ = self.actor.cast(PersistenceMessage::Flush);
        }
    }

    /// Waits until everything submitted before is settled; when the actor is gone, nothing is under way.
    pub(super) async fn barrier(&self) {
        let (sender, settled) = oneshot::channel();
        let _ = self.actor.cast(PersistenceMessage::Barrier(sender));
        let _ = settled.await;
    }

    /// A start has come to its end, whatever that was.
    pub(crate) fn settle_start(&self, run: RunId) {
        if self.unsure.settle(run) {
            self.sweep();
        }
    }

    /// Asks for rows of superseded runs to be deleted; when the actor is gone, the next start asks again.
    pub(super) fn sweep(&self) {
        let _ = self.actor.cast(PersistenceMessage::Sweep);
    }
}

impl Port for PersistenceHandle {
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            self.push(Submission { write, reply: ReplyTo::Caller(sender) });
            answer.await.unwrap_or_else(|_| Err(gone()))
        })
    }

    fn store(&self) -> &dyn Store {
        &*self.store
    }
}

struct Persistence;

struct State {
    hub: Weak<Hub>,
    store: Arc<dyn Store>,
    queue: Arc<Queue>,
    answering: Arc<Answering>,
    unsure: Arc<UnsureStarts>,
    /// Told when the queue is settled.
    barriers: Vec<oneshot::Sender<()>>,
    /// Whether `SweepOn` is on its way: one at a time, however often it is asked for.
    sweep_is_due: bool,
    /// Rows written since the last sweep.
    rows_written: usize,
    /// The wait before the store is tried again; short again once a commit has succeeded.
    backoff: Duration,
}

/// Starts the actor on its own thread, as a child of `root`.
pub(super) fn spawn(hub: &Arc<Hub>, root: ActorCell) -> std::io::Result<(PersistenceHandle, Thread)> {
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let (store, queue, answering) = (Arc::clone(&hub.store), Arc::<Queue>::default(), Answering::on(&hub.tokio));
    let unsure = Arc::<UnsureStarts>::default();
    let state = State {
        hub: Arc::downgrade(hub),
        store,
        queue: Arc::clone(&queue),
        answering: Arc::clone(&answering),
        unsure: Arc::clone(&unsure),
        barriers: Vec::new(),
        sweep_is_due: false,
        rows_written: 0,
        backoff: BACKOFF.0,
    };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let queue_of_actor = Arc::clone(&queue);
    let (end, thread) = oneshot::channel();
    std::thread::Builder::new().name("everstep-persistence".into()).spawn(move || {
        tokio.block_on(async {
            match Actor::spawn_linked(None, Persistence, state, root).await {
                Ok((actor, ended)) => {
                    let _ = ready.send(Ok(actor));
                    let _ = ended.await;
                }
                Err(error) => {
                    let _ = ready.send(Err(std::io::Error::other(error.to_string())));
                }
            }
        });
        // However the actor has ended: nobody waits for what is never taken.
        answering.give();
        queue_of_actor.close();
        drop(tokio);
        // Its last act: waiting for that takes no thread.
        let _ = end.send(());
    })?;
    let actor = started.recv().map_err(std::io::Error::other)??;
    let starts = StartPlaces::new(hub.limits.writes_queued_max.max(1));
    Ok((PersistenceHandle { actor, queue, store: Arc::clone(&hub.store), starts, unsure }, thread))
}

/// Resolves when the thread has ended, in whatever way.
pub(super) type Thread = oneshot::Receiver<()>;

impl Actor for Persistence {
    type Msg = PersistenceMessage;
    type State = State;
    type Arguments = State;

    async fn pre_start(&self, _: ActorRef<Self::Msg>, state: State) -> Result<State, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: PersistenceMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PersistenceMessage::Flush => state.flush().await,
            PersistenceMessage::Barrier(settled) if state.queue.is_empty() => {
                state.answering.give();
                let _ = settled.send(());
            }
            // The flush is on its way. One of its own would cut the batch: many actors that die would slow all others.
            PersistenceMessage::Barrier(settled) => state.barriers.push(settled),
            PersistenceMessage::Sweep if state.sweep_is_due => {}
            PersistenceMessage::Sweep => {
                state.sweep_is_due = true;
                myself.cast(PersistenceMessage::SweepOn)?;
            }
            PersistenceMessage::SweepOn => {
                state.sweep_is_due = state.sweep().await;
                if state.sweep_is_due {
                    myself.cast(PersistenceMessage::SweepOn)?;
                }
            }
        }
        Ok(())
    }
}

/// Returns how many of the writes go into the next commit.
fn batch_len(queued: &[Submission]) -> usize {
    let mut bytes = 0;
    let fits = |submission: &&Submission| {
        let has_room = bytes < BATCH_BYTES_MAX;
        bytes += submission.write.bytes();
        has_room
    };
    queued.iter().take(BATCH_WRITES_MAX).take_while(fits).count()
}

impl State {
    async fn flush(&mut self) {
        let mut queued = self.queue.take();
        while !queued.is_empty() {
            let rest = queued.split_off(batch_len(&queued));
            let batch = std::mem::replace(&mut queued, rest);
            let (writes, mut replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|one| (one.write, one.reply)).unzip();
            match self.commit(&writes).await {
                Ok(answers) => {
                    self.unsure.note_ended(&writes);
                    self.answering.committed(replies, answers);
                }
                Err(error) => {
                    replies.extend(std::mem::take(&mut queued).into_iter().map(|one| one.reply));
                    self.unsure.note(&writes);
                    self.unsure.note_ended(&writes);
                    self.answering.failed(replies, error.clone().into());
                    self.recover(&error).await;
                }
            }
        }
        if !self.barriers.is_empty() {
            self.answering.give();
        }
        for settled in self.barriers.drain(..) {
            let _ = settled.send(());
        }
    }

    /// Repeats a batch until it is committed or the store is poisoned.
    async fn commit(&mut self, writes: &[Write]) -> Result<Answers, StoreError> {
        loop {
            match self.store.commit(writes).await {
                Err(StoreError::Transient(reason)) if !self.is_closing() => {
                    let reason = reason.to_string();
                    tracing::warn!(reason, "the store is not available; trying the same batch again");
                    self.set_health(Health::Unhealthy { reason });
                    self.back_off().await;
                }
                Ok(answers) => {
                    self.set_health(Health::Healthy);
                    self.backoff = BACKOFF.0;
                    self.rows_written += writes.iter().map(|write| write.rows.len()).sum::<usize>();
                    return Ok(answers);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// After a fatal error nothing in memory is trusted: the store is opened anew, however long that takes, and what was
    /// in progress is taken up again.
    async fn recover(&mut self, error: &StoreError) {
        tracing::error!(%error, "the store failed; reopening it");
        self.set_health(Health::Unhealthy { reason: error.to_string() });
        while !self.is_closing() {
            self.back_off().await;
            match self.store.reopen().await {
                Ok(()) => {
                    tracing::info!("the store is open again");
                    self.set_health(Health::Healthy);
                    if let Some(hub) = self.hub.upgrade() {
                        hub.recover_after_failure();
                    }
                    return;
                }
                Err(error) => self.set_health(Health::Unhealthy { reason: error.to_string() }),
            }
        }
    }

    async fn back_off(&mut self) {
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }

    /// Whether there is more to sweep.
    async fn sweep(&mut self) -> bool {
        if self.unsure.are_any() {
            // The last of them asks again.
            return false;
        }
        let rows = SWEEP_ROWS.max(2 * std::mem::take(&mut self.rows_written));
        match self.store.sweep(rows).await {
            Ok(swept) => swept > 0,
            Err(error) => {
                // The next write notices too, and does what must be done.
                tracing::warn!(%error, "rows of superseded runs could not be deleted");
                false
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.hub.upgrade().is_none_or(|hub| hub.is_closing())
    }

    fn set_health(&self, health: Health) {
        if let Some(hub) = self.hub.upgrade() {
            hub.set_health(health);
        }
    }
}
