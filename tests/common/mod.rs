//! Helpers of the behaviour tests: a stopped clock, gates that hold tasks, and waits that give up.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use everstep::machine::encode_quarantine;
use everstep::store::{Change, Condition, Write};
use everstep::{
    Clock as _, ConflictPolicy, InstanceHandle, InstanceId, ManualClock, MemoryStore, RunId, Stamp, StartOptions,
    Status, StatusCode, Store as _, TaskContext, Timestamp, Workflow,
};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;

/// The longest that a step may take before a test reports that it never happens. Never a measure of
/// speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

/// Returns a clock that is stopped at a day in 2027.
pub(crate) fn still_clock() -> ManualClock {
    ManualClock::new(Timestamp::from_micros(1_800_000_000_000_000))
}

/// Returns a write to an existing instance at its present version, for changes that no runtime
/// makes.
pub(crate) async fn forced(store: &MemoryStore, instance: &str, change: Change) -> Write {
    let instance = InstanceId::new(instance).unwrap();
    let version = store.load(&instance).await.unwrap().unwrap().version(&instance);
    let run = version.run().unwrap_or(RunId::from_bytes([0; 16]));
    let (stamp, condition) = (Stamp::generate(), Condition::Seen(version));
    Write { instance, stamp, condition, change, rows: Vec::new(), run, superseded: None }
}

/// Quarantines an existing instance, past the runtime.
pub(crate) async fn quarantine(store: &MemoryStore, instance: &str, reason: &str) {
    let record = encode_quarantine(&InstanceId::new(instance).unwrap(), reason, Stamp::generate());
    let write = forced(store, instance, Change::Quarantine(record)).await;
    assert_eq!(store.commit(&[write]).await.unwrap(), [Ok(())]);
}

/// Returns the future's output, or panics with the caller's line.
#[track_caller]
pub(crate) fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let asked_at = Location::caller();
    async move {
        let output = tokio::time::timeout(PATIENCE, future).await;
        output.unwrap_or_else(|_| panic!("nothing came within {PATIENCE:?} of {asked_at}"))
    }
}

/// Waits until the instance has a wanted status, and returns that.
#[track_caller]
pub(crate) fn reach<O: 'static>(
    handle: &InstanceHandle<O>,
    wanted: impl Fn(&Status) -> bool,
) -> impl Future<Output = Status> {
    let asked_at = Location::caller();
    async move {
        let mut last = None;
        let found = tokio::time::timeout(PATIENCE, async {
            let mut watch = handle.watch().await.unwrap();
            while let Some(status) = watch.next().await {
                if wanted(&status) {
                    return Some(status);
                }
                last = Some(status);
            }
            None
        });
        let found = found.await.ok().flatten();
        found.unwrap_or_else(|| panic!("{} got no further than {last:?}, asked at {asked_at}", handle.id()))
    }
}

/// Waits until the instance has a status of this code, and returns that.
#[track_caller]
pub(crate) fn reach_code<O: 'static>(handle: &InstanceHandle<O>, code: StatusCode) -> impl Future<Output = Status> {
    reach(handle, move |status| status.code() == code)
}

/// Moves the clock to this point, and then by a second now and then until the future is ready: a
/// sleeper that read the clock just before it moved sleeps that much too long.
#[track_caller]
pub(crate) fn when_clock_is_at<F: Future>(
    clock: &ManualClock,
    at: Timestamp,
    future: F,
) -> impl Future<Output = F::Output> {
    clock.advance(at.since(clock.now()));
    moving(clock, Duration::from_secs(1), future)
}

/// Moves the clock step by step until the future is ready.
#[track_caller]
pub(crate) fn moving<F: Future>(clock: &ManualClock, step: Duration, future: F) -> impl Future<Output = F::Output> {
    let future = within(future);
    async move {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                output = &mut future => return output,
                () = tokio::time::sleep(Duration::from_millis(20)) => clock.advance(step),
            }
        }
    }
}

/// Reads the store until the instance's task waits for an attempt later than `now`, which no status
/// shows.
pub(crate) async fn backing_off(store: &MemoryStore, id: &str, now: Timestamp) {
    let id = InstanceId::new(id).unwrap();
    let backed_off = async {
        loop {
            let loaded = store.load(&id).await.unwrap().unwrap();
            let snapshot = everstep::machine::decode_head(&id, &loaded.head).unwrap();
            if snapshot.next_wake().is_some_and(|wake| wake > now) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    within(backed_off).await;
}

/// A gate in a task: an attempt that enters waits until the test opens the gate.
#[derive(Clone)]
pub(crate) struct Gate {
    entered: Arc<Semaphore>,
    open: Arc<Semaphore>,
    count: Arc<AtomicU32>,
}

impl Gate {
    /// Returns a closed gate.
    pub(crate) fn new() -> Self {
        Self { entered: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)), count: Arc::default() }
    }

    /// Counts an attempt, and waits until the gate opens for it. Called by the task.
    pub(crate) async fn pass(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.entered.add_permits(1);
        self.open.acquire().await.unwrap().forget();
    }

    /// Waits until one more attempt has entered.
    #[track_caller]
    pub(crate) fn entered(&self) -> impl Future<Output = ()> {
        let entered = Arc::clone(&self.entered);
        within(async move { entered.acquire_owned().await.unwrap().forget() })
    }

    /// Opens the gate for this many attempts.
    pub(crate) fn open(&self, attempts: usize) {
        self.open.add_permits(attempts);
    }

    /// Closes the gate for attempts that have not entered yet.
    pub(crate) fn forget_open(&self) {
        self.open.forget_permits(usize::MAX >> 3);
    }

    /// Returns how many attempts have entered so far.
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }
}

