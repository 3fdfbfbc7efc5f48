//! A failed instance continues from its failure.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Counter, Gate, counting, inc, reach_code, still_clock, within};
use everstep::{
    Failure, FailureKind, LoopLimit, LoopResult, MemoryStore, MessageError, ResultError, RetryPolicy, Runtime, Status,
    StatusCode, TaskContext, Workflow, task,
};

const HOUR: Duration = Duration::from_hours(1);

/// A task that fails while switched off, and records its attempts and keys.
#[derive(Clone, Default)]
struct Fickle {
    works: Arc<AtomicBool>,
    seen: Arc<std::sync::Mutex<Vec<(u32, String)>>>,
}

impl Fickle {
    fn task(&self) -> impl Fn(u32, TaskContext) -> std::future::Ready<Result<u32, String>> + Send + Sync + use<> {
        let fickle = self.clone();
        move |n, context| {
            fickle.seen.lock().unwrap().push((context.attempt(), context.idempotency_key()));
            let works = fickle.works.load(Ordering::SeqCst);
            std::future::ready(if works { Ok(n + 1) } else { Err("not today".into()) })
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_resumes_at_the_failed_task_with_the_same_key() {
    // The second of three tasks fails for good, is retried in vain, and then with success; the
    // first runs once in all.
    let (fickle, count) = (Fickle::default(), Counter::default());
    let workflow = Workflow::builder("w")
        .then("before", counting::<u32>(&count))
        .then("fickle", task(fickle.task()).retry(RetryPolicy::fixed(1, Duration::ZERO)))
        .then("after", inc)
        .build()
        .unwrap();
    let store = MemoryStore::new();
    let start = async || Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    let runtime = start().await;
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    assert!(matches!(within(handle.result()).await, Err(ResultError::Failed(Failure::Task(_)))));
    within(handle.retry()).await.unwrap();
    let Err(ResultError::Failed(Failure::Task(failure))) = within(handle.result()).await else { panic!() };
    assert_eq!((failure.attempt, failure.message.as_str()), (2, "not today"));
    let run = handle.run_id();
    drop((handle, runtime));
    fickle.works.store(true, Ordering::SeqCst);
    let runtime = start().await;
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    within(handle.retry()).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(3));
    assert_eq!((handle.run_id(), count.get()), (run, 1));
    let seen = fickle.seen.lock().unwrap();
    assert_eq!(seen.iter().map(|(attempt, _)| *attempt).collect::<Vec<_>>(), [1, 2, 1, 2, 1]);
    assert!(seen.iter().all(|(_, key)| *key == seen[0].1), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_continues_every_branch() {
    // One branch fails while its siblings are done, delayed and waiting: only the failed one runs
    // again, and the others wait on as before.
    let (fickle, count, clock) = (Fickle::default(), Counter::default(), still_clock());
    let workflow = Workflow::builder_for::<u32>("w")
        .fork("fork", |fork| {
            fork.branch("done", |b| b.then("count", counting::<u32>(&count)))
                .branch("delayed", |b| b.delay("delay", HOUR).then("inc", inc))
                .branch("waiting", |b| b.wait_for_signal::<u32>("wait", "go"))
                .branch("failing", |b| b.delay("first", HOUR / 2).then("fickle", fickle.task()))
        })
        .join("sum", async |(a, b, c, d): (u32, u32, u32, u32)| Ok::<_, String>(a + b + c + d))
        .build()
        .unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    reach_code(&handle, StatusCode::Waiting).await;
    clock.advance(HOUR / 2);
    let failed = reach_code(&handle, StatusCode::Failed).await;
    assert_eq!(within(handle.signal("go", &10_u32)).await, Err(MessageError::AlreadyTerminal(failed)));
    fickle.works.store(true, Ordering::SeqCst);
    within(handle.retry()).await.unwrap();
    within(handle.signal("go", &10_u32)).await.unwrap();
    reach_code(&handle, StatusCode::Waiting).await;
    clock.advance(HOUR / 2);
    assert_eq!(within(handle.result()).await, Ok(1 + 2 + 10 + 2));
    assert_eq!((count.get(), fickle.seen.lock().unwrap().len()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn loop_at_its_limit_continues_after_a_raise() {
    // The limit is no part of the definition: the next runtime has a higher one, and the loop
    // continues with its value.
    let build = |limit| {
        let step = async |n: u32| Ok::<_, String>(if n < 5 { LoopResult::Again(n + 1) } else { LoopResult::Done(n) });
        let first = Workflow::builder_for::<u32>("w");
        first.repeat("count", LoopLimit::AtMost(limit), |body| body.then("step", step)).build().unwrap()
    };
    let store = MemoryStore::new();
    let (low, high) = (build(3), build(10));
    let runtime = Runtime::builder(store.clone()).register(&low).start().await.unwrap();
    let handle = runtime.start(&low, "id", 0).await.unwrap();
    let Err(ResultError::Failed(Failure::Task(failure))) = within(handle.result()).await else { panic!() };
    assert_eq!((failure.task.as_str(), failure.kind), ("count", FailureKind::LoopLimit));
    within(handle.retry()).await.unwrap();
    assert!(matches!(within(handle.result()).await, Err(ResultError::Failed(_))), "the limit is as it was");
    drop((handle, runtime));
    let runtime = Runtime::builder(store).register(&high).start().await.unwrap();
    let handle = runtime.handle(&high, "id").await.unwrap();
    within(handle.retry()).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_the_deadline_needs_a_new_one() {
    // The deadline passes in a delay. A retry without a new one is refused; with a new one the
    // delay, whose time has passed too, ends at once.
    let clock = still_clock();
    let workflow = Workflow::builder("w")
        .deadline(HOUR)
        .then("one", inc)
        .delay("long", 2 * HOUR)
        .then("two", inc)
        .build()
        .unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    reach_code(&handle, StatusCode::Waiting).await;
    clock.advance(3 * HOUR);
    assert_eq!(within(handle.result()).await, Err(ResultError::Failed(Failure::DeadlineExceeded)));
    assert_eq!(within(handle.retry()).await, Err(MessageError::DeadlinePassed));
    within(handle.retry_within(HOUR)).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_of_an_instance_that_has_not_failed_is_refused() {
    // In a wait, after a cancel and after completion a retry is refused with the status, and
    // nothing changes.
    let workflow = common::waiting("w");
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let handles = [runtime.start(&workflow, "a", 1).await.unwrap(), runtime.start(&workflow, "b", 1).await.unwrap()];
    let refused = within(handles[0].retry()).await;
    assert!(matches!(refused, Err(MessageError::NotFailed(Status::AwaitingSignal { .. }))), "{refused:?}");
    handles[0].signal("go", &7_u32).await.unwrap();
    assert_eq!(within(handles[0].result()).await, Ok(7));
    assert_eq!(within(handles[0].retry()).await, Err(MessageError::NotFailed(Status::Completed)));
    handles[1].cancel("enough", "ana").await.unwrap();
    let refused = within(handles[1].retry()).await;
    assert!(matches!(refused, Err(MessageError::NotFailed(Status::Cancelled { .. }))), "{refused:?}");
}

/// Method: a task fails for good while its instance is paused. The pause is over with the run, and
/// a retry runs the task.
#[tokio::test(flavor = "multi_thread")]
async fn retry_of_failure_in_a_pause_runs() {
    let (gate, count) = (Gate::new(), Counter::default());
    let fickle = {
        let (gate, count) = (gate.clone(), count.clone());
        move |n: u32| {
            let (gate, count) = (gate.clone(), count.clone());
            async move {
                gate.pass().await;
                if count.hit() == 1 { Err("no") } else { Ok(n) }
            }
        }
    };
    let workflow = Workflow::builder("w").then("fickle", fickle).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let handle = within(runtime.start(&workflow, "id", 7)).await.unwrap();
    gate.entered().await;
    handle.pause("lunch", "ana").await.unwrap();
    gate.open(2);
    within(handle.result()).await.unwrap_err();
    handle.retry().await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(7));
}
