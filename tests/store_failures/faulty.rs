//! A store in memory that fails, and keeps its callers waiting, when and how a test says: a short
//! form of [`FaultyStore`] for these tests.
#![allow(dead_code, reason = "each test file uses a part of this")]

#[path = "../common/recorded.rs"]
mod recorded;

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use everstep::store::Write;
use everstep::testing::{Call, Fault, FaultyStore};
use everstep::{MemoryStore, StoreError, TaskContext};
use tokio::sync::watch;

use self::recorded::recorded;
use crate::common::{Counter, Gate, within};

/// The fate of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    /// Nothing is written; the store must be reopened.
    FailsBefore,
    /// Everything is written, but its callers do not learn it: the store must be reopened.
    FailsAfter,
    /// Everything is written, and the store asks for the same batch once more.
    StuttersAfter,
}

/// Both ways in which a commit can fail.
pub(crate) const FAILURES: [Fate; 2] = [Fate::FailsBefore, Fate::FailsAfter];

/// Clones share everything.
#[derive(Clone)]
pub(crate) struct Faulty {
    store: FaultyStore,
    memory: MemoryStore,
    faults: Arc<Faults>,
}

type Plan = Box<dyn FnMut(&[Write]) -> Fate + Send>;

struct Faults {
    plan: Mutex<Plan>,
    /// Number of commits that were written.
    durable: watch::Sender<u64>,
    failed: Counter,
    loads_to_fail: AtomicU32,
    stays_closed: AtomicBool,
    reopens_refused: watch::Sender<u64>,
    held_commits: Mutex<Option<(&'static str, Gate)>>,
    /// The instance whose loads are held, how many more of them, and the gate.
    held_loads: Mutex<Option<(&'static str, u32, Gate)>>,
}

impl Deref for Faulty {
    type Target = FaultyStore;

    fn deref(&self) -> &FaultyStore {
        &self.store
    }
}

impl Faulty {
    pub(crate) fn new() -> Self {
        Self::over(MemoryStore::new())
    }

    pub(crate) fn over(memory: MemoryStore) -> Self {
        let faults = Arc::new(Faults {
            plan: Mutex::new(Box::new(|_| Fate::Done)),
            durable: watch::channel(0).0,
            failed: Counter::default(),
            loads_to_fail: AtomicU32::new(0),
            stays_closed: AtomicBool::new(false),
            reopens_refused: watch::channel(0).0,
            held_commits: Mutex::default(),
            held_loads: Mutex::default(),
        });
        let store = FaultyStore::new(memory.clone());
        let planned = Arc::clone(&faults);
        store.plan(move |_, call| planned.fault(call));
        Self { store, memory, faults }
    }

    /// Returns the store for a runtime.
    pub(crate) fn store(&self) -> FaultyStore {
        self.store.clone()
    }

    /// Sets the plan that decides the fate of each commit from now on.
    pub(crate) fn plan(&self, plan: impl FnMut(&[Write]) -> Fate + Send + 'static) {
        *self.faults.plan.lock().unwrap() = Box::new(plan);
    }

    /// Sets the fate of one commit that writes to the instance, after the next `skipped` ones.
    pub(crate) fn plan_for(&self, id: &'static str, mut skipped: u32, fate: Fate) {
        let mut fate = Some(fate);
        self.plan(move |batch| {
            if !writes_to(batch, id) {
                Fate::Done
            } else if skipped > 0 {
                skipped -= 1;
                Fate::Done
            } else {
                fate.take().unwrap_or(Fate::Done)
            }
        });
    }

    /// Writes nothing after this many commits, and keeps the store from reopening.
    pub(crate) fn lose_power_after(&self, mut commits: u64) {
        self.faults.stays_closed.store(true, Ordering::SeqCst);
        self.plan(move |_| {
            let fate = if commits == 0 { Fate::FailsBefore } else { Fate::Done };
            commits = commits.saturating_sub(1);
            fate
        });
    }

    /// Makes the next few loads fail.
    pub(crate) fn fail_loads(&self, loads: u32) {
        self.faults.loads_to_fail.store(loads, Ordering::SeqCst);
    }

    /// Waits until they have failed.
    pub(crate) async fn loads_have_failed(&self) {
        let failed = async {
            while self.faults.loads_to_fail.load(Ordering::SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
        };
        within(failed).await;
    }

    /// Keeps the store from reopening from now on.
    pub(crate) fn stay_closed(&self) {
        self.faults.stays_closed.store(true, Ordering::SeqCst);
    }

    /// Lets the store reopen again.
    pub(crate) fn let_reopen(&self) {
        self.faults.stays_closed.store(false, Ordering::SeqCst);
    }

    /// Waits until a reopen has failed.
    pub(crate) async fn reopening_failed(&self) {
        within(self.reopening_failed_times(1)).await;
    }

    /// Waits until that many reopens have failed, however long that takes.
    pub(crate) async fn reopening_failed_times(&self, times: u64) {
        let mut refused = self.faults.reopens_refused.subscribe();
        refused.wait_for(|refused| *refused >= times).await.unwrap();
    }

    /// Holds each commit that writes to the instance at the gate, before anything is written.
    pub(crate) fn hold_commits_of(&self, id: &'static str) -> Gate {
        let gate = Gate::new();
        *self.faults.held_commits.lock().unwrap() = Some((id, gate.clone()));
        gate
    }

    /// Holds each of the next few loads of the instance at the gate, after the read.
    pub(crate) fn hold_loads_of(&self, id: &'static str, loads: u32) -> Gate {
        let gate = Gate::new();
        *self.faults.held_loads.lock().unwrap() = Some((id, loads, gate.clone()));
        gate
    }

    /// Returns how many commits were written.
    pub(crate) fn commits(&self) -> u64 {
        *self.faults.durable.borrow()
    }

    /// Waits until this many commits were written.
    pub(crate) async fn reaches_commit(&self, number: u64) {
        self.faults.durable.subscribe().wait_for(|durable| *durable >= number).await.unwrap();
    }

    /// Returns how many commits failed, or stuttered.
    pub(crate) fn failed(&self) -> u32 {
        self.faults.failed.get()
    }

    /// Returns true if a task's result is durable.
    pub(crate) async fn has_result(&self, context: &TaskContext) -> bool {
        recorded(&self.memory, context.instance().as_str(), context.node().as_str(), &[]).await.is_some()
    }
}

impl Faults {
    fn fault(self: &Arc<Self>, call: &Call<'_>) -> Fault {
        match call {
            Call::Commit(batch) => self.fault_of_commit(batch),
            Call::Load(instance) => self.fault_of_load(instance.as_str()),
            Call::Reopen if self.stays_closed.load(Ordering::SeqCst) => {
                self.reopens_refused.send_modify(|refused| *refused += 1);
                Fault::FailBefore(fatal())
            }
            _ => Fault::None,
        }
    }

    fn fault_of_commit(self: &Arc<Self>, batch: &[Write]) -> Fault {
        let held = self.held_commits.lock().unwrap().clone();
        match held {
            Some((id, gate)) if writes_to(batch, id) => {
                let (faults, batch) = (Arc::clone(self), batch.to_vec());
                Fault::Wait(Box::pin(async move {
                    gate.pass().await;
                    faults.planned(&batch)
                }))
            }
            _ => self.planned(batch),
        }
    }

    fn planned(self: &Arc<Self>, batch: &[Write]) -> Fault {
        // A plan may panic, as a store may.
        let fate = (self.plan.lock().unwrap_or_else(std::sync::PoisonError::into_inner))(batch);
        if fate != Fate::Done {
            self.failed.hit();
        }
        let faults = Arc::clone(self);
        let written = move || faults.durable.send_modify(|durable| *durable += 1);
        match fate {
            Fate::Done => Fault::WaitAfter(Box::pin(async move { written() })),
            Fate::FailsBefore => Fault::FailBefore(fatal()),
            Fate::FailsAfter => {
                written();
                Fault::FailAfter(fatal())
            }
            Fate::StuttersAfter => {
                written();
                Fault::FailAfter(StoreError::Transient("not now".into()))
            }
        }
    }

    fn fault_of_load(&self, instance: &str) -> Fault {
        let one_less = |left: u32| left.checked_sub(1);
        if self.loads_to_fail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return Fault::FailBefore(fatal());
        }
        match &mut *self.held_loads.lock().unwrap() {
            Some((id, loads, gate)) if *id == instance && *loads > 0 => {
                *loads -= 1;
                let gate = gate.clone();
                Fault::WaitAfter(Box::pin(async move { gate.pass().await }))
            }
            _ => Fault::None,
        }
    }
}

pub(crate) fn writes_to(batch: &[Write], id: &str) -> bool {
    batch.iter().any(|write| write.instance.as_str() == id)
}

fn fatal() -> StoreError {
    StoreError::Fatal("the disk is gone".into())
}

/// Lets everything that needs no store run as far as it can, on a tokio runtime of one thread.
pub(crate) async fn settle() {
    for _ in 0..500 {
        tokio::task::yield_now().await;
    }
}
