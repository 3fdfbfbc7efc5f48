//! Poisonous instances among healthy ones: each is quarantined, listed or left alone as promised,
//! and all healthy ones finish. `cargo bench --workspace --bench workloads -- poison` shows how
//! much slower these are.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper of a test may panic like the test itself")]

mod common;
#[path = "common/obstacle.rs"]
mod obstacle;
#[path = "common/through.rs"]
mod through;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{Gate, forced, holding, inc, waiting, within};
use everstep::store::{Answers, Loaded, Write};
use everstep::{
    BoxFuture, HandleError, Health, InstanceId, MemoryStore, ResultError, Runtime, StatusCode, Store as _, StoreError,
    Workflow, task,
};
use obstacle::{blocking, obstacle};
use through::{Hooks, Through};

const HEALTHY: u32 = 10_000;
/// Healthy instances that run at once.
const IN_FLIGHT: u32 = 200;

/// A store that panics when one instance is read, and has a wrong bit in the head of another.
#[derive(Default)]
struct Poisonous {
    panics: AtomicU32,
}

impl Hooks for Poisonous {
    fn commit<'a>(&'a self, store: &'a MemoryStore, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        Box::pin(async move {
            let mut batch = batch.to_vec();
            for write in batch.iter_mut().filter(|write| write.instance.as_str() == "damaged") {
                // Makes the write's condition match the stored head, not the damaged one that was
                // read.
                write.condition = forced(store, "damaged", write.change.clone()).await.condition;
            }
            store.commit(&batch).await
        })
    }

    fn loaded(&self, instance: &InstanceId, found: Option<Loaded>) -> Option<Loaded> {
        if instance.as_str() == "panics" {
            self.panics.fetch_add(1, Ordering::SeqCst);
            panic!("poisonous");
        }
        found.map(|mut found| {
            if instance.as_str() == "damaged" {
                let mut head = found.head.to_vec();
                *head.last_mut().unwrap() ^= 1;
                found.head = head.into();
            }
            found
        })
    }
}

fn healthy() -> Workflow<u32, u32> {
    Workflow::builder("healthy")
        .then("first", inc)
        .delay("a moment", Duration::from_millis(1))
        .then("last", inc)
        .build()
        .unwrap()
}

