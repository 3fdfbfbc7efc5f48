//! Stops and starts of the runtime on one store: finished work stays finished, unfinished work
//! continues.
#![cfg(feature = "file-store")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::{Counter, Gate, inc, long, open, reach_code, same, still_clock, when_clock_is_at, within};
use everstep::{
    Clock, InstanceId, MemoryStore, MessageError, Runtime, StartError, Status, StatusCode, Store, Workflow,
};
use tokio::task::JoinSet;

const MINUTE: Duration = Duration::from_mins(1);

/// Starts a runtime on the same store again and again, after dropping or shutting down the previous
/// one.
async fn stops_at_every_place<S: Store>(gently: bool, store: impl AsyncFn() -> S) {
    let (count, gate, clock) = (Counter::default(), Gate::new(), still_clock());
    let workflow = long(&count, &gate);
    let start = async || {
        let builder = Runtime::builder(store().await).register(&workflow).clock(clock.clone());
        let runtime = builder.start().await.unwrap();
        assert!(runtime.report().unregistered.is_empty());
        runtime
    };
    let stop = async |runtime: Runtime| {
        if gently {
            // Only this moves the clock: it ends the grace, which cancels the tasks that still run.
            common::moving(&clock, Duration::from_millis(1), runtime.shutdown(Duration::from_millis(1))).await;
        }
    };
    let runtime = start().await;
    runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    stop(runtime).await;
    let runtime = start().await;
    gate.entered().await;
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    gate.open(1);
    let Status::Waiting { wake_at, .. } = reach_code(&handle, StatusCode::Waiting).await else { panic!() };
    drop(handle);
    stop(runtime).await;
    let runtime = start().await;
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    assert!(matches!(handle.status().await.unwrap(), Status::Waiting { wake_at: at, .. } if at == wake_at));
    when_clock_is_at(&clock, wake_at, reach_code(&handle, StatusCode::AwaitingSignal)).await;
    drop(handle);
    stop(runtime).await;
    let runtime = start().await;
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    handle.signal("go", &41_u32).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(42));
    drop(handle);
    stop(runtime).await;
    let runtime = start().await;
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    assert_eq!(handle.result().await, Ok(42));
    assert_eq!((count.get(), gate.count()), (1, 2), "finished tasks ran again");
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_instance_continues_on_a_store_in_memory() {
    // The runtime is stopped while a task runs, in the delay, at the wait, and at the end; both
    // ways.
    for gently in [false, true] {
        let store = MemoryStore::new();
        stops_at_every_place(gently, async || store.clone()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_instance_continues_on_a_store_on_disk() {
    // As above, the directory opened anew each time.
    for gently in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        stops_at_every_place(gently, async || open(directory.path()).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_acknowledged_right_before_a_crash_survives() {
    // Ten instances at once: the runtime is dropped the moment the last signal is acknowledged,
    // consumed or not.
    let directory = tempfile::tempdir().unwrap();
    let workflow = Workflow::builder("w")
        .then("inc", inc)
        .wait_for_signal_keeping::<u32>("wait", "go")
        .then("same", same::<(u32, u32)>)
        .build()
        .unwrap();
    for round in 0..5 {
        let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
        let mut sent = JoinSet::new();
        for n in 0..10 {
            let (runtime, workflow) = (runtime.clone(), workflow.clone());
            sent.spawn(async move {
                let handle = runtime.start(&workflow, format!("{round} {n}"), n).await.unwrap();
                handle.signal("go", &(n * 10)).await.unwrap();
            });
        }
        within(sent.join_all()).await;
        drop(runtime);
        let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
        for n in 0..10 {
            let handle = runtime.handle(&workflow, format!("{round} {n}")).await.unwrap();
            assert_eq!(within(handle.result()).await, Ok((n + 1, n * 10)), "round {round}, instance {n}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unregistered_instance_is_left_alone_until_registered() {
    // Instances of two definitions are left running, delayed and waiting; the next runtime knows
    // only one of the definitions.
    let (store, clock, gate, count) = (MemoryStore::new(), still_clock(), Gate::new(), Counter::default());
    let (known, unknown) =
        (Workflow::builder("known").then("inc", inc).delay("d", MINUTE).build().unwrap(), long(&count, &gate));
    let builder = || Runtime::builder(store.clone()).register(&known).clock(clock.clone());
    let runtime = within(builder().register(&unknown).start()).await.unwrap();
    for id in ["running", "delayed"] {
        within(runtime.start(&unknown, id, 1)).await.unwrap();
        gate.entered().await;
        if id == "running" {
            continue;
        }
        gate.open(1);
        let handles = [
            within(runtime.handle(&unknown, "running")).await.unwrap(),
            within(runtime.handle(&unknown, id)).await.unwrap(),
        ];
        let parked = async {
            tokio::select! {
                status = reach_code(&handles[0], StatusCode::Waiting) => status,
                status = reach_code(&handles[1], StatusCode::Waiting) => status,
            }
        };
        parked.await;
    }
    let other = within(runtime.start(&known, "known", 1)).await.unwrap();
    reach_code(&other, StatusCode::Waiting).await;
    drop((runtime, other));

    let runtime = within(builder().start()).await.unwrap();
    let [found] = &runtime.report().unregistered[..] else { panic!("{:?}", runtime.report()) };
    assert_eq!((found.definition, found.workflow.as_deref(), found.more), (unknown.hash(), Some("long"), false));
    let mut ids: Vec<_> = found.instances.iter().map(InstanceId::as_str).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["delayed", "running"]);
    let heads = async || {
        let [a, b] = ["delayed", "running"].map(|id| InstanceId::new(id).unwrap());
        [store.load(&a).await.unwrap(), store.load(&b).await.unwrap()]
    };
    let before = heads().await;
    let other = within(runtime.handle(&known, "known")).await.unwrap();
    when_clock_is_at(&clock, clock.now().after(2 * MINUTE), other.result()).await.unwrap();
    let handle = within(runtime.handle(&unknown, "delayed")).await.unwrap();
    assert!(handle.status().await.is_ok());
    assert_eq!(within(handle.signal("go", &1_u32)).await, Err(MessageError::NotRegistered));
    assert_eq!(within(handle.cancel("x", "y")).await, Err(MessageError::NotRegistered));
    let started = within(runtime.start(&unknown, "new", 1)).await.unwrap_err();
    assert_eq!(started, StartError::NotRegistered { workflow: "long".into() });
    assert_eq!(heads().await, before);
    drop((runtime, other, handle));

    let runtime = within(builder().register(&unknown).start()).await.unwrap();
    assert!(runtime.report().unregistered.is_empty());
    gate.open(10);
    for id in ["running", "delayed"] {
        let handle = within(runtime.handle(&unknown, id)).await.unwrap();
        within(handle.signal("go", &1_u32)).await.unwrap();
        assert_eq!(common::moving(&clock, MINUTE, handle.result()).await, Ok(2));
    }
    assert_eq!(count.get(), 2);
}
