//! Reads and watches of a handle while its instance is active.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "common/through.rs"]
mod through;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Gate, holding, inc, still_clock, waiting, when_clock_is_at, within};
use everstep::store::{Answers, Loaded, Write};
#[cfg(feature = "testing")]
use everstep::store::{Call, Fault, FaultyStore};
use everstep::{
    BoxFuture, Clock as _, ConflictPolicy, HandleError, InstanceId, MemoryStore, ResultError, Runtime, StartOptions,
    Status, StatusCode, Store as _, StoreError, Workflow,
};
use through::{Hooks, Through};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn reads_answer_while_a_task_is_held() {
    // Every read answers while the task is held, and loses nothing of it.
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
async fn watch_starts_at_present_status_and_ends_with_the_run() {
    // One instance is followed from its first wait to its end; a second one's watch ends with the
    // runtime.
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

/// Hooks that damage every head that is read, while switched on.
#[derive(Default)]
struct Rot(std::sync::atomic::AtomicBool);

impl Hooks for Rot {
    fn commit<'a>(&'a self, store: &'a MemoryStore, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        store.commit(batch)
    }

    fn loaded(&self, _: &InstanceId, found: Option<Loaded>) -> Option<Loaded> {
        let rots = self.0.load(Ordering::SeqCst);
        found.map(|found| if rots { Loaded { head: found.head.slice(1..), ..found } } else { found })
    }
}

/// Method: the reads of one watcher fail at the last change, for a while; no other news comes for
/// it.
#[cfg(feature = "testing")]
#[tokio::test(flavor = "multi_thread")]
async fn watch_whose_reads_fail_gets_the_end_all_the_same() {
    let workflow = waiting("w");
    let store = FaultyStore::new(MemoryStore::new());
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let mut watch = handle.watch().await.unwrap();
    within(watch.next()).await.unwrap();
    handle.signal("go", &2_u32).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(2));
    let mut fails = 3;
    store.plan(move |_, call| match call {
        Call::Load(_) if fails > 0 => {
            fails -= 1;
            Fault::FailBefore(StoreError::Transient("not now".into()))
        }
        _ => Fault::None,
    });
    assert_eq!(within(watch.next()).await, Some(Status::Completed));
}

/// Method: damage the head under a watcher that has seen one status.
#[tokio::test(flavor = "multi_thread")]
async fn watch_of_damaged_instance_ends_with_the_reason() {
    let (workflow, rot) = (waiting("w"), Arc::new(Rot::default()));
    let store = Through::new(&MemoryStore::new(), &rot);
    let runtime = Runtime::builder(store).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let mut watch = handle.watch().await.unwrap();
    within(watch.next()).await.unwrap();
    handle.pause("x", "y").await.unwrap();
    rot.0.store(true, Ordering::SeqCst);
    assert_eq!((within(watch.next()).await, within(watch.next()).await), (None, None));
    assert!(matches!(watch.error(), Some(HandleError::Damaged(_))), "{:?}", watch.error());
}

async fn large(n: u32) -> Result<String, std::convert::Infallible> {
    Ok(format!("{n:0300}"))
}

/// Method: a run has completed with an output in a row of its own. The run is deleted or replaced,
/// and its rows are swept, after its head is read and before the row is: by a caller that waits for
/// the result, by one that asks for the task's result, and by a start with `UseExisting`.
#[cfg(feature = "testing")]
#[tokio::test]
async fn run_gone_between_head_and_rows_is_not_damaged() {
    let workflow = Workflow::builder("w").then("large", large).build().unwrap();
    for replaced in [false, true] {
        for what in ["result", "task result", "use"] {
            let memory = MemoryStore::new();
            let store = FaultyStore::new(memory.clone());
            let beside = Runtime::builder(memory.clone()).register(&workflow).start().await.unwrap();
            let first = beside.start(&workflow, "id", 1).await.unwrap();
            first.result().await.unwrap();
            let run = first.run_id();
            let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
            let handle = runtime.handle(&workflow, "id").await.unwrap();
            let (other, chain, memory) = (beside.clone(), workflow.clone(), memory.clone());
            let mut is_first = true;
            store.plan(move |_, call| {
                if !matches!(call, Call::Row(..)) || !std::mem::take(&mut is_first) {
                    return Fault::None;
                }
                let (other, chain, memory) = (other.clone(), chain.clone(), memory.clone());
                Fault::Wait(Box::pin(async move {
                    if replaced {
                        let options = StartOptions::new().policy(ConflictPolicy::TerminateExisting);
                        other.start_with(&chain, "id", 2, options).await.unwrap().handle.result().await.unwrap();
                    } else {
                        other.delete(&InstanceId::new("id").unwrap()).await.unwrap();
                    }
                    // The other runtime sweeps as well, on a thread of its own.
                    while !memory.rows(run, &[], None).await.unwrap().is_empty() {
                        memory.sweep(100).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    Fault::None
                }))
            });
            let what = format!("{what}, replaced: {replaced}");
            let gone = if replaced { HandleError::Superseded } else { HandleError::NotFound };
            if what.starts_with("result") {
                let gone = if replaced { ResultError::Superseded } else { gone.into() };
                assert_eq!(within(handle.result()).await.unwrap_err(), gone, "{what}");
            } else if what.starts_with("task") {
                assert_eq!(within(handle.task_result::<String>("large")).await.unwrap_err(), gone, "{what}");
            } else {
                let options = StartOptions::new().policy(ConflictPolicy::UseExisting);
                let started = within(runtime.start_with(&workflow, "id", 3, options)).await.unwrap();
                let output = started.existing.map(|existing| existing.output.unwrap());
                assert_eq!(output, replaced.then(|| format!("{:0300}", 2)), "{what}");
            }
        }
    }
}
