//! The time of the tokio runtime that Everstep is started on: missing, or paused by a test.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use everstep::{
    BoxFuture, Clock, MemoryStore, Runtime, RuntimeError, StatusCode, SystemClock, Timestamp, Workflow, task,
};
use tokio::sync::oneshot;

/// Real time that passes while tokio's is paused.
fn real_time(duration: Duration) -> oneshot::Receiver<()> {
    let (passed, has_passed) = oneshot::channel();
    std::thread::spawn(move || {
        std::thread::sleep(duration);
        passed.send(())
    });
    has_passed
}

/// The machine's clock; counts how often somebody begins to sleep.
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

/// Method: a task waits for a thread, in real time, while tokio jumps to whatever comes next.
#[tokio::test(start_paused = true)]
async fn paused_time_times_out_no_real_work() {
    let query = async |n: u32| real_time(Duration::from_millis(50)).await.map(|()| n);
    let query = task(query).timeout(Duration::from_secs(30));
    let workflow = Workflow::builder("io").then("query", query).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    assert_eq!(runtime.start(&workflow, "id", 1).await.unwrap().result().await, Ok(1));
}

/// Method: an instance is delayed by an hour for a quarter of a second of real time; the timers sleep a second at a time.
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
