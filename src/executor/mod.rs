//! Runs user code: a bounded number of attempts at once, highest priority first, each with its
//! timeout and each cancellable.
//!
//! Not an actor: a table in a mutex, and spawned tasks. The executor reports to a [`Sink`] and
//! knows none of its listeners.

mod attempt;
mod blocking;
mod queue;
mod table;
mod waits;
mod watchdog;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use attempt::Slot;
pub(crate) use attempt::{attempt, until_cancelled};
use blocking::Thread;
pub(crate) use blocking::on_thread;
use queue::{LineKey, Queue};
use table::{Attempt, Phase, Table};
pub(crate) use waits::WaitsForInstance;
pub(crate) use watchdog::Watchdog;
pub use watchdog::{StallCause, Stalled};
use watchdog::{Ticks, Whose};

use crate::clock::Clock;
use crate::definition::NodeNames as _;
use crate::id::{InstanceId, NodePath, RunId};
use crate::lifecycle::Caller;
use crate::limits::Limits;
use crate::machine::{AttemptId, Outcome, Run};
use crate::time::Timestamp;

/// Identifies an attempt within the whole runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttemptKey {
    pub(crate) instance: InstanceId,
    pub(crate) run: RunId,
    pub(crate) attempt_id: AttemptId,
}

/// Number of a job, issued once by the executor. An attempt id is issued again if the transition
/// that issued it was never durable; reports carry this number too, so a late report of the first
/// job is never taken for one of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Serial(u64);

/// Receives the reports of attempts.
pub(crate) trait Sink: Send + Sync + 'static {
    /// Reports that the attempt got its slot.
    fn started(&self, key: &AttemptKey, serial: Serial, at: Timestamp);
    /// Reports that the attempt was taken out of the queue before it got a slot, or was cancelled
    /// by a shutdown.
    fn withdrawn(&self, key: &AttemptKey);
    /// Reports that the attempt ended.
    fn finished(&self, key: &AttemptKey, serial: Serial, outcome: Outcome);
}

/// An attempt to run.
pub(crate) struct Job {
    pub(crate) key: AttemptKey,
    pub(crate) run: Run,
    pub(crate) caller: Caller,
}

impl Job {
    fn is_blocking(&self) -> bool {
        self.caller.options(&self.run).is_some_and(|options| options.blocking)
    }
}

pub(crate) struct Executor {
    clock: Arc<dyn Clock>,
    sink: Arc<dyn Sink>,
    slots: usize,
    threads: usize,
    table: Mutex<Table>,
    /// Ticks counted by the watchdog.
    ticks: Ticks,
    /// Notified when the last attempt has ended.
    idle: Notify,
    /// Used by the tasks that the executor spawns.
    myself: Weak<Self>,
    tokio: tokio::runtime::Handle,
}

/// An attempt that has its slot and is not spawned yet: spawning happens outside the lock.
struct Ready {
    slot: Slot,
    job: Job,
    token: CancellationToken,
    gate: Option<oneshot::Receiver<()>>,
    /// Present if the task is declared blocking.
    thread: Option<Thread>,
}

