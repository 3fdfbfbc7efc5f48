//! The cost of many parked instances: memory of the whole process, the time to open the store
//! again, and the reads for that.
//!
//! Two processes of their own, started from this binary: one parks the instances, the other opens
//! the store and is measured. `EVERSTEP_PARKED` sets their number. The limits are 120 MB for
//! 100,000, and 1 GB and ten seconds to open for more:
//!
//! `EVERSTEP_PARKED=1000000 cargo test --release --locked --all-features --test parked --
//! --nocapture`
#![cfg(all(target_os = "linux", feature = "file-store"))]
#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

mod common;

#[path = "common/through.rs"]
mod through;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{inc, reach_code, still_clock, when_clock_is_at, within};
use everstep::store::{Answers, Write};
use everstep::{
    BoxFuture, Clock as _, Durability, FileStore, MemoryStore, Runtime, SignalOutcome, StatusCode, Store as _,
    StoreError, Workflow,
};
use through::{Hooks, Through};
use tokio::task::JoinSet;

const DATA: &str = "EVERSTEP_TEST_DATA";
/// Starts side by side.
const STARTERS: u32 = 64;

fn parked() -> u32 {
    std::env::var("EVERSTEP_PARKED").ok().and_then(|parked| parked.parse().ok()).unwrap_or(100_000)
}

/// Returns the limit on a process's memory, in kB.
fn memory_max() -> usize {
    if parked() <= 100_000 { 120_000 } else { 1_000_000 }
}

/// The longest that a store may take to open. Without optimization it only shows a hang.
const OPEN_MAX: Duration = Duration::from_secs(if cfg!(debug_assertions) { 120 } else { 10 });

/// Returns the resident memory of this process, in kB.
fn resident_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn waiting() -> Workflow<u32, SignalOutcome<u32>> {
    let wait = Workflow::builder_for::<u32>("parked");
    wait.wait_for_signal_timeout::<u32>("wait", "go", Duration::from_hours(24 * 365)).build().unwrap()
}

async fn park(runtime: &Runtime, workflow: &Workflow<u32, SignalOutcome<u32>>, many: u32) {
    let mut starters = JoinSet::new();
    for starter in 0..STARTERS {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        starters.spawn(async move {
            for n in (starter..many).step_by(STARTERS as usize) {
                runtime.start(&workflow, format!("order-{n:07}"), n).await.unwrap();
            }
        });
    }
    while let Some(started) = starters.join_next().await {
        started.unwrap();
    }
}

async fn open(data: &Path) -> (Runtime, Workflow<u32, SignalOutcome<u32>>) {
    let store = FileStore::open_with(data, Durability::ProcessCrash).await.unwrap();
    let workflow = waiting();
    (Runtime::builder(store).register(&workflow).start().await.unwrap(), workflow)
}

/// Returns the working directory if this process is a child of this role.
fn role(role: &str) -> Option<PathBuf> {
    let data = std::env::var(DATA).ok()?;
    Some(PathBuf::from(data.strip_prefix(role)?.strip_prefix(':')?))
}

fn child(test: &str, role: &str, data: &Path) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(DATA, format!("{role}:{}", data.display()));
    assert!(command.status().unwrap().success(), "{role} did not end well");
}

/// Method: one process parks all instances and prints its memory then; another one opens the
/// directory, prints the time for that and its memory, and lets one instance continue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_thousand_parked_instances_fit_in_120_megabytes() {
    let test = "hundred_thousand_parked_instances_fit_in_120_megabytes";
    if let Some(data) = role("parks") {
        let (before, began) = (resident_memory(), Instant::now());
        let (runtime, workflow) = open(&data).await;
        park(&runtime, &workflow, parked()).await;
        let (memory, took) = (resident_memory(), began.elapsed());
        println!("{} parked in {took:?}: {memory} kB, {before} kB before", parked());
        assert!(memory <= memory_max(), "{memory} kB");
        return;
    }
    if let Some(data) = role("opens") {
        let (before, began) = (resident_memory(), Instant::now());
        let (runtime, workflow) = open(&data).await;
        let (opened, took) = (resident_memory(), began.elapsed());
        let handle = within(runtime.handle(&workflow, "order-0000042")).await.unwrap();
        within(handle.signal("go", &7_u32)).await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(SignalOutcome::Received(7)));
        let memory = resident_memory();
        println!("{} opened in {took:?}: {opened} kB, {memory} kB after a signal, {before} kB before", parked());
        assert!(memory <= memory_max(), "{memory} kB");
        assert!(took < OPEN_MAX, "it took {took:?}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    child(test, "parks", &data);
    child(test, "opens", &data);
}

#[derive(Default)]
struct Reads {
    records: AtomicUsize,
    due: AtomicUsize,
}

impl Hooks for Reads {
    fn commit<'a>(&'a self, store: &'a MemoryStore, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        store.commit(batch)
    }

    fn read(&self, records: usize, _bytes: usize) {
        self.records.fetch_add(records, Ordering::SeqCst);
    }

    fn listed(&self, due: usize) {
        self.due.fetch_add(due, Ordering::SeqCst);
    }
}

/// Method: open a store with 30,000 parked instances. Until the first of them gets a call no head
/// is read, and of the due index no more than the window of wake-ups takes. The end of a delay
/// shows that the timers have finished their start.
#[tokio::test(flavor = "multi_thread")]
async fn opening_reads_one_due_window_and_no_parked_instance() {
    const MANY: u32 = 30_000;
    let (store, clock, workflow) = (MemoryStore::new(), still_clock(), waiting());
    let minute = Duration::from_mins(1);
    let delayed = Workflow::builder_for::<u32>("delayed").delay("delay", minute).then("inc", inc).build().unwrap();
    let runtime = Runtime::builder(store.clone()).clock(clock.clone()).register(&workflow).start().await.unwrap();
    park(&runtime, &workflow, MANY).await;
    runtime.shutdown(Duration::ZERO).await;
    let reads = Arc::new(Reads::default());
    let builder = Runtime::builder(Through::new(&store, &reads)).clock(clock.clone()).register(&workflow);
    let runtime = builder.register(&delayed).start().await.unwrap();
    let window_read = async {
        while reads.due.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    within(window_read).await;
    assert_eq!(reads.records.load(Ordering::SeqCst), 0, "heads and rows read to open");
    let handle = runtime.handle(&workflow, "order-0029999").await.unwrap();
    within(reach_code(&handle, StatusCode::AwaitingSignal)).await;
    let records = reads.records.load(Ordering::SeqCst);
    assert!(records <= 4, "{records} heads and rows read for one instance");
    let handle = runtime.start(&delayed, "delayed", 1).await.unwrap();
    assert_eq!(when_clock_is_at(&clock, clock.now().after(minute), handle.result()).await, Ok(2));
    assert_eq!(reads.due.load(Ordering::SeqCst), 10_000, "entries of the due index");
}
