//! The n-th call of the store fails, for every n: nothing acknowledged is lost, no recorded result
//! is computed again, and every instance ends.
//!
//! Each workflow runs once without a fault; then for every n its n-th call fails, in each of four
//! ways. Callers are careful: they repeat every failed call. `EVERSTEP_FAULTY_WORKFLOWS=50` runs
//! more than the few workflows of the usual run.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

#[path = "crash_points/tasks.rs"]
mod tasks;
#[path = "crash_points/workflows.rs"]
mod workflows;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::sync::Mutex;

use common::within;
use everstep::testing::{Fault, FaultyStore, FinishError, TestBed, TestRuntime};
use everstep::{
    ConflictPolicy, HandleError, Health, InstanceHandle, MemoryStore, ResultError, Runtime, RuntimeError, StartOptions,
    Status, StoreError, Workflow,
};

use tasks::{List, Log, list};
use workflows::{KINDS, POSITIONS, workflow};

/// The number of times that a careful caller asks.
const TRIES: u32 = 20;
/// The number of workflows that run at once.
const THREADS: usize = 8;

/// The ways in which a call can fail.
#[derive(Clone, Copy, Debug)]
enum Way {
    FatalBefore,
    FatalAfter,
    TransientBefore,
    TransientAfter,
}

const WAYS: [Way; 4] = [Way::FatalBefore, Way::FatalAfter, Way::TransientBefore, Way::TransientAfter];

impl Way {
    fn fault(self) -> Fault {
        match self {
            Self::FatalBefore => Fault::FailBefore(StoreError::Fatal("gone".into())),
            Self::FatalAfter => Fault::FailAfter(StoreError::Fatal("gone".into())),
            Self::TransientBefore => Fault::FailBefore(StoreError::Transient("not now".into())),
            Self::TransientAfter => Fault::FailAfter(StoreError::Transient("not now".into())),
        }
    }
}

/// Makes the n-th call of the store from now on fail.
fn fail_nth(store: &FaultyStore, n: u64, way: Way) {
    let first = store.calls();
    store.plan(move |number, _| if number - first == n { way.fault() } else { Fault::None });
}

#[derive(Debug, PartialEq)]
struct Ended {
    numbers: Vec<u64>,
    signals: u32,
    /// The number of runs of each task.
    ran: BTreeMap<String, usize>,
}

