//! Tasks and processes that misbehave: they break their own attempt and no other.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]

mod common;
#[path = "store_failures/faulty.rs"]
mod faulty;

use std::convert::Infallible;
use std::time::Duration;

use common::{Counter, Gate, PATIENCE, holding, inc, moving, reach_code, still_clock, when_clock_is_at, within};
use everstep::{
    Clock as _, Failure, FailureKind, Health, InstanceHandle, Limits, ManualClock, MemoryStore, MessageError,
    ResultError, Runtime, Status, StatusCode, TaskFailure, Workflow, task,
};
use faulty::{Fate, Faulty, settle};

const MINUTE: Duration = Duration::from_mins(1);

/// A value that panics when it is dropped, also when it is the payload of a panic.
struct Spiteful;

impl Drop for Spiteful {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "dropped");
    }
}

/// Returns limits with one slot, so that a slot that is not given back is noticed at once.
fn one_slot() -> Limits {
    let mut limits = Limits::default();
    limits.tasks_running_max = 1;
    limits
}

/// Checks that the slot was given back and everything else is unchanged.
async fn another_one_runs(runtime: &Runtime, workflow: &Workflow<u32, u32>) {
    let handle = within(runtime.start(workflow, "another one", 1)).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(2));
    assert_eq!(runtime.health(), Health::Healthy);
}

fn failure(result: Result<u32, ResultError>) -> TaskFailure {
    let Err(ResultError::Failed(Failure::Task(failure))) = result else { panic!("{result:?}") };
    failure
}

struct Hostile {
    clock: ManualClock,
    runtime: Runtime,
    good: Workflow<u32, u32>,
    gate: Gate,
    /// Runs, with a value in its future that panics when it is dropped; times out in a minute.
    handle: InstanceHandle<u32>,
}

async fn hostile() -> Hostile {
    let (clock, gate) = (still_clock(), Gate::new());
    let inside = gate.clone();
    let hold = move |n: u32| {
        let gate = inside.clone();
        async move {
            let _spiteful = Spiteful;
            gate.pass().await;
            Ok::<_, Infallible>(n)
        }
    };
    let bad = Workflow::builder("bad").then("hold", task(hold).timeout(MINUTE)).build().unwrap();
    let good = Workflow::builder("good").then("inc", inc).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&bad).register(&good).limits(one_slot());
    let runtime = builder.clock(clock.clone()).start().await.unwrap();
    let handle = runtime.start(&bad, "bad", 1).await.unwrap();
    gate.entered().await;
    Hostile { clock, runtime, good, gate, handle }
}

