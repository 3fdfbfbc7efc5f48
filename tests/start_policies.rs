//! Conflict policies of a start whose id is taken, also with many starts at once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use common::{Counter, counting, reach_code, waiting, with, within};
use everstep::{
    ConflictPolicy, HandleError, MemoryStore, ResultError, Runtime, StartError, Status, StatusCode, Workflow,
};
use tokio::task::JoinSet;

const FAIL: ConflictPolicy = ConflictPolicy::Fail;
const USE: ConflictPolicy = ConflictPolicy::UseExisting;
const TERMINATE: ConflictPolicy = ConflictPolicy::TerminateExisting;

#[tokio::test(flavor = "multi_thread")]
async fn hundred_starts_with_fail_run_once_and_refuse_99() {
    // A hundred callers start the same id at once; the one task counts.
    let runs = Counter::default();
    let workflow = Workflow::builder("one").then("count", counting::<u32>(&runs)).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let mut starts = JoinSet::new();
    for n in 0..100 {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        starts.spawn(async move { runtime.start(&workflow, "the one", n).await });
    }
    let (won, lost): (Vec<_>, Vec<_>) = within(starts.join_all()).await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 99));
    for error in lost.into_iter().map(Result::unwrap_err) {
        assert!(matches!(error, StartError::InstanceAlreadyExists { .. }), "{error:?}");
    }
    for handle in won.into_iter().flatten() {
        within(handle.result()).await.unwrap();
    }
    assert_eq!(runs.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_starts_with_use_existing_share_one_run() {
    // As above; every caller must get the same run and the same output.
    let runs = Counter::default();
    let workflow = Workflow::builder("one").then("count", counting::<u32>(&runs)).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let mut starts = JoinSet::new();
    for n in 0..100 {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        starts.spawn(async move {
            let started = runtime.start_with(&workflow, "the one", n, with(USE)).await.unwrap();
            (started.existing.is_none(), started.handle.run_id(), started.handle.result().await.unwrap())
        });
    }
    let starts = within(starts.join_all()).await;
    assert_eq!(starts.iter().filter(|(fresh, ..)| *fresh).count(), 1);
    assert!(starts.iter().all(|(_, run, output)| (*run, *output) == (starts[0].1, starts[0].2)), "{starts:?}");
    assert_eq!(runs.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fail_refuses_every_existing_instance() {
    // One parked and one completed instance; both starts are refused with the status.
    let workflow = waiting("w");
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let error = runtime.start_with(&workflow, "id", 1, with(FAIL)).await.unwrap_err();
    let StartError::InstanceAlreadyExists { instance, status } = error else { panic!("{error:?}") };
    assert_eq!((instance.as_str(), status.code()), ("id", StatusCode::AwaitingSignal));
    handle.signal("go", &5_u32).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(5));
    let error = runtime.start(&workflow, "id", 1).await.unwrap_err();
    assert!(matches!(error, StartError::InstanceAlreadyExists { status: Status::Completed, .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_definition_under_the_id_needs_terminate_existing() {
    // An instance of one workflow, then every policy and a handle with another.
    let (one, other) = (waiting("one"), waiting("other"));
    let runtime = Runtime::builder(MemoryStore::new()).register(&one).register(&other).start().await.unwrap();
    let old = runtime.start(&one, "id", 1).await.unwrap();
    for policy in [FAIL, USE] {
        let error = runtime.start_with(&other, "id", 1, with(policy)).await.unwrap_err();
        let StartError::DefinitionMismatch { expected, found, .. } = error else { panic!("{error:?}") };
        assert_eq!((expected, found), (other.hash(), one.hash()));
    }
    let error = runtime.handle(&other, "id").await.unwrap_err();
    assert_eq!(error, HandleError::DefinitionMismatch { expected: other.hash(), found: one.hash() });
    assert_eq!(old.status().await.unwrap().code(), StatusCode::AwaitingSignal);

    let new = runtime.start_with(&other, "id", 1, with(TERMINATE)).await.unwrap().handle;
    assert_eq!(within(old.result()).await, Err(ResultError::Superseded));
    new.signal("go", &9_u32).await.unwrap();
    assert_eq!(within(new.result()).await, Ok(9));
}

/// An input that must not be encoded when it is armed.
#[derive(serde::Deserialize)]
struct Bomb(bool);

impl serde::Serialize for Bomb {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(!self.0, "the input was encoded");
        serializer.serialize_newtype_struct("Bomb", &self.0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn use_existing_returns_the_run_and_ignores_the_input() {
    // The second and third start bring an input whose encoding panics: one while the instance
    // waits, one after its completion.
    let runs = Counter::default();
    let workflow = Workflow::builder("w")
        .then("count", counting::<Bomb>(&runs))
        .wait_for_signal::<String>("wait", "go")
        .build()
        .unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let first = runtime.start_with(&workflow, "id", Bomb(false), with(USE)).await.unwrap();
    assert!(first.existing.is_none());
    reach_code(&first.handle, StatusCode::AwaitingSignal).await;

    let second = runtime.start_with(&workflow, "id", Bomb(true), with(USE)).await.unwrap();
    let existing = second.existing.unwrap();
    assert_eq!((existing.status.code(), existing.output), (StatusCode::AwaitingSignal, None));
    assert_eq!(second.handle.run_id(), first.handle.run_id());
    second.handle.signal("go", &"done ".repeat(100)).await.unwrap();
    within(first.handle.result()).await.unwrap();

    let third = runtime.start_with(&workflow, "id", Bomb(true), with(USE)).await.unwrap();
    let existing = third.existing.unwrap();
    assert_eq!((existing.status, existing.output), (Status::Completed, Some("done ".repeat(100))));
    assert_eq!(third.handle.result().await.unwrap(), "done ".repeat(100));
    assert_eq!(runs.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn use_existing_of_failed_instance_returns_its_failure() {
    // A task that fails at once; the second start finds the failure and runs nothing.
    let runs = Counter::default();
    let counter = runs.clone();
    let fail = move |_: u32| {
        counter.hit();
        std::future::ready(Err::<u32, _>("no"))
    };
    let workflow = Workflow::builder("w").then("fail", fail).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let first = runtime.start(&workflow, "id", 1).await.unwrap();
    let ResultError::Failed(failure) = within(first.result()).await.unwrap_err() else { panic!() };
    let existing = runtime.start_with(&workflow, "id", 2, with(USE)).await.unwrap().existing.unwrap();
    assert_eq!((existing.status, existing.output), (Status::Failed { failure }, None));
    assert_eq!(runs.get(), 1);
}
