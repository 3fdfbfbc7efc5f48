//! Starts whose caller comes back late or never, while others already use the instance.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::convert::Infallible;
use std::pin::Pin;
use std::task::Poll;

use common::{Counter, inc, reach_code, still_clock, with, within};
use everstep::{
    ConflictPolicy, HandleError, InstanceHandle, MemoryStore, MessageError, Runtime, StartError, Status, StatusCode,
    Workflow,
};
use tokio::task::JoinSet;

const USE: ConflictPolicy = ConflictPolicy::UseExisting;

#[tokio::test(flavor = "multi_thread")]
async fn signals_sent_beside_the_start_strand_nothing() {
    // A second caller finds the instance and sends its signal before the start has returned. The
    // delay after the wait must still end, in whichever order the two arm it.
    let workflow = Workflow::builder_for::<u32>("beside")
        .wait_for_signal::<u32>("wait", "go")
        .delay("short", std::time::Duration::from_millis(20))
        .then("inc", inc)
        .build()
        .unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let mut starts = JoinSet::new();
    for n in 0..400 {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        starts.spawn(async move {
            let id = format!("i{}", n / 4);
            let handle = runtime.start_with(&workflow, id, 0, with(USE)).await.unwrap().handle;
            handle.signal_with_id("go", &7_u32, "once").await.or_else(|error| match error {
                MessageError::AlreadyTerminal(_) => Ok(()),
                error => Err(error),
            })?;
            Ok::<_, MessageError>(handle.result().await.unwrap())
        });
    }
    for output in within(starts.join_all()).await {
        assert_eq!(output, Ok(8));
    }
}

/// Starts an instance and polls the start once, so that its write is in progress. Returns it once
/// that is committed and the caller has not heard of it yet; tries another id when the answer was
/// there at once.
async fn committed<'a, O: 'static>(runtime: &'a Runtime, workflow: &'a Workflow<u32, O>) -> Committed<'a, O> {
    for n in 0.. {
        let id = format!("id {n}");
        let mut start: StartFuture<'a, O> = Box::pin(runtime.start(workflow, id.clone(), 1));
        if std::future::poll_fn(|context| Poll::Ready(start.as_mut().poll(context))).await.is_ready() {
            continue;
        }
        let found = async {
            loop {
                match runtime.handle(workflow, &id).await {
                    Err(HandleError::NotFound) => tokio::task::yield_now().await,
                    found => return found.unwrap(),
                }
            }
        };
        return (within(found).await, start);
    }
    unreachable!("some answer takes a while")
}

type StartFuture<'a, O> = Pin<Box<dyn Future<Output = Result<InstanceHandle<O>, StartError>> + Send + 'a>>;
type Committed<'a, O> = (InstanceHandle<O>, StartFuture<'a, O>);

#[tokio::test(flavor = "multi_thread")]
async fn late_start_answer_reruns_no_finished_task() {
    // The start's future is not polled between its commit and the instance's end, which another
    // caller's message causes. When it is polled, no task may run a second time.
    let runs = Counter::default();
    let counter = runs.clone();
    let count = move |n: u32, context: everstep::TaskContext| {
        // Instances with other ids only take time.
        if context.instance().as_str().starts_with("id") {
            counter.hit();
        }
        std::future::ready(Ok::<_, Infallible>(n))
    };
    let workflow = Workflow::builder("w").then("count", count).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let (handle, start) = committed(&runtime, &workflow).await;
    let _ = handle.pause("x", "y").await;
    let _ = handle.unpause().await;
    assert_eq!(within(handle.result()).await, Ok(1));
    // While others run from start to end, its actor leaves.
    for n in 0..10 {
        within(runtime.start(&workflow, format!("other {n}"), 1).await.unwrap().result()).await.unwrap();
    }
    assert_eq!(within(start).await.unwrap().run_id(), handle.run_id());
    // Work that the late start has begun is over when the runtime is.
    within(runtime.shutdown(std::time::Duration::from_secs(1))).await;
    let id_number: u32 = handle.id().as_str()[3..].parse().unwrap();
    assert_eq!(runs.get(), id_number + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_start_answer_keeps_a_newer_wake_up() {
    // As above; meanwhile a signal has moved the instance into a delay, whose wake-up must stay.
    let clock = still_clock();
    let workflow = Workflow::builder_for::<u32>("w")
        .wait_for_signal::<u32>("wait", "go")
        .delay("delay", std::time::Duration::from_mins(1))
        .build()
        .unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let (handle, start) = committed(&runtime, &workflow).await;
    handle.signal("go", &7_u32).await.unwrap();
    let Status::Waiting { wake_at, .. } = reach_code(&handle, StatusCode::Waiting).await else { panic!() };
    within(start).await.unwrap();
    assert_eq!(common::when_clock_is_at(&clock, wake_at, handle.result()).await, Ok(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn start_given_up_after_its_commit_continues_by_itself() {
    // The caller drops the future, as a timeout around it does. The instance is durable, so it must
    // run: at a task, and in a delay.
    let clock = still_clock();
    let task_first = Workflow::builder("task").then("inc", inc).build().unwrap();
    let delay_first =
        Workflow::builder_for::<u32>("delay").delay("d", std::time::Duration::from_mins(1)).then("inc", inc).build();
    for workflow in [delay_first.unwrap(), task_first] {
        let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
        let runtime = builder.start().await.unwrap();
        let (handle, start) = committed(&runtime, &workflow).await;
        drop(start);
        let ended = common::moving(&clock, std::time::Duration::from_secs(10), handle.result()).await;
        assert_eq!(ended, Ok(2), "{workflow:?}");
    }
}