/// Runs all healthy instances, a number at a time; each must return its result.
async fn run_healthy(runtime: &Runtime, workflow: &Workflow<u32, u32>) {
    let mut lines = tokio::task::JoinSet::new();
    for line in 0..IN_FLIGHT {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        lines.spawn(async move {
            for n in (line..HEALTHY).step_by(IN_FLIGHT as usize) {
                let handle = within(runtime.start(&workflow, format!("healthy {n}"), n)).await.unwrap();
                assert_eq!(within(handle.result()).await, Ok(n + 2));
            }
        });
    }
    while let Some(line) = lines.join_next().await {
        line.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_instances_among_poisonous_ones_finish() {
    // A first process leaves three instances: the next one finds one that cannot be read, one with
    // a damaged head, and one of an unknown definition. A task that declares itself blocking blocks
    // a thread all the time.
    let (store, gate, (removed, obstacle)) = (MemoryStore::new(), Gate::new(), obstacle());
    let held = Workflow::builder("held").then("hold", holding::<u32>(&gate)).build().unwrap();
    let (foreign, healthy) = (waiting("foreign"), healthy());
    let block = task(blocking(&obstacle, Duration::ZERO)).blocking();
    let block = Workflow::builder("block").then("block", block).build().unwrap();
    {
        let builder = Runtime::builder(store.clone()).register(&held).register(&foreign);
        let runtime = builder.start().await.unwrap();
        for id in ["panics", "damaged"] {
            runtime.start(&held, id, 1).await.unwrap();
            gate.entered().await;
        }
        runtime.start(&foreign, "foreign", 1).await.unwrap();
        within(runtime.shutdown(Duration::ZERO)).await;
    }
    let hooks = Arc::<Poisonous>::default();
    let builder = Runtime::builder(Through::new(&store, &hooks)).register(&held).register(&healthy).register(&block);
    let runtime = builder.start().await.unwrap();
    let blocked = runtime.start(&block, "blocked", 7).await.unwrap();
    run_healthy(&runtime, &healthy).await;

    let quarantined = async {
        while store.quarantined(None, 10).await.unwrap().is_empty() || runtime.unreadable().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(quarantined).await;
    let ids: Vec<_> = store.quarantined(None, 10).await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(ids, ["damaged"]);
    let damaged = runtime.handle(&held, "damaged").await;
    assert!(matches!(damaged, Err(HandleError::Damaged(_))), "{damaged:?}");
    let [unreadable] = &runtime.unreadable()[..] else { panic!("{:?}", runtime.unreadable()) };
    assert!(unreadable.instance.as_str() == "panics" && unreadable.failures >= 5, "{unreadable:?}");
    assert!(unreadable.error.to_string().contains("poisonous"), "{unreadable:?}");
    // Not at each turn of the others.
    assert!(hooks.panics.load(Ordering::SeqCst) < 200);
    let [unregistered] = &runtime.report().unregistered[..] else { panic!("{:?}", runtime.report()) };
    assert_eq!(unregistered.workflow.as_deref(), Some("foreign"));
    assert_eq!(unregistered.instances, [InstanceId::new("foreign").unwrap()]);
    assert_eq!((runtime.stalled(), runtime.health()), (vec![], Health::Healthy));
    assert_eq!(blocked.status().await.unwrap().code(), StatusCode::InProgress);
    drop(removed);
    assert_eq!(within(blocked.result()).await, Ok(7));
    within(runtime.shutdown(Duration::ZERO)).await;

    // The instance is unchanged.
    let runtime = Runtime::builder(store).register(&foreign).start().await.unwrap();
    let foreign = runtime.handle(&foreign, "foreign").await.unwrap();
    foreign.signal("go", &9_u32).await.unwrap();
    assert_eq!(within(foreign.result()).await, Ok(9));
}

#[cfg(all(unix, feature = "file-store"))]
mod deadly {
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::PathBuf;
    use std::process::Stdio;

    use everstep::{ConflictPolicy, FileStore};
    use tokio::process::Command;

    use super::*;

    const SIGABRT: i32 = 6;
    const DATA: &str = "EVERSTEP_TEST_DATA";
    const BESIDE: u32 = 200;

    /// Aborts the process, late enough that other tasks run beside it.
    async fn crash(_: u32) -> Result<u32, Infallible> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        std::process::abort()
    }

    async fn slow(n: u32) -> Result<u32, Infallible> {
        tokio::time::sleep(Duration::from_millis(u64::from(n % 10))).await;
        Ok(n + 1)
    }

    async fn child(data: PathBuf) {
        let deadly = Workflow::builder("deadly").then("die", crash).build().unwrap();
        let healthy =
            (0..5).fold(Workflow::builder_for::<u32>("healthy"), |chain, n| chain.then(format!("slow {n}"), slow));
        let healthy = healthy.build().unwrap();
        let store = FileStore::open(data).await.unwrap();
        let runtime = Runtime::builder(store).register(&deadly).register(&healthy).start().await.unwrap();
        let existing = || common::with(ConflictPolicy::UseExisting);
        let bad = runtime.start_with(&deadly, "bad", 1, existing()).await.unwrap().handle;
        let mut all = tokio::task::JoinSet::new();
        for n in 0..BESIDE {
            let (runtime, healthy) = (runtime.clone(), healthy.clone());
            all.spawn(async move {
                let handle = runtime.start_with(&healthy, format!("healthy {n}"), n, existing()).await.unwrap().handle;
                assert_eq!(handle.result().await, Ok(n + 5));
            });
        }
        all.join_all().await;
        let Err(ResultError::Quarantined { reason }) = bad.result().await else { panic!("it lives") };
        assert!(reason.contains("`die`"), "{reason}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn healthy_instances_beside_a_crashing_task_finish() {
        // A child runs two hundred of them beside the crashing one, and is started again until one
        // process sees all of them end.
        if let Some(data) = std::env::var_os(DATA).map(PathBuf::from) {
            return child(data).await;
        }
        let dir = tempfile::tempdir().unwrap();
        let test = "deadly::healthy_instances_beside_a_crashing_task_finish";
        let mut deaths = 0;
        loop {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", test, "--nocapture"]).env(DATA, dir.path().join("data")).kill_on_drop(true);
            let ended = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await.unwrap();
            if ended.status.success() {
                break;
            }
            let said = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.signal(), Some(SIGABRT), "the child did not crash in its task: {said}");
            deaths += 1;
            assert!(deaths <= 5, "the task keeps crashing the process");
        }
        assert_eq!(deaths, 5);
    }
}
