//! Makes transitions durable, many in one commit, on a thread of its own.
//!
//! The actor runs alone on a single-threaded tokio runtime, so a commit may block it. Writes are
//! not messages: they wait in a queue. The first one casts `Flush`, which takes all of them, so a
//! batch is exactly what arrived during the previous commit: group commit without a timer.
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

use super::command::InstanceMessage;
use super::shared::{Health, Shared};
use super::starts::{StartKind, StartPlace, StartPlaces};
use super::submissions::{CommitNotifier, Queue, ReplyTo, Submission, gone};
use super::unsure::UnsureStarts;
use crate::clock::BoxFuture;
use crate::id::RunId;
use crate::lifecycle::{CommitError, Committer};
use crate::limits::{LimitReached, WhenBusy};
use crate::store::{Answers, Store, StoreError, Write};

/// The most writes in one commit.
const BATCH_WRITES_MAX: usize = 4_096;
/// The size of a batch, in bytes, from which no more writes join it.
const BATCH_BYTES_MAX: usize = 32 << 20;
/// The least number of rows of superseded runs that one sweep deletes. A sweep deletes twice as
/// many rows as were written since the previous one, if that is more, so that leftovers cannot
/// outgrow the sweeps.
const SWEEP_ROWS: usize = 256;
/// The first and the longest delay before the store is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

pub(super) enum PersistenceMessage {
    /// Commit the queued writes.
    Flush,
    /// Answer once everything submitted before is settled.
    Barrier(oneshot::Sender<()>),
    /// Begin to delete rows of superseded runs.
    Sweep,
    /// Delete some more of them. The actor sends this to itself, after the messages that arrived
    /// meanwhile.
    SweepOn,
}

/// The interface to the actor.
#[derive(Clone)]
pub(crate) struct PersistenceHandle {
    actor: ActorRef<PersistenceMessage>,
    queue: Arc<Queue>,
    store: Arc<dyn Store>,
    starts: StartPlaces,
    unsure: Arc<UnsureStarts>,
}

impl PersistenceHandle {
    /// Takes a place for a start, held until the start is answered: that bounds the writes starts
    /// have queued.
    pub(crate) async fn admit(&self, kind: StartKind, when_busy: WhenBusy) -> Result<StartPlace, LimitReached> {
        self.starts.take(kind, when_busy).await.ok_or(LimitReached::WritesQueued)
    }

    /// Notes a start that is about to be repeated, or committed by an actor that may panic before
    /// it answers. If its run is replaced or deleted meanwhile, nothing is swept until
    /// [`settle_start`](Self::settle_start), or for a minute.
    pub(crate) fn note_start(&self, run: RunId) {
        self.unsure.note_run(run);
    }

    /// Queues a write of an instance, whose actor gets the result as a message and continues
    /// meanwhile.
    pub(super) fn submit(&self, write: Write, run: RunId, seq: u64, actor: ActorRef<InstanceMessage>) {
        self.push(Submission { write, reply: ReplyTo::Instance { actor, run, seq } });
    }

    fn push(&self, submission: Submission) {
        if self.queue.push(submission) {
            // Refused only when the actor has ended, after which the queue is closed.
            let _ = self.actor.cast(PersistenceMessage::Flush);
        }
    }

    /// Waits until everything submitted before is settled; if the actor has ended, nothing is in
    /// flight.
    pub(super) async fn barrier(&self) {
        let (sender, settled) = oneshot::channel();
        let _ = self.actor.cast(PersistenceMessage::Barrier(sender));
        let _ = settled.await;
    }

    /// Notes that a start has finished, with any outcome.
    pub(crate) fn settle_start(&self, run: RunId) {
        if self.unsure.settle(run) {
            self.sweep();
        }
    }

    /// Requests a sweep of superseded runs' rows; if the actor has ended, the next process start
    /// requests it again.
    pub(super) fn sweep(&self) {
        let _ = self.actor.cast(PersistenceMessage::Sweep);
    }
}

