//! Maps: order, limits, failures, and reads of their results.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use everstep::{Builder, Concurrency, FailureKind, HandleError, StatusCode, TaskFailure, Workflow};

use crate::common::{Counter, Gate, counting, inc, reach_code, same, within};
use crate::{Dropped, World, task_failure, until, waiting_in};

const BOTH: [Concurrency; 2] = [Concurrency::Unlimited, Concurrency::AtMost(2)];

fn over<T>(name: &str) -> Builder<Vec<T>, Vec<T>>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    Workflow::builder_for(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn map_over_empty_list_returns_empty_list() {
    // Maps that are first, last, one after another, and collecting; no item's task runs.
    let ran = Counter::default();
    let item = |item: Builder<u32, u32>| item.then("count", counting::<u32>(&ran));
    let workflow = over("w").map("a", BOTH[0], item).map("b", BOTH[1], item).map_collect("c", BOTH[0], item);
    let workflow = workflow.build().unwrap();
    let runtime = World::new().runtime(&workflow).await;
    let handle = runtime.start(&workflow, "id", vec![]).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(vec![]));
    assert_eq!(ran.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn map_results_keep_item_order_in_any_order_of_ends() {
    // Six items, each at a gate of its own, released in a shuffled order; half way the runtime is
    // dropped.
    let gates: Arc<[Gate]> = (0..6).map(|_| Gate::new()).collect();
    let hold = {
        let gates = Arc::clone(&gates);
        move |n: usize| {
            let gate = gates[n].clone();
            async move {
                gate.pass().await;
                Ok::<_, Infallible>(10 * n)
            }
        }
    };
    let workflow = over("w").map("each", Concurrency::Unlimited, |item| item.then("hold", hold)).build().unwrap();
    let world = World::new();
    let mut runtime = world.runtime(&workflow).await;
    let mut handle = runtime.start(&workflow, "id", (0..6).collect()).await.unwrap();
    for (count, item) in [(1, 3), (2, 0), (3, 5), (4, 1), (5, 4), (6, 2)] {
        gates[item].entered().await;
        if count == 4 {
            for waiting in [4, 2] {
                gates[waiting].entered().await;
            }
            drop((runtime, handle));
            runtime = world.runtime(&workflow).await;
            handle = runtime.handle(&workflow, "id").await.unwrap();
            gates[item].entered().await;
        }
        gates[item].open(1);
        let index = [u32::try_from(item).unwrap()];
        let result = async || handle.task_result_at::<usize>("each/hold", &index).await.unwrap();
        assert_eq!(until(result, Option::is_some).await, Some(10 * item));
    }
    assert_eq!(within(handle.result()).await, Ok(vec![0, 10, 20, 30, 40, 50]));
    drop(runtime);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_limit_counts_parked_items() {
    // Five items of a task and a wait, two at a time: two run and park, and no third begins before
    // one has ended, also after a restart. Frames are made as items start.
    let started = Counter::default();
    let item = |item: Builder<u32, u32>| {
        item.then("count", counting::<u32>(&started))
            .wait_for_signal_keeping::<u32>("wait", "go")
            .then("add", |(n, more): (u32, u32)| ready(Ok::<_, Infallible>(10 * n + more)))
    };
    let workflow = over("w").map("each", Concurrency::AtMost(2), item).build().unwrap();
    let world = World::new();
    let mut runtime = world.runtime(&workflow).await;
    let mut handle = runtime.start(&workflow, "id", (0..5).collect()).await.unwrap();
    for ended in 0..5_u32 {
        let (live, begun) = (2.min(5 - ended), (ended + 2).min(5));
        waiting_in(&handle, live as usize).await;
        reach_code(&handle, StatusCode::AwaitingSignal).await;
        assert_eq!((started.get(), world.branches(&handle).await), (begun, live as usize));
        if ended == 2 {
            drop((runtime, handle));
            runtime = world.runtime(&workflow).await;
            handle = runtime.handle(&workflow, "id").await.unwrap();
        }
        handle.signal("go", &7_u32).await.unwrap();
    }
    assert_eq!(within(handle.result()).await, Ok(vec![7, 17, 27, 37, 47]));
    assert_eq!(started.get(), 5);
    drop(runtime);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_item_cancels_the_others_and_fails_the_instance() {
    // The second of three fails while the others are held; items that have not begun never do.
    for concurrency in BOTH {
        let (gate, dropped) = (Gate::new(), Counter::default());
        let step = {
            let (gate, dropped) = (gate.clone(), dropped.clone());
            move |n: u32| {
                let (gate, dropped) = (gate.clone(), Dropped(dropped.clone()));
                async move {
                    let _dropped = dropped;
                    if n == 1 {
                        return Err("no");
                    }
                    gate.pass().await;
                    Ok(n)
                }
            }
        };
        let workflow = over("w").map("each", concurrency, |item| item.then("step", step)).build().unwrap();
        let runtime = World::new().runtime(&workflow).await;
        let handle = runtime.start(&workflow, "id", vec![0, 1, 2]).await.unwrap();
        let failure = task_failure(within(handle.result()).await);
        assert_eq!((failure.task.as_str(), failure.message.as_str()), ("each/step", "no"));
        let begun = gate.count() + 1;
        until(async || dropped.get(), |dropped| *dropped >= begun).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn collecting_map_returns_failures_in_place() {
    // Items of a fork with one branch that waits. Where the other branch fails, only that item's
    // branches go. The failure survives a restart.
    let item = |item: Builder<u32, u32>| {
        item.fork("both", |fork| {
            let check = |n: u32| ready(if n == 1 { Err("one is no good") } else { Ok(n) });
            fork.branch("check", |branch| branch.then("check", check))
                .branch("wait", |branch| branch.wait_for_signal::<u32>("wait", "go"))
        })
        .join("join", crate::both)
    };
    for concurrency in BOTH {
        let workflow = over("w").map_collect("each", concurrency, item).build().unwrap();
        let world = World::new();
        let runtime = world.runtime(&workflow).await;
        let handle = runtime.start(&workflow, "id", vec![0, 1, 2]).await.unwrap();
        waiting_in(&handle, 2).await;
        until(async || world.branches(&handle).await, |branches| *branches == 4).await;
        drop((runtime, handle));
        let runtime = world.runtime(&workflow).await;
        let handle = runtime.handle(&workflow, "id").await.unwrap();
        handle.signal("go", &7_u32).await.unwrap();
        handle.signal("go", &8_u32).await.unwrap();
        let gave = within(handle.result()).await.unwrap();
        let failure = TaskFailure {
            task: everstep::NodePath::new("each/both/check/check"),
            attempt: 1,
            kind: FailureKind::Error,
            message: "one is no good".into(),
        };
        assert_eq!(gave, [Ok(7), Err(failure), Ok(208)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_over_their_limits_fail_with_a_typed_failure() {
    // One item too many, one byte too many, and results that are larger than the items; exactly the
    // limit is fine.
    let grow = |text: String| ready(Ok::<_, Infallible>(text.repeat(4)));
    let plain = over::<String>("plain").map("each", Concurrency::Unlimited, |item| item.then("same", same)).build();
    let grows = over::<String>("grows").map("each", Concurrency::AtMost(1), |item| item.then("grow", grow)).build();
    let (plain, grows) = (plain.unwrap(), grows.unwrap());
    let world = World::new();
    let mut limits = everstep::Limits::default();
    (limits.list_items_max, limits.list_bytes_max) = (3, 33);
    let runtime = world.builder(&plain).register(&grows).limits(limits).start().await.unwrap();
    let ten = || "x".repeat(10);
    for (id, workflow, list, wanted) in [
        ("fits", &plain, vec![ten(); 3], None),
        ("items", &plain, vec![String::new(); 4], Some("4 items")),
        ("bytes", &plain, vec![ten(), ten(), ten() + "x"], Some("34 bytes")),
        ("results", &grows, vec!["xxx".to_owned(); 3], Some("33 bytes")),
    ] {
        let handle = runtime.start(workflow, id, list.clone()).await.unwrap();
        let result = within(handle.result()).await;
        let Some(wanted) = wanted else {
            assert_eq!(result, Ok(list), "{id}");
            continue;
        };
        let failure = task_failure(result);
        assert_eq!((failure.task.as_str(), failure.kind), ("each", FailureKind::Codec), "{id}");
        assert!(failure.message.contains(wanted), "{id}: {failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn list_before_a_map_may_exceed_the_payload_limit() {
    // Thirty items of ten bytes under a payload limit of a hundred: right before the map that is
    // fine, elsewhere it is not.
    let list = |n: u32| ready(Ok::<_, Infallible>(vec!["x".repeat(9); n as usize]));
    let count = |list: Vec<String>| ready(Ok::<_, Infallible>(u32::try_from(list.len()).unwrap()));
    let mapped = Workflow::builder("mapped").then("list", list);
    let mapped =
        mapped.map("each", Concurrency::Unlimited, |item| item.then("same", same)).then("count", count).build();
    let plain = Workflow::builder("plain").then("list", list).then("count", count).build();
    let (mapped, plain) = (mapped.unwrap(), plain.unwrap());
    let mut limits = everstep::Limits::default();
    (limits.payload_bytes_max, limits.list_bytes_max) = (100, 500);
    let runtime = World::new().builder(&mapped).register(&plain).limits(limits).start().await.unwrap();
    let handle = runtime.start(&mapped, "mapped", 30).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(30));
    let failure = task_failure(within(runtime.start(&plain, "plain", 30).await.unwrap().result()).await);
    assert_eq!((failure.task.as_str(), failure.kind), ("list", FailureKind::Codec));
    let failure = task_failure(within(runtime.start(&mapped, "larger", 60).await.unwrap().result()).await);
    assert_eq!((failure.task.as_str(), failure.kind), ("list", FailureKind::Codec));
}

#[tokio::test(flavor = "multi_thread")]
async fn result_over_the_payload_limit_fails_its_task() {
    // The failure names the item's task, not the map, and a map that collects has it in its place.
    let grow = |n: u32| ready(Ok::<_, Infallible>("x".repeat(n as usize)));
    let item = |item: Builder<u32, u32>| item.then("grow", grow).then("len", len);
    let workflow = over("w").map_collect("each", Concurrency::Unlimited, item).build().unwrap();
    let runtime = World::new().limited(&workflow, |limits| limits.payload_bytes_max = 100).await;
    let handle = runtime.start(&workflow, "id", vec![5, 200, 6]).await.unwrap();
    let gave = within(handle.result()).await.unwrap();
    assert_eq!((&gave[0], &gave[2]), (&Ok(5), &Ok(6)));
    let failure = gave[1].as_ref().unwrap_err();
    assert_eq!((failure.task.as_str(), failure.kind), ("each/grow", FailureKind::Codec));
}

async fn len(text: String) -> Result<u32, std::num::TryFromIntError> {
    text.len().try_into()
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_task_results_are_found_or_explained() {
    // A map within a map within a branch: each item's result by both indices, and each kind of
    // wrong path or index.
    let list = |n: u32| ready(Ok::<_, Infallible>((0..n).collect::<Vec<_>>()));
    let sum = |list: Vec<u32>| ready(Ok::<_, Infallible>(list.iter().sum::<u32>()));
    let inner = move |item: Builder<u32, u32>| {
        item.then("list", list).map("inner", Concurrency::Unlimited, |item| item.then("inc", inc)).then("sum", sum)
    };
    let workflow = Workflow::builder_for::<u32>("w")
        .fork("fork", |fork| {
            fork.branch("a", |branch| branch.then("list", list).map("outer", BOTH[1], inner).then("sum", sum))
                .branch("b", |branch| branch.then("inc", inc))
        })
        .join("join", crate::both)
        .build()
        .unwrap();
    let runtime = World::new().runtime(&workflow).await;
    let handle = runtime.start(&workflow, "id", 4).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(1_005));
    assert_eq!(handle.task_result("fork/a/list").await, Ok(Some(vec![0_u32, 1, 2, 3])));
    assert_eq!(handle.task_result("fork/b/inc").await, Ok(Some(5_u32)));
    for outer in 0..4 {
        let sum = handle.task_result_at::<u32>("fork/a/outer/sum", &[outer]).await;
        assert_eq!(sum, Ok(Some((0..outer).map(|inner| inner + 1).sum())));
        for inner in 0..outer {
            let inc = handle.task_result_at::<u32>("fork/a/outer/inner/inc", &[outer, inner]).await;
            assert_eq!(inc, Ok(Some(inner + 1)), "{outer} {inner}");
        }
    }
    assert_eq!(handle.task_result_at::<u32>("fork/a/outer/inner/inc", &[2, 2]).await, Ok(None));
    for path in ["fork", "fork/a", "fork/a/outer", "fork/c/inc", "inc", ""] {
        let error = handle.task_result::<u32>(path).await.unwrap_err();
        assert!(matches!(&error, HandleError::NoSuchTask { path: told, .. } if told == path), "{path}: {error}");
    }
    for indices in [&[][..], &[1], &[1, 1, 1]] {
        let error = handle.task_result_at::<u32>("fork/a/outer/inner/inc", indices).await.unwrap_err();
        let (path, given) = ("fork/a/outer/inner/inc".to_owned(), indices.len());
        assert_eq!(error, HandleError::WrongIndices { path, maps: 2, given });
    }
    assert!(matches!(handle.task_result::<String>("fork/b/inc").await, Err(HandleError::Codec(_))));
}
