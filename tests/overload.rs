//! Ten times the runtime's capacity and more, for a while: its memory stays flat, callers get
//! `Busy` and no other error, and everything acknowledged ends. A test binary of its own, since
//! memory is that of the whole process.
//!
//! `EVERSTEP_OVERLOAD_SECONDS` sets the time; the default is 20 seconds.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

#[path = "common/through.rs"]
mod through;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use everstep::store::{Answers, Write};
use everstep::{
    BoxFuture, Dep, InstanceFilter, Limits, MemoryStore, MessageError, Retention, Runtime, StartError, StartOptions,
    Store as _, StoreError, WhenBusy, Workflow,
};
use through::{Hooks, Through};
use tokio::task::JoinSet;

const CALLERS: u64 = 400;
/// The wait of a refused caller before it tries again.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest that the rest may take once no new call comes, before a test reports that it never
/// ends.
const PATIENCE: Duration = Duration::from_mins(2);

fn overload() -> Duration {
    let seconds = std::env::var("EVERSTEP_OVERLOAD_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

/// A store whose commits take long.
struct Slow;

impl Hooks for Slow {
    fn commit<'a>(&'a self, store: &'a MemoryStore, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            store.commit(batch).await
        })
    }
}

/// A count, and the sum of the numbers counted, so that one is not taken for another.
#[derive(Debug, Default)]
struct Tally {
    count: AtomicU64,
    sum: AtomicU64,
}

impl Tally {
    fn add(&self, number: u64) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.sum.fetch_add(number, Ordering::SeqCst);
    }

    fn get(&self) -> (u64, u64) {
        (self.count.load(Ordering::SeqCst), self.sum.load(Ordering::SeqCst))
    }
}

#[derive(Default)]
struct Seen {
    acknowledged: Tally,
    ended: Tally,
    admitted: AtomicU64,
    refused: AtomicU64,
    is_over: AtomicBool,
}

type Input = (u64, Vec<u8>);

async fn work((number, _): Input, Dep(seen): Dep<Seen>) -> Result<u64, Infallible> {
    tokio::time::sleep(Duration::from_millis(20)).await;
    seen.ended.add(number);
    Ok(number)
}

fn workflow() -> Workflow<Input, u64> {
    Workflow::builder_for::<Input>("work").wait_for_signal::<Input>("wait", "go").then("work", work).build().unwrap()
}

/// Starts one instance after the other and sends each a signal, again and again while it is
/// refused. After the end of the load, waits for its turn with the last instance that it started.
async fn call(runtime: Runtime, workflow: Workflow<Input, u64>, seen: Arc<Seen>, caller: u64) {
    let refusing = || StartOptions::new().when_busy(WhenBusy::Refuse);
    let mut number = caller;
    while !seen.is_over.load(Ordering::SeqCst) {
        match runtime.start_with(&workflow, format!("{number}"), (number, vec![7; 1_000]), refusing()).await {
            Ok(_) => seen.admitted.fetch_add(1, Ordering::SeqCst),
            Err(StartError::Busy(_)) => {
                seen.refused.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => panic!("a start of {number}: {error}"),
        };
        let mut handle = runtime.handle(&workflow, format!("{number}")).await.unwrap().when_busy(WhenBusy::Refuse);
        while let Err(error) = handle.signal("go", &(number, vec![7_u8; 1_000])).await {
            assert!(matches!(error, MessageError::Busy(_)), "a signal to {number}: {error}");
            seen.refused.fetch_add(1, Ordering::SeqCst);
            if seen.is_over.load(Ordering::SeqCst) {
                handle = handle.when_busy(WhenBusy::Wait);
            } else {
                tokio::time::sleep(PAUSE).await;
            }
        }
        seen.admitted.fetch_add(1, Ordering::SeqCst);
        seen.acknowledged.add(number);
        number += CALLERS;
    }
}

/// Returns the resident memory of this process, in kB.
fn resident_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Returns the most memory seen within this time.
async fn watched(time: Duration) -> u64 {
    let (end, mut most) = (Instant::now() + time, 0);
    while Instant::now() < end {
        most = most.max(resident_memory());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    most
}

/// Method: some hundred callers, which do not wait when they are refused, meet a slow store, slow
/// tasks and small limits. Ended instances are deleted, so that the store in memory does not grow.
/// The most memory of the last three quarters of the time is compared with the most of the first
/// one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenfold_load_keeps_memory_flat_and_ends_all_accepted() {
    let (seen, workflow) = (Arc::new(Seen::default()), workflow());
    let mut limits = Limits::default();
    (limits.resident_max, limits.tasks_running_max) = (64, 4);
    (limits.instance_messages_max, limits.writes_queued_max) = (4, 16);
    let builder = Runtime::builder(Through::new(&MemoryStore::new(), &Arc::new(Slow))).limits(limits);
    let builder = builder.register(&workflow).provide_arc(Arc::clone(&seen));
    let runtime = builder.retention(Retention::new().completed(Duration::ZERO)).start().await.unwrap();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call(runtime.clone(), workflow.clone(), Arc::clone(&seen), caller));
    }
    let early = watched(overload() / 4).await;
    let late = watched(overload() * 3 / 4).await;
    seen.is_over.store(true, Ordering::SeqCst);
    let admitted = seen.admitted.load(Ordering::SeqCst);
    let offered = admitted + seen.refused.load(Ordering::SeqCst);
    println!("{offered} calls, {admitted} admitted; {early} kB at first, {late} kB later");
    assert!(late * 10 <= early * 13, "{early} kB at first, {late} kB later");
    assert!(offered >= 10 * admitted, "only {offered} calls for {admitted} admitted ones");

    let rest = async {
        while let Some(ended) = callers.join_next().await {
            ended.unwrap();
        }
        while runtime.count(&InstanceFilter::new()).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, rest).await.unwrap_or_else(|_| panic!("not all have ended: {:?}", seen.ended));
    assert_eq!(seen.ended.get(), seen.acknowledged.get(), "every acknowledged instance has ended, once");
}
