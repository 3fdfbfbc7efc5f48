//! Loops: limits, the carried value, and the results that are kept.

use std::future::ready;

use everstep::{BuildError, FailureKind, LoopLimit, LoopResult, StatusCode, Workflow};

use crate::common::{Counter, Gate, counting, holding, inc, reach_code, within};
use crate::{World, again, task_failure};

/// Returns `Done` from ten on, otherwise `Again`.
async fn to_ten(n: u32) -> Result<LoopResult<u32, String>, std::convert::Infallible> {
    Ok(if n >= 10 { LoopResult::Done(format!("ten at {n}")) } else { LoopResult::Again(n) })
}

#[tokio::test(flavor = "multi_thread")]
async fn loop_at_its_limit_fails_the_instance() {
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
    assert_eq!(handle.task_result("loop/inc").await, Ok(Some(9_u32)), "the last iteration's result is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn exiting_loop_returns_the_last_value() {
    // A body that never ends the loop, and one that ends it in the second of five iterations; one
    // iteration is a loop too.
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
    // The runtime is dropped in a task and then in a wait of each iteration. The limit still counts
    // from the first one, and the value continues from its last.
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
async fn loop_results_are_those_of_the_latest_iteration() {
    // A loop of three within a loop of two: results of the tasks of both, also of the task that
    // ends an iteration.
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

/// Method: a signal comes while the task runs that returns `Done`, and the runtime is dropped then.
/// The loop continues for it, and ends after it; a later signal is refused.
#[tokio::test(flavor = "multi_thread")]
async fn draining_loop_leaves_no_signal_unread() {
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
    assert!(handle.signal("add", &1_000_u32).await.is_err(), "no wait would take it");
    assert!(handle.buffered_signals().await.unwrap().is_empty());
}

/// Method: the only wait for the signal is before the loop.
#[test]
fn draining_loop_without_a_wait_fails_to_build() {
    let built = Workflow::builder_for::<u32>("w")
        .wait_for_signal::<u32>("before", "add")
        .repeat_draining("loop", LoopLimit::Unlimited, "add", |body| body.then("again", again))
        .build();
    let wanted = BuildError::NothingDrains { node: "loop".into(), signal: "add".into() };
    assert_eq!(built.unwrap_err().0, [wanted]);
}
