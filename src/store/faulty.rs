//! A store that fails, waits and crashes on demand.

mod about;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::about::about;
use super::{Answers, Durability, Loaded, Store, StoreError, Write};
use crate::clock::BoxFuture;
use crate::id::{DefinitionHash, InstanceId, RunId};
use crate::machine::RowKey;
use crate::status::StatusCode;
use crate::time::Timestamp;

/// A call of a store, for a [plan](FaultyStore::plan).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Call<'a> {
    /// [`Store::commit`].
    Commit(&'a [Write]),
    /// [`Store::load`].
    Load(&'a InstanceId),
    /// [`Store::row`].
    Row(RunId, &'a RowKey),
    /// [`Store::rows`].
    Rows(RunId),
    /// [`Store::due`].
    Due,
    /// [`Store::instances`].
    Instances,
    /// [`Store::quarantined`].
    Quarantined,
    /// [`Store::ended`].
    Ended,
    /// [`Store::definitions`].
    Definitions,
    /// [`Store::save_manifest`].
    SaveManifest,
    /// [`Store::manifest`].
    Manifest,
    /// [`Store::sweep`].
    Sweep,
    /// [`Store::reopen`].
    Reopen,
}

impl Call<'_> {
    /// Returns true if the call writes.
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Commit(_) | Self::SaveManifest | Self::Sweep)
    }

    /// Returns true if the call is a commit with a write of this instance.
    pub fn writes_to(&self, instance: &str) -> bool {
        matches!(self, Self::Commit(batch) if batch.iter().any(|write| write.instance.as_str() == instance))
    }
}

/// The fault of a call.
pub enum Fault {
    /// No fault: the call goes through.
    None,
    /// Nothing is done, and the caller gets this error.
    FailBefore(StoreError),
    /// The call is done, and the caller gets this error: an unknown outcome.
    FailAfter(StoreError),
    /// The call waits for this future, which returns its fault.
    Wait(BoxFuture<'static, Fault>),
    /// The call is done, and the caller gets the result when this future is ready.
    WaitAfter(BoxFuture<'static, ()>),
}

/// The point at which a store crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPoint {
    /// The last transition that is committed, counted from 1. Transitions of one batch are
    /// committed one by one.
    pub commit: u64,
    /// True if that commit is still answered, and the store crashes at the next one. False if its
    /// answer is lost in the crash.
    pub answered: bool,
}

type Plan = Box<dyn FnMut(u64, &Call<'_>) -> Fault + Send>;

/// A store around another one that fails as planned, to test services with a failing store.
///
/// Numbers each call but `close` and `durability`, from 1, and passes it to the [plan](Self::plan);
/// without a plan all calls go through. After a write that failed with [`StoreError::Fatal`], all
/// writes fail until [`Store::reopen`], as in a real store. Clones share everything.
///
/// ```
/// use everstep::store::{Call, Fault, FaultyStore};
/// use everstep::{MemoryStore, StoreError};
///
/// // The third commit is written, but its answer is lost.
/// let store = FaultyStore::new(MemoryStore::new());
/// let mut commits = 0;
/// store.plan(move |_, call| {
///     commits += u32::from(matches!(call, Call::Commit(_)));
///     match (call, commits) {
///         (Call::Commit(_), 3) => Fault::FailAfter(StoreError::Fatal("the disk is gone".into())),
///         _ => Fault::None,
///     }
/// });
/// ```
#[derive(Clone)]
pub struct FaultyStore {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    state: Mutex<State>,
    crashed: CancellationToken,
    commits: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    plan: Option<Plan>,
    calls: u64,
    poisoned: Option<StoreError>,
    crash: Option<CrashPoint>,
    /// A description of the last transition before a planned crash.
    last: Option<String>,
}

fn crash() -> StoreError {
    StoreError::Fatal("the store has crashed".into())
}

impl FaultyStore {
    /// Returns a store that passes all calls on to another one.
    pub fn new(store: impl Store) -> Self {
        let (store, crashed, commits) = (Arc::new(store), CancellationToken::new(), watch::channel(0).0);
        Self { shared: Arc::new(Shared { store, state: Mutex::default(), crashed, commits }) }
    }

    /// Sets the plan: a function that returns the fault of each call, given its number and the
    /// call.
    pub fn plan(&self, plan: impl FnMut(u64, &Call<'_>) -> Fault + Send + 'static) {
        self.state().plan = Some(Box::new(plan));
    }

    /// Removes the plan: all calls go through.
    pub fn heal(&self) {
        self.state().plan = None;
    }

    /// Plans a crash: after this point nothing is written or read, and the store cannot be
    /// reopened, as if the process had crashed. Transitions are counted from the creation of this
    /// store.
    pub fn crash_at(&self, point: CrashPoint) {
        self.state().crash = Some(point);
    }

    /// Returns a description of the last durable transition, if a crash was
    /// [planned](Self::crash_at): its instance, and the tasks whose results it recorded.
    pub fn last_transition(&self) -> Option<String> {
        self.state().last.clone()
    }

    /// Crashes now.
    pub fn crash(&self) {
        self.shared.crashed.cancel();
    }

    /// Returns true if the store has crashed.
    pub fn has_crashed(&self) -> bool {
        self.shared.crashed.is_cancelled()
    }

    /// Resolves when the store has crashed.
    pub async fn crashed(&self) {
        self.shared.crashed.cancelled().await;
    }

    /// Returns the number of calls.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Returns the number of committed transitions; a repeated one counts again.
    pub fn commits(&self) -> u64 {
        *self.shared.commits.borrow()
    }

    /// Resolves when this many transitions are committed.
    pub async fn reaches_commits(&self, commits: u64) {
        // The sender lives as long as `self`.
        let _ = self.shared.commits.subscribe().wait_for(|reached| *reached >= commits).await;
    }

    /// Locks the state, also after a panic of a plan.
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_fault(&self, call: &Call<'_>) -> Result<Fault, StoreError> {
        if self.has_crashed() {
            return Err(crash());
        }
        let mut state = self.state();
        state.calls += 1;
        if let Some(error) = state.poisoned.as_ref().filter(|_| call.is_write()) {
            return Err(error.clone());
        }
        let number = state.calls;
        Ok(state.plan.as_mut().map_or(Fault::None, |plan| plan(number, call)))
    }

    fn fail<T>(&self, call: &Call<'_>, error: StoreError) -> Result<T, StoreError> {
        if call.is_write() && matches!(error, StoreError::Fatal(_)) {
            self.state().poisoned = Some(error.clone());
        }
        Err(error)
    }

    fn through<'a, T: Send + 'a>(
        &'a self,
        call: Call<'a>,
        run: BoxFuture<'a, Result<T, StoreError>>,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(async move {
            let mut fault = self.next_fault(&call)?;
            while let Fault::Wait(wait) = fault {
                fault = wait.await;
            }
            if self.has_crashed() {
                return Err(crash());
            }
            match fault {
                Fault::FailBefore(error) => self.fail(&call, error),
                Fault::FailAfter(error) => {
                    run.await?;
                    self.fail(&call, error)
                }
                Fault::WaitAfter(wait) => {
                    let done = run.await;
                    wait.await;
                    done
                }
                Fault::None | Fault::Wait(_) => run.await,
            }
        })
    }

    async fn commit_batch(&self, batch: &[Write]) -> Result<Answers, StoreError> {
        let Some(point) = self.state().crash else { return self.commit_counted(batch).await };
        let mut answers = Answers::with_capacity(batch.len());
        for write in batch {
            if point.answered && self.commits() >= point.commit {
                self.crash();
                return Err(crash());
            }
            let about = about(&*self.shared.store, write).await;
            let answer = self.commit_counted(std::slice::from_ref(write)).await?;
            if answer.iter().all(Result::is_ok) {
                self.state().last = Some(about);
            }
            answers.extend(answer);
            if !point.answered && self.commits() >= point.commit {
                self.crash();
                return Err(crash());
            }
        }
        Ok(answers)
    }

    async fn commit_counted(&self, batch: &[Write]) -> Result<Answers, StoreError> {
        let answers = self.shared.store.commit(batch).await?;
        let done = answers.iter().filter(|answer| answer.is_ok()).count();
        self.shared.commits.send_modify(|commits| *commits += u64::try_from(done).unwrap_or(u64::MAX));
        Ok(answers)
    }
}

impl Store for FaultyStore {
    fn commit<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        self.through(Call::Commit(batch), Box::pin(self.commit_batch(batch)))
    }

