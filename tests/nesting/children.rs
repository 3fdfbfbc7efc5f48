//! Children: another workflow as one node.

use std::convert::Infallible;
use std::future::ready;

use everstep::{BoxError, Permanent, RetryPolicy, Workflow, task};

use crate::common::{Counter, inc, within};
use crate::{World, task_failure};

#[tokio::test(flavor = "multi_thread")]
async fn child_used_twice_keeps_results_and_signals_apart() {
    // A child with a task and a wait, in a row and within a child of its own: each use has its own
    // paths.
    let child = Workflow::builder_for::<u32>("child")
        .then("inc", inc)
        .wait_for_signal_keeping::<u32>("wait", "go")
        .then("add", |(n, more): (u32, u32)| ready(Ok::<_, Infallible>(10 * n + more)))
        .build()
        .unwrap();
    let twice = Workflow::builder_for::<u32>("twice").child("a", &child).child("b", &child).build().unwrap();
    let workflow = Workflow::builder_for::<u32>("w").child("one", &child).child("two", &twice).build().unwrap();
    let runtime = World::new().runtime(&workflow).await;
    let handle = runtime.start(&workflow, "id", 0).await.unwrap();
    for signal in [1_u32, 2, 3] {
        handle.signal("go", &signal).await.unwrap();
    }
    assert_eq!(within(handle.result()).await, Ok(1_233));
    for (path, wanted) in
        [("one/inc", 1_u32), ("one/add", 11), ("two/a/inc", 12), ("two/a/add", 122), ("two/b/inc", 123)]
    {
        assert_eq!(handle.task_result(path).await, Ok(Some(wanted)), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn child_takes_and_returns_a_structure() {
    // The child's input is a pair of a wait that keeps its value. The child returns a pair of its
    // own, which the next task reads; the conversion happens once, whatever restarts come after it.
    let child = Workflow::builder_for::<(u32, u32)>("child")
        .then("add", |(a, b): (u32, u32)| ready(Ok::<_, Infallible>(a + b)))
        .wait_for_signal_keeping::<String>("wait", "name")
        .build()
        .unwrap();
    let workflow = Workflow::builder_for::<u32>("w")
        .wait_for_signal_keeping::<u32>("wait", "go")
        .child("child", &child)
        .then("show", |(n, name): (u32, String)| ready(Ok::<_, Infallible>(format!("{name} {n}"))))
        .build()
        .unwrap();
    let empty = Workflow::builder_for::<u32>("output").wait_for_signal_keeping::<u32>("w", "go").child("c", &child);
    let as_output = empty.build().unwrap();
    let world = World::new();
    let builder = || world.builder(&workflow).register(&as_output);
    let runtime = builder().start().await.unwrap();
    for id in ["a", "b"] {
        let started = runtime.start(&workflow, id, 1).await.unwrap();
        started.signal("go", &2_u32).await.unwrap();
    }
    let other = runtime.start(&as_output, "c", 1).await.unwrap();
    other.signal("go", &2_u32).await.unwrap();
    drop((runtime, other));
    let runtime = builder().start().await.unwrap();
    for id in ["a", "b"] {
        let handle = runtime.handle(&workflow, id).await.unwrap();
        handle.signal("name", &"ana".to_owned()).await.unwrap();
        assert_eq!(within(handle.result()).await.as_deref(), Ok("ana 3"));
    }
    let other = runtime.handle(&as_output, "c").await.unwrap();
    other.signal("name", &"bo".to_owned()).await.unwrap();
    assert_eq!(within(other.result()).await, Ok((3, "bo".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn child_failure_names_its_task_and_follows_its_policies() {
    // The child's task fails twice and is tried twice more, then fails for good.
    let tries = Counter::default();
    let fail = {
        let tries = tries.clone();
        move |_: u32| {
            let permanent = tries.hit() == 3;
            let error: BoxError = if permanent { Permanent::new("never").into() } else { "not yet".into() };
            ready(Err::<u32, _>(error))
        }
    };
    let fail = task(fail).retry(RetryPolicy::fixed(9, std::time::Duration::ZERO));
    let child = Workflow::builder("child").then("fail", fail).build().unwrap();
    let workflow = Workflow::builder_for::<u32>("w").child("child", &child).build().unwrap();
    let runtime = World::new().runtime(&workflow).await;
    let handle = runtime.start(&workflow, "id", 0).await.unwrap();
    let failure = task_failure(within(handle.result()).await);
    assert_eq!((failure.task.as_str(), failure.attempt, failure.message.as_str()), ("child/fail", 3, "never"));
}
