//! Runs user code: so many attempts at once, the most urgent first, each with its timeout, each cancellable.
//!
//! Not an actor: a table behind a lock and spawned tasks. It reports to a [`Sink`] and knows nothing of who listens.

mod attempt;
mod watchdog;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use foldhash::HashMap;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use attempt::Slot;
pub(crate) use attempt::{attempt, until_cancelled};
pub use watchdog::Stalled;
pub(crate) use watchdog::Watchdog;
use watchdog::{PollMark, PollMarks, Ticks};

use crate::clock::Clock;
use crate::definition::{Names as _, Priority};
use crate::id::{InstanceId, NodePath, RunId};
use crate::lifecycle::Caller;
use crate::limits::Limits;
use crate::machine::{Outcome, Run, Ticket};
use crate::time::Timestamp;

/// An attempt, in the whole runtime.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AttemptKey {
    pub(crate) instance: InstanceId,
    pub(crate) run: RunId,
    pub(crate) ticket: Ticket,
}

/// Who is told what becomes of an attempt.
pub(crate) trait Sink: Send + Sync + 'static {
    /// It got its slot.
    fn started(&self, key: &AttemptKey, at: Timestamp);
    /// It was taken back before it got its slot.
    fn withdrawn(&self, key: &AttemptKey);
    /// It ended.
    fn finished(&self, key: &AttemptKey, outcome: Outcome);
}

/// An attempt to run.
pub(crate) struct Job {
    pub(crate) key: AttemptKey,
    pub(crate) run: Run,
    pub(crate) caller: Caller,
}

pub(crate) struct Executor {
    clock: Arc<dyn Clock>,
    sink: Arc<dyn Sink>,
    slots: usize,
    aging: Duration,
    table: Mutex<Table>,
    /// Counted by the watchdog.
    ticks: Ticks,
    /// Told when the last attempt has ended.
    idle: Notify,
    /// For the tasks it spawns.
    myself: Weak<Self>,
    tokio: tokio::runtime::Handle,
}

#[derive(Default)]
struct Table {
    running: usize,
    /// By urgency, then in order of arrival.
    queue: BTreeMap<(Timestamp, u64), Job>,
    /// Attempts to be run alone that wait for the one before them, in the same order.
    alone: BTreeMap<(Timestamp, u64), Job>,
    /// Which of them has its turn: until its outcome is recorded, or it would be blamed for what the next one does.
    turn: Option<AttemptKey>,
    arrivals: u64,
    /// The latest time at which something was queued: the wall clock may be set back, and who came before stays before.
    queued_at: Option<Timestamp>,
    known: HashMap<AttemptKey, Known>,
    marks: PollMarks,
    closed: bool,
}

/// ```text
/// Queued ──slot──> Running ──> Finished ──forget──> gone
///    \──withdraw────\──stop───────────────────────^
/// ```
enum Known {
    Queued((Timestamp, u64)),
    Running {
        token: CancellationToken,
        go_ahead: Option<oneshot::Sender<()>>,
        node: NodePath,
        mark: Arc<PollMark>,
    },
    /// Kept until the instance has the outcome durable, so that it is not lost with an actor.
    Finished(Outcome),
}

/// An attempt that has its slot and is not spawned yet: that happens outside the lock.
struct Ready {
    slot: Slot,
    job: Job,
    token: CancellationToken,
    gate: Option<oneshot::Receiver<()>>,
}

