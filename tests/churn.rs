//! Many instances take turns in few places: signals to instances that are activated and parked
//! again and again.
//!
//! `EVERSTEP_SIGNALS` sets the number of signals in each test; the default is 34,000.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic anywhere")]

#[path = "common/through.rs"]
mod through;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use everstep::store::{Answers, Write};
use everstep::{
    BoxFuture, InstanceHandle, Limits, LoopLimit, LoopResult, MemoryStore, ResultError, Runtime, Store as _,
    StoreError, Workflow,
};
use through::{Hooks, Through};
use tokio::task::JoinSet;

const SENDERS: u32 = 17;
const INSTANCES_EACH: u32 = 10;
const INSTANCES: u32 = SENDERS * INSTANCES_EACH;
/// Names of the signals that are sent side by side.
const NAMES: [&str; 2] = ["a", "b"];
/// One in this many signals is sent twice.
const REPEATED: u32 = 7;

/// The longest that a signal may take before a test reports that it never ends. Never a measure of
/// speed.
const PATIENCE: Duration = Duration::from_mins(1);

fn signals() -> u32 {
    std::env::var("EVERSTEP_SIGNALS").ok().and_then(|signals| signals.parse().ok()).unwrap_or(34_000)
}

#[derive(Default)]
struct Reads {
    records: AtomicUsize,
}

impl Hooks for Reads {
    fn commit<'a>(&'a self, store: &'a MemoryStore, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        store.commit(batch)
    }

    fn read(&self, records: usize, _bytes: usize) {
        self.records.fetch_add(records, Ordering::Relaxed);
    }
}

/// The next number expected of each name, how many signals came, and the first one out of turn, if
/// any.
type Got = (u32, u32, Option<(u32, u32)>);

#[allow(clippy::unused_async, reason = "as a task has it")]
async fn check((((next, all, wrong), a), b): ((Got, u32), u32)) -> Result<LoopResult<Got, Got>, Infallible> {
    let got = (next + 1, all, wrong.or_else(|| ((a, b) != (next, next)).then_some((a, b))));
    Ok(if got.0 == all { LoopResult::Done(got) } else { LoopResult::Again(got) })
}

/// Returns a workflow that takes one signal of each name in turn.
fn collecting() -> Workflow<Got, Got> {
    let start = Workflow::builder_for::<Got>("collecting");
    let each = start.repeat("each", LoopLimit::Unlimited, |body| {
        let first = body.wait_for_signal_keeping::<u32>("a", NAMES[0]);
        first.wait_for_signal_keeping::<u32>("b", NAMES[1]).then("check", check)
    });
    each.build().unwrap()
}

/// Sends each name its numbers in order, some of them twice under the same id, to one instance
/// after the other.
async fn send(handles: Vec<InstanceHandle<Got>>, each: u32) -> Vec<Result<Got, ResultError>> {
    for turn in 0..each * INSTANCES_EACH {
        let (n, handle) = (turn / INSTANCES_EACH, &handles[(turn % INSTANCES_EACH) as usize]);
        for _ in 0..=u32::from(n % REPEATED == 0) {
            let ids = NAMES.map(|name| format!("{name} {n}"));
            let [a, b] = [0, 1].map(|name| handle.signal_with_id(NAMES[name], &n, &ids[name]));
            let both = tokio::time::timeout(PATIENCE, async { tokio::join!(a, b) }).await;
            assert_eq!(both, Ok((Ok(()), Ok(()))), "{} of {}", n, handle.id());
        }
    }
    let mut results = Vec::new();
    for handle in handles {
        let result = tokio::time::timeout(PATIENCE, handle.result()).await;
        results.push(result.unwrap_or_else(|_| panic!("{} has lost some", handle.id())));
    }
    results
}

/// Method: each instance counts the signals of two names, and notes those out of turn. There is
/// room for few instances at once, so that many signals activate one. The number of records read
/// for a signal does not depend on the number of signals before it.
async fn take_turns(resident_max: usize) {
    let (workflow, reads) = (collecting(), Arc::new(Reads::default()));
    let mut limits = Limits::default();
    limits.resident_max = resident_max;
    let store = Through::new(&MemoryStore::new(), &reads);
    let runtime = Runtime::builder(store).register(&workflow).limits(limits).start().await.unwrap();
    let each = (signals() / INSTANCES / 2).max(1);
    let mut all = JoinSet::new();
    for sender in 0..SENDERS {
        let mut handles = Vec::new();
        for n in 0..INSTANCES_EACH {
            handles.push(runtime.start(&workflow, format!("{sender} {n}"), (0, each, None)).await.unwrap());
        }
        all.spawn(send(handles, each));
    }
    assert_eq!(all.join_all().await.concat(), vec![Ok((each, each, None)); INSTANCES as usize]);
    let (read, sent) = (reads.records.load(Ordering::Relaxed), (2 * each * INSTANCES) as usize);
    println!("{sent} signals with room for {resident_max}: {read} records read");
    assert!(read <= 3 * sent, "{read} records were read for {sent} signals");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_keep_count_and_order_with_room_for_1() {
    take_turns(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_keep_count_and_order_with_room_for_3() {
    take_turns(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_keep_count_and_order_with_room_for_100() {
    take_turns(100).await;
}