/// A counter of calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<AtomicU32>);

impl Counter {
    /// Counts one more, and returns the sum.
    pub(crate) fn hit(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Returns the sum so far.
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Returns its input.
#[allow(clippy::unused_async, reason = "as a task has it")]
pub(crate) async fn same<T: Send + 'static>(value: T) -> Result<T, Infallible> {
    Ok(value)
}

/// Adds one.
pub(crate) async fn inc(n: u32) -> Result<u32, Infallible> {
    Ok(n + 1)
}

/// Returns a task that counts and returns its input.
pub(crate) fn counting<T: Send + 'static>(
    counter: &Counter,
) -> impl Fn(T) -> std::future::Ready<Result<T, Infallible>> + Send + Sync + use<T> {
    let counter = counter.clone();
    move |value| {
        counter.hit();
        std::future::ready(Ok(value))
    }
}

/// Returns a task that waits at the gate and returns its input.
pub(crate) fn holding<T: Send + 'static>(
    gate: &Gate,
) -> impl Fn(T) -> everstep::BoxFuture<'static, Result<T, Infallible>> + Send + Sync + use<T> {
    let gate = gate.clone();
    move |value| {
        let gate = gate.clone();
        Box::pin(async move {
            gate.pass().await;
            Ok(value)
        })
    }
}

/// Returns a task that sends the number and begin of each attempt, and fails as many times as its
/// input says.
pub(crate) fn failing(
    clock: &ManualClock,
    told: UnboundedSender<(u32, Duration)>,
) -> impl Fn(u32, TaskContext) -> Ready<Result<u32, String>> + Send + Sync + use<> {
    let (clock, start) = (clock.clone(), clock.now());
    move |failures, context| {
        told.send((context.attempt(), clock.now().since(start))).unwrap();
        let done = context.attempt() > failures;
        ready(if done { Ok(failures) } else { Err(format!("failure {}", context.attempt())) })
    }
}

/// Returns a workflow that waits for one number.
pub(crate) fn waiting(name: &str) -> Workflow<u32, u32> {
    Workflow::builder_for::<u32>(name).wait_for_signal::<u32>("wait", "go").build().unwrap()
}

/// Returns the workflow count -> hold -> delay -> wait -> inc.
pub(crate) fn long(count: &Counter, gate: &Gate) -> Workflow<u32, u32> {
    Workflow::builder("long")
        .then("count", counting::<u32>(count))
        .then("hold", holding::<u32>(gate))
        .delay("delay", Duration::from_mins(1))
        .wait_for_signal::<u32>("wait", "go")
        .then("inc", inc)
        .build()
        .unwrap()
}

/// Returns the options of a start with this policy.
pub(crate) fn with(policy: ConflictPolicy) -> StartOptions {
    StartOptions::new().policy(policy)
}

/// Opens a file store once it is free: the last actor of a dropped runtime may still hold it.
#[cfg(feature = "file-store")]
pub(crate) async fn open(path: &std::path::Path) -> everstep::FileStore {
    let opened = async {
        loop {
            match everstep::FileStore::open(path).await {
                Err(everstep::StoreError::Locked(_)) => tokio::task::yield_now().await,
                opened => return opened.unwrap(),
            }
        }
    };
    within(opened).await
}

/// A guard in a task's future that counts when the future is dropped.
pub(crate) struct DropCounter(pub(crate) Counter);

impl Drop for DropCounter {
    fn drop(&mut self) {
        self.0.hit();
    }
}

/// Waits until the counter has reached `least`.
#[track_caller]
pub(crate) fn counted(counter: &Counter, least: u32) -> impl Future<Output = ()> {
    let counter = counter.clone();
    within(async move {
        while counter.get() < least {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

/// Returns a task that waits at the gate, and counts when its future is dropped.
pub(crate) fn holding_until_dropped(
    gate: &Gate,
    dropped: &Counter,
) -> impl Fn(u32) -> everstep::BoxFuture<'static, Result<u32, Infallible>> + Send + Sync + use<> {
    let (gate, dropped) = (gate.clone(), dropped.clone());
    move |value| {
        let (gate, dropped) = (gate.clone(), DropCounter(dropped.clone()));
        Box::pin(async move {
            let _dropped = dropped;
            gate.pass().await;
            Ok(value)
        })
    }
}
