//! A store in memory that fails, and keeps its callers waiting, when and how a test says so.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use everstep::machine::RowKey;
use everstep::store::{Answers, Loaded, Write};
use everstep::{
    BoxFuture, DefinitionHash, Durability, InstanceId, MemoryStore, NodePath, RunId, StatusCode, Store, StoreError,
    Timestamp,
};
use tokio::sync::watch;

use crate::common::{Counter, Gate, within};

/// What becomes of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    /// Nothing is written; the store must be reopened.
    FailsBefore,
    /// All is written, and nobody learns it: the store must be reopened.
    FailsAfter,
    /// All is written, and the store asks for the same batch once more.
    StuttersAfter,
}

/// Both ways in which a commit can fail.
pub(crate) const FAILURES: [Fate; 2] = [Fate::FailsBefore, Fate::FailsAfter];

/// Clones share everything.
#[derive(Clone)]
pub(crate) struct Faulty {
    store: MemoryStore,
    faults: Arc<Faults>,
}

type Plan = Box<dyn FnMut(&[Write]) -> Fate + Send>;

struct Faults {
    plan: Mutex<Plan>,
    /// Commits that were written.
    durable: watch::Sender<u64>,
    failed: Counter,
    /// A commit failed for good, and the store was not reopened yet.
    poisoned: AtomicBool,
    loads_to_fail: AtomicU32,
    stays_closed: AtomicBool,
    reopens_refused: watch::Sender<u64>,
    held_commits: Mutex<Option<(&'static str, Gate)>>,
    /// How many more loads are held.
    held_loads: Mutex<Option<(&'static str, u32, Gate)>>,
}

impl Faulty {
    pub(crate) fn new() -> Self {
        Self::over(MemoryStore::new())
    }

    pub(crate) fn over(store: MemoryStore) -> Self {
        let faults = Faults {
            plan: Mutex::new(Box::new(|_| Fate::Done)),
            durable: watch::channel(0).0,
            failed: Counter::default(),
            poisoned: AtomicBool::new(false),
            loads_to_fail: AtomicU32::new(0),
            stays_closed: AtomicBool::new(false),
            reopens_refused: watch::channel(0).0,
            held_commits: Mutex::default(),
            held_loads: Mutex::default(),
        };
        Self { store, faults: Arc::new(faults) }
    }

    /// Asked for the fate of each commit from now on.
    pub(crate) fn plan(&self, plan: impl FnMut(&[Write]) -> Fate + Send + 'static) {
        *self.faults.plan.lock().unwrap() = Box::new(plan);
    }

    /// The fate of the commit after the next `skipped` ones that write to the instance.
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

    /// Nothing is written after this many commits, and the store cannot be reopened.
    pub(crate) fn lose_power_after(&self, mut commits: u64) {
        self.faults.stays_closed.store(true, Ordering::SeqCst);
        self.plan(move |_| {
            let fate = if commits == 0 { Fate::FailsBefore } else { Fate::Done };
            commits = commits.saturating_sub(1);
            fate
        });
    }

    /// The next few loads fail.
    pub(crate) fn fail_loads(&self, loads: u32) {
        self.faults.loads_to_fail.store(loads, Ordering::SeqCst);
    }

    /// Waits until they have.
    pub(crate) async fn loads_have_failed(&self) {
        let failed = async {
            while self.faults.loads_to_fail.load(Ordering::SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
        };
        within(failed).await;
    }

    /// From now on the store cannot be reopened.
    pub(crate) fn stay_closed(&self) {
        self.faults.stays_closed.store(true, Ordering::SeqCst);
    }

    /// From now on it can.
    pub(crate) fn let_reopen(&self) {
        self.faults.stays_closed.store(false, Ordering::SeqCst);
    }

    /// Waits until somebody has tried in vain.
    pub(crate) async fn reopening_failed(&self) {
        within(self.reopening_failed_times(1)).await;
    }

    /// Waits until that was tried in vain so often, however long that takes.
    pub(crate) async fn reopening_failed_times(&self, times: u64) {
        let mut refused = self.faults.reopens_refused.subscribe();
        refused.wait_for(|refused| *refused >= times).await.unwrap();
    }

    /// Each commit that writes to the instance stays at the gate, before anything is written.
    pub(crate) fn hold_commits_of(&self, id: &'static str) -> Gate {
        let gate = Gate::new();
        *self.faults.held_commits.lock().unwrap() = Some((id, gate.clone()));
        gate
    }

    /// Each of the next few loads of the instance stays at the gate, with what it has read.
    pub(crate) fn hold_loads_of(&self, id: &'static str, loads: u32) -> Gate {
        let gate = Gate::new();
        *self.faults.held_loads.lock().unwrap() = Some((id, loads, gate.clone()));
        gate
    }

    /// How many commits were written.
    pub(crate) fn commits(&self) -> u64 {
        *self.faults.durable.borrow()
    }

    /// Waits until this many were.
    pub(crate) async fn reaches_commit(&self, number: u64) {
        self.faults.durable.subscribe().wait_for(|durable| *durable >= number).await.unwrap();
    }

    /// How many commits failed, or stuttered.
    pub(crate) fn failed(&self) -> u32 {
        self.faults.failed.get()
    }

    /// Whether a task's result is durable.
    pub(crate) async fn has_result(&self, run: RunId, node: &NodePath) -> bool {
        self.store.row(run, &RowKey::result(node.clone())).await.unwrap().is_some()
    }

    async fn write(&self, batch: &[Write]) -> Result<Answers, StoreError> {
        let answers = self.store.commit(batch).await?;
        self.faults.durable.send_modify(|durable| *durable += 1);
        Ok(answers)
    }

    fn poison(&self) -> StoreError {
        self.faults.failed.hit();
        self.faults.poisoned.store(true, Ordering::SeqCst);
        fatal()
    }
}

pub(crate) fn writes_to(batch: &[Write], id: &str) -> bool {
    batch.iter().any(|write| write.instance.as_str() == id)
}

fn fatal() -> StoreError {
    StoreError::Fatal("the disk is gone".into())
}

impl Store for Faulty {
    fn commit<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        Box::pin(async move {
            let held = self.faults.held_commits.lock().unwrap().clone();
            if let Some((id, gate)) = held
                && writes_to(batch, id)
            {
                gate.pass().await;
            }
            if self.faults.poisoned.load(Ordering::SeqCst) {
                return Err(fatal());
            }
            // A plan may panic, as a store may.
            let fate = (self.faults.plan.lock().unwrap_or_else(std::sync::PoisonError::into_inner))(batch);
            match fate {
                Fate::Done => self.write(batch).await,
                Fate::FailsBefore => Err(self.poison()),
                Fate::FailsAfter => {
                    self.write(batch).await?;
                    Err(self.poison())
                }
                Fate::StuttersAfter => {
                    self.write(batch).await?;
                    self.faults.failed.hit();
                    Err(StoreError::Transient("not now".into()))
                }
            }
        })
    }
    fn load<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Result<Option<Loaded>, StoreError>> {
        Box::pin(async move {
            let one_less = |left: u32| left.checked_sub(1);
            if self.faults.loads_to_fail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
                return Err(fatal());
            }
            let loaded = self.store.load(instance).await;
            let gate = match &mut *self.faults.held_loads.lock().unwrap() {
                Some((id, loads, gate)) if *id == instance.as_str() && *loads > 0 => {
                    *loads -= 1;
                    Some(gate.clone())
                }
                _ => None,
            };
            if let Some(gate) = gate {
                gate.pass().await;
            }
            loaded
        })
    }
    fn row<'a>(&'a self, run: RunId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.store.row(run, key)
    }
    fn rows<'a>(&'a self, run: RunId, prefix: &'a [u8]) -> BoxFuture<'a, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        self.store.rows(run, prefix)
    }
    fn due<'a>(
        &'a self,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>> {
        self.store.due(after, limit)
    }
    fn instances<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        status: StatusCode,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        self.store.instances(definition, status, after, limit)
    }
    fn quarantined<'a>(
        &'a self,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        self.store.quarantined(after, limit)
    }
    fn ended<'a>(
        &'a self,
        status: StatusCode,
        before: Timestamp,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>> {
        self.store.ended(status, before, after, limit)
    }
    fn definitions(&self) -> BoxFuture<'_, Result<Vec<DefinitionHash>, StoreError>> {
        self.store.definitions()
    }
    fn save_manifest<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        manifest: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.save_manifest(definition, manifest)
    }
    fn manifest<'a>(&'a self, definition: &'a DefinitionHash) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.store.manifest(definition)
    }
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, StoreError>> {
        self.store.sweep(limit)
    }
    fn reopen(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        if self.faults.stays_closed.load(Ordering::SeqCst) {
            self.faults.reopens_refused.send_modify(|refused| *refused += 1);
            return Box::pin(std::future::ready(Err(fatal())));
        }
        self.faults.poisoned.store(false, Ordering::SeqCst);
        self.store.reopen()
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        self.store.close()
    }
    fn durability(&self) -> Durability {
        self.store.durability()
    }
}

/// On a tokio runtime of one thread: everything that can go on without the store goes on as far as it can.
pub(crate) async fn settle() {
    for _ in 0..500 {
        tokio::task::yield_now().await;
    }
}
