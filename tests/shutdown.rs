//! The shutdown of a runtime: callers that wait, and later callers, get an answer.
#![cfg(feature = "file-store")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::{open, within};
use everstep::{Dep, MessageError, ResultError, Runtime, StartError, WeakRuntime, Workflow};
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_answers_every_caller_waiting_for_a_result() {
    // Fifty callers wait, some of which are not polled again before the store is closed; the
    // instance continues at the next start.
    let directory = tempfile::tempdir().unwrap();
    let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").build().unwrap();
    let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let mut waiters = JoinSet::new();
    for _ in 0..50 {
        let handle = handle.clone();
        waiters.spawn(async move { handle.result().await });
    }
    tokio::task::yield_now().await;
    within(runtime.shutdown(SECOND)).await;
    for answer in within(waiters.join_all()).await {
        assert_eq!(answer, Err(ResultError::ShuttingDown));
    }
    drop((runtime, handle));
    let again = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
    let handle = again.handle(&workflow, "id").await.unwrap();
    handle.signal("go", &2_u32).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_after_a_shutdown_are_refused_as_such() {
    // Every call that has such an answer, on a closed store.
    let directory = tempfile::tempdir().unwrap();
    let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").build().unwrap();
    let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    within(runtime.shutdown(SECOND)).await;
    assert_eq!(within(handle.signal("go", &1_u32)).await, Err(MessageError::ShuttingDown));
    assert_eq!(within(handle.cancel("x", "y")).await, Err(MessageError::ShuttingDown));
    let start = within(runtime.start(&workflow, "new", 1)).await;
    assert!(matches!(start, Err(StartError::ShuttingDown)), "{start:?}");
    within(runtime.shutdown(SECOND)).await;
    assert_eq!(within(handle.result()).await, Err(ResultError::ShuttingDown));
}

#[test]
fn shutdown_ends_on_an_undriven_tokio_runtime() {
    // The runtime starts on a tokio runtime of a single thread, whose owner is busy when another
    // one shuts everything down. No instance is active.
    let current = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (idle, busy) = (current(), current());
    let directory = tempfile::tempdir().unwrap();
    let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").build().unwrap();
    let runtime = idle.block_on(async {
        let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
        runtime.start(&workflow, "id", 1).await.unwrap();
        runtime
    });
    busy.block_on(within(runtime.shutdown(SECOND)));
}

/// Method: a task shuts its own runtime down, which cancels the task once the grace is over; the
/// directory is free afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn shutdown_by_a_task_ends() {
    let dir = tempfile::tempdir().unwrap();
    let stop = async |n: u32, Dep(late): Dep<OnceLock<WeakRuntime>>| {
        let runtime = late.get().and_then(WeakRuntime::upgrade).ok_or("it is gone")?;
        runtime.shutdown(Duration::from_millis(20)).await;
        Ok::<_, &str>(n)
    };
    let workflow = Workflow::builder("stop").then("stop", stop).build().unwrap();
    let late = Arc::new(OnceLock::new());
    let builder = Runtime::builder(open(dir.path()).await).register(&workflow);
    let runtime = builder.provide_arc(Arc::clone(&late)).start().await.unwrap();
    late.set(runtime.downgrade()).unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    assert_eq!(within(handle.result()).await, Err(ResultError::ShuttingDown));
    open(dir.path()).await;
}

/// Method: the runtime is among its own services, by a weak reference, and every other owner drops
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn runtime_among_its_services_stops_when_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let late = Arc::new(OnceLock::<WeakRuntime>::new());
    let builder = Runtime::builder(open(dir.path()).await);
    let runtime = builder.provide_arc(Arc::clone(&late)).start().await.unwrap();
    late.set(runtime.downgrade()).unwrap();
    drop(runtime);
    open(dir.path()).await;
    assert!(late.get().unwrap().upgrade().is_none());
}
