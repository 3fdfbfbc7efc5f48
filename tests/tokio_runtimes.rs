//! The tokio runtimes of Everstep and its callers: without time, with paused time, ended, and that
//! of the commits.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/through.rs"]
mod through;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use everstep::store::{Answers, Call, Fault, FaultyStore, Write};
use everstep::{
    BoxFuture, Cause, Clock, MemoryStore, MessageError, ResultError, Runtime, RuntimeError, StartError, StatusCode,
    Store as _, StoreError, SystemClock, Timestamp, Workflow, task,
};
use through::{Hooks, Through};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// The longest that a step may take before a test reports that it never happens. Never a measure of
/// speed.
const PATIENCE: Duration = Duration::from_secs(8);

fn waiting() -> Workflow<u32, u32> {
    Workflow::builder_for::<u32>("waiting").wait_for_signal::<u32>("wait", "go").build().unwrap()
}

/// Waits for a length of real time while tokio's is paused.
fn real_time(duration: Duration) -> oneshot::Receiver<()> {
    let (passed, has_passed) = oneshot::channel();
    std::thread::spawn(move || {
        std::thread::sleep(duration);
        passed.send(())
    });
    has_passed
}

/// The machine's clock, which counts the sleeps.
#[derive(Clone, Default)]
struct CountedClock(Arc<AtomicU32>);

impl Clock for CountedClock {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        SystemClock.sleep(duration)
    }
}

/// Method: start on a tokio runtime with an I/O driver and no time driver.
#[test]
fn start_without_a_time_driver_is_refused() {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_io().build().unwrap();
    let started = tokio.block_on(Runtime::builder(MemoryStore::new()).start());
    assert_eq!(started.unwrap_err(), RuntimeError::NoTimeDriver);
}

/// Method: a task waits for a thread, in real time, while tokio's clock jumps to its next timer.
#[tokio::test(start_paused = true)]
async fn paused_time_times_out_no_real_work() {
    let query = async |n: u32| real_time(Duration::from_millis(50)).await.map(|()| n);
    let query = task(query).timeout(Duration::from_secs(30));
    let workflow = Workflow::builder("io").then("query", query).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    assert_eq!(runtime.start(&workflow, "id", 1).await.unwrap().result().await, Ok(1));
}

/// Method: an instance is delayed by an hour for a quarter of a second of real time; the timers
/// sleep a second at a time.
#[tokio::test(start_paused = true)]
async fn paused_time_makes_no_timer_spin() {
    let workflow = Workflow::builder_for::<u32>("hour").delay("hour", Duration::from_hours(1)).build().unwrap();
    let clock = CountedClock::default();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    real_time(Duration::from_millis(250)).await.unwrap();
    assert_eq!(handle.status().await.unwrap().code(), StatusCode::Waiting);
    let sleeps = clock.0.load(Ordering::SeqCst);
    assert!(sleeps < 10, "{sleeps} sleeps in a quarter of a second");
}

/// Hooks that open a connection for each commit, as a store on a network does.
struct Networked(SocketAddr);

impl Hooks for Networked {
    fn commit<'a>(&'a self, store: &'a MemoryStore, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        Box::pin(async move {
            let connected = TcpStream::connect(self.0).await;
            connected.map_err(|error| StoreError::Fatal(Cause::of(error)))?;
            store.commit(batch).await
        })
    }
}

/// Method: a store whose commits need the I/O driver of the tokio runtime they are awaited on.
#[tokio::test]
async fn store_with_network_io_can_commit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hooks = Arc::new(Networked(listener.local_addr().unwrap()));
    let workflow = waiting();
    let store = Through::new(&MemoryStore::new(), &hooks);
    let runtime = Runtime::builder(store).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    handle.signal("go", &2_u32).await.unwrap();
    assert_eq!(handle.result().await, Ok(2));
}

/// Method: one tokio runtime starts everything and ends; callers on another one wait already, or
/// call later.
#[test]
fn end_of_tokio_ends_callers_on_another_runtime() {
    let theirs = tokio::runtime::Runtime::new().unwrap();
    let ours = tokio::runtime::Runtime::new().unwrap();
    let workflow = waiting();
    let (runtime, handle) = ours.block_on(async {
        let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        (runtime, handle)
    });
    let waits = handle.clone();
    let early = theirs.spawn(async move { waits.result().await });
    let mut watch = theirs.block_on(handle.watch()).unwrap();
    theirs.block_on(watch.next()).unwrap();
    drop(ours);
    let late = async {
        assert_eq!(early.await.unwrap(), Err(ResultError::ShuttingDown));
        assert_eq!(handle.result().await, Err(ResultError::ShuttingDown));
        assert_eq!(watch.next().await, None);
        assert_eq!(handle.signal("go", &1_u32).await, Err(MessageError::ShuttingDown));
        assert_eq!(runtime.start(&workflow, "other", 1).await.unwrap_err(), StartError::ShuttingDown);
    };
    theirs.block_on(async { tokio::time::timeout(PATIENCE, late).await }).unwrap();
}

/// Method: the caller's tokio runtime has no time driver, and the first try of its signal has an
/// unknown outcome.
#[test]
fn caller_without_a_time_driver_can_repeat_a_signal() {
    let ours = tokio::runtime::Runtime::new().unwrap();
    let workflow = waiting();
    let store = FaultyStore::new(MemoryStore::new());
    let handle = ours.block_on(async {
        let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
        runtime.start(&workflow, "id", 1).await.unwrap()
    });
    let mut has_failed = false;
    store.plan(move |_, call| {
        let fails = matches!(call, Call::Commit(_)) && !std::mem::replace(&mut has_failed, true);
        if fails { Fault::FailAfter(StoreError::Fatal("gone".into())) } else { Fault::None }
    });
    let theirs = tokio::runtime::Builder::new_current_thread().build().unwrap();
    theirs.block_on(handle.signal("go", &2_u32)).unwrap();
    assert_eq!(theirs.block_on(handle.result()), Ok(2));
}
