//! Tools for tests of users: runtimes that crash, stubs, and crashes everywhere.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use everstep::testing::{CrashProblem, FinishError, Gate, Stub, StubError, TestBed, crash_everywhere};
use everstep::{
    Clock as _, Concurrency, ConflictPolicy, LoopLimit, LoopResult, Permanent, ResultError, RetryPolicy, RuntimeError,
    StartError, StartOptions, Status, StoreError, TaskContext, Workflow, task,
};

const HOUR: Duration = Duration::from_hours(1);

async fn inc(n: u32) -> Result<u32, Infallible> {
    Ok(n + 1)
}

async fn sum(numbers: Vec<u32>) -> Result<u32, Infallible> {
    Ok(numbers.into_iter().sum())
}

fn existing() -> StartOptions {
    StartOptions::new().policy(ConflictPolicy::UseExisting)
}

#[tokio::test]
async fn time_skips_to_the_next_due_time() {
    // A delay, a wait that times out, and retries: three hours and two minutes pass in no time.
    let flaky = Stub::new(|n: u32| n + 1);
    flaky.fail_next(2, "not yet");
    let policy = RetryPolicy::fixed(3, Duration::from_mins(1));
    let workflow = Workflow::builder_for::<u32>("w")
        .delay("delay", 2 * HOUR)
        .then("flaky", task(flaky.clone()).retry(policy))
        .wait_for_signal_keeping_timeout::<u32>("wait", "go", HOUR)
        .build()
        .unwrap();
    let bed = TestBed::new();
    let begin = bed.clock().now();
    let runtime = bed.start(|builder| builder.register(&workflow)).await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    assert_eq!(runtime.finish(&handle).await.unwrap().0, 2);
    assert_eq!(flaky.calls().len(), 3);
    assert_eq!(bed.clock().now().since(begin), 3 * HOUR + Duration::from_mins(2));
}

#[tokio::test]
async fn instance_waiting_for_the_test_is_reported_as_stuck() {
    let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").build().unwrap();
    let runtime = TestBed::new().start(|builder| builder.register(&workflow)).await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let stuck = runtime.finish(&handle).await;
    assert!(matches!(stuck, Err(FinishError::Stuck(Status::AwaitingSignal { .. }))), "{stuck:?}");
    handle.cancel("enough", "the test").await.unwrap();
    let cancelled = runtime.finish(&handle).await;
    assert!(matches!(cancelled, Err(FinishError::Result(ResultError::Cancelled { .. }))), "{cancelled:?}");
}

#[tokio::test]
async fn crash_stops_everything_despite_open_handles() {
    // The task is at the gate when the process ends. Its first attempt never ends, although a
    // handle is still there.
    let (gate, ended) = (Gate::new(), Arc::new(AtomicU32::new(0)));
    let hold = {
        let (gate, ended) = (gate.clone(), Arc::clone(&ended));
        move |n: u32| {
            let (gate, ended) = (gate.clone(), Arc::clone(&ended));
            async move {
                gate.pass().await;
                ended.fetch_add(1, Ordering::SeqCst);
                Ok::<_, Infallible>(n)
            }
        }
    };
    let workflow = Workflow::builder("w").then("hold", hold).then("inc", inc).build().unwrap();
    let bed = TestBed::new();
    let runtime = bed.start(|builder| builder.register(&workflow)).await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.arrived().await;
    runtime.crash().await;
    gate.open_for_good();
    tokio::task::yield_now().await;
    assert_eq!(ended.load(Ordering::SeqCst), 0, "a task still ran in a process that had ended");
    assert!(handle.result().await.is_err());

    let runtime = bed.start(|builder| builder.register(&workflow)).await.unwrap();
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    assert_eq!(runtime.finish(&handle).await.unwrap(), 2);
    assert_eq!((gate.arrivals(), ended.load(Ordering::SeqCst)), (2, 1));
}

