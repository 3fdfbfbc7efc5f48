//! Ten thousand tasks, iterations and items: the bytes that each step writes, the rows that remain,
//! and the reads that a restart needs.
//!
//! Every test runs in a process of its own, whose threads all have a stack of 256 KiB, those of the
//! runtime too.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

#[path = "long_runs/meter.rs"]
mod meter;
#[path = "common/through.rs"]
mod through;
#[path = "long_runs/workflows.rs"]
mod workflows;

use std::sync::Arc;
use std::time::Duration;

use everstep::limits::INLINE_RESULTS_BYTES_MAX;
use everstep::{Concurrency, Limits, ManualClock, MemoryStore, RunId, Runtime, RuntimeBuilder, Store as _, Workflow};

use common::{Gate, still_clock};
use meter::{Meter, Read};
use through::Through;
use workflows::{STEPS, Text, chain, looping, mapping, shrinking, text};

const STACK_BYTES: usize = 256 * 1024;
/// Digits of an item, above the size up to which values are stored in heads and frames.
const ITEM_DIGITS: usize = 150;
/// The longest that ten thousand steps may take before a test reports that they never end.
const PATIENCE: Duration = Duration::from_mins(2);

/// Runs the rest of a test in a process whose threads have small stacks, on such threads.
fn on_small_stacks(test: &str, run: impl AsyncFnOnce() + Send + 'static) {
    let bytes = STACK_BYTES.to_string();
    if std::env::var("RUST_MIN_STACK").as_ref() != Ok(&bytes) {
        let mut process = std::process::Command::new(std::env::current_exe().unwrap());
        let ended = process.args(["--exact", test, "--nocapture"]).env("RUST_MIN_STACK", bytes).status();
        return assert!(ended.unwrap().success(), "{test} did not end well in its own process");
    }
    let work = move || {
        let mut tokio = tokio::runtime::Builder::new_multi_thread();
        let tokio = tokio.worker_threads(2).thread_stack_size(STACK_BYTES).enable_all().build().unwrap();
        tokio.block_on(run());
    };
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap().join().unwrap();
}

/// The parts that outlive a runtime.
struct World<I, O> {
    workflow: Workflow<I, O>,
    input: I,
    store: MemoryStore,
    clock: ManualClock,
}

impl<I: serde::Serialize + Clone + Sync, O: std::fmt::Debug + PartialEq + 'static> World<I, O> {
    fn new(workflow: Workflow<I, O>, input: I) -> Self {
        Self { workflow, input, store: MemoryStore::new(), clock: still_clock() }
    }

    fn builder(&self, meter: &Arc<Meter>, gate: Option<Gate>) -> RuntimeBuilder {
        let mut limits = Limits::default();
        limits.payload_bytes_max = 8 << 20;
        let store = Through::new(&self.store, meter);
        let builder = Runtime::builder(store).register(&self.workflow).clock(self.clock.clone()).limits(limits);
        builder.provide(gate)
    }

    /// Runs from the start to the end, or until the process ends after that many writes; returns
    /// the run, the meter, and the output of a run that ended.
    async fn run(&self, writes: Option<usize>) -> (RunId, Arc<Meter>, Option<O>) {
        let meter = Meter::new(writes);
        let runtime = self.builder(&meter, None).start().await.unwrap();
        let handle = runtime.start(&self.workflow, "id", self.input.clone()).await.unwrap();
        let output = tokio::select! {
            output = tokio::time::timeout(PATIENCE, handle.result()) => Some(output.unwrap().unwrap()),
            () = meter.over.cancelled() => None,
        };
        (handle.run_id(), meter, output)
    }

    /// Activates the instance, up to the first task that runs again; returns the reads for that.
    async fn activate(&self) -> Read {
        let (meter, gate) = (Meter::new(None), Gate::new());
        let runtime = self.builder(&meter, Some(gate.clone())).start().await.unwrap();
        gate.entered().await;
        let read = meter.read_so_far();
        drop(runtime);
        read
    }

    /// Continues to the end; returns the reads on the way, and the output.
    async fn finish(&self) -> (Read, O) {
        let meter = Meter::new(None);
        let runtime = self.builder(&meter, None).start().await.unwrap();
        let handle = runtime.handle(&self.workflow, "id").await.unwrap();
        let output = tokio::time::timeout(PATIENCE, handle.result()).await.unwrap().unwrap();
        (meter.read_so_far(), output)
    }

    async fn rows(&self, run: RunId) -> usize {
        self.store.rows(run, &[], None).await.unwrap().len()
    }
}

/// Limits on the cost of continuing, and on the rows that remain.
struct Bounds {
    /// Rows of the run at its end.
    rows: usize,
    /// Records read on the way from a restart to the end and the result.
    records_to_go_on: usize,
    bytes_to_go_on: usize,
}

/// Counts of a process that ended at some point.
struct Stopped {
    rows: usize,
    activated: Read,
}

