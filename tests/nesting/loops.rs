//! Loops: limits, what is carried, and what is kept of their results.

use std::future::ready;

use everstep::{BuildError, FailureKind, LoopLimit, LoopResult, StatusCode, Workflow};

use crate::common::{Counter, Gate, counting, holding, inc, reach_code, within};
use crate::{World, again, task_failure};

/// Done at ten, otherwise again.
async fn to_ten(n: u32) -> Result<LoopResult<u32, String>, std::convert::Infallible> {
    Ok(if n >= 10 { LoopResult::Done(format!("ten at {n}")) } else { LoopResult::Again(n) })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_reaches_its_limit_fails_the_instance() {
    // From seven on, three iterations reach ten; from six on they do not.
    let workflow = Workflow::builder_for::<u32>("w")
        .repeat("loop", LoopLimit::AtMost(3), |body| body.then("inc", inc).then("enough", to_ten))
        .build()
        .unwrap();
    let runtime = World::new().runtime(&workflow).await;
    let handle = runtime.start(&workflow, "seven", 7).await.unwrap();
    assert_eq!(within(handle.result()).await.as_deref(), Ok("ten at 10"));
    let handle = runtime.start(&workflow, "six", 6).await.unwrap();
    let failure = task_failure(within(handle.result()).await);
    assert_eq!((failure.task.as_str(), failure.kind), ("loop", FailureKind::LoopLimit));
    assert_eq!(handle.task_result("loop/inc").await, Ok(Some(9_u32)), "what the last iteration gave is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_exits_gives_the_last_value() {
    // A body that never has enough, and one that has after the second of five; one iteration is a loop too.
    let endless = |times| {
        let body = Workflow::builder_for::<u32>(format!("endless {times}"));
        body.repeat_or_exit("loop", times, |body| body.then("inc", inc).then("again", again)).build().unwrap()
    };
    let enough = |n: u32| ready(Ok::<_, String>(if n == 2 { LoopResult::Done(20) } else { LoopResult::Again(n) }));
    let enough = Workflow::builder_for::<u32>("enough")
        .repeat_or_exit("loop", 5, |body| body.then("inc", inc).then("enough", enough))
        .build()
        .unwrap();
    for (workflow, wanted) in [(endless(5), 5), (endless(1), 1), (enough, 20)] {
        let runtime = World::new().runtime(&workflow).await;
        let handle = runtime.start(&workflow, "id", 0).await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(wanted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn iteration_and_carried_value_survive_a_restart() {
    // The runtime is dropped in a task and then in a wait of each iteration: the limit still counts from the first one, and
    // the value goes on from where it was.
    let (gate, count) = (Gate::new(), Counter::default());
    let workflow = Workflow::builder_for::<u32>("w")
        .repeat_or_exit("loop", 3, |body| {
            body.then("count", counting::<u32>(&count))
                .then("hold", holding::<u32>(&gate))
                .wait_for_signal_keeping::<u32>("wait", "more")
                .then("add", |(n, more): (u32, u32)| ready(Ok::<_, String>(LoopResult::Again(10 * n + more))))
        })
        .build()
        .unwrap();
    let world = World::new();
    let mut runtime = world.runtime(&workflow).await;
    runtime.start(&workflow, "id", 1).await.unwrap();
    for more in [2_u32, 3, 4] {
        gate.entered().await;
        drop(runtime);
        runtime = world.runtime(&workflow).await;
        gate.entered().await;
        gate.open(1);
        let handle = runtime.handle(&workflow, "id").await.unwrap();
        reach_code(&handle, StatusCode::AwaitingSignal).await;
        drop((runtime, handle));
        runtime = world.runtime(&workflow).await;
        let handle = runtime.handle(&workflow, "id").await.unwrap();
        handle.signal("more", &more).await.unwrap();
    }
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(1_234));
    assert_eq!((count.get(), gate.count()), (3, 6), "only the task that was running runs again");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_loops_results_the_latest_iterations_are_found() {
    // A loop of three within a loop of two: the tasks of both, that which says whether to go on too.
    let workflow = Workflow::builder_for::<u32>("w")
        .repeat_or_exit("outer", 2, |body| {
            let inner = |body: everstep::Builder<u32, u32>| body.then("inc", inc).then("again", again);
            body.repeat_or_exit("inner", 3, inner).then("again", again)
        })
        .build()
        .unwrap();
    let runtime = World::new().runtime(&workflow).await;
    let handle = runtime.start(&workflow, "id", 0).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(6));
    assert_eq!(handle.task_result("outer/inner/inc").await, Ok(Some(6_u32)));
    for path in ["outer/inner/again", "outer/again"] {
        assert_eq!(handle.task_result(path).await, Ok(Some(LoopResult::<u32, u32>::Again(6))), "{path}");
    }
    assert!(handle.task_result::<u32>("outer/again").await.is_err(), "a loop result is not a plain one");
}

/// Method: a signal comes while the task runs that says that the loop is done, and the runtime is dropped then. The loop goes on for
/// it, and ends behind it; one that comes later is refused.
#[tokio::test(flavor = "multi_thread")]
async fn loop_that_drains_leaves_no_signal_unread() {
    let gate = Gate::new();
    let workflow = Workflow::builder_for::<u32>("w")
        .repeat_draining("loop", LoopLimit::Unlimited, "add", |body| {
            body.wait_for_signal_keeping::<u32>("wait", "add")
                .then("hold", holding::<(u32, u32)>(&gate))
                .then("sum", |(sum, more): (u32, u32)| ready(Ok::<_, String>(LoopResult::Done(sum + more))))
        })
        .build()
        .unwrap();
    let world = World::new();
    let runtime = world.runtime(&workflow).await;
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    handle.signal("add", &10_u32).await.unwrap();
    gate.entered().await;
    handle.signal("add", &100_u32).await.unwrap();
    drop((runtime, handle));
    let runtime = world.runtime(&workflow).await;
    for _ in 0..2 {
        gate.entered().await;
        gate.open(1);
    }
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(111));
    assert!(handle.signal("add", &1_000_u32).await.is_err(), "nobody would read it");
    assert!(handle.buffered_signals().await.unwrap().is_empty());
}

/// Method: the only wait for the signal stands before the loop.
#[test]
fn draining_loop_without_a_wait_fails_to_build() {
    let built = Workflow::builder_for::<u32>("w")
        .wait_for_signal::<u32>("before", "add")
        .repeat_draining("loop", LoopLimit::Unlimited, "add", |body| body.then("again", again))
        .build();
    let wanted = BuildError::NothingDrains { node: "loop".into(), signal: "add".into() };
    assert_eq!(built.unwrap_err().0, [wanted]);
}
