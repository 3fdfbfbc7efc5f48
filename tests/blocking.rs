//! Blocking tasks that say so: how many threads they take, and which work waits for them.
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]

mod common;
#[path = "common/obstacle.rs"]
mod obstacle;

use std::time::Duration;

use common::{Counter, counted, inc, moving, still_clock, within};
use everstep::{
    Failure, FailureKind, Limits, MemoryStore, ResultError, Runtime, StatusCode, TaskContext, Workflow, task,
};
use obstacle::{Obstacle, obstacle};

const MINUTE: Duration = Duration::from_mins(1);

/// Returns a tokio runtime whose pool for blocking work has that many threads.
fn tokio_with(threads: usize) -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).max_blocking_threads(threads).enable_all().build().unwrap()
}

/// Returns a task that counts its begin and then blocks its thread.
fn counted_obstacle(
    begun: &Counter,
    obstacle: &Obstacle,
) -> impl Fn(u32, TaskContext) -> everstep::BoxFuture<'static, Result<u32, std::convert::Infallible>> + Send + Sync + use<>
{
    let (begun, obstacle) = (begun.clone(), obstacle.clone());
    move |n, _| {
        let (begun, obstacle) = (begun.clone(), obstacle.clone());
        Box::pin(async move {
            begun.hit();
            obstacle.block();
            Ok(n)
        })
    }
}

/// Method: a task that ignores its token holds the only thread of the pool.
#[test]
fn shutdown_needs_no_thread_of_the_pool() {
    let (tokio, begun, (removed, obstacle)) = (tokio_with(1), Counter::default(), obstacle());
    let stuck = Workflow::builder("stuck").then("stuck", task(counted_obstacle(&begun, &obstacle)).blocking());
    let stuck = stuck.build().unwrap();
    tokio.block_on(async {
        let runtime = Runtime::builder(MemoryStore::new()).register(&stuck).start().await.unwrap();
        runtime.start(&stuck, "id", 1).await.unwrap();
        counted(&begun, 1).await;
        within(runtime.shutdown(Duration::from_millis(1))).await;
    });
    drop(removed);
}

/// Method: the only thread of the pool is held while far more than the other task's timeout passes.
/// The other task has not begun, so it has not timed out.
#[test]
fn timeout_of_a_blocking_task_starts_with_its_thread() {
    let (tokio, begun, (removed, obstacle), clock) = (tokio_with(1), Counter::default(), obstacle(), still_clock());
    let holder = Workflow::builder("holder").then("hold", task(counted_obstacle(&begun, &obstacle)).blocking());
    let (holder, timed) = (holder.build().unwrap(), task(inc).blocking().timeout(MINUTE));
    let timed = Workflow::builder("timed").then("inc", timed).build().unwrap();
    tokio.block_on(async {
        let builder = Runtime::builder(MemoryStore::new()).register(&holder).register(&timed).clock(clock.clone());
        let runtime = builder.start().await.unwrap();
        let holder = runtime.start(&holder, "holder", 1).await.unwrap();
        counted(&begun, 1).await;
        let timed = runtime.start(&timed, "timed", 1).await.unwrap();
        for _ in 0..20 {
            clock.advance(MINUTE);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(timed.status().await.unwrap().code(), StatusCode::InProgress);
        drop(removed);
        assert_eq!(within(timed.result()).await, Ok(2));
        assert_eq!(within(holder.result()).await, Ok(1));
    });
}

/// Method: one thread is allowed, and its task times out and blocks on. The next blocking task
/// waits for the thread, while others run.
#[tokio::test(flavor = "multi_thread")]
async fn blocking_task_keeps_its_place_until_its_thread_is_free() {
    let (begun, (removed, obstacle), clock) = (Counter::default(), obstacle(), still_clock());
    let stuck = task(counted_obstacle(&begun, &obstacle)).blocking().timeout(MINUTE);
    let stuck = Workflow::builder("stuck").then("stuck", stuck).build().unwrap();
    let next = Workflow::builder("next").then("next", task(counted_obstacle(&begun, &obstacle)).blocking());
    let (next, plain) = (next.build().unwrap(), Workflow::builder("plain").then("inc", inc).build().unwrap());
    let mut limits = Limits::default();
    limits.blocking_tasks_running_max = 1;
    let builder = Runtime::builder(MemoryStore::new()).register(&stuck).register(&next).register(&plain);
    let runtime = builder.clock(clock.clone()).limits(limits).start().await.unwrap();
    let stuck = runtime.start(&stuck, "stuck", 1).await.unwrap();
    counted(&begun, 1).await;
    let failed = moving(&clock, MINUTE, stuck.result()).await;
    let Err(ResultError::Failed(Failure::Task(failure))) = failed else { panic!("{failed:?}") };
    assert_eq!(failure.kind, FailureKind::TimedOut);
    let next = runtime.start(&next, "next", 2).await.unwrap();
    let plain = runtime.start(&plain, "plain", 3).await.unwrap();
    assert_eq!(within(plain.result()).await, Ok(4));
    next.signal("none", &0_u32).await.unwrap_err();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(begun.get(), 1);
    }
    drop(removed);
    assert_eq!(within(next.result()).await, Ok(2));
}