/// Runs to the end: a step late in the run writes as much as an early one. Then runs to a tenth and
/// to nine tenths of it, and activates the instance from there; returns the counts of both.
async fn measure<I, O>(name: &str, bounds: Bounds, workflow: impl Fn() -> Workflow<I, O>, input: I) -> [Stopped; 2]
where
    I: serde::Serialize + Clone + Sync,
    O: std::fmt::Debug + PartialEq + 'static,
{
    let whole = World::new(workflow(), input.clone());
    let (run, meter, output) = whole.run(None).await;
    let (writes, rows) = (meter.writes(), whole.rows(run).await);
    let (early, late) = (mean(&writes, 5..15), mean(&writes, 85..95));
    println!("{name}: {} writes of {early:.1} bytes, late ones of {late:.1}; {rows} rows at the end", writes.len());
    assert!((late / early - 1.0).abs() < 0.1, "{name}: a step wrote {early} bytes, and later {late}");
    assert_eq!(rows, bounds.rows, "{name}");

    let mut stopped = Vec::new();
    for tenths in [1, 9] {
        let part = World::new(workflow(), input.clone());
        let (run, ..) = part.run(Some(writes.len() * tenths / 10)).await;
        let (rows, activated) = (part.rows(run).await, part.activate().await);
        let (gone_on, gave) = part.finish().await;
        println!(
            "{name}: at {tenths} tenths {rows} rows, {activated:?} to activate, {gone_on:?} to continue to the end"
        );
        assert_eq!(Some(gave), output, "{name}");
        assert!(gone_on.records <= bounds.records_to_go_on && gone_on.bytes <= bounds.bytes_to_go_on, "{name}");
        stopped.push(Stopped { rows, activated });
    }
    stopped.try_into().ok().unwrap()
}

/// Checks that an activation reads the same however much has been done, but for small results in
/// the head, which may be read more than once.
#[track_caller]
fn assert_same(early: Read, late: Read) {
    assert_eq!(early.records, late.records);
    let apart = early.bytes.abs_diff(late.bytes);
    let heads = early.records.min(2);
    assert!(apart <= heads * INLINE_RESULTS_BYTES_MAX + early.bytes / 10, "{early:?}, and later {late:?}");
}

/// Returns the mean of a part of the writes, whose range is in percent of all.
fn mean(writes: &[usize], percent: std::ops::Range<usize>) -> f64 {
    let part = &writes[writes.len() * percent.start / 100..writes.len() * percent.end / 100];
    #[expect(clippy::cast_precision_loss, reason = "both are small")]
    let mean = part.iter().sum::<usize>() as f64 / part.len() as f64;
    mean
}

fn items() -> Vec<Text> {
    (0..STEPS).map(|n| text(n, ITEM_DIGITS)).collect()
}

/// Rows of the list that a task returned: one, and the list again in rows of about 16 KiB.
const LIST_ROWS: usize = 1 + 93;

/// Returns the bounds of a map: each item is read once, each result once, and each item's result
/// once for the output.
fn map_bounds() -> Bounds {
    let bytes = 3 * STEPS * (ITEM_DIGITS + 150);
    Bounds { rows: 2 * STEPS + LIST_ROWS, records_to_go_on: 3 * STEPS + 200, bytes_to_go_on: bytes }
}

#[test]
fn chain_of_10_000_tasks_has_constant_cost() {
    // One row for each task but the last few, which are in the head. Only the head is read to
    // continue.
    on_small_stacks("chain_of_10_000_tasks_has_constant_cost", async || {
        let bounds = Bounds { rows: STEPS - STEPS % 11, records_to_go_on: 10, bytes_to_go_on: 4_096 };
        let [early, late] = measure("chain", bounds, chain, text(0, 40)).await;
        assert_same(early.activated, late.activated);
    });
}

#[test]
fn loop_of_10_000_iterations_has_constant_cost() {
    // The carried value and the latest result of the one task are both in the head.
    let name = "loop_of_10_000_iterations_has_constant_cost";
    on_small_stacks(name, async || {
        let bounds = Bounds { rows: 0, records_to_go_on: 10, bytes_to_go_on: 4_096 };
        let [early, late] = measure("loop", bounds, looping, text(0, 40)).await;
        assert_same(early.activated, late.activated);
        assert_eq!((early.rows, late.rows), (0, 0));
    });
}

#[test]
fn map_of_10_000_at_once_has_constant_cost_per_item() {
    // All items start with the map: an activation reads a record for each that has not ended, and
    // the rows of the list that hold their items, each once.
    let name = "map_of_10_000_at_once_has_constant_cost_per_item";
    on_small_stacks(name, async || {
        let workflow = || mapping(Concurrency::Unlimited);
        for (stopped, left) in measure("map", map_bounds(), workflow, items()).await.into_iter().zip([9, 1]) {
            let left = STEPS * left / 10;
            assert!(stopped.activated.records <= left + LIST_ROWS + 10, "{:?} for {left} items", stopped.activated);
        }
    });
}

#[test]
fn map_of_16_at_once_has_constant_cost_per_item() {
    // An activation reads sixteen records, and the rows of the list that hold their items, each
    // once.
    let name = "map_of_16_at_once_has_constant_cost_per_item";
    on_small_stacks(name, async || {
        let workflow = || mapping(Concurrency::AtMost(16));
        let [early, late] = measure("map of 16", map_bounds(), workflow, items()).await;
        assert_same(early.activated, late.activated);
        assert!(early.activated.records <= 16 + 4, "{:?}", early.activated);
    });
}

/// Method: a loop maps 3,000 items, and 300 in its next iteration. The process ends before the task
/// that takes those, and the reads of the next one are counted.
#[tokio::test(flavor = "multi_thread")]
async fn shorter_list_in_loop_is_read_without_longer_one() {
    const FEW: usize = 300;
    let world = World::new(shrinking(FEW), items().into_iter().take(3_000).collect());
    let (meter, gate) = (Meter::new(None), Gate::new());
    let runtime = world.builder(&meter, Some(gate.clone())).start().await.unwrap();
    runtime.start(&world.workflow, "id", world.input.clone()).await.unwrap();
    gate.entered().await;
    gate.open(1);
    gate.entered().await;
    drop(runtime);
    // A branch's row and the item's result in it, each once; of the longer list at most the rest of
    // a scan.
    let (read, output) = world.finish().await;
    assert_eq!(output, world.input[..FEW]);
    assert!(read.records < 3 * FEW + 256, "{read:?}");
}
