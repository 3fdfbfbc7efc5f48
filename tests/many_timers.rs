//! A hundred thousand delays, ten times as many as the window of wake-ups holds: none ends early,
//! and all end, each once.
//!
//! `EVERSTEP_TIMERS` sets their number.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic anywhere")]

mod common;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use common::still_clock;
use everstep::{Clock as _, Dep, InstanceFilter, ManualClock, MemoryStore, Runtime, StatusCode, Timestamp, Workflow};
use tokio::task::JoinSet;

const HOUR: Duration = Duration::from_hours(1);
/// The longest that a step may take before a test reports that it never ends. Never a measure of
/// speed.
const PATIENCE: Duration = Duration::from_mins(2);
/// Moments at which instances are started, a minute apart.
const MOMENTS: u32 = 200;
/// Steps in which the clock passes all the delays' ends.
const STEPS: u32 = 30;

fn timers() -> u32 {
    std::env::var("EVERSTEP_TIMERS").ok().and_then(|timers| timers.parse().ok()).unwrap_or(100_000)
}

struct Ends {
    clock: ManualClock,
    /// Number of times that each delay ended.
    ended: Vec<AtomicU32>,
    count: AtomicU64,
    early: AtomicU32,
}

/// The number of a delay, and its due time.
type Due = (u32, Timestamp);

#[allow(clippy::unused_async, reason = "as a task has it")]
async fn end((number, due): Due, Dep(ends): Dep<Ends>) -> Result<Due, Infallible> {
    if ends.clock.now() < due {
        ends.early.fetch_add(1, Ordering::SeqCst);
    }
    ends.ended[number as usize].fetch_add(1, Ordering::SeqCst);
    ends.count.fetch_add(1, Ordering::SeqCst);
    Ok((number, due))
}

fn delayed(name: &str, delay: Duration) -> Workflow<Due, Due> {
    Workflow::builder_for::<Due>(name).delay("delay", delay).then("end", end).build().unwrap()
}

/// Method: instances are started a minute apart, every other one with a delay half as long, so that
/// a wake-up armed late is often due early. Then the clock passes all their ends in a few steps,
/// each of which waits for all that are due. Each instance that continues reads the clock and
/// counts.
#[tokio::test(flavor = "multi_thread")]
async fn many_delays_end_once_and_never_early() {
    let clock = still_clock();
    let ended = std::iter::repeat_with(AtomicU32::default).take(timers() as usize).collect();
    let ends = Ends { clock: clock.clone(), ended, count: AtomicU64::new(0), early: AtomicU32::new(0) };
    let ends = Arc::new(ends);
    let delays = [12 * HOUR, 6 * HOUR];
    let workflows = [delayed("long", delays[0]), delayed("short", delays[1])];
    let builder = Runtime::builder(MemoryStore::new()).clock(clock.clone()).provide_arc(Arc::clone(&ends));
    let runtime = builder.register(&workflows[0]).register(&workflows[1]).start().await.unwrap();

    let mut dues = Vec::new();
    for moment in 0..MOMENTS {
        let mut starts = JoinSet::new();
        for number in (moment..timers()).step_by(MOMENTS as usize) {
            let short = number as usize / MOMENTS as usize % 2;
            let due = clock.now().after(delays[short]);
            dues.push(due);
            let (runtime, workflow) = (runtime.clone(), workflows[short].clone());
            starts.spawn(async move { runtime.start(&workflow, format!("{number}"), (number, due)).await.map(drop) });
        }
        assert!(starts.join_all().await.into_iter().all(|started| started == Ok(())));
        clock.advance(Duration::from_mins(1));
    }
    assert_eq!(ends.count.load(Ordering::SeqCst), 0, "the first one is due later");

    dues.sort_unstable();
    let (first, last) = (dues[0], *dues.last().unwrap());
    for step in 1..=STEPS {
        clock.advance(first.after(last.since(first) * step / STEPS).since(clock.now()));
        let due = dues.partition_point(|due| *due <= clock.now()) as u64;
        let all_due = async {
            while ends.count.load(Ordering::SeqCst) < due {
                tokio::time::sleep(Duration::from_millis(5)).await;
                // A sleeper that read the clock just before it moved is woken once more.
                clock.advance(Duration::from_micros(1));
            }
        };
        let count = || ends.count.load(Ordering::SeqCst);
        tokio::time::timeout(PATIENCE, all_due).await.unwrap_or_else(|_| panic!("{} of {due} ended", count()));
    }
    assert_eq!(ends.early.load(Ordering::SeqCst), 0, "delays that ended early");
    assert!(ends.ended.iter().all(|ended| ended.load(Ordering::SeqCst) == 1), "each ends once");
    let unfinished = InstanceFilter::new().status(StatusCode::Waiting);
    assert_eq!(runtime.count(&unfinished).await.unwrap(), 0);
}