#[tokio::test(flavor = "multi_thread")]
async fn future_panicking_in_timeout_drop_fails_one_attempt() {
    // The attempt times out; the value in its future panics when it is dropped.
    let Hostile { clock, runtime, good, handle, .. } = hostile().await;
    let result = when_clock_is_at(&clock, clock.now().after(MINUTE), handle.result()).await;
    let kind = failure(result).kind;
    assert!(matches!(kind, FailureKind::TimedOut | FailureKind::Panicked), "{kind:?}");
    another_one_runs(&runtime, &good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn future_panicking_in_cancel_drop_frees_its_slot() {
    // The instance is cancelled while its task runs; the value in its future panics when it is
    // dropped.
    let Hostile { runtime, good, handle, .. } = hostile().await;
    handle.cancel("why", "who").await.unwrap();
    assert_eq!(within(handle.result()).await, Err(ResultError::Cancelled { reason: "why".into(), by: "who".into() }));
    another_one_runs(&runtime, &good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn future_panicking_at_its_end_is_a_failed_attempt() {
    // The value in its future panics at the end of its scope.
    let Hostile { runtime, good, gate, handle, .. } = hostile().await;
    gate.open(1);
    assert_eq!(failure(within(handle.result()).await).kind, FailureKind::Panicked);
    another_one_runs(&runtime, &good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn future_panicking_in_shutdown_drop_does_not_block_it() {
    // The task is cancelled at the end of a grace that is over at once.
    let Hostile { clock, runtime, .. } = hostile().await;
    moving(&clock, Duration::from_millis(1), runtime.shutdown(Duration::from_millis(1))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn panic_payload_panicking_in_drop_is_a_failed_attempt() {
    // A task panics with the value as payload; in the only slot, another task runs afterwards.
    let throws = async |_: u32| -> Result<u32, Infallible> { std::panic::panic_any(Spiteful) };
    let bad = Workflow::builder("bad").then("throws", throws).build().unwrap();
    let good = Workflow::builder("good").then("inc", inc).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&bad).register(&good).limits(one_slot());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&bad, "bad", 1).await.unwrap();
    assert_eq!(failure(within(handle.result()).await).kind, FailureKind::Panicked);
    another_one_runs(&runtime, &good).await;
}

#[test]
fn tokio_runtime_dropped_first_does_not_hang() {
    // Ten times the tokio runtime is dropped while more tasks are queued than there are slots, and
    // then the runtime on it.
    let (rounds, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let first = Workflow::builder("w").then("first", inc);
        let workflow = (0..100).fold(first, |chain, n| chain.then(format!("n{n}"), inc)).build().unwrap();
        for round in 0..10 {
            let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let runtime = tokio.block_on(async {
                let mut limits = Limits::default();
                limits.tasks_running_max = 4;
                let builder = Runtime::builder(MemoryStore::new()).limits(limits).register(&workflow);
                let runtime = builder.start().await.unwrap();
                for n in 0..30 {
                    runtime.start(&workflow, format!("i{n}"), 1).await.unwrap();
                }
                runtime
            });
            drop(tokio);
            drop(runtime);
            rounds.send(round).unwrap();
        }
    });
    for round in 0..10 {
        assert_eq!(done.recv_timeout(PATIENCE), Ok(round), "hangs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn graceful_restarts_are_not_counted_as_crashes() {
    // The runtime restarts more often than the number of crashes that quarantines an instance, and
    // the task runs each time.
    let (store, gate, clock) = (MemoryStore::new(), Gate::new(), still_clock());
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
    let start =
        async || Runtime::builder(store.clone()).register(&workflow).clock(clock.clone()).start().await.unwrap();
    let mut runtime = start().await;
    runtime.start(&workflow, "id", 1).await.unwrap();
    for _ in 0..everstep::limits::CRASHES_MAX + 2 {
        gate.entered().await;
        moving(&clock, Duration::from_millis(1), runtime.shutdown(Duration::from_millis(1))).await;
        runtime = start().await;
    }
    gate.entered().await;
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    assert_eq!(handle.status().await.unwrap(), Status::InProgress);
    gate.open(1);
    assert_eq!(within(handle.result()).await, Ok(1));
}

/// A task that ends while its instance has no actor: a pause could not be committed, and the store
/// is not back yet.
struct Orphaned {
    clock: ManualClock,
    runtime: Runtime,
    handle: InstanceHandle<u32>,
    ends: Counter,
    gate: Gate,
}

async fn orphaned() -> Orphaned {
    let (store, gate, clock, ends) = (Faulty::new(), Gate::new(), still_clock(), Counter::default());
    let (inside, end) = (gate.clone(), ends.clone());
    let hold = move |n: u32| {
        let (gate, ends) = (inside.clone(), end.clone());
        async move {
            gate.pass().await;
            ends.hit();
            Ok::<_, Infallible>(n)
        }
    };
    let workflow = Workflow::builder("w").then("hold", hold).delay("delay", MINUTE).then("inc", inc).build().unwrap();
    let builder = Runtime::builder(store.store()).register(&workflow).clock(clock.clone()).limits(one_slot());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    store.plan_for("id", 0, Fate::FailsBefore);
    store.stay_closed();
    let paused = within(handle.pause("why", "who")).await;
    assert!(matches!(paused, Err(MessageError::OutcomeUnknown(_))), "{paused:?}");
    store.reopening_failed().await;
    gate.open(1);
    settle().await;
    assert_eq!(ends.get(), 1);
    store.let_reopen();
    Orphaned { clock, runtime, handle, ends, gate }
}

#[tokio::test]
async fn task_ended_during_store_outage_never_reruns() {
    // The result is recorded once the store is back, and the instance continues from there.
    let Orphaned { clock, handle, ends, gate, .. } = orphaned().await;
    let Status::Waiting { wake_at, .. } = reach_code(&handle, StatusCode::Waiting).await else { panic!() };
    assert_eq!(handle.task_result::<u32>("hold").await, Ok(Some(1)));
    assert_eq!(when_clock_is_at(&clock, wake_at, handle.result()).await, Ok(2));
    assert_eq!((gate.count(), ends.get()), (1, 1));
}

#[tokio::test]
async fn task_ended_during_store_outage_frees_its_slot() {
    // There is one slot: another instance's task needs it.
    let Orphaned { runtime, gate, handle, .. } = orphaned().await;
    reach_code(&handle, StatusCode::Waiting).await;
    let workflow = Workflow::builder("w").then("hold", inc).delay("delay", MINUTE).then("inc", inc).build().unwrap();
    gate.open(1);
    let other = runtime.start(&workflow, "other", 1).await.unwrap();
    reach_code(&other, StatusCode::Waiting).await;
}
