//! Starts that race with starts, replacements, other writes and their own callers: one run is
//! current, and it continues.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]

mod common;
#[path = "store_failures/faulty.rs"]
mod faulty;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Counter, Gate, counting, holding, inc, reach_code, still_clock, when_clock_is_at, within};
use everstep::store::Condition;
use everstep::{
    ConflictPolicy, HandleError, InstanceHandle, Limits, MemoryStore, MessageError, ResultError, Runtime, StartError,
    StartOptions, StartOutcome, Status, StatusCode, Workflow,
};
use faulty::{FAILURES, Fate, Faulty, settle, writes_to};
use tokio::sync::Barrier;
use tokio::task::{JoinHandle, JoinSet};

const MINUTE: Duration = Duration::from_mins(1);
const REPLACES: ConflictPolicy = ConflictPolicy::TerminateExisting;

type Starting = JoinHandle<Result<StartOutcome<u32>, StartError>>;

/// Starts in a spawned tokio task, with the default policy or another one.
fn spawn_start(
    runtime: &Runtime,
    workflow: &Workflow<u32, u32>,
    id: impl Into<String>,
    input: u32,
    policy: ConflictPolicy,
) -> Starting {
    let (runtime, workflow, id) = (runtime.clone(), workflow.clone(), id.into());
    tokio::spawn(async move { runtime.start_with(&workflow, id, input, StartOptions::new().policy(policy)).await })
}

async fn started(starting: Starting) -> InstanceHandle<u32> {
    within(starting).await.unwrap().unwrap().handle
}

#[tokio::test(flavor = "multi_thread")]
async fn winner_of_a_hundred_starts_runs_to_its_end() {
    // A task, a delay and a task, so that the instance writes among the ninety-nine refused starts.
    let count = Counter::default();
    let workflow = Workflow::builder("w")
        .then("count", counting::<u32>(&count))
        .delay("delay", Duration::from_millis(1))
        .then("inc", inc)
        .build()
        .unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    for round in 1..=10 {
        let id = format!("id {round}");
        let starts = (0..100).map(|_| spawn_start(&runtime, &workflow, &id, 1, ConflictPolicy::Fail));
        let mut winner = None;
        for start in starts.collect::<Vec<_>>() {
            match within(start).await.unwrap() {
                Ok(won) => assert!(winner.replace(won.handle).is_none(), "two starts of one id"),
                Err(error) => assert!(matches!(error, StartError::InstanceAlreadyExists { .. }), "{error}"),
            }
        }
        assert_eq!(within(winner.unwrap().result()).await, Ok(2));
        assert_eq!(count.get(), round);
    }
}