impl Executor {
    pub(crate) fn new(limits: &Limits, clock: Arc<dyn Clock>, sink: Arc<dyn Sink>) -> Arc<Self> {
        let aging = Duration::from_secs(limits.priority_aging_seconds.max(1));
        Arc::new_cyclic(|myself| Self {
            clock,
            sink,
            slots: limits.tasks_running_max.max(1),
            threads: limits.blocking_tasks_running_max.max(1),
            table: Mutex::new(Table::new(Queue::new(aging))),
            ticks: Ticks::new(),
            idle: Notify::new(),
            myself: myself.clone(),
            tokio: tokio::runtime::Handle::current(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an attempt as soon as there is a slot for it. Does nothing if the attempt is known
    /// already.
    pub(crate) fn submit(&self, job: Job) {
        let ready = {
            let mut table = self.table();
            if table.closed || table.get(&job.key).is_some() {
                return;
            }
            self.admit(&mut table, job)
        };
        self.spawn(ready);
    }

    /// Gives an attempt a slot, or its place in a queue.
    fn admit(&self, table: &mut Table, job: Job) -> Option<Ready> {
        let serial = table.new_serial();
        let waits_its_turn = job.run.alone && table.turn.is_some();
        if job.run.alone && !waits_its_turn {
            table.turn = Some(serial);
        }
        let has_thread = table.threads < self.threads || !job.is_blocking();
        if table.running < self.slots && has_thread && !waits_its_turn {
            return self.take_slot(table, serial, job);
        }
        table.insert(&job.key, Attempt { serial, phase: Phase::Queued(LineKey::of(&job)) });
        if waits_its_turn {
            table.alone.insert(serial, job);
        } else {
            table.queue.push(self.clock.now(), serial, job);
        }
        None
    }

    fn take_slot(&self, table: &mut Table, serial: Serial, job: Job) -> Option<Ready> {
        let executor = self.myself.upgrade()?;
        let token = CancellationToken::new();
        let (go_ahead, gate) = job.run.announce.then(oneshot::channel).unzip();
        table.running += 1;
        let thread = job.is_blocking().then(|| Thread::take(&executor, table));
        let node = job.caller.definition.program().path(job.run.node).cloned().unwrap_or_else(|| NodePath::new(""));
        let (instance, is_blocking) = (job.key.instance.clone(), thread.is_some());
        let seat = table.marks.take(Whose { instance, node, serial, is_blocking });
        table.insert(&job.key, Attempt { serial, phase: Phase::Running { token: token.clone(), go_ahead } });
        let slot = Slot::new(executor, job.key.clone(), serial, seat);
        Some(Ready { slot, job, token, gate, thread })
    }

    /// Spawns an attempt, outside the lock: a tokio runtime that shuts down drops a new task at
    /// once, and its slot with it.
    fn spawn(&self, ready: Option<Ready>) {
        if let Some(Ready { slot, job, token, gate, thread }) = ready {
            self.tokio.spawn(slot.run(job, token, gate, thread));
        }
    }

    /// Returns true if an attempt is queued or running, or has an outcome that its instance has not
    /// recorded.
    pub(crate) fn knows(&self, key: &AttemptKey) -> bool {
        self.table().get(key).is_some()
    }

    /// Returns true if the attempt is now run by this job. Reports of any other job are late.
    pub(crate) fn is_current(&self, key: &AttemptKey, serial: Serial) -> bool {
        self.table().get(key).is_some_and(|attempt| attempt.serial == serial)
    }

    /// Reports an outcome again, to the next actor of the instance: the previous one may have lost
    /// it.
    pub(crate) fn report_again(&self, key: &AttemptKey) {
        let (serial, outcome) = match self.table().get(key) {
            Some(Attempt { serial, phase: Phase::Finished(outcome) }) => (*serial, outcome.clone()),
            _ => return,
        };
        self.sink.finished(key, serial, outcome);
    }

    /// Forgets an outcome that is durable, or that nothing needs.
    pub(crate) fn forget(&self, key: &AttemptKey) {
        let ready = {
            let mut table = self.table();
            let is_finished = |attempt: &Attempt| matches!(attempt.phase, Phase::Finished(_));
            let Some(attempt) = table.remove_if(key, is_finished) else { return };
            table.end_turn(self.clock.now(), attempt.serial);
            self.next(&mut table)
        };
        self.spawn(ready);
    }

    /// Cancels the attempts of an instance that wait to go ahead: the instance cannot record their
    /// start now, and hands them out again later. None of their user code has run.
    pub(crate) fn stop_at_gates(&self, instance: &InstanceId) {
        let waiting = self.table().at_gates(instance);
        for key in &waiting {
            self.stop(key);
        }
    }

    /// Ends the turn of an attempt of this instance that is run alone and has ended, if its outcome
    /// cannot be recorded now. The next such attempt gets the turn.
    pub(crate) fn yield_turn(&self, instance: &InstanceId) {
        let ready = {
            let mut table = self.table();
            let Some(turn) = table.turn.filter(|turn| table.is_finished(instance, *turn)) else { return };
            table.end_turn(self.clock.now(), turn);
            self.next(&mut table)
        };
        self.spawn(ready);
    }

    /// Lets an attempt that announced its start go ahead.
    pub(crate) fn proceed(&self, key: &AttemptKey) {
        if let Some(Phase::Running { go_ahead, .. }) = self.table().get_mut(key).map(|attempt| &mut attempt.phase)
            && let Some(go_ahead) = go_ahead.take()
        {
            // The attempt may have been cancelled in between.
            let _ = go_ahead.send(());
        }
    }

    /// Takes an attempt back if it still waits for its slot.
    pub(crate) fn withdraw(&self, key: &AttemptKey) {
        let (withdrawn, ready) = {
            let mut table = self.table();
            let withdrawn = table.unqueue(self.clock.now(), key);
            (withdrawn, self.next(&mut table))
        };
        self.spawn(ready);
        if withdrawn {
            self.sink.withdrawn(key);
        }
    }

    /// Cancels an attempt: cancels its token, drops its future, and reports nothing.
    pub(crate) fn stop(&self, key: &AttemptKey) {
        let ready = {
            let (mut table, now) = (self.table(), self.clock.now());
            if !table.unqueue(now, key)
                && let Some(Attempt { serial, phase }) = table.remove_if(key, |_| true)
            {
                match phase {
                    // Dropping the future gives back the slot, and the turn to run alone.
                    Phase::Running { token, .. } => token.cancel(),
                    Phase::Queued(_) | Phase::Finished(_) => table.end_turn(now, serial),
                }
            }
            self.next(&mut table)
        };
        self.spawn(ready);
    }

    /// Cancels and forgets all attempts of an instance, of any run.
    pub(crate) fn stop_instance(&self, instance: &InstanceId) {
        self.stop_others(instance, None);
    }

    /// Cancels and forgets all attempts of an instance, of any run, except `kept`: the next actor
    /// of the instance goes on with these. The cost grows with the attempts of this instance only.
    pub(crate) fn stop_others(&self, instance: &InstanceId, kept: Option<(RunId, &[AttemptId])>) {
        let others = self.table().others(instance, kept);
        for key in &others {
            self.stop(key);
        }
    }

    /// Starts no more attempts, waits up to `grace` for the running ones, and cancels the rest. An
    /// attempt that did not end is reported as withdrawn: its task runs again the next time the
    /// instance is activated.
    pub(crate) async fn close(&self, grace: Duration) {
        let queued = self.table().close();
        for (serial, job) in queued {
            self.table().remove_if(&job.key, |attempt| attempt.serial == serial);
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

    /// Waits until no attempt runs.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.table().running == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Cancels all attempts, and returns those that were running.
    pub(crate) fn stop_all(&self) -> Vec<AttemptKey> {
        let mut table = self.table();
        table.close();
        let mut stopped = Vec::new();
        for key in table.all_running() {
            if let Some(Attempt { phase: Phase::Running { token, .. }, .. }) = table.remove_if(&key, |_| true) {
                token.cancel();
                stopped.push(key);
            }
        }
        stopped
    }

    /// Frees a slot, for the next attempt in the queue if there is one.
    fn release(&self, slot: &Slot) {
        let ready = {
            let mut table = self.table();
            let (key, serial) = (slot.key(), slot.serial());
            if !table.end_run(key, serial) {
                table.end_turn(self.clock.now(), serial);
            }
            table.running -= 1;
            table.marks.give_back(slot.seat());
            if !slot.has_ended() {
                // The tokio runtime is dropping its tasks: an attempt started now would be dropped
                // as well.
                table.close();
            }
            if table.running == 0 && table.queue.is_empty() {
                self.idle.notify_waiters();
            }
            self.next(&mut table)
        };
        self.spawn(ready);
    }

    /// Frees a thread, for the next attempt that needs one if there is a slot as well.
    fn release_thread(&self) {
        let ready = {
            let mut table = self.table();
            table.threads -= 1;
            self.next(&mut table)
        };
        self.spawn(ready);
    }

    /// Takes the next attempt from the queue, if there is a slot for it.
    fn next(&self, table: &mut Table) -> Option<Ready> {
        if table.running >= self.slots || table.queue.is_empty() {
            return None;
        }
        let (serial, job) = table.queue.pop(self.clock.now(), table.threads < self.threads)?;
        self.take_slot(table, serial, job)
    }

    /// Keeps an outcome until it is recorded, and reports it. Does nothing if the attempt was
    /// stopped in between.
    fn finish(&self, key: &AttemptKey, serial: Serial, outcome: Outcome) {
        match self.table().get_mut(key) {
            Some(attempt) if attempt.serial == serial => attempt.phase = Phase::Finished(outcome.clone()),
            _ => return,
        }
        self.sink.finished(key, serial, outcome);
    }
}