impl Executor {
    pub(crate) fn new(limits: &Limits, clock: Arc<dyn Clock>, sink: Arc<dyn Sink>) -> Arc<Self> {
        Arc::new_cyclic(|myself| Self {
            clock,
            sink,
            slots: limits.tasks_running_max.max(1),
            aging: Duration::from_secs(limits.priority_aging_seconds.max(1)),
            table: Mutex::default(),
            ticks: Ticks::new(),
            idle: Notify::new(),
            myself: myself.clone(),
            tokio: tokio::runtime::Handle::current(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an attempt when there is a slot for it. One that is here already is not run a second time.
    pub(crate) fn submit(&self, job: Job) {
        let ready = {
            let mut table = self.table();
            if table.closed || table.known.contains_key(&job.key) {
                return;
            }
            self.admit(&mut table, job)
        };
        self.spawn(ready);
    }

    /// Gives an attempt a slot, or its place in a queue.
    fn admit(&self, table: &mut Table, job: Job) -> Option<Ready> {
        let waits_its_turn = job.run.alone && table.turn.is_some();
        if job.run.alone && !waits_its_turn {
            table.turn = Some(job.key.clone());
        }
        if table.running < self.slots && !waits_its_turn {
            return self.take_slot(table, job);
        }
        let place = self.place(table, &job);
        table.known.insert(job.key.clone(), Known::Queued(place));
        if waits_its_turn {
            table.alone.insert(place, job);
        } else {
            table.queue.insert(place, job);
        }
        None
    }

    /// Waiting raises by one priority per `aging`: the same order as that of these points in time.
    fn place(&self, table: &mut Table, job: &Job) -> (Timestamp, u64) {
        let priority = job.caller.options(&job.run).map_or(Priority::default(), |options| options.priority);
        table.arrivals += 1;
        let now = table.queued_at.map_or(self.clock.now(), |latest| latest.max(self.clock.now()));
        table.queued_at = Some(now);
        (now.after(self.aging * u32::from(priority as u8)), table.arrivals)
    }

    fn take_slot(&self, table: &mut Table, job: Job) -> Option<Ready> {
        let executor = self.myself.upgrade()?;
        let token = CancellationToken::new();
        let (go_ahead, gate) = job.run.announce.then(oneshot::channel).unzip();
        table.running += 1;
        let node = job.caller.definition.program().path(job.run.node).cloned().unwrap_or_else(|| NodePath::new(""));
        let mark = table.marks.take();
        let slot = Slot::new(executor, job.key.clone(), Arc::clone(&mark));
        table.known.insert(job.key.clone(), Known::Running { token: token.clone(), go_ahead, node, mark });
        Some(Ready { slot, job, token, gate })
    }

    /// Outside the lock: a tokio runtime that is going down drops what is spawned on the spot, and with it the slot.
    fn spawn(&self, ready: Option<Ready>) {
        if let Some(Ready { slot, job, token, gate }) = ready {
            self.tokio.spawn(slot.run(job, token, gate));
        }
    }

    /// Whether an attempt is queued or running here, or has an outcome that its instance has not recorded.
    pub(crate) fn knows(&self, key: &AttemptKey) -> bool {
        match self.table().known.get(key) {
            Some(Known::Running { token, .. }) => !token.is_cancelled(),
            Some(Known::Queued(_) | Known::Finished(_)) => true,
            None => false,
        }
    }

    /// Reports an outcome once more, to the successor of an actor that may have lost it.
    pub(crate) fn report_again(&self, key: &AttemptKey) {
        let outcome = match self.table().known.get(key) {
            Some(Known::Finished(outcome)) => outcome.clone(),
            _ => return,
        };
        self.sink.finished(key, outcome);
    }

    /// The outcome is durable, or nobody wants it.
    pub(crate) fn forget(&self, key: &AttemptKey) {
        let ready = {
            let mut table = self.table();
            if !matches!(table.known.get(key), Some(Known::Finished(_))) {
                return;
            }
            table.known.remove(key);
            table.end_turn(key);
            self.next(&mut table)
        };
        self.spawn(ready);
    }

    /// Lets an attempt that announced its start go ahead.
    pub(crate) fn proceed(&self, key: &AttemptKey) {
        if let Some(Known::Running { go_ahead, .. }) = self.table().known.get_mut(key)
            && let Some(go_ahead) = go_ahead.take()
        {
            // It may have been cancelled meanwhile.
            let _ = go_ahead.send(());
        }
    }

    /// Takes an attempt back if it still waits for its slot.
    pub(crate) fn withdraw(&self, key: &AttemptKey) {
        let withdrawn = self.table().unqueue(key);
        if withdrawn {
            self.sink.withdrawn(key);
        }
    }

    /// Cancels an attempt: its token is cancelled, its future dropped, and nothing is reported.
    pub(crate) fn stop(&self, key: &AttemptKey) {
        {
            let mut table = self.table();
            if table.unqueue(key) {
                return;
            }
            if let Some(Known::Running { token, .. }) = table.known.get(key) {
                token.cancel();
            }
        }
        self.forget(key);
    }

    /// Cancels and forgets all attempts of a run but these: whoever handed them out could not make durable what led to them.
    /// Looks at all there are.
    pub(crate) fn stop_others(&self, instance: &InstanceId, run: RunId, kept: &[Ticket]) {
        let is_other = |key: &&AttemptKey| (&key.instance, key.run) == (instance, run) && !kept.contains(&key.ticket);
        let others: Vec<_> = self.table().known.keys().filter(is_other).cloned().collect();
        for key in &others {
            self.stop(key);
        }
    }

    /// Starts nothing more, waits until what runs has ended or `grace` is over, and cancels the rest. What was not run to
    /// its end is reported as withdrawn: it runs again when the instance is taken up the next time.
    pub(crate) async fn close(&self, grace: Duration) {
        let queued = {
            let mut table = self.table();
            table.closed = true;
            let mut queued = std::mem::take(&mut table.queue);
            queued.append(&mut table.alone);
            queued
        };
        for job in queued.into_values() {
            self.table().known.remove(&job.key);
            self.sink.withdrawn(&job.key);
        }
        tokio::select! {
            () = self.idle() => {}
            () = tokio::time::sleep(grace) => {
                for key in self.stop_all() {
                    self.sink.withdrawn(&key);
                }
            }
        }
    }

    /// Waits until nothing runs.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.table().running == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Cancels everything; gives what was running.
    pub(crate) fn stop_all(&self) -> Vec<AttemptKey> {
        let mut table = self.table();
        table.close();
        let mut stopped = Vec::new();
        for (key, known) in &table.known {
            if let Known::Running { token, .. } = known {
                token.cancel();
                stopped.push(key.clone());
            }
        }
        stopped
    }

    /// Gives a slot back: to the next in the queue, if there is one.
    fn release(&self, slot: &Slot) {
        let ready = {
            let mut table = self.table();
            if let Some(Known::Running { .. }) = table.known.get(&slot.key) {
                table.known.remove(&slot.key);
                table.end_turn(&slot.key);
            }
            table.running -= 1;
            table.marks.give_back(&slot.mark);
            if !slot.ended {
                // The tokio runtime drops its tasks: what was started now would be dropped as well.
                table.close();
            }
            if table.running == 0 && table.queue.is_empty() {
                self.idle.notify_waiters();
            }
            self.next(&mut table)
        };
        self.spawn(ready);
    }

    /// The next of the queue, if there is a slot for it.
    fn next(&self, table: &mut Table) -> Option<Ready> {
        if table.running >= self.slots {
            return None;
        }
        let (_, job) = table.queue.pop_first()?;
        self.take_slot(table, job)
    }

    /// Keeps an outcome until it is recorded, and reports it.
    fn finish(&self, key: &AttemptKey, outcome: Outcome) {
        self.table().known.insert(key.clone(), Known::Finished(outcome.clone()));
        self.sink.finished(key, outcome);
    }
}

impl Table {
    fn unqueue(&mut self, key: &AttemptKey) -> bool {
        let Some(Known::Queued(place)) = self.known.get(key) else { return false };
        self.queue.remove(place);
        self.alone.remove(place);
        self.known.remove(key);
        self.end_turn(key);
        true
    }

    /// If it was this one's turn, the next of those that run alone has it: it queues for a slot like any other.
    fn end_turn(&mut self, key: &AttemptKey) {
        if self.turn.as_ref() == Some(key) {
            let next = self.alone.pop_first();
            self.turn = next.as_ref().map(|(_, job)| job.key.clone());
            self.queue.extend(next);
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.queue.clear();
        self.alone.clear();
    }
}