/// Returns a workflow with nodes of every kind, with tasks within each.
fn nested() -> Workflow<u32, u32> {
    let inner = Workflow::builder("inner").then("a", inc).build().unwrap();
    Workflow::builder("nested")
        .then("first", inc)
        .fork("fork", |fork| fork.branch("left", |b| b.then("a", inc)).branch("right", |b| b.then("a", inc)))
        .join("join", async |(left, right): (u32, u32)| Ok::<_, Infallible>(left.max(right)))
        .route(
            "route",
            |n: &u32| *n > 1_000,
            |route| route.arm(true, |a| a.then("a", inc)).arm(false, |a| a.then("a", inc)),
        )
        .repeat("loop", LoopLimit::AtMost(5), |body| {
            body.then("a", async |n: u32| Ok::<_, Infallible>(LoopResult::<u32, u32>::Done(n + 1)))
        })
        .then("list", async |n: u32| Ok::<_, Infallible>(vec![n]))
        .map("map", Concurrency::Unlimited, |item| item.then("a", inc))
        .then("sum", sum)
        .child("child", &inner)
        .build()
        .unwrap()
}

#[tokio::test]
async fn stub_replaces_a_task_in_every_position() {
    let workflow = nested();
    let bed = TestBed::new();
    let runtime = bed.start(|builder| builder.register(&workflow)).await.unwrap();
    let handle = runtime.start(&workflow, "plain", 0).await.unwrap();
    let plain = runtime.finish(&handle).await.unwrap();
    runtime.crash().await;
    let places = ["first", "fork/left/a", "fork/right/a", "route/false/a", "map/a", "sum", "child/a"];
    for (n, path) in places.iter().enumerate() {
        let thousand = async |n: u32, _: TaskContext| Ok::<_, Infallible>(n + 101);
        let stubbed = if *path == "sum" {
            workflow.with_stub(path, async |list: Vec<u32>| Ok::<_, Infallible>(list.iter().sum::<u32>() + 100))
        } else {
            workflow.with_stub(path, thousand)
        };
        let stubbed = stubbed.unwrap();
        assert_eq!(stubbed.hash(), workflow.hash(), "{path}");
        let runtime = bed.start(|builder| builder.register(&stubbed)).await.unwrap();
        let handle = runtime.start(&stubbed, format!("stubbed {n}"), 0).await.unwrap();
        assert_eq!(runtime.finish(&handle).await.unwrap(), plain + 100, "{path}");
        runtime.crash().await;
    }
}

#[test]
fn mismatched_stub_is_refused_with_its_reason() {
    let workflow = nested();
    let error = workflow.with_stub("fork/a", inc).unwrap_err();
    assert!(matches!(&error, StubError::NoSuchTask { known, .. } if known.len() == 11), "{error}");
    let error = workflow.with_stub("first", async |_: String| Ok::<_, Infallible>(1_u32)).unwrap_err();
    assert!(matches!(error, StubError::Takes { expected: "u32", .. }), "{error}");
    let error = workflow.with_stub("first", async |_: u32| Ok::<_, Infallible>(String::new())).unwrap_err();
    assert!(matches!(error, StubError::Gives { expected: "u32", .. }), "{error}");
}

#[tokio::test]
async fn stub_keeps_the_options_of_its_task() {
    let workflow = Workflow::builder("w").then("a", task(inc).retry(RetryPolicy::fixed(2, HOUR))).build().unwrap();
    let stub = Stub::failing(|_: u32| Err::<u32, _>(Permanent::new("no")));
    stub.fail_next(1, "not yet");
    let workflow = workflow.with_stub("a", stub.clone()).unwrap();
    let runtime = TestBed::new().start(|builder| builder.register(&workflow)).await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let failed = runtime.finish(&handle).await;
    assert!(matches!(failed, Err(FinishError::Result(ResultError::Failed(_)))), "{failed:?}");
    let attempts: Vec<_> = stub.calls().iter().map(|call| (call.input, call.context.attempt())).collect();
    assert_eq!(attempts, [(1, 1), (1, 2)]);
}