#[tokio::test]
async fn refused_start_hides_no_commit_of_its_batch() {
    // Late starts have found the id free and are held there. While a commit is held, the instance's
    // first transition is queued, and after it the late starts: one batch. The batch is committed,
    // the starts are refused, and the instance continues.
    let (store, gate, clock) = (Faulty::new(), Gate::new(), still_clock());
    let workflow = Workflow::builder("w")
        .then("hold", holding::<u32>(&gate))
        .delay("delay", MINUTE)
        .then("inc", inc)
        .build()
        .unwrap();
    let builder = Runtime::builder(store.store()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let loads = store.hold_loads_of("id", 2);
    let refused = spawn_start(&runtime, &workflow, "id", 2, ConflictPolicy::Fail);
    let shared = spawn_start(&runtime, &workflow, "id", 3, ConflictPolicy::UseExisting);
    loads.entered().await;
    loads.entered().await;
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;

    let commits = store.hold_commits_of("beside");
    let beside = spawn_start(&runtime, &workflow, "beside", 4, ConflictPolicy::Fail);
    commits.entered().await;
    let mates = Counter::default();
    let batches = mates.clone();
    store.plan(move |batch| {
        if batch.iter().filter(|write| write.instance.as_str() == "id").count() == 3 {
            batches.hit();
        }
        Fate::Done
    });
    gate.open(1);
    settle().await;
    loads.open(2);
    settle().await;
    commits.open(100);

    let refused = within(refused).await.unwrap().unwrap_err();
    assert!(matches!(refused, StartError::InstanceAlreadyExists { .. }), "{refused}");
    let shared = within(shared).await.unwrap().unwrap();
    assert_eq!(shared.existing.unwrap().run, handle.run_id());
    started(beside).await;
    assert_eq!(mates.get(), 1, "the writes were not in one batch");
    let Status::Waiting { wake_at, .. } = reach_code(&handle, StatusCode::Waiting).await else { panic!() };
    assert_eq!(when_clock_is_at(&clock, wake_at, handle.result()).await, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_starts_of_a_free_id_are_all_answered() {
    // Four starts with the policy to replace begin at once on a free id: each of their runs is
    // replaced, or ends by itself.
    let workflow = Workflow::builder("w").then("inc", inc).then("again", inc).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    for round in 0..50 {
        let barrier = Arc::new(Barrier::new(4));
        let mut starts = JoinSet::new();
        for n in 0..4 {
            let (runtime, workflow, barrier) = (runtime.clone(), workflow.clone(), Arc::clone(&barrier));
            starts.spawn(async move {
                barrier.wait().await;
                let options = StartOptions::new().policy(REPLACES);
                let handle = runtime.start_with(&workflow, format!("id {round}"), n, options).await.unwrap().handle;
                (n, handle.run_id(), handle.result().await)
            });
        }
        let current = async |runs: &[(u32, everstep::RunId, Result<u32, ResultError>)]| {
            let handle = runtime.handle(&workflow, format!("id {round}")).await.unwrap();
            let (n, ..) = runs.iter().find(|(_, run, _)| *run == handle.run_id()).unwrap();
            assert_eq!(within(handle.result()).await, Ok(n + 2));
        };
        let runs = within(starts.join_all()).await;
        for (n, _, result) in &runs {
            assert!(matches!(result, Err(ResultError::Superseded)) || *result == Ok(n + 2), "{n}: {result:?}");
        }
        current(&runs).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replacement_racing_with_the_old_end_strands_no_run() {
    // A short run is replaced again and again, about when it ends; the test waits for every tenth.
    let workflow = Workflow::builder("w").then("inc", inc).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let mut replacing = JoinSet::new();
    for id in 0..4 {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        replacing.spawn(async move {
            for n in 0..100 {
                let options = StartOptions::new().policy(REPLACES);
                let handle = runtime.start_with(&workflow, format!("id {id}"), n, options).await.unwrap().handle;
                if n % 10 == 9 {
                    assert_eq!(within(handle.result()).await, Ok(n + 1));
                }
            }
        });
    }
    within(replacing.join_all()).await;
}

#[tokio::test]
async fn start_given_up_before_its_commit_continues_by_itself() {
    // The caller gives up while the first write is held at the store; then it is committed.
    let store = Faulty::new();
    let workflow = Workflow::builder("w").then("inc", inc).build().unwrap();
    let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
    let commits = store.hold_commits_of("id");
    let start = spawn_start(&runtime, &workflow, "id", 1, ConflictPolicy::Fail);
    commits.entered().await;
    start.abort();
    assert!(start.await.unwrap_err().is_cancelled());
    assert!(matches!(runtime.handle(&workflow, "id").await, Err(HandleError::NotFound)));
    commits.open(100);
    let handle = async {
        loop {
            match runtime.handle(&workflow, "id").await {
                Err(HandleError::NotFound) => tokio::task::yield_now().await,
                found => return found.unwrap(),
            }
        }
    };
    let handle = within(handle).await;
    assert_eq!(within(handle.result()).await, Ok(2));
}

#[test]
fn instance_outlives_its_starters_tokio_runtime() {
    // The start is called on another tokio runtime, of one thread, which is never driven again and
    // then dropped.
    let workflow = Workflow::builder("w").then("inc", inc).delay("d", Duration::from_millis(1)).build().unwrap();
    let tokio = tokio::runtime::Runtime::new().unwrap();
    let runtime = tokio.block_on(Runtime::builder(MemoryStore::new()).register(&workflow).start()).unwrap();
    for keeps in [true, false] {
        let callers = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = callers.block_on(runtime.start(&workflow, format!("id {keeps}"), 1)).unwrap();
        let callers = keeps.then_some(callers);
        assert_eq!(tokio.block_on(async { within(handle.result()).await }), Ok(2));
        drop(callers);
    }
}

#[tokio::test]
async fn replacement_into_a_full_mailbox_runs() {
    // While the replacement's write is held, a thousand requests for the instance are queued after
    // it.
    let store = Faulty::new();
    let hold = async |n: u32| {
        if n == 0 {
            std::future::pending::<()>().await;
        }
        Ok::<_, Infallible>(n)
    };
    let workflow = Workflow::builder("w").then("hold", hold).build().unwrap();
    let mut limits = Limits::default();
    limits.instance_messages_max = 2_000;
    let runtime = Runtime::builder(store.store()).limits(limits).register(&workflow).start().await.unwrap();
    let old = runtime.start(&workflow, "id", 0).await.unwrap();
    let commits = store.hold_commits_of("id");
    let replacement = spawn_start(&runtime, &workflow, "id", 1, REPLACES);
    commits.entered().await;
    let mut requests = JoinSet::new();
    for _ in 0..1_000 {
        let old = old.clone();
        // Any answer will do: either run may get the request, ended or not.
        requests.spawn(async move { drop(old.pause("x", "y").await) });
    }
    settle().await;
    commits.open(10_000);
    let new = started(replacement).await;
    assert_eq!(within(new.result()).await, Ok(1));
    assert_eq!(within(old.result()).await, Err(ResultError::Superseded));
    within(requests.join_all()).await;
}

#[tokio::test]
async fn replacement_passes_a_storm_of_signals() {
    // At any time one more signal is being written when a commit is done: whenever one is held,
    // another is sent before it is released. The replacement, sent after the first of them, must
    // not wait for their end.
    let store = Faulty::new();
    let workflow = Workflow::builder_for::<u32>("w")
        .wait_for_signal::<u32>("never", "never")
        .wait_for_signal::<u32>("wait", "go")
        .build()
        .unwrap();
    let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let commits = store.hold_commits_of("id");
    let send = || {
        let handle = handle.clone();
        tokio::spawn(async move { drop(handle.signal("go", &1_u32).await) })
    };
    let mut senders = vec![send()];
    commits.entered().await;
    let replacement = spawn_start(&runtime, &workflow, "id", 2, REPLACES);
    settle().await;
    for _ in 0..20 {
        senders.push(send());
        settle().await;
        commits.open(1);
        commits.entered().await;
        if replacement.is_finished() {
            break;
        }
    }
    let came_through = replacement.is_finished();
    commits.open(10_000);
    let new = started(replacement).await;
    senders.iter().for_each(JoinHandle::abort);
    assert!(came_through, "the replacement waited for twenty commits of signals");
    assert_eq!(within(handle.result()).await, Err(ResultError::Superseded));
    new.signal("never", &1_u32).await.unwrap();
    // Signals of the storm may have ended it already.
    drop(new.signal("go", &1_u32).await);
    assert!(within(new.result()).await.is_ok());
}

#[tokio::test]
async fn repeated_start_does_not_disturb_recovery() {
    // The first write fails. If it is durable, recovery activates the run and parks it in its
    // delay, where the repeated start finds it. No task runs twice, and its wake-up stays.
    for fate in FAILURES {
        let (store, clock, count) = (Faulty::new(), still_clock(), Counter::default());
        store.plan_for("id", 0, fate);
        let workflow = Workflow::builder("w")
            .then("count", counting::<u32>(&count))
            .delay("delay", MINUTE)
            .then("inc", inc)
            .build()
            .unwrap();
        let builder = Runtime::builder(store.store()).register(&workflow).clock(clock.clone());
        let runtime = builder.start().await.unwrap();
        let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
        let Status::Waiting { wake_at, .. } = reach_code(&handle, StatusCode::Waiting).await else { panic!() };
        assert_eq!(when_clock_is_at(&clock, wake_at, handle.result()).await, Ok(2), "{fate:?}");
        assert_eq!((store.failed(), count.get()), (1, 1), "{fate:?}");
    }
}

#[tokio::test]
async fn one_start_wins_in_a_batch_committed_twice() {
    // Three starts of one id are queued while a commit is held; their batch is written, and asked
    // for again.
    let (store, count) = (Faulty::new(), Counter::default());
    let workflow = Workflow::builder("w").then("count", counting::<u32>(&count)).build().unwrap();
    let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
    let commits = store.hold_commits_of("beside");
    let beside = spawn_start(&runtime, &workflow, "beside", 0, ConflictPolicy::Fail);
    commits.entered().await;
    let starts = [1, 2, 3].map(|n| spawn_start(&runtime, &workflow, "id", n, ConflictPolicy::Fail));
    settle().await;
    let mut stutters = true;
    store.plan(move |batch| {
        let mates = writes_to(batch, "id") && std::mem::replace(&mut stutters, false);
        if mates { Fate::StuttersAfter } else { Fate::Done }
    });
    commits.open(100);
    assert_eq!(within(started(beside).await.result()).await, Ok(0));
    let mut completed = 0;
    for start in starts {
        match within(start).await.unwrap() {
            Ok(started) => completed += u32::from(within(started.handle.result()).await.is_ok()),
            Err(error) => assert!(matches!(error, StartError::InstanceAlreadyExists { .. }), "{error}"),
        }
    }
    assert_eq!((completed, store.failed(), count.get()), (1, 1, 2));
}

/// Method: the first try of a start is durable, and its caller does not learn it. Further tries
/// fail until another client has let the run end, and deleted or replaced it. The run is not
/// started a second time, and its replacement stays.
#[tokio::test]
async fn start_repeated_after_its_run_is_gone_runs_once() {
    for policy in [ConflictPolicy::Fail, ConflictPolicy::UseExisting, REPLACES] {
        for replaced in [false, true] {
            let (store, count) = (Faulty::new(), Counter::default());
            let chain = Workflow::builder("w").then("count", counting::<u32>(&count));
            let workflow = chain.wait_for_signal::<u32>("wait", "go").build().unwrap();
            let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
            let (mut run, gone) = (None, Arc::new(AtomicBool::new(false)));
            let is_gone = Arc::clone(&gone);
            store.plan(move |batch| {
                let insert = batch.iter().find(|write| write.condition == Condition::Absent).map(|write| write.run);
                match (run, insert) {
                    (None, Some(_)) => {
                        run = insert;
                        Fate::FailsAfter
                    }
                    (Some(_), Some(_)) if run == insert && !is_gone.load(Ordering::SeqCst) => Fate::FailsBefore,
                    _ => Fate::Done,
                }
            });
            let starting = spawn_start(&runtime, &workflow, "id", 1, policy);
            let other = async {
                let handle = loop {
                    match runtime.handle(&workflow, "id").await {
                        Ok(handle) => break handle,
                        Err(_) => tokio::task::yield_now().await,
                    }
                };
                reach_code(&handle, StatusCode::AwaitingSignal).await;
                if replaced {
                    let options = StartOptions::new().policy(REPLACES);
                    let new = runtime.start_with(&workflow, "id", 2, options).await.unwrap().handle;
                    reach_code(&new, StatusCode::AwaitingSignal).await;
                    return Some(new);
                }
                handle.signal("go", &7_u32).await.unwrap();
                assert_eq!(within(handle.result()).await, Ok(7));
                while handle.delete().await != Err(MessageError::NotFound) {}
                None
            };
            let new = within(other).await;
            gone.store(true, Ordering::SeqCst);
            let first = started(starting).await;
            let what = format!("{policy:?}, replaced: {replaced}");
            assert_eq!(count.get(), if replaced { 2 } else { 1 }, "{what}");
            let Some(new) = new else {
                assert_eq!(first.status().await.unwrap_err(), HandleError::NotFound, "{what}");
                continue;
            };
            assert_eq!(within(first.result()).await, Err(ResultError::Superseded), "{what}");
            new.signal("go", &8_u32).await.unwrap();
            assert_eq!(within(new.result()).await, Ok(8), "{what}");
            assert_eq!(new.task_result::<u32>("count").await.unwrap(), Some(2), "{what}: its rows are there");
        }
    }
}