/// Repeats a call until it is answered, which is soon: one call of the store fails.
async fn ask<T, E: Debug>(what: &str, mut asking: impl AsyncFnMut() -> Result<T, E>) -> T {
    for _ in 0..TRIES {
        match asking().await {
            Ok(answer) => return answer,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    }
    panic!("{what}: {:?}", asking().await.err());
}

/// Starts the instance, sends its signals, and waits for the end; returns that, and the number of
/// calls.
async fn run(workflow: &Workflow<List, List>, fault: Option<(u64, Way)>) -> (Ended, u64) {
    let (bed, log) = (TestBed::new(), Log::default());
    let runtime = bed.start(|builder| builder.register(workflow).provide(log.clone())).await.unwrap();
    let before = runtime.store().calls();
    if let Some((n, way)) = fault {
        fail_nth(runtime.store(), n, way);
    }
    let existing = || StartOptions::new().policy(ConflictPolicy::UseExisting);
    let handle = ask("start", async || runtime.start_with(workflow, "id", list([1, 2]), existing()).await).await.handle;
    let mut signals = 0;
    let output = loop {
        match finish(&runtime, &handle).await {
            Ok(output) => break output,
            Err(status) => {
                assert!(matches!(status, Status::AwaitingSignal { .. }), "{status}");
                let id = format!("signal {signals}");
                ask("signal", async || handle.signal_with_id("go", &list([7, 8]), &id).await).await;
                signals += 1;
            }
        }
    };
    let calls = runtime.store().calls() - before;
    within(async {
        while runtime.health() != Health::Healthy {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // By task: keys differ from run to run.
    let (mut ran, mut keys) = (BTreeMap::<String, usize>::new(), HashSet::new());
    for one in log.ran() {
        assert_eq!(one.attempt, 1, "a store's failure is no failure of a task");
        assert!(keys.insert(one.key), "{} ran twice in one process", one.path);
        *ran.entry(one.path).or_default() += 1;
    }
    runtime.crash().await;
    (Ended { numbers: output.into_iter().map(|item| item.number).collect(), signals, ran }, calls)
}

/// Returns the output, or the status in which the instance is stuck. Repeats failed reads.
async fn finish(runtime: &TestRuntime, handle: &InstanceHandle<List>) -> Result<List, Status> {
    let finished = ask("finish", async || match runtime.finish(handle).await {
        Ok(output) => Ok(Ok(output)),
        Err(FinishError::Stuck(status)) => Ok(Err(status)),
        Err(error @ (FinishError::Store(_) | FinishError::Result(ResultError::Handle(HandleError::Store(_))))) => {
            Err(error)
        }
        Err(error) => panic!("{error}"),
    });
    finished.await
}

async fn fail_everywhere(workflow: &Workflow<List, List>) -> u64 {
    let (usual, _) = run(workflow, None).await;
    let mut failures = 0;
    for way in WAYS {
        for n in 1.. {
            let (ended, calls) = run(workflow, Some((n, way))).await;
            assert_eq!(ended, usual, "{}: call {n} fails, {way:?}", workflow.definition().info().name());
            if calls < n {
                break;
            }
            failures += 1;
        }
    }
    failures
}

#[test]
fn any_failing_store_call_is_invisible() {
    let all = KINDS.into_iter().flat_map(|outer| KINDS.map(|inner| (outer, inner)));
    let all: Vec<_> =
        all.flat_map(|(outer, inner)| POSITIONS.map(|position| workflow(outer, inner, position))).collect();
    let asked = std::env::var("EVERSTEP_FAULTY_WORKFLOWS").ok().and_then(|count| count.parse().ok()).unwrap_or(8);
    // Some of each kind: the list has them in order.
    let step = (all.len() / asked).max(1) | 1;
    let (next, failures) = (Mutex::new(all.iter().step_by(step)), Mutex::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let next = || next.lock().unwrap().next();
                while let Some(workflow) = next() {
                    let failed = tokio.block_on(fail_everywhere(workflow));
                    *failures.lock().unwrap() += failed;
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!("{failures} calls failed");
    assert!(failures > 200, "{failures}");
}

#[tokio::test]
async fn start_up_on_failing_store_fails_and_can_be_repeated() {
    // The first start leaves an instance to recover. Then each call of a start-up fails, in each
    // way.
    let workflow = workflow(KINDS[1], KINDS[1], POSITIONS[0]);
    let memory = MemoryStore::new();
    let start = async |store: FaultyStore| {
        let builder = Runtime::builder(store).register(&workflow).provide(Log::default());
        builder.clock(common::still_clock()).start().await
    };
    let runtime = start(FaultyStore::new(memory.clone())).await.unwrap();
    runtime.start(&workflow, "id", list([1, 2])).await.unwrap();
    runtime.shutdown(std::time::Duration::ZERO).await;
    let mut failed = 0;
    for way in WAYS {
        for n in 1..12 {
            let store = FaultyStore::new(memory.clone());
            fail_nth(&store, n, way);
            match start(store.clone()).await {
                Ok(runtime) => runtime.shutdown(std::time::Duration::ZERO).await,
                Err(RuntimeError::Store(_)) => failed += 1,
                Err(error) => panic!("{error}"),
            }
            store.heal();
            let runtime = start(FaultyStore::new(memory.clone())).await.unwrap();
            runtime.handle(&workflow, "id").await.unwrap();
            runtime.shutdown(std::time::Duration::ZERO).await;
        }
    }
    assert!(failed >= 4, "{failed}");
}