    fn load<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Result<Option<Loaded>, StoreError>> {
        self.through(Call::Load(instance), self.shared.store.load(instance))
    }

    fn row<'a>(&'a self, run: RunId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.through(Call::Row(run, key), self.shared.store.row(run, key))
    }

    fn rows<'a>(
        &'a self,
        run: RunId,
        prefix: &'a [u8],
        from: Option<&'a RowKey>,
    ) -> BoxFuture<'a, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        self.through(Call::Rows(run), self.shared.store.rows(run, prefix, from))
    }

    fn due<'a>(
        &'a self,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>> {
        self.through(Call::Due, self.shared.store.due(after, limit))
    }

    fn instances<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        status: StatusCode,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        self.through(Call::Instances, self.shared.store.instances(definition, status, after, limit))
    }

    fn quarantined<'a>(
        &'a self,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        self.through(Call::Quarantined, self.shared.store.quarantined(after, limit))
    }

    fn ended<'a>(
        &'a self,
        status: StatusCode,
        before: Timestamp,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>> {
        self.through(Call::Ended, self.shared.store.ended(status, before, after, limit))
    }

    fn definitions(&self) -> BoxFuture<'_, Result<Vec<DefinitionHash>, StoreError>> {
        self.through(Call::Definitions, self.shared.store.definitions())
    }

    fn save_manifest<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        manifest: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.through(Call::SaveManifest, self.shared.store.save_manifest(definition, manifest))
    }

    fn manifest<'a>(&'a self, definition: &'a DefinitionHash) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.through(Call::Manifest, self.shared.store.manifest(definition))
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, StoreError>> {
        self.through(Call::Sweep, self.shared.store.sweep(limit))
    }

    fn reopen(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        let reopened = async {
            self.shared.store.reopen().await?;
            self.state().poisoned = None;
            Ok(())
        };
        self.through(Call::Reopen, Box::pin(reopened))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.shared.store.close()
    }

    fn durability(&self) -> Durability {
        self.shared.store.durability()
    }
}

impl std::fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FaultyStore({} calls, {} transitions)", self.calls(), self.commits())
    }
}

impl std::fmt::Debug for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::FailBefore(error) => write!(f, "FailBefore({error})"),
            Self::FailAfter(error) => write!(f, "FailAfter({error})"),
            Self::Wait(_) => f.write_str("Wait"),
            Self::WaitAfter(_) => f.write_str("WaitAfter"),
        }
    }
}