impl Committer for PersistenceHandle {
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
    shared: Weak<Shared>,
    store: Arc<dyn Store>,
    queue: Arc<Queue>,
    notifier: Arc<CommitNotifier>,
    unsure: Arc<UnsureStarts>,
    /// Notified when the queue is settled.
    barriers: Vec<oneshot::Sender<()>>,
    /// True while `SweepOn` is queued: one at a time, however often a sweep is requested.
    sweep_is_due: bool,
    /// Rows written since the last sweep.
    rows_written: usize,
    /// The delay before the store is tried again; reset after a successful commit.
    backoff: Duration,
}

/// Starts the actor on its own thread, as a child of `root`.
pub(super) fn spawn(shared: &Arc<Shared>, root: ActorCell) -> std::io::Result<(PersistenceHandle, Thread)> {
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let (store, queue, notifier) =
        (Arc::clone(&shared.store), Arc::<Queue>::default(), CommitNotifier::on(&shared.tokio));
    let unsure = Arc::<UnsureStarts>::default();
    let state = State {
        shared: Arc::downgrade(shared),
        store,
        queue: Arc::clone(&queue),
        notifier: Arc::clone(&notifier),
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
        // However the actor has ended, no write may wait for a `take` that never comes.
        notifier.notify();
        queue_of_actor.close();
        drop(tokio);
        // The thread's last act: waiting for it blocks no other thread.
        let _ = end.send(());
    })?;
    let actor = started.recv().map_err(std::io::Error::other)??;
    let starts = StartPlaces::new(shared.limits.writes_queued_max.max(1));
    Ok((PersistenceHandle { actor, queue, store: Arc::clone(&shared.store), starts, unsure }, thread))
}

/// Resolves when the thread has ended, for any reason.
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
                state.notifier.notify();
                let _ = settled.send(());
            }
            // The flush is already queued. A flush of its own would cut the batch: many actors that
            // panic at once would slow down all others.
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

/// Returns the number of writes that go into the next commit.
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
                    self.notifier.committed(replies, answers);
                }
                Err(error) => {
                    replies.extend(std::mem::take(&mut queued).into_iter().map(|one| one.reply));
                    self.unsure.note(&writes);
                    self.unsure.note_ended(&writes);
                    self.notifier.failed(replies, error.clone().into());
                    self.recover(&error).await;
                }
            }
        }
        if !self.barriers.is_empty() {
            self.notifier.notify();
        }
        for settled in self.barriers.drain(..) {
            let _ = settled.send(());
        }
    }

    /// Commits a batch, repeating it after each transient error.
    async fn commit(&mut self, writes: &[Write]) -> Result<Answers, StoreError> {
        loop {
            match self.store.commit(writes).await {
                Err(StoreError::Transient(reason)) if !self.is_closing() => {
                    let reason = reason.to_string();
                    tracing::warn!(reason, "the store is temporarily unavailable; writing the same batch again");
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

    /// Reopens the store after a fatal error, however long that takes, and then starts a recovery:
    /// nothing in memory is trusted.
    async fn recover(&mut self, error: &StoreError) {
        tracing::error!(%error, "the store failed; reopening it");
        self.set_health(Health::Unhealthy { reason: error.to_string() });
        while !self.is_closing() {
            self.back_off().await;
            match self.store.reopen().await {
                Ok(()) => {
                    tracing::info!("the store is open again");
                    self.set_health(Health::Healthy);
                    if let Some(shared) = self.shared.upgrade() {
                        shared.recover_after_failure();
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

    /// Deletes some rows of superseded runs. Returns true if there is more to delete.
    async fn sweep(&mut self) -> bool {
        if self.unsure.are_any() {
            // The last of these starts requests a sweep again.
            return false;
        }
        let rows = SWEEP_ROWS.max(2 * std::mem::take(&mut self.rows_written));
        match self.store.sweep(rows).await {
            Ok(swept) => swept > 0,
            Err(error) => {
                // The next write fails as well, and causes the recovery.
                tracing::warn!(%error, "rows of superseded runs could not be deleted");
                false
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.shared.upgrade().is_none_or(|shared| shared.is_closing())
    }

    fn set_health(&self, health: Health) {
        if let Some(shared) = self.shared.upgrade() {
            shared.set_health(health);
        }
    }
}
