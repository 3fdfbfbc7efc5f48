//! What the behaviour tests share: a clock that stands still, gates that hold tasks, and waits that give up.
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

/// How long anything may take before a test says that it will never happen. Never a measure of speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

/// A clock that stands at some day in 2027.
pub(crate) fn still_clock() -> ManualClock {
    ManualClock::new(Timestamp::from_micros(1_800_000_000_000_000))
}

/// A write to an instance that is there, as it is now: for what a runtime does not do.
pub(crate) async fn forced(store: &MemoryStore, instance: &str, change: Change) -> Write {
    let instance = InstanceId::new(instance).unwrap();
    let version = store.load(&instance).await.unwrap().unwrap().version(&instance);
    let run = version.run().unwrap_or(RunId::from_bytes([0; 16]));
    let (stamp, condition) = (Stamp::generate(), Condition::Seen(version));
    Write { instance, stamp, condition, change, rows: Vec::new(), run, superseded: None }
}

/// Sets an instance aside that is there, past the runtime.
pub(crate) async fn set_aside(store: &MemoryStore, instance: &str, reason: &str) {
    let record = encode_quarantine(&InstanceId::new(instance).unwrap(), reason, Stamp::generate());
    let write = forced(store, instance, Change::Quarantine(record)).await;
    assert_eq!(store.commit(&[write]).await.unwrap(), [Ok(())]);
}

/// The future's output, or a panic that names the caller's line.
#[track_caller]
pub(crate) fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let asked_at = Location::caller();
    async move {
        let output = tokio::time::timeout(PATIENCE, future).await;
        output.unwrap_or_else(|_| panic!("nothing came within {PATIENCE:?} of {asked_at}"))
    }
}

/// Waits until the instance is in a status that will do, and gives it.
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

/// Waits until the instance is in a status of this code.
#[track_caller]
pub(crate) fn reach_code<O: 'static>(handle: &InstanceHandle<O>, code: StatusCode) -> impl Future<Output = Status> {
    reach(handle, move |status| status.code() == code)
}

/// Moves the clock to this point, and then on by a second now and then until the future is ready: a sleeper that read
/// the clock just before it moved sleeps that much too long.
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

/// Looks into the store until the instance's task waits for its next attempt, behind `now`, which no status tells.
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

/// A task that was entered stays in it until the test lets it go.
#[derive(Clone)]
pub(crate) struct Gate {
    entered: Arc<Semaphore>,
    open: Arc<Semaphore>,
    count: Arc<AtomicU32>,
}

impl Gate {
    /// A closed gate.
    pub(crate) fn new() -> Self {
        Self { entered: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)), count: Arc::default() }
    }

    /// For the task: counts, and waits to be let go.
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

    /// Lets this many attempts go.
    pub(crate) fn open(&self, attempts: usize) {
        self.open.add_permits(attempts);
    }

    /// Closes the gate for those who have not entered yet.
    pub(crate) fn forget_open(&self) {
        self.open.forget_permits(usize::MAX >> 3);
    }

    /// How many attempts have entered so far.
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }
}

/// How often something ran.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<AtomicU32>);

impl Counter {
    /// Once more.
    pub(crate) fn hit(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// How often so far.
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Hands its input on.
#[allow(clippy::unused_async, reason = "as a task has it")]
pub(crate) async fn same<T: Send + 'static>(value: T) -> Result<T, Infallible> {
    Ok(value)
}

/// Adds one.
pub(crate) async fn inc(n: u32) -> Result<u32, Infallible> {
    Ok(n + 1)
}

/// A task that counts and hands its input on.
pub(crate) fn counting<T: Send + 'static>(
    counter: &Counter,
) -> impl Fn(T) -> std::future::Ready<Result<T, Infallible>> + Send + Sync + use<T> {
    let counter = counter.clone();
    move |value| {
        counter.hit();
        std::future::ready(Ok(value))
    }
}

/// A task that stays at the gate and hands its input on.
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

/// A task whose every attempt tells its number and when it began, and which fails as often as its input says.
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

/// A workflow that waits for one number.
pub(crate) fn waiting(name: &str) -> Workflow<u32, u32> {
    Workflow::builder_for::<u32>(name).wait_for_signal::<u32>("wait", "go").build().unwrap()
}

/// count -> hold -> delay -> wait -> inc.
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

/// The options of a start by this policy.
pub(crate) fn with(policy: ConflictPolicy) -> StartOptions {
    StartOptions::new().policy(policy)
}

/// The store of a runtime that was dropped is free once its last actor is gone.
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

/// Counts when it is dropped: put into a task's future, when that is.
pub(crate) struct DropCounter(pub(crate) Counter);

impl Drop for DropCounter {
    fn drop(&mut self) {
        self.0.hit();
    }
}

/// Waits until the counter has come this far.
#[track_caller]
pub(crate) fn counted(counter: &Counter, least: u32) -> impl Future<Output = ()> {
    let counter = counter.clone();
    within(async move {
        while counter.get() < least {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

/// A task that stays at the gate, and counts when its future is dropped.
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