/// Returns a workflow with every node kind, a delay, a wait with a timeout, and a retry.
fn everything(stub: &Stub<u32, u32>) -> Workflow<u32, u32> {
    Workflow::builder("everything")
        .then("flaky", task(stub.clone()).retry(RetryPolicy::fixed(3, HOUR)))
        .delay("delay", HOUR)
        .child("nested", &nested())
        .wait_for_signal_keeping::<u32>("wait", "go")
        .then("add", async |(a, b): (u32, u32)| Ok::<_, Infallible>(a + b))
        .then("last", stub.clone())
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_workflow_shows_no_crash() {
    let report = crash_everywhere(
        || {
            let stub = Stub::new(|n: u32| n + 1);
            stub.fail_next(1, "not yet");
            stub
        },
        |stub, builder| builder.register(&everything(stub)),
        async |stub, runtime| {
            let workflow = everything(stub);
            let handle = runtime.start_with(&workflow, "id", 1, existing()).await?.handle;
            handle.signal_with_id("go", &100_u32, "the only one").await?;
            let output = runtime.finish(&handle).await?;
            let keys: BTreeSet<_> = stub.calls().iter().map(|call| call.context.node().to_string()).collect();
            Ok((output, keys))
        },
    );
    let report = report.await.unwrap();
    // About 20 transitions, in four ways, half of them with two crashes.
    assert!(report.runs > 70 && report.crashes > 100, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn non_idempotent_effect_is_reported() {
    // The scenario returns how often the task ran: twice after a crash before its result is
    // recorded.
    let failure = crash_everywhere(
        || Stub::new(|n: u32| n),
        |stub, builder| builder.register(&Workflow::builder("w").then("effect", stub.clone()).build().unwrap()),
        async |stub, runtime| {
            let workflow = Workflow::builder("w").then("effect", stub.clone()).build()?;
            let handle = runtime.start_with(&workflow, "id", 1, existing()).await?.handle;
            runtime.finish(&handle).await?;
            Ok(stub.calls().len())
        },
    );
    let failure = failure.await.unwrap_err();
    assert!(matches!(failure.why, CrashProblem::Differs { .. }), "{failure}");
    let crash = &failure.crashes[0];
    assert!(crash.point.answered && crash.point.commit == 1 && crash.behind.contains("`id`"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn careless_caller_is_reported() {
    // The second process refuses a plain start, since the first one had gone through.
    let workflow = Workflow::builder("w").then("inc", inc).build().unwrap();
    let failure = crash_everywhere(
        || (),
        |(), builder| builder.register(&workflow),
        async |(), runtime| {
            let handle = runtime.start(&workflow, "id", 1).await?;
            Ok(runtime.finish(&handle).await?)
        },
    );
    let failure = failure.await.unwrap_err();
    assert!(matches!(failure.why, CrashProblem::Failed(_)) && !failure.crashes.is_empty(), "{failure}");
}

#[tokio::test]
async fn nondeterministic_scenario_is_reported_as_such() {
    let workflow = Workflow::builder("w").then("inc", inc).build().unwrap();
    let failure = crash_everywhere(
        || (),
        |(), builder| builder.register(&workflow),
        async |(), runtime| {
            let handle = runtime.start_with(&workflow, "id", 1, existing()).await?.handle;
            runtime.finish(&handle).await?;
            Ok(handle.run_id())
        },
    );
    let failure = failure.await.unwrap_err();
    assert!(matches!(failure.why, CrashProblem::NotTheSameTwice { .. }), "{failure}");
}

#[tokio::test]
async fn unregistered_stub_is_refused_without_running_the_task() {
    let workflow = Workflow::builder("w").then("inc", inc).build().unwrap();
    let stubbed = workflow.with_stub("inc", Stub::new(|n: u32| n)).unwrap();
    for (registered, given) in [(&workflow, &stubbed), (&stubbed, &workflow)] {
        let runtime = TestBed::new().start(|builder| builder.register(registered)).await.unwrap();
        let refused = runtime.start(given, "id", 1).await;
        assert!(matches!(refused, Err(StartError::OtherStubs { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn second_runtime_on_a_test_bed_is_refused() {
    let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").build().unwrap();
    let bed = TestBed::new();
    let start = async || bed.start(|builder| builder.register(&workflow)).await;
    let first = start().await.unwrap();
    let refused = start().await;
    assert!(matches!(refused, Err(RuntimeError::Store(StoreError::Locked(_)))), "{refused:?}");
    first.shutdown(Duration::ZERO).await;
    let second = start().await.unwrap();
    let handle = second.start(&workflow, "id", 1).await.unwrap();
    drop(second);
    assert!(start().await.is_err(), "a handle keeps it alive");
    drop(handle);
    start().await.unwrap();
}
