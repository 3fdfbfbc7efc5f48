//! The shutdown of a runtime: whoever waits, and whoever asks later, is told.
#![cfg(feature = "file-store")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::{open, within};
use everstep::{MessageError, ResultError, Runtime, StartError, Workflow};
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_tells_everyone_who_waits_for_a_result() {
    // Fifty wait, some of whom are not polled again before the store is closed; the instance goes on at the next start.
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
async fn whatever_is_asked_after_a_shutdown_says_so() {
    // Every call that has such an answer, on a store that is closed.
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
fn a_shutdown_ends_although_nobody_drives_the_tokio_runtime_it_was_started_on() {
    // Started on one of a single thread, whose owner is busy with something else when another one shuts everything down. No
    // instance is awake.
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
