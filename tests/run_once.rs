//! Runs in memory: the only difference from a runtime is that nothing survives.
#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

mod common;

use std::convert::Infallible;
use std::time::Duration;

use common::{Counter, counting, failing, moving, still_clock, within};
use everstep::{
    Clock as _, Codec, Dep, Failure, Limits, RetryPolicy, RunOnce, RunOnceError, Runtime, RuntimeError, SignalOutcome,
    Workflow, task,
};
use tokio::sync::Notify;
use tokio::sync::mpsc::unbounded_channel;

const SECOND: Duration = Duration::from_secs(1);

async fn never(_: u32) -> Result<u32, Infallible> {
    std::future::pending().await
}

async fn same(n: u32) -> Result<u32, Infallible> {
    Ok(n)
}

async fn other(n: u32) -> Result<u32, Infallible> {
    Ok(n + 1)
}

/// Method: a task that never ends, in a workflow with a deadline.
#[tokio::test]
async fn deadline_ends_a_run_in_memory_while_a_task_runs() {
    let workflow = Workflow::builder("w").deadline(Duration::from_millis(20)).then("never", never).build().unwrap();
    assert_eq!(workflow.run_once(1).await, Err(RunOnceError::Failed(Failure::DeadlineExceeded)));
}

/// Method: register two workflows that differ in code only. Instances could not tell them apart.
#[tokio::test]
async fn two_workflows_with_one_hash_are_refused() {
    let first = Workflow::builder("w").then("task", same).build().unwrap();
    let second = Workflow::builder("w").then("task", other).build().unwrap();
    let builder = Runtime::builder(everstep::MemoryStore::new());
    let started = builder.register(&first).register(&first).register(&second).start().await;
    assert_eq!(started.err(), Some(RuntimeError::RegisteredTwice { workflow: "w".into() }));
}

#[tokio::test(flavor = "multi_thread")]
async fn run_once_passes_delays_retries_and_timeouts() {
    // One workflow with all of these on a clock that the test moves, one that fails for good, and
    // one that waits for a signal.
    let (clock, (told, _attempts)) = (still_clock(), unbounded_channel());
    let workflow = Workflow::builder("w")
        .then("t", task(failing(&clock, told)).retry(RetryPolicy::fixed(2, 60 * SECOND)))
        .delay("delay", 3_600 * SECOND)
        .wait_for_signal_keeping_timeout::<u32>("wait", "go", 60 * SECOND)
        .build()
        .unwrap();
    let start = clock.now();
    let run = RunOnce::new(&workflow).clock(clock.clone()).run(2);
    assert_eq!(moving(&clock, 60 * SECOND, run).await, Ok((2, SignalOutcome::TimedOut)));
    assert!(clock.now() >= start.after(3_780 * SECOND));
    let run = RunOnce::new(&workflow).clock(clock.clone()).run(3);
    let Err(RunOnceError::Failed(Failure::Task(failure))) = moving(&clock, 60 * SECOND, run).await else { panic!() };
    assert_eq!((failure.attempt, failure.message.as_str()), (3, "failure 3"));

    let counter = Counter::default();
    let waits = Workflow::builder("w").then("count", counting::<u32>(&counter)).delay("d", SECOND / 100);
    let waits = waits.wait_for_signal::<u32>("wait", "go").build().unwrap();
    let Err(RunOnceError::NeedsSignal { node }) = within(waits.run_once(1)).await else { panic!() };
    assert_eq!((node.as_str(), counter.get()), ("wait", 1));
}

async fn give(n: u32, Dep(bell): Dep<Notify>) -> Result<u32, Infallible> {
    bell.notify_one();
    Ok(n)
}

async fn take(n: u32, Dep(bell): Dep<Notify>) -> Result<u32, Infallible> {
    bell.notified().await;
    Ok(n)
}

async fn sum((taken, given): (u32, u32)) -> Result<u32, Infallible> {
    Ok(taken + given)
}

/// Method: a task waits for the result of another one that begins beside it only after a delay, and
/// then a third runs alone.
#[tokio::test(flavor = "multi_thread")]
async fn first_attempt_continues_beside_later_ones() {
    let clock = still_clock();
    let workflow = Workflow::builder_for::<u32>("w")
        .fork("both", |fork| {
            fork.branch("takes", |branch| branch.then("take", take))
                .branch("gives", |branch| branch.delay("delay", 60 * SECOND).then("give", give))
        })
        .join("join", sum)
        .then("other", other)
        .build()
        .unwrap();
    let run = RunOnce::new(&workflow).clock(clock.clone()).provide(Notify::new()).run(1);
    assert_eq!(moving(&clock, 60 * SECOND, run).await, Ok(3));
}

/// Method: a payload that takes more bytes in JSON than in MessagePack, under a limit between the
/// two.
#[tokio::test]
async fn run_in_memory_keeps_to_its_codec_and_limits() {
    let workflow = Workflow::builder("w").then("same", common::same::<Vec<u32>>).build().unwrap();
    let input = vec![1_000_000; 100];
    let mut limits = Limits::default();
    limits.payload_bytes_max = 600;
    let run = async |codec| RunOnce::new(&workflow).codec(codec).limits(limits.clone()).run(input.clone()).await;
    assert_eq!(run(Codec::MessagePack).await.unwrap(), input);
    assert!(matches!(run(Codec::Json).await, Err(RunOnceError::Codec(_))));
}
