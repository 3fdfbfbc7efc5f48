//! An instance that waits in several branches at once.

use std::time::Duration;

use everstep::{Builder, Clock as _, MemoryStore, Runtime, Status, StatusCode, Workflow};

use crate::common::{Gate, holding, moving, reach, reach_code, same, when_clock_is_at, within};
use crate::faulty::Faulty;
use crate::{World, both, waiting_in};

const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn instance_wakes_for_each_waiting_branch() {
    // Delays of 3, 1 and 2 minutes beside a wait with and one without a timeout, over a restart
    // after each wake-up. All are listed, the nearest is the status, and each ends at its own time.
    let workflow = Workflow::builder_for::<u32>("w")
        .fork_by_name("all", |fork| {
            fork.branch("three", |branch| branch.delay("d", 3 * MINUTE))
                .branch("one", |branch| branch.delay("d", MINUTE))
                .branch("two", |branch| branch.delay("d", 2 * MINUTE))
                .branch("signal", |branch| branch.wait_for_signal::<u32>("s", "go"))
                .branch("timeout", |branch| {
                    let outcome = branch.wait_for_signal_timeout::<u32>("t", "never", 4 * MINUTE);
                    outcome.then("none", |_| std::future::ready(Ok::<_, String>(4)))
                })
        })
        .join("join", same)
        .build()
        .unwrap();
    let world = World::new();
    let start = world.clock.now();
    let at = |minutes: u32| start.after(minutes * MINUTE);
    let delayed = |name: &str, minutes| Status::Waiting { wake_at: at(minutes), delay: path(&format!("all/{name}/d")) };
    let awaiting = |node: &str, signal: &str, wake_at| {
        let (node, signal) = (path(node), signal.to_owned());
        Status::AwaitingSignal { node, signal, wake_at }
    };
    let mut runtime = world.runtime(&workflow).await;
    let mut handle = runtime.start(&workflow, "id", 9).await.unwrap();
    let signal = awaiting("all/signal/s", "go", None);
    let timeout = awaiting("all/timeout/t", "never", Some(at(4)));
    let all = [delayed("three", 3), delayed("one", 1), delayed("two", 2), signal.clone(), timeout.clone()];
    assert_eq!(waiting_in(&handle, 5).await, all);
    for (nearest, minutes, left) in [(&all[1], 1, 4), (&all[2], 2, 3), (&all[0], 3, 2)] {
        assert_eq!(handle.status().await.as_ref(), Ok(nearest));
        when_clock_is_at(&world.clock, at(minutes), waiting_in(&handle, left)).await;
        drop((runtime, handle));
        runtime = world.runtime(&workflow).await;
        handle = runtime.handle(&workflow, "id").await.unwrap();
    }
    assert_eq!(handle.waits().await.unwrap(), [signal.clone(), timeout.clone()]);
    assert_eq!(handle.status().await, Ok(timeout));
    when_clock_is_at(&world.clock, at(4), reach(&handle, |status| *status == signal)).await;
    assert_eq!(handle.waits().await.unwrap(), [signal]);
    handle.signal("go", &7_u32).await.unwrap();
    let gave = within(handle.result()).await.unwrap();
    let wanted = [("one", 9), ("signal", 7), ("three", 9), ("timeout", 4), ("two", 9)];
    assert!(gave.iter().map(|(name, n)| (name.as_str(), *n)).eq(wanted), "{gave:?}");
    assert_eq!(handle.waits().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_waiting_for_one_signal_are_served_in_order() {
    // The first branch is held in a task until the second waits. Then both wait, also over a
    // restart, and the second gets the first signal.
    let gate = Gate::new();
    let workflow = Workflow::builder_for::<u32>("w")
        .fork("both", |fork| {
            let late = |branch: Builder<u32, u32>| branch.then("hold", holding::<u32>(&gate));
            fork.branch("a", |branch| late(branch).wait_for_signal::<u32>("wait", "go"))
                .branch("b", |branch| branch.wait_for_signal::<u32>("wait", "go"))
        })
        .join("join", both)
        .build()
        .unwrap();
    for restarts in [false, true] {
        let world = World::new();
        let mut runtime = world.runtime(&workflow).await;
        let mut handle = runtime.start(&workflow, "id", 0).await.unwrap();
        gate.entered().await;
        waiting_in(&handle, 1).await;
        gate.open(1);
        waiting_in(&handle, 2).await;
        if restarts {
            drop((runtime, handle));
            runtime = world.runtime(&workflow).await;
            handle = runtime.handle(&workflow, "id").await.unwrap();
        }
        handle.signal("go", &1_u32).await.unwrap();
        assert_eq!(handle.waits().await.unwrap().len(), 1);
        handle.signal("go", &2_u32).await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(201));
        drop(runtime);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_ends_on_time_while_a_sibling_runs() {
    // Beside a held task, a delay of a minute ends and the next one begins, which the due index
    // does not have.
    let gate = Gate::new();
    let workflow = Workflow::builder_for::<u32>("w")
        .fork("both", |fork| {
            fork.branch("a", |branch| branch.then("hold", holding::<u32>(&gate)))
                .branch("b", |branch| branch.delay("first", MINUTE).delay("second", MINUTE))
        })
        .join("join", both)
        .build()
        .unwrap();
    let world = World::new();
    let runtime = world.runtime(&workflow).await;
    let handle = runtime.start(&workflow, "id", 3).await.unwrap();
    gate.entered().await;
    waiting_in(&handle, 1).await;
    let second = async {
        while !matches!(&handle.waits().await.unwrap()[..], [Status::Waiting { delay, .. }] if delay.as_str() == "both/b/second")
        {
            tokio::task::yield_now().await;
        }
    };
    world.clock.advance(MINUTE);
    moving(&world.clock, SECOND, second).await;
    assert_eq!(handle.status().await.unwrap().code(), StatusCode::InProgress);
    gate.open(1);
    reach_code(&handle, StatusCode::Waiting).await;
    world.clock.advance(MINUTE);
    assert_eq!(moving(&world.clock, SECOND, handle.result()).await, Ok(303));
}

/// Returns a workflow of two branches that each wait for a signal of their own.
fn two_waits() -> Workflow<u32, u32> {
    Workflow::builder_for::<u32>("w")
        .fork("both", |fork| {
            fork.branch("a", |branch| branch.wait_for_signal::<u32>("wait", "a"))
                .branch("b", |branch| branch.wait_for_signal::<u32>("wait", "b"))
        })
        .join("join", both)
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_moved_while_waits_are_read_is_not_damaged() {
    // A read is held after it read the head, until one of two branches has ended: a branch is
    // missing then.
    let (workflow, store) = (two_waits(), Faulty::new());
    let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 0).await.unwrap();
    let gate = store.hold_loads_of("id", 1);
    let asked = {
        let handle = handle.clone();
        tokio::spawn(async move { handle.waits().await })
    };
    gate.entered().await;
    handle.signal("a", &1_u32).await.unwrap();
    gate.open(1);
    let waits = within(asked).await.unwrap().unwrap();
    assert!(matches!(&waits[..], [Status::AwaitingSignal { signal, .. }] if signal == "b"), "{waits:?}");
    handle.signal("b", &2_u32).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(102));
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_moved_during_activation_is_not_quarantined() {
    // Two runtimes on one store, as for a moment after a runtime is dropped. The second one
    // activates the instance and has read its head; then the first one ends a branch.
    let (workflow, store) = (two_waits(), MemoryStore::new());
    let earlier = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    let first = earlier.start(&workflow, "id", 0).await.unwrap();
    let slow = Faulty::over(store);
    let later = Runtime::builder(slow.store()).register(&workflow).start().await.unwrap();
    let second = later.handle(&workflow, "id").await.unwrap();
    let gate = slow.hold_loads_of("id", 1);
    let signalled = {
        let second = second.clone();
        tokio::spawn(async move { second.signal("b", &2_u32).await })
    };
    gate.entered().await;
    first.signal("a", &1_u32).await.unwrap();
    gate.open(1);
    within(signalled).await.unwrap().unwrap();
    assert_eq!(within(second.result()).await, Ok(102));
}

fn path(path: &str) -> everstep::NodePath {
    everstep::NodePath::new(path)
}
