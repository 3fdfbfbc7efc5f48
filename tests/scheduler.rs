//! A scheduler that is not the runtime drives a workflow with `lifecycle` alone, without actors,
//! and may crash at every call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "scheduler/bench.rs"]
mod bench;
mod common;
#[path = "scheduler/driver.rs"]
mod driver;
#[path = "scheduler/races.rs"]
mod races;
#[path = "scheduler/resume.rs"]
mod resume;
#[path = "scheduler/signals.rs"]
mod signals;
#[path = "scheduler/world.rs"]
mod world;

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use everstep::Status;

use world::{Cable, CrashesAt, ORDER_OUTPUT, Power, World};

const NODES: [&str; 4] = ["price", "reserve", "charge", "ship"];

/// Counts of a run without any stop.
struct Usual {
    calls: u64,
    commits: u64,
    runs: HashMap<&'static str, usize>,
}

async fn undisturbed() -> Usual {
    let (world, power) = (World::new(), Power::of(u64::MAX));
    let cable = Cable::new(&world.store, CrashesAt::Never);
    assert_eq!(world.process(&power, &cable).await.unwrap(), Status::Completed);
    assert_eq!(world.output().await, ORDER_OUTPUT);
    let runs = NODES.map(|node| (node, world.ledger.runs_of(node))).into();
    Usual { calls: power.spent(), commits: cable.commits.load(Ordering::Relaxed), runs }
}

/// Lets one process crash for each of `crashes`, and then one run to the end.
async fn with_crashes(usual: &Usual, crashes: &[(u64, CrashesAt)]) {
    let world = World::new();
    let mut recorded_at = Vec::new();
    for (calls, at) in crashes {
        let died = world.process(&Power::of(*calls), &Cable::new(&world.store, *at)).await;
        assert!(died.is_err(), "{crashes:?}: {died:?}");
        recorded_at.push((world.recorded().await, world.ledger.entries().len()));
    }
    let status = world.process(&Power::of(u64::MAX), &world.store).await.unwrap();
    assert_eq!((status, world.output().await.as_str()), (Status::Completed, ORDER_OUTPUT), "{crashes:?}");
    for (node, usual) in &usual.runs {
        let runs = world.ledger.runs_of(node);
        assert!(
            (*usual..=usual + crashes.len()).contains(&runs),
            "{crashes:?}: `{node}` ran {runs} times, not {usual}"
        );
    }
    let (attempts, usually) = (world.ledger.entries().len(), usual.runs.values().sum::<usize>());
    assert!(attempts <= usually + crashes.len(), "{crashes:?}: {attempts} attempts, not {usually}");
    for (recorded, entries) in recorded_at {
        let later = &world.ledger.entries()[entries..];
        assert!(
            later.iter().all(|(node, _)| !recorded.contains(node)),
            "{crashes:?}: {recorded:?} ran again: {later:?}"
        );
    }
}

#[tokio::test]
async fn workflow_ends_with_the_lifecycle_alone() {
    // Every kind of node, a failing and a hanging task, and no stop. The counts show the tests
    // below where to stop.
    let Usual { calls, commits, runs } = undisturbed().await;
    assert!(calls > 40 && commits > 12, "{calls} calls, {commits} commits");
    assert_eq!(runs, HashMap::from([("price", 2), ("reserve", 1), ("charge", 2), ("ship", 1)]));
}

#[tokio::test]
async fn stop_after_any_call_does_not_change_the_end() {
    // The process crashes after its n-th lifecycle call, for every n; another one continues with
    // the same store.
    let usual = undisturbed().await;
    for n in 1..=usual.calls {
        with_crashes(&usual, &[(n, CrashesAt::Never)]).await;
    }
}

#[tokio::test]
async fn stop_around_any_commit_does_not_change_the_end() {
    // The process crashes in its n-th commit, for every n: before it is durable, and after it
    // without learning of it.
    let usual = undisturbed().await;
    for n in 1..=usual.commits {
        with_crashes(&usual, &[(u64::MAX, CrashesAt::Before(n))]).await;
        with_crashes(&usual, &[(u64::MAX, CrashesAt::After(n))]).await;
    }
}

#[tokio::test]
async fn two_stops_in_a_row_do_not_change_the_end() {
    // A second process crashes soon after the first: at each of its first calls, when it has just
    // loaded the instance.
    let usual = undisturbed().await;
    for first in 1..usual.calls {
        for second in 1..=(usual.calls - first).min(12) {
            with_crashes(&usual, &[(first, CrashesAt::Never), (second, CrashesAt::Never)]).await;
        }
    }
}
