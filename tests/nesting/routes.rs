//! Routes: one decision, recorded before its arm runs.

use std::convert::Infallible;
use std::future::ready;

use everstep::{FailureKind, SignalOutcome, StatusCode, Workflow};

use crate::common::{Counter, Gate, holding, inc, reach_code, within};
use crate::{World, task_failure};

#[tokio::test(flavor = "multi_thread")]
async fn route_decision_survives_a_restart() {
    // The key function would return another key the second time. The runtime is dropped in the
    // arm's first task, and again in a wait after it.
    let (decided, gate) = (Counter::default(), Gate::new());
    let key = {
        let decided = decided.clone();
        move |_: &u32| decided.hit() == 1
    };
    let workflow = Workflow::builder_for::<u32>("w")
        .route("way", key, |route| {
            route
                .arm(true, |arm| arm.then("hold", holding::<u32>(&gate)).wait_for_signal::<u32>("wait", "go"))
                .arm(false, |arm| arm.then("inc", inc))
        })
        .build()
        .unwrap();
    let world = World::new();
    let runtime = world.runtime(&workflow).await;
    runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    drop(runtime);
    let runtime = world.runtime(&workflow).await;
    gate.entered().await;
    gate.open(1);
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    drop((runtime, handle));
    let runtime = world.runtime(&workflow).await;
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    handle.signal("go", &7_u32).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(7));
    assert_eq!(decided.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_key_takes_the_default_arm_or_fails() {
    // A key that is a string, with an arm for one value; once without and once with a default arm.
    let arms = |has_default: bool| {
        let arms = Workflow::builder_for::<String>("w").route("way", String::clone, |route| {
            let known = route.arm("known", |arm| arm);
            let other = |s: String| ready(Ok::<_, Infallible>(format!("other {s}")));
            if has_default { known.otherwise(|arm| arm.then("other", other)) } else { known }
        });
        arms.build().unwrap()
    };
    for (has_default, key, wanted) in
        [(false, "known", Some("known")), (true, "strange", Some("other strange")), (false, "strange", None)]
    {
        let workflow = arms(has_default);
        let runtime = World::new().runtime(&workflow).await;
        let handle = runtime.start(&workflow, "id", key.to_owned()).await.unwrap();
        let result = within(handle.result()).await;
        if let Some(wanted) = wanted {
            assert_eq!(result.as_deref(), Ok(wanted));
        } else {
            let failure = task_failure(result);
            assert_eq!((failure.task.as_str(), failure.kind), ("way", FailureKind::UnknownKey));
            assert!(failure.message.contains("`strange`"), "{failure}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn panicking_key_function_fails_the_instance() {
    // No task is around it, so the failure names the route.
    let workflow = Workflow::builder_for::<u32>("w")
        .route(
            "way",
            |n: &u32| if *n == 13 { panic!("unlucky") } else { true },
            |route| route.arm(true, |arm| arm.then("inc", inc)).arm(false, |arm| arm),
        )
        .build()
        .unwrap();
    let runtime = World::new().runtime(&workflow).await;
    let handle = runtime.start(&workflow, "bad", 13).await.unwrap();
    let failure = task_failure(within(handle.result()).await);
    assert_eq!((failure.task.as_str(), failure.kind), ("way", FailureKind::Panicked));
    let handle = runtime.start(&workflow, "good", 1).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn arms_of_different_shapes_are_read_after_the_route() {
    // One tuple comes from a wait that keeps its value, from a task that returns it, and from a
    // nested route of both. A task, a wait that keeps it, a child and the workflow's output read
    // it.
    type Pair = (u32, u32);
    let swap = |(a, b): Pair| ready(Ok::<Pair, Infallible>((b, a)));
    let arms = |name: &str| {
        Workflow::builder_for::<u32>(name).route(
            "way",
            |n: &u32| n.is_multiple_of(3),
            |route| {
                let double = |n: u32| ready(Ok::<Pair, Infallible>((n, n)));
                route.arm(true, |arm| arm.wait_for_signal_keeping::<u32>("wait", "go")).arm(false, move |arm| {
                    arm.route(
                        "inner",
                        |n: &u32| n % 3 == 1,
                        |route| {
                            route
                                .arm(true, move |arm| arm.then("double", double))
                                .arm(false, |arm| arm.wait_for_signal_keeping::<u32>("wait", "go"))
                        },
                    )
                })
            },
        )
    };
    let sum = |((a, b), c): (Pair, SignalOutcome<u32>)| {
        let c = if let SignalOutcome::Received(c) = c { c } else { 0 };
        ready(Ok::<u32, Infallible>(100 * a + 10 * b + c))
    };
    let child = Workflow::builder_for::<Pair>("child").then("swap", swap).build().unwrap();
    let output = arms("output").build().unwrap();
    let by_task = arms("task").then("swap", swap).build().unwrap();
    let by_child = arms("child").child("child", &child).build().unwrap();
    let kept = std::time::Duration::from_hours(1);
    let by_wait =
        arms("wait").wait_for_signal_keeping_timeout::<u32>("more", "more", kept).then("sum", sum).build().unwrap();
    let world = World::new();
    let builder = world.builder(&output).register(&by_task).register(&by_child).register(&by_wait);
    let runtime = builder.start().await.unwrap();
    for (n, waits) in [(3, true), (4, false), (5, true)] {
        let other = if waits { 7 } else { n };
        let id = |name: &str| format!("{name} {n}");
        let mut pairs = Vec::new();
        for (workflow, name) in [(&output, "output"), (&by_task, "task"), (&by_child, "child")] {
            let handle = runtime.start(workflow, id(name), n).await.unwrap();
            if waits {
                handle.signal("go", &7_u32).await.unwrap();
            }
            pairs.push(within(handle.result()).await.unwrap());
        }
        assert_eq!(pairs, [(n, other), (other, n), (other, n)]);
        let handle = runtime.start(&by_wait, id("wait"), n).await.unwrap();
        handle.signal("more", &1_u32).await.unwrap();
        if waits {
            handle.signal("go", &7_u32).await.unwrap();
        }
        assert_eq!(within(handle.result()).await, Ok(100 * n + 10 * other + 1));
    }
}
