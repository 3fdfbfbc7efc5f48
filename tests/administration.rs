//! Deleting instances: which instances may be deleted, what remains in the store, and which callers
//! are notified.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "store_failures/faulty.rs"]
mod faulty;
#[path = "common/stage.rs"]
mod stage;

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use common::{Gate, counting, forced, holding, inc, reach_code, waiting, with, within};
use everstep::machine::RowKey;
use everstep::store::Change;
use everstep::{
    ConflictPolicy, HandleError, InstanceHandle, InstanceId, MemoryStore, MessageError, NodePath, ResultError, RunId,
    Runtime, StatusCode, Store as _, Workflow, task,
};
use faulty::{Fate, Faulty};
use stage::{STATES, State, stage};
use tokio::task::JoinSet;

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

/// Commits a write to an existing instance, past the runtime.
async fn force(store: &MemoryStore, instance: &str, change: Change) {
    let write = forced(store, instance, change).await;
    assert_eq!(store.commit(&[write]).await.unwrap(), [Ok(())]);
}

async fn quarantine(store: &MemoryStore, instance: &str) {
    common::quarantine(store, instance, "it bites").await;
}

/// Waits until no row of a run is left.
async fn is_swept(store: &MemoryStore, run: RunId, rows: &[RowKey]) {
    let swept = async {
        for key in rows {
            while store.row(run, key).await.unwrap().is_some() {
                tokio::task::yield_now().await;
            }
        }
        while !store.rows(run, RowKey::SIGNALS, None).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within(swept).await;
}

/// Returns every status under which the store lists an instance.
async fn listed<O: 'static>(store: &MemoryStore, workflow: &Workflow<u32, O>) -> Vec<StatusCode> {
    let mut found = Vec::new();
    for status in StatusCode::ALL {
        let ids = store.instances(&workflow.hash(), status, None, 10).await.unwrap();
        found.extend(ids.iter().map(|_| status));
    }
    found
}

/// Returns more than fits in the head.
async fn list(n: u32) -> Result<Vec<u32>, Infallible> {
    Ok(vec![n; 200])
}

