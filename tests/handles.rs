//! What a handle reads and watches while its instance is at work.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::{Gate, holding, inc, still_clock, when_clock_is_at, within};
use everstep::{Clock as _, HandleError, MemoryStore, Runtime, Status, StatusCode, Workflow};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_of_a_held_instance_reads_it_without_holding_it_up() {
    // While the task is held, every read answers; nothing of it is lost afterwards.
    let gate = Gate::new();
    let workflow = Workflow::builder("w").then("inc", inc).then("hold", holding::<u32>(&gate)).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).clock(still_clock()).start().await.unwrap();
    runtime.start(&workflow, "id", 1).await.unwrap();
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    gate.entered().await;
    assert_eq!(handle.status().await.unwrap(), Status::InProgress);
    assert_eq!(handle.task_result::<u32>("inc").await.unwrap(), Some(2));
    assert_eq!(handle.task_result::<u32>("hold").await.unwrap(), None);
    let nowhere = handle.task_result::<u32>("nowhere").await;
    assert!(matches!(nowhere, Err(HandleError::NoSuchTask { .. })), "{nowhere:?}");
    assert!(matches!(handle.task_result::<String>("inc").await, Err(HandleError::Codec(_))));
    gate.open(1);
    assert_eq!(within(handle.result()).await, Ok(2));
    assert_eq!(handle.task_result::<u32>("hold").await.unwrap(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_with_the_present_status_and_ends_with_the_run_or_the_runtime() {
    // One instance is followed from its first wait to its end; a second one's watch ends with the runtime.
    let clock = still_clock();
    let workflow =
        Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").delay("d", MINUTE).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let mut watch = handle.watch().await.unwrap();
    let code = |status: Option<Status>| status.map(|status| status.code());
    assert_eq!(code(within(watch.next()).await), Some(StatusCode::AwaitingSignal));
    handle.signal("go", &1_u32).await.unwrap();
    assert_eq!(code(within(watch.next()).await), Some(StatusCode::Waiting));
    handle.pause("x", "y").await.unwrap();
    assert_eq!(code(within(watch.next()).await), Some(StatusCode::Paused));
    handle.unpause().await.unwrap();
    assert_eq!(code(within(watch.next()).await), Some(StatusCode::Waiting));
    let last = when_clock_is_at(&clock, clock.now().after(MINUTE), watch.next()).await;
    assert_eq!(code(last), Some(StatusCode::Completed));
    assert_eq!(within(watch.next()).await, None);
    let mut late = handle.watch().await.unwrap();
    assert_eq!((within(late.next()).await, within(late.next()).await), (Some(Status::Completed), None));

    let other = runtime.start(&workflow, "other", 1).await.unwrap();
    let mut watch = other.watch().await.unwrap();
    within(watch.next()).await.unwrap();
    runtime.shutdown(SECOND).await;
    assert_eq!(within(watch.next()).await, None);
}
