//! The end of a runtime in use: by a shutdown, by a drop, and by the end of the tokio runtime under
//! it. All acknowledged work is there afterwards, and the directory can be opened again.
#![cfg(all(feature = "file-store", feature = "testing"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "shutdown_load/callers.rs"]
mod callers;
mod common;
#[path = "store_failures/faulty.rs"]
mod faulty;

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callers::{CALLERS, Told, call, is_all_there, signalled};
use common::{Counter, Gate, PATIENCE, holding, open, reach_code, within};
use everstep::{
    Dep, Durability, FileStore, HandleError, InstanceId, MemoryStore, MessageError, ResultError, Runtime, StartError,
    StatusCode, Store as _, StoreError, TaskContext, Workflow, task,
};
use faulty::{Fate, Faulty};
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(1);

/// Waits until the condition holds.
async fn until(happened: impl Fn() -> bool) {
    let happened = async {
        while !happened() {
            tokio::task::yield_now().await;
        }
    };
    within(happened).await;
}

/// Waits until a shutdown has begun; instance `id` exists.
async fn closing<O: 'static>(runtime: &Runtime, workflow: &Workflow<u32, O>) {
    let closing = async {
        loop {
            match runtime.start(workflow, "id", 1).await.map(drop) {
                Err(StartError::ShuttingDown) => return,
                Err(StartError::InstanceAlreadyExists { .. }) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
    };
    within(closing).await;
}

async fn quick(path: &Path) -> FileStore {
    FileStore::open_with(path, Durability::ProcessCrash).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_at_any_moment_loses_nothing_acknowledged() {
    // Sixteen callers start and signal; after the n-th answer the runtime is shut down, for many n.
    // Each caller gets a typed answer, and the directory is free when the shutdown returns.
    for answers in [0, 1, 2, 3, 5, 8, 13, 16, 17, 21, 34, 55, 89, 144, 233] {
        let directory = tempfile::tempdir().unwrap();
        let workflow = signalled();
        let runtime = Runtime::builder(quick(directory.path()).await).register(&workflow).start().await.unwrap();
        let told = Told::until(answers);
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            callers.spawn(call(runtime.clone(), caller, Arc::clone(&told)));
        }
        told.reach().await;
        within(runtime.shutdown(SECOND)).await;
        drop(quick(directory.path()).await);
        for answer in within(callers.join_all()).await {
            assert!(answer == "shutting down" || answer.starts_with("unknown"), "{answers}: {answer}");
        }
        let late = within(runtime.start(&workflow, "late", 1)).await;
        assert!(matches!(late, Err(StartError::ShuttingDown)), "{late:?}");
        is_all_there(directory.path(), &told).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_dropped_under_load_loses_nothing_acknowledged() {
    // As above, but the callers are dropped in the middle of their calls, and the runtime with
    // them.
    for answers in [0, 1, 3, 8, 17, 34, 89] {
        let directory = tempfile::tempdir().unwrap();
        let store = quick(directory.path()).await;
        let runtime = Runtime::builder(store).register(&signalled()).start().await.unwrap();
        let told = Told::until(answers);
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            callers.spawn(call(runtime.clone(), caller, Arc::clone(&told)));
        }
        told.reach().await;
        drop((runtime, callers));
        is_all_there(directory.path(), &told).await;
    }
}

#[test]
fn dropped_tokio_runtime_loses_nothing_acknowledged() {
    // Callers and actors end at whatever point they have reached; another tokio runtime opens the
    // directory.
    let new = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for answers in [0, 1, 3, 8, 17, 34, 89] {
        for in_background in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let (tokio, told) = (new(), Told::until(answers));
            let kept = tokio.block_on(async {
                let store = quick(directory.path()).await;
                let runtime = Runtime::builder(store).register(&signalled()).start().await.unwrap();
                for caller in 0..CALLERS {
                    tokio::spawn(call(runtime.clone(), caller, Arc::clone(&told)));
                }
                told.reach().await;
                // Some rounds keep the runtime until after the end: it is dropped outside of any
                // tokio runtime.
                (answers % 2 == 0).then_some(runtime)
            });
            if in_background {
                tokio.shutdown_background();
            } else {
                drop(tokio);
            }
            drop(kept);
            new().block_on(is_all_there(directory.path(), &told));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_during_a_shutdown_are_refused() {
    // The task is at a gate and the grace is long; then the gate opens, and the task's result is
    // recorded.
    let (directory, gate, count) = (tempfile::tempdir().unwrap(), Gate::new(), Counter::default());
    let hold = holding::<u32>(&gate);
    let after = common::counting::<u32>(&count);
    let workflow = Workflow::builder("w").then("hold", hold).then("after", after).build().unwrap();
    let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    let shutdown = tokio::spawn({
        let runtime = runtime.clone();
        async move { runtime.shutdown(Duration::from_mins(10)).await }
    });
    closing(&runtime, &workflow).await;
    let id = InstanceId::new("id").unwrap();
    let refusals = [
        within(handle.cancel("x", "y")).await,
        within(handle.pause("x", "y")).await,
        within(handle.unpause()).await,
        within(handle.retry()).await,
        within(handle.release()).await,
        within(handle.delete()).await,
        within(runtime.delete(&id)).await,
    ];
    assert!(refusals.iter().all(|refusal| *refusal == Err(MessageError::ShuttingDown)), "{refusals:?}");
    assert!(!shutdown.is_finished(), "it waits for the task");
    gate.open(1);
    within(shutdown).await.unwrap();
    assert_eq!(within(handle.result()).await, Err(ResultError::ShuttingDown));
    assert_eq!(count.get(), 0, "no task starts any more");
    drop((handle, runtime));

    let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
    let handle = within(runtime.handle(&workflow, "id")).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(1));
    assert_eq!((gate.count(), count.get()), (1, 1), "the result was recorded");
}

/// One deploy more than the number of crashes that quarantines an instance.
const DEPLOYS: usize = everstep::limits::CRASHES_MAX as usize + 2;

#[tokio::test(flavor = "multi_thread")]
async fn task_cut_off_by_grace_reruns_as_the_same_attempt() {
    // The task records each run and each cancel of its token. Deploy after deploy cuts it off,
    // which counts neither as a failed attempt nor as a crash.
    type Run = (u32, String);
    let (directory, runs) = (tempfile::tempdir().unwrap(), Arc::<Mutex<Vec<Run>>>::default());
    let cancelled = Counter::default();
    let noting = {
        let (runs, cancelled) = (Arc::clone(&runs), cancelled.clone());
        move |n: u32, context: TaskContext| {
            let run = {
                let mut runs = runs.lock().unwrap();
                runs.push((context.attempt(), context.idempotency_key()));
                runs.len()
            };
            let (token, cancelled) = (context.cancellation().clone(), cancelled.clone());
            async move {
                if run <= DEPLOYS {
                    tokio::spawn(async move {
                        token.cancelled().await;
                        cancelled.hit();
                    });
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(n)
            }
        }
    };
    let workflow = Workflow::builder("w").then("noting", noting).build().unwrap();
    let start = async || {
        let store = open(directory.path()).await;
        within(Runtime::builder(store).register(&workflow).start()).await.unwrap()
    };
    for deploy in 1..=DEPLOYS {
        let runtime = start().await;
        if deploy == 1 {
            runtime.start(&workflow, "id", 1).await.unwrap();
        }
        until(|| runs.lock().unwrap().len() >= deploy).await;
        within(runtime.shutdown(10 * MOMENT)).await;
        until(|| cancelled.get() as usize >= deploy).await;
    }
    let runtime = start().await;
    let handle = within(runtime.handle(&workflow, "id")).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(1));
    let runs = runs.lock().unwrap().clone();
    assert_eq!(runs.len(), DEPLOYS + 1);
    assert!(runs.iter().all(|run| *run == runs[0] && run.0 == 1), "{runs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn shutdown_does_not_wait_for_a_blocked_thread() {
    // One task blocks a thread of the pool for blocking work, or one of the workers, and ignores
    // its token. The shutdown returns all the same, and the task runs again while the first run
    // still blocks; the first run's result is dropped.
    for blocking in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (held, runs, late) = (Arc::new(Mutex::new(held)), Counter::default(), Counter::default());
        let stubborn = {
            let (runs, late) = (runs.clone(), late.clone());
            move |_: u32| {
                let (held, run, late) = (Arc::clone(&held), runs.hit(), late.clone());
                async move {
                    if run == 1 {
                        held.lock().unwrap().recv().unwrap();
                        late.hit();
                    }
                    Ok::<_, Infallible>(run)
                }
            }
        };
        let stubborn = if blocking { task(stubborn).blocking() } else { task(stubborn) };
        let workflow = Workflow::builder("w").then("stubborn", stubborn).build().unwrap();
        let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
        runtime.start(&workflow, "id", 1).await.unwrap();
        until(|| runs.get() > 0).await;
        within(runtime.shutdown(10 * MOMENT)).await;
        assert_eq!(late.get(), 0, "it still blocks");
        drop(runtime);
        let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
        let handle = within(runtime.handle(&workflow, "id")).await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(2), "blocking: {blocking}");
        release.send(()).unwrap();
        until(|| late.get() > 0).await;
        assert_eq!(within(handle.result()).await, Ok(2), "blocking: {blocking}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_shutdowns_return_once_store_is_closed() {
    // Eight shutdowns at once while two tasks run, each with another grace: the shortest counts.
    // After each of them the directory is free.
    let (directory, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
    for round in 0..5 {
        let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
        for n in 0..2 {
            runtime.start(&workflow, format!("{round} {n}"), 1).await.unwrap();
        }
        gate.entered().await;
        let opening = Arc::new(tokio::sync::Mutex::new(()));
        let mut shutdowns = JoinSet::new();
        for n in 0..8_u64 {
            let (runtime, opening) = (runtime.clone(), Arc::clone(&opening));
            let path = directory.path().to_owned();
            shutdowns.spawn(async move {
                let grace = if n == 3 { 5 * MOMENT } else { Duration::from_mins(n + 1) };
                runtime.shutdown(grace).await;
                let _one_at_a_time = opening.lock().await;
                FileStore::open(path).await.unwrap().close().await;
            });
        }
        within(shutdowns.join_all()).await;
        within(runtime.shutdown(Duration::from_mins(1))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_that_is_given_up_can_be_repeated() {
    // The first shutdown is dropped while it waits for a task; the second goes through.
    let (directory, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
    let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
    runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    assert!(tokio::time::timeout(20 * MOMENT, runtime.shutdown(Duration::from_mins(1))).await.is_err());
    within(runtime.shutdown(MOMENT)).await;
    FileStore::open(directory.path()).await.unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_with_poisoned_store_loses_nothing() {
    // The store fails for good after the n-th commit and cannot be reopened, for many n, in the
    // middle of calls.
    for commits in [0, 1, 2, 5, 13, 40] {
        let memory = MemoryStore::new();
        let store = Faulty::over(memory.clone());
        let runtime = Runtime::builder(store.store()).register(&signalled()).start().await.unwrap();
        store.lose_power_after(commits);
        let told = Told::until(0);
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (runtime, told) = (runtime.clone(), Arc::clone(&told));
            callers.spawn(async move {
                // The caller stops at an unknown outcome, the answer of a poisoned store.
                call(runtime, caller, told).await
            });
        }
        store.reopening_failed().await;
        within(runtime.shutdown(SECOND)).await;
        within(callers.join_all()).await;
        drop(runtime);
        let workflow = signalled();
        let runtime = within(Runtime::builder(memory).register(&workflow).start()).await.unwrap();
        let started = told.started.lock().unwrap().clone();
        for n in started {
            let handle = within(runtime.handle(&workflow, format!("{n}"))).await.unwrap();
            if told.signalled.lock().unwrap().contains(&n) {
                assert_eq!(within(handle.result()).await, Ok((n + 1, n * 10)));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_with_failing_commit_acknowledges_no_write() {
    // The commit of a start is held until the shutdown has begun, and then fails, in each way.
    for fate in faulty::FAILURES {
        let store = Faulty::new();
        let workflow = signalled();
        let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
        within(runtime.start(&workflow, "id", 1)).await.unwrap();
        store.plan_for("held", 0, fate);
        let gate = store.hold_commits_of("held");
        let starting = tokio::spawn({
            let runtime = runtime.clone();
            async move { runtime.start(&signalled(), "held", 1).await.map(drop) }
        });
        gate.entered().await;
        let shutdown = tokio::spawn({
            let runtime = runtime.clone();
            async move { runtime.shutdown(SECOND).await }
        });
        closing(&runtime, &workflow).await;
        gate.open(100);
        let started = within(starting).await.unwrap();
        assert!(matches!(started, Err(StartError::OutcomeUnknown(_))), "{fate:?}: {started:?}");
        within(shutdown).await.unwrap();
    }
    assert_eq!(faulty::FAILURES, [Fate::FailsBefore, Fate::FailsAfter]);
}

/// The runtime that runs a task, as a service of the task.
#[derive(Default)]
struct Held(Mutex<Option<Runtime>>);

async fn drops_it(n: u32, held: Dep<Held>) -> Result<u32, Infallible> {
    drop(held.0.0.lock().unwrap().take());
    tokio::task::yield_now().await;
    Ok(n)
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_dropped_by_its_own_task_ends() {
    // The task holds the last clone and drops it. The directory is free a moment later, and the
    // instance ends at the next start.
    let directory = tempfile::tempdir().unwrap();
    let workflow = Workflow::builder("w").then("drops it", drops_it).build().unwrap();
    let held = Arc::new(Held::default());
    let builder = Runtime::builder(open(directory.path()).await).register(&workflow).provide_arc(Arc::clone(&held));
    let runtime = builder.start().await.unwrap();
    *held.0.lock().unwrap() = Some(runtime.clone());
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    drop((runtime, handle));
    let store = open(directory.path()).await;
    let builder = Runtime::builder(store).register(&workflow).provide(Held::default());
    let runtime = within(builder.start()).await.unwrap();
    let handle = within(runtime.handle(&workflow, "id")).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn handle_after_shutdown_returns_typed_errors() {
    // After a shutdown, every read on a closed store is a typed error; no call hangs.
    let directory = tempfile::tempdir().unwrap();
    let workflow = signalled();
    let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    within(runtime.shutdown(SECOND)).await;
    drop(runtime);
    let shut =
        |error: HandleError| matches!(error, HandleError::ShuttingDown | HandleError::Store(StoreError::Fatal(_)));
    assert!(shut(within(handle.status()).await.unwrap_err()));
    assert!(shut(within(handle.task_result::<u32>("inc")).await.unwrap_err()));
    assert!(tokio::time::timeout(PATIENCE, handle.watch()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn closed_store_frees_its_directory_despite_readers() {
    // Readers continue until they learn that the store is closed; the closer opens the directory
    // again right after the close.
    let directory = tempfile::tempdir().unwrap();
    for round in 0..100 {
        let store = Arc::new(quick(directory.path()).await);
        let mut readers = JoinSet::new();
        for _ in 0..3 {
            let store = Arc::clone(&store);
            readers.spawn(async move { while store.due(None, 100).await.is_ok() {} });
        }
        tokio::task::yield_now().await;
        store.close().await;
        let again = FileStore::open_with(directory.path(), Durability::ProcessCrash).await;
        assert!(again.is_ok(), "round {round}: {again:?}");
        within(readers.join_all()).await;
    }
}