async fn fail_for_13(n: u32) -> Result<u32, &'static str> {
    tokio::task::yield_now().await;
    if n == 13 { Err("unlucky") } else { Ok(n) }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_an_ended_instance_frees_rows_and_id() {
    // One instance is brought to each end and deleted. The store has nothing of it left, and the id
    // runs again.
    let store = MemoryStore::new();
    let workflow = Workflow::builder("w")
        .then("list", list)
        .wait_for_signal::<u32>("wait", "go")
        .then("fail", task(fail_for_13))
        .build()
        .unwrap();
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    for end in [StatusCode::Completed, StatusCode::Failed, StatusCode::Cancelled] {
        let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
        reach_code(&handle, StatusCode::AwaitingSignal).await;
        match end {
            StatusCode::Cancelled => handle.cancel("enough", "ana").await.unwrap(),
            StatusCode::Failed => handle.signal("go", &13_u32).await.unwrap(),
            _ => handle.signal("go", &14_u32).await.unwrap(),
        }
        reach_code(&handle, end).await;
        assert!(store.row(handle.run_id(), &RowKey::result(NodePath::new("list"))).await.unwrap().is_some());
        within(handle.delete()).await.unwrap();
        assert_eq!(store.load(&id("id")).await.unwrap(), None, "{end:?}");
        assert_eq!(listed(&store, &workflow).await, [], "{end:?}");
        assert_eq!(handle.status().await, Err(HandleError::NotFound), "{end:?}");
        assert_eq!(within(handle.result()).await, Err(ResultError::Handle(HandleError::NotFound)), "{end:?}");
        assert_eq!(within(handle.delete()).await, Err(MessageError::NotFound), "{end:?}");
        assert_eq!(within(handle.signal("go", &1_u32)).await, Err(MessageError::NotFound), "{end:?}");
        let rows = ["list", "fail"].map(|node| RowKey::result(NodePath::new(node)));
        is_swept(&store, handle.run_id(), &rows).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unended_instance_refuses_delete_in_every_state() {
    // A delete in each state is refused with that state; then the instance is cancelled and deleted
    // at once.
    for state in STATES {
        let stage = stage(state).await;
        let found = match within(stage.handle.delete()).await {
            Err(MessageError::NotTerminal(status)) => status.code(),
            other => panic!("{state:?}: {other:?}"),
        };
        let expected = match state {
            State::Queued | State::Running | State::BackingOff => StatusCode::InProgress,
            State::Delayed => StatusCode::Waiting,
            State::Awaiting => StatusCode::AwaitingSignal,
            State::Paused => StatusCode::Paused,
        };
        assert_eq!(found, expected, "{state:?}");
        assert_eq!(stage.handle.status().await.unwrap().code(), expected, "{state:?}");
        stage.handle.cancel("enough", "ana").await.unwrap();
        within(stage.handle.delete()).await.unwrap();
        assert_eq!(stage.handle.status().await, Err(HandleError::NotFound), "{state:?}");
        // The new run is not woken by a timer of the old one, nor changed by its late outcome.
        let again = within(stage.runtime.start(&stage.workflow, "id", 1)).await.unwrap();
        stage.gate.open(10);
        reach_code(&again, StatusCode::Waiting).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantined_instance_is_deleted_active_or_parked() {
    // One instance is parked and one runs a task when it is quarantined. Watchers learn of the
    // delete, and the ids start anew.
    let (store, gate) = (MemoryStore::new(), Gate::new());
    let workflow = Workflow::builder("w")
        .then("hold", holding::<u32>(&gate))
        .wait_for_signal::<u32>("wait", "go")
        .build()
        .unwrap();
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    for awake in [false, true] {
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        gate.entered().await;
        if awake {
            // Its task continues although the store has a quarantine record; a delete finds the
            // actor still active.
            quarantine(&store, "id").await;
            gate.open(1);
            let lost = within(handle.signal("go", &1_u32)).await;
            assert!(matches!(lost, Err(MessageError::OutcomeUnknown(_) | MessageError::Quarantined(_))), "{lost:?}");
        } else {
            gate.open(1);
            reach_code(&handle, StatusCode::AwaitingSignal).await;
            quarantine(&store, "id").await;
        }
        let mut watch = handle.watch().await.unwrap();
        assert_eq!(within(watch.next()).await.map(|status| status.code()), Some(StatusCode::Quarantined));
        let deleted = async {
            // The actor may still be leaving: fenced, or not yet notified.
            while let Err(error) = handle.delete().await {
                let is_leaving = matches!(error, MessageError::OutcomeUnknown(_) | MessageError::NotTerminal(_));
                assert!(is_leaving, "active: {awake}: {error:?}");
                tokio::task::yield_now().await;
            }
        };
        within(deleted).await;
        assert_eq!(within(watch.next()).await, None, "active: {awake}");
        assert_eq!(store.quarantined(None, 10).await.unwrap(), [], "active: {awake}");
        assert_eq!(handle.status().await, Err(HandleError::NotFound), "active: {awake}");
        let again = within(runtime.start(&workflow, "id", 2)).await.unwrap();
        gate.entered().await;
        gate.open(1);
        within(again.signal("go", &7_u32)).await.unwrap();
        assert_eq!(within(again.result()).await, Ok(7), "active: {awake}");
        within(again.delete()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_with_damaged_head_is_deleted_by_its_id() {
    // The runtime returns no handle of the instance; its id starts anew after the delete.
    let (store, workflow) = (MemoryStore::new(), waiting("w"));
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    runtime.start(&workflow, "id", 1).await.unwrap();
    force(&store, "id", Change::Head(Bytes::from_static(b"no head at all"))).await;
    assert!(matches!(runtime.handle(&workflow, "id").await, Err(HandleError::Damaged(_))));
    within(runtime.delete(&id("id"))).await.unwrap();
    assert_eq!(store.load(&id("id")).await.unwrap(), None);
    assert_eq!(within(runtime.delete(&id("id"))).await, Err(MessageError::NotFound));
    let again = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    within(again.signal("go", &7_u32)).await.unwrap();
    assert_eq!(within(again.result()).await, Ok(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_instance_of_unregistered_workflow_is_deletable() {
    // A runtime that knew their workflow leaves two instances; the next runtime does not know it.
    let (store, unknown, known) = (MemoryStore::new(), waiting("unknown"), waiting("known"));
    let runtime = Runtime::builder(store.clone()).register(&unknown).start().await.unwrap();
    let ended = runtime.start(&unknown, "ended", 1).await.unwrap();
    ended.signal("go", &1_u32).await.unwrap();
    within(ended.result()).await.unwrap();
    runtime.start(&unknown, "waits", 1).await.unwrap();
    drop((runtime, ended));
    let runtime = Runtime::builder(store.clone()).register(&known).start().await.unwrap();
    within(runtime.delete(&id("ended"))).await.unwrap();
    let refused = within(runtime.delete(&id("waits"))).await.unwrap_err();
    assert_eq!(refused.to_string(), "the instance has not ended (awaiting signal `go` at `wait`): cancel it first");
    assert_eq!(store.load(&id("ended")).await.unwrap(), None);
    assert!(store.load(&id("waits")).await.unwrap().is_some());
}

#[tokio::test]
async fn delete_with_failed_commit_is_unknown_and_repeatable() {
    // The commit fails before the write, fails after it, or is asked for again after it.
    for fate in [Fate::FailsBefore, Fate::FailsAfter, Fate::StuttersAfter] {
        let (store, workflow) = (Faulty::new(), waiting("w"));
        let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        handle.signal("go", &1_u32).await.unwrap();
        within(handle.result()).await.unwrap();
        faulty::settle().await;
        store.plan_for("id", 0, fate);
        let first = within(handle.delete()).await;
        assert_eq!(store.failed(), 1, "{fate:?}");
        let again = async {
            loop {
                match handle.delete().await {
                    Err(MessageError::OutcomeUnknown(_)) => tokio::task::yield_now().await,
                    answer => return answer,
                }
            }
        };
        let second = within(again).await;
        if fate == Fate::StuttersAfter {
            assert_eq!(first, Ok(()));
        } else {
            assert!(matches!(first, Err(MessageError::OutcomeUnknown(_))), "{fate:?}: {first:?}");
        }
        let gone = if fate == Fate::FailsBefore { Ok(()) } else { Err(MessageError::NotFound) };
        assert_eq!(second, gone, "{fate:?}");
        let again = within(runtime.start(&workflow, "id", 1)).await.unwrap();
        within(again.signal("go", &7_u32)).await.unwrap();
        assert_eq!(within(again.result()).await, Ok(7), "{fate:?}");
    }
}

/// Races for an id as one of many callers.
async fn contend(runtime: Runtime, workflow: Workflow<u32, u32>, n: u32) -> Option<InstanceHandle<u32>> {
    if n.is_multiple_of(2) {
        let policy = if n.is_multiple_of(4) { ConflictPolicy::Fail } else { ConflictPolicy::TerminateExisting };
        return runtime.start_with(&workflow, "id", n, with(policy)).await.ok().map(|started| started.handle);
    }
    match runtime.delete(&id("id")).await {
        Ok(()) | Err(MessageError::NotFound | MessageError::NotTerminal(_) | MessageError::OutcomeUnknown(_)) => None,
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_starts_and_deletes_of_one_id_strand_no_run() {
    // Thirty callers start, replace and delete one id, forty times. Every started run ends, is
    // replaced, or is deleted after its end.
    let count = common::Counter::default();
    let workflow = Workflow::builder("w").then("count", counting::<u32>(&count)).then("inc", inc).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let mut completed = 0;
    for round in 0..40 {
        let mut calls = JoinSet::new();
        for n in 0..30 {
            calls.spawn(contend(runtime.clone(), workflow.clone(), n));
        }
        for handle in within(calls.join_all()).await.into_iter().flatten() {
            match within(handle.result()).await {
                Ok(_) => completed += 1,
                Err(ResultError::Superseded | ResultError::Handle(HandleError::NotFound)) => {}
                Err(error) => panic!("round {round}: {error:?}"),
            }
        }
    }
    assert!(completed > 0 && count.get() > 0, "no run ever completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_after_shutdown_is_refused_as_such() {
    // The runtime has stopped.
    let workflow = waiting("w");
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    runtime.shutdown(Duration::from_secs(1)).await;
    assert_eq!(within(handle.delete()).await, Err(MessageError::ShuttingDown));
}
