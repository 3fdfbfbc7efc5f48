//! Cancel and pause reach every branch, in every state.

use std::future::ready;
use std::time::Duration;

use everstep::{
    Builder, InstanceHandle, ResultError, RetryPolicy, Runtime, Status, StatusCode, TaskContext, Workflow, task,
};

use crate::common::{Counter, Gate, counting, moving, within};
use crate::{Dropped, World, until, waiting_in};

const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);

/// Branches that run, back off, are delayed and wait, each followed by a task that counts.
struct Scene {
    world: World,
    gate: Gate,
    dropped: Counter,
    tries: Counter,
    after: Counter,
    handle: InstanceHandle<Vec<u32>>,
    _runtime: Runtime,
}

impl Scene {
    async fn set() -> Self {
        let (gate, dropped, tries, after) = (Gate::new(), Counter::default(), Counter::default(), Counter::default());
        let hold = {
            let (gate, dropped) = (gate.clone(), dropped.clone());
            move |n: u32| {
                let (gate, dropped) = (gate.clone(), Dropped(dropped.clone()));
                async move {
                    let _dropped = dropped;
                    gate.pass().await;
                    Ok::<_, String>(n)
                }
            }
        };
        let fail = {
            let tries = tries.clone();
            move |n: u32, context: TaskContext| {
                tries.hit();
                ready(if context.attempt() == 1 { Err("again") } else { Ok(n) })
            }
        };
        let fail = task(fail).retry(RetryPolicy::fixed(1, MINUTE));
        let counted_after = |branch: Builder<u32, u32>| branch.then("after", counting::<u32>(&after));
        let workflow = Workflow::builder_for::<u32>("w")
            .fork_by_name("all", |fork| {
                fork.branch("runs", |branch| counted_after(branch.then("hold", hold)))
                    .branch("backs off", |branch| counted_after(branch.then("fail", fail)))
                    .branch("delayed", |branch| counted_after(branch.delay("delay", MINUTE)))
                    .branch("waits", |branch| counted_after(branch.wait_for_signal::<u32>("wait", "go")))
            })
            .join("join", |gave: std::collections::BTreeMap<String, u32>| {
                ready(Ok::<_, String>(gave.into_values().collect::<Vec<_>>()))
            })
            .build()
            .unwrap();
        let world = World::new();
        let runtime = world.runtime(&workflow).await;
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        gate.entered().await;
        until(async || tries.get(), |tries| *tries == 1).await;
        waiting_in(&handle, 2).await;
        Self { world, gate, dropped, tries, after, handle, _runtime: runtime }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_every_branch() {
    // The running future is dropped, no branch waits, and neither time nor the gate brings one
    // back.
    let scene = Scene::set().await;
    scene.handle.cancel("no more", "ana").await.unwrap();
    let cancelled = Err(ResultError::Cancelled { reason: "no more".into(), by: "ana".into() });
    assert_eq!(within(scene.handle.result()).await, cancelled);
    until(async || scene.dropped.get(), |dropped| *dropped == 1).await;
    assert_eq!(scene.handle.waits().await.unwrap(), []);
    scene.gate.open(1);
    scene.world.clock.advance(2 * MINUTE);
    assert!(scene.handle.signal("go", &5_u32).await.is_err());
    assert_eq!((scene.after.get(), scene.tries.get()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_holds_every_branch_until_the_unpause() {
    // During the pause the running task ends and is recorded, the delay and the backoff pass, and a
    // signal comes: no task starts and no signal is consumed. Then all continue, and no task runs
    // twice.
    let scene = Scene::set().await;
    let handle = &scene.handle;
    handle.pause("lunch", "ana").await.unwrap();
    let paused = Status::Paused { reason: "lunch".into(), by: "ana".into() };
    handle.signal("go", &5_u32).await.unwrap();
    scene.gate.open(1);
    until(async || handle.task_result::<u32>("all/runs/hold").await.unwrap(), Option::is_some).await;
    scene.world.clock.advance(2 * MINUTE);
    moving(&scene.world.clock, SECOND, waiting_in(handle, 1)).await;
    let waits = handle.waits().await.unwrap();
    assert_eq!(waits[0].code(), StatusCode::AwaitingSignal, "{waits:?}");
    assert_eq!(handle.status().await, Ok(paused));
    assert_eq!((scene.after.get(), scene.tries.get()), (0, 1));
    handle.unpause().await.unwrap();
    assert_eq!(moving(&scene.world.clock, SECOND, handle.result()).await, Ok(vec![1, 1, 1, 5]));
    assert_eq!((scene.after.get(), scene.tries.get(), scene.gate.count()), (4, 2, 1));
}
