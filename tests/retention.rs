//! Ended instances are deleted by themselves when their retention is over: not earlier, no other
//! ones, and nothing of them stays.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "store_failures/faulty.rs"]
mod faulty;

use std::convert::Infallible;
use std::time::Duration;

use common::{Counter, counting, inc, moving, reach_code, still_clock, waiting, with, within};
use everstep::machine::RowKey;
use everstep::{
    Clock as _, ConflictPolicy, HandleError, InstanceFilter, InstanceId, ManualClock, MemoryStore, MessageError,
    NodePath, ResultError, Retention, RunId, Runtime, StartError, StatusCode, Store, Workflow, task,
};
use faulty::{Fate, Faulty};
use tokio::sync::watch;
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

async fn is_there(store: &impl Store, instance: &str) -> bool {
    store.load(&id(instance)).await.unwrap().is_some()
}

/// Moves the clock now and then until the instance is gone.
async fn is_pruned(clock: &ManualClock, store: &impl Store, instance: &str) {
    let gone = async {
        while is_there(store, instance).await {
            tokio::task::yield_now().await;
        }
    };
    moving(clock, SECOND, gone).await;
}

/// Waits until the result of a run's task is gone.
async fn is_swept(store: &MemoryStore, run: RunId, node: &str) {
    let swept = async {
        while store.row(run, &RowKey::result(NodePath::new(node))).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    within(swept).await;
}

/// Returns more than fits in the head.
async fn list(n: u32) -> Result<Vec<u32>, Infallible> {
    Ok(vec![n + 1; 200])
}

async fn fail_for_13(list: Vec<u32>) -> Result<u32, &'static str> {
    let n = list.first().copied().unwrap_or_default();
    tokio::task::yield_now().await;
    if n == 13 { Err("unlucky") } else { Ok(n) }
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_instance_is_deleted_after_its_retention() {
    // Completed runs are kept for an hour, failed ones for two; cancelled ones go at once, which
    // shows that the pruner has looked. Instances that have not ended stay. The runtime stops in
    // between, and the next one does not know the workflow.
    let (store, clock) = (MemoryStore::new(), still_clock());
    let workflow = Workflow::builder("w")
        .then("list", list)
        .then("fail", task(fail_for_13))
        .wait_for_signal::<u32>("wait", "go")
        .build()
        .unwrap();
    let other = waiting("other");
    let retention = Retention::new().completed(HOUR).failed(2 * HOUR).cancelled(Duration::ZERO);
    let builder = || Runtime::builder(store.clone()).clock(clock.clone()).register(&other).retention(retention);
    let runtime = builder().register(&workflow).start().await.unwrap();
    let mut runs = Vec::new();
    for (name, input) in [("completed", 1), ("failed", 12), ("waits", 1)] {
        let handle = within(runtime.start(&workflow, name, input)).await.unwrap();
        runs.push(handle.run_id());
        match name {
            "failed" => drop(reach_code(&handle, StatusCode::Failed).await),
            "completed" => {
                handle.signal("go", &7_u32).await.unwrap();
                assert_eq!(within(handle.result()).await, Ok(7));
            }
            _ => drop(reach_code(&handle, StatusCode::AwaitingSignal).await),
        }
    }
    drop(runtime);
    let runtime = builder().start().await.unwrap();
    let ended = clock.now();
    let mut canaries = 0;
    for (at, left) in [
        (59 * MINUTE, ["completed", "failed", "waits"].as_slice()),
        (HOUR, &["failed", "waits"]),
        (119 * MINUTE, &["failed", "waits"]),
        (2 * HOUR, &["waits"]),
        (1_000 * HOUR, &["waits"]),
    ] {
        clock.advance(ended.after(at).since(clock.now()));
        canaries += 1;
        let canary = format!("canary {canaries}");
        runtime.start(&other, &canary, 1).await.unwrap().cancel("enough", "ana").await.unwrap();
        is_pruned(&clock, &store, &canary).await;
        for name in ["completed", "failed", "waits"] {
            assert_eq!(is_there(&store, name).await, left.contains(&name), "{name} after {at:?}");
        }
    }
    for run in runs.iter().take(2) {
        is_swept(&store, *run, "list").await;
    }
    assert_eq!(runtime.count(&InstanceFilter::new()).await.unwrap(), 1, "only the waiting instance is left");
    assert!(store.row(*runs.last().unwrap(), &RowKey::result(NodePath::new("list"))).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn pruned_id_is_free_and_its_watch_ends() {
    // Five runs of one id follow each other, each after the previous one is gone; a watch of each
    // ends with it.
    let (store, clock, count) = (MemoryStore::new(), still_clock(), Counter::default());
    let workflow = Workflow::builder("w").then("count", counting::<u32>(&count)).then("inc", inc).build().unwrap();
    let retention = Retention::new().completed(MINUTE);
    let builder = Runtime::builder(store.clone()).clock(clock.clone()).register(&workflow);
    let runtime = builder.retention(retention).start().await.unwrap();
    for n in 0..5 {
        let handle = within(runtime.start(&workflow, "id", n)).await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(n + 1));
        let taken = runtime.start(&workflow, "id", n).await;
        assert!(matches!(taken, Err(StartError::InstanceAlreadyExists { .. })), "{taken:?}");
        clock.advance(MINUTE);
        is_pruned(&clock, &store, "id").await;
        assert_eq!(within(handle.result()).await, Err(ResultError::Handle(HandleError::NotFound)));
        is_swept(&store, handle.run_id(), "count").await;
    }
    assert_eq!(count.get(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_that_replaces_a_pruned_one_stays() {
    // The pruner has read the old run and is held; a new one takes its place before the pruner
    // continues.
    let (store, clock, workflow) = (Faulty::new(), still_clock(), waiting("w"));
    let retention = Retention::new().cancelled(MINUTE);
    let builder = Runtime::builder(store.store()).clock(clock.clone()).register(&workflow).retention(retention);
    let runtime = builder.start().await.unwrap();
    let old = runtime.start(&workflow, "id", 1).await.unwrap();
    old.cancel("enough", "ana").await.unwrap();
    let held = store.hold_loads_of("id", 1);
    clock.advance(MINUTE);
    held.entered().await;
    let new = within(runtime.start_with(&workflow, "id", 2, with(ConflictPolicy::TerminateExisting))).await.unwrap();
    let beside = runtime.start(&workflow, "beside", 1).await.unwrap();
    beside.cancel("enough", "ana").await.unwrap();
    held.open(1);
    clock.advance(MINUTE);
    is_pruned(&clock, &store.store(), "beside").await;
    new.handle.signal("go", &7_u32).await.unwrap();
    assert_eq!(within(new.handle.result()).await, Ok(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pruning_and_starts_strand_no_run() {
    // Eight callers start runs of four ids as soon as they are free, while the clock runs so that
    // the pruner always looks: every started run ends.
    let (store, clock) = (MemoryStore::new(), still_clock());
    let workflow = Workflow::builder("w").then("inc", inc).then("again", inc).build().unwrap();
    let retention = Retention::new().completed(Duration::ZERO);
    let builder = Runtime::builder(store.clone()).clock(clock.clone()).register(&workflow);
    let runtime = builder.retention(retention).start().await.unwrap();
    let (stop, mut stopped) = watch::channel(false);
    let mover = tokio::spawn(async move {
        while !*stopped.borrow_and_update() {
            clock.advance(SECOND);
            tokio::task::yield_now().await;
        }
    });
    let mut callers = JoinSet::new();
    for caller in 0..8 {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        callers.spawn(async move {
            let name = format!("id {}", caller % 4);
            let mut started = 0;
            while started < 100 {
                match runtime.start(&workflow, &name, 1).await {
                    Ok(handle) => match within(handle.result()).await {
                        Ok(3) | Err(ResultError::Handle(HandleError::NotFound) | ResultError::Superseded) => {
                            started += 1;
                        }
                        other => panic!("{other:?}"),
                    },
                    Err(StartError::InstanceAlreadyExists { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    tokio::time::timeout(8 * common::PATIENCE, callers.join_all()).await.expect("all runs end");
    stop.send(true).unwrap();
    mover.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_store_delays_pruning_but_does_not_end_it() {
    // The commit of the delete fails before the write, fails after it, or is asked for again after
    // it; then the next one is due.
    for fate in [Fate::FailsBefore, Fate::FailsAfter, Fate::StuttersAfter] {
        let (store, clock, workflow) = (Faulty::new(), still_clock(), waiting("w"));
        let retention = Retention::new().cancelled(MINUTE);
        let builder = Runtime::builder(store.store()).clock(clock.clone()).register(&workflow).retention(retention);
        let runtime = builder.start().await.unwrap();
        for name in ["id", "next"] {
            let handle = runtime.start(&workflow, name, 1).await.unwrap();
            handle.cancel("enough", "ana").await.unwrap();
            store.plan_for("id", 0, fate);
            clock.advance(MINUTE);
            is_pruned(&clock, &store.store(), name).await;
        }
        // Only the first delete was planned to fail; its failure may be reported after the write.
        assert_eq!(store.failed(), 1, "{fate:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_wake_up_of_pruned_run_delays_no_new_run() {
    // A wait with an hour's timeout is cancelled, and the answer to that commit is lost, so the
    // wake-up stays in memory. The id then runs a workflow that waits for a minute.
    let (store, clock) = (Faulty::new(), still_clock());
    let long = Workflow::builder_for::<u32>("long").wait_for_signal_timeout::<u32>("wait", "go", HOUR).build().unwrap();
    let short = Workflow::builder_for::<u32>("short").delay("delay", MINUTE).build().unwrap();
    let builder = Runtime::builder(store.store()).clock(clock.clone()).register(&long).register(&short);
    let runtime = builder.retention(Retention::new().cancelled(Duration::ZERO)).start().await.unwrap();
    let old = within(runtime.start(&long, "id", 1)).await.unwrap();
    store.plan_for("id", 0, Fate::FailsAfter);
    let cancelled = within(old.cancel("enough", "ana")).await;
    assert!(matches!(cancelled, Err(MessageError::OutcomeUnknown(_))), "{cancelled:?}");
    is_pruned(&clock, &store.store(), "id").await;
    let new = within(runtime.start(&short, "id", 7)).await.unwrap();
    clock.advance(MINUTE);
    assert_eq!(moving(&clock, SECOND, new.result()).await, Ok(7));
}

#[cfg(feature = "file-store")]
mod disk {
    use std::path::Path;

    use bytes::Bytes;
    use everstep::{Durability, FileStore};

    use super::*;

    const MIB: u64 = 1 << 20;
    const PAYLOAD_BYTES: usize = 32 << 10;
    const ROUNDS: u32 = 12;
    const INSTANCES: u32 = 125;
    /// Measured: 40 MiB at most; 135 when nothing is deleted, 160 when rows are not swept.
    const TABLES_MAX: u64 = 90 * MIB;
    /// The store itself bounds its journals, to about twice its setting.
    const JOURNALS_MAX: u64 = 260 * MIB;

    /// Returns the bytes in tables and all other files, and in journals.
    fn bytes_in(directory: &Path) -> (u64, u64) {
        let (mut tables, mut journals) = (0, 0);
        // Files come and go during the count.
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                let (more_tables, more_journals) = bytes_in(&entry.path());
                tables += more_tables;
                journals += more_journals;
            } else if entry.path().extension().is_some_and(|end| end == "jnl") {
                journals += metadata.len();
            } else {
                tables += metadata.len();
            }
        }
        (tables, journals)
    }

    /// Returns bytes that cannot be compressed.
    fn noise(seed: u64) -> Bytes {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let next = std::iter::from_fn(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            Some(state.to_le_bytes())
        });
        next.flatten().take(PAYLOAD_BYTES).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn zero_retention_keeps_the_directory_small() {
        // 1,500 instances in 12 rounds, each with an input and two results of 32 KiB, 140 MiB of
        // payload in all. Each round is pruned before the next, and the directory measured after
        // it.
        let (directory, clock) = (tempfile::tempdir().unwrap(), still_clock());
        let store = FileStore::open_with(directory.path(), Durability::ProcessCrash).await.unwrap();
        let workflow = Workflow::builder("w")
            .then("first", common::same::<Bytes>)
            .then("second", common::same::<Bytes>)
            .build()
            .unwrap();
        let builder = Runtime::builder(store).clock(clock.clone()).register(&workflow);
        let runtime = builder.retention(Retention::new().completed(Duration::ZERO)).start().await.unwrap();
        let (mut tables, mut journals) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let mut runs = JoinSet::new();
            for n in 0..INSTANCES {
                let (runtime, workflow) = (runtime.clone(), workflow.clone());
                runs.spawn(async move {
                    let input = noise(u64::from(round * INSTANCES + n));
                    let handle = runtime.start(&workflow, format!("{round} {n}"), input).await.unwrap();
                    handle.result().await.unwrap();
                });
            }
            within(runs.join_all()).await;
            let pruned = async {
                while runtime.count(&InstanceFilter::new()).await.unwrap() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            moving(&clock, SECOND, pruned).await;
            let (in_tables, in_journals) = bytes_in(directory.path());
            tables.push(in_tables / MIB);
            journals.push(in_journals / MIB);
        }
        let is_bounded = |sizes: &[u64], bound: u64| sizes.iter().all(|size| *size * MIB < bound);
        assert!(is_bounded(&tables, TABLES_MAX), "MiB of tables after each round: {tables:?}");
        assert!(is_bounded(&journals, JOURNALS_MAX), "MiB of journals after each round: {journals:?}");
    }
}

/// Method: instances end and are deleted, and then one ends while the clock is set back by an hour.
#[tokio::test(flavor = "multi_thread")]
async fn end_earlier_than_deleted_ones_is_found() {
    let (clock, store, workflow) = (still_clock(), MemoryStore::new(), waiting("w"));
    let builder = Runtime::builder(store.clone()).clock(clock.clone()).register(&workflow);
    let runtime = builder.retention(Retention::new().completed(Duration::ZERO)).start().await.unwrap();
    let end = async |instance: &str| {
        let handle = within(runtime.start(&workflow, instance, 1)).await.unwrap();
        within(handle.signal("go", &1_u32)).await.unwrap();
        is_pruned(&clock, &store, instance).await;
    };
    let first = clock.now();
    end("first").await;
    end("second").await;
    clock.set_wall(first.before(HOUR));
    end("early").await;
}
