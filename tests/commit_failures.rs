//! Commits of a result or a wake-up that fail, once or often: the instance ends by itself.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "store_failures/faulty.rs"]
mod faulty;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use common::{Counter, inc, moving, still_clock, when_clock_is_at, within};
use everstep::testing::{Call, Fault, FaultyStore};
use everstep::{Clock, Health, MemoryStore, Retention, Runtime, StoreError, Workflow};
use faulty::{Fate, Faulty};

const MINUTE: Duration = Duration::from_mins(1);

/// Returns a store and the number of its next commits that fail for good, each until the store is
/// reopened.
fn trapped() -> (Faulty, Arc<AtomicU32>) {
    let (store, fails) = (Faulty::new(), Arc::new(AtomicU32::new(0)));
    let left = Arc::clone(&fails);
    store.plan(move |_| {
        let fails = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if fails { Fate::FailsBefore } else { Fate::Done }
    });
    (store, fails)
}

#[tokio::test(flavor = "multi_thread")]
async fn result_with_failed_commit_is_not_lost() {
    // The commit of one task's result fails, for each task in turn; the instance must end by
    // itself.
    let short = Duration::from_millis(2);
    for n in 0..4 {
        let (store, trap) = trapped();
        let spring = move |place: u32| {
            let (trap, set) = (trap.clone(), AtomicBool::new(place == n));
            move |value: u32| {
                trap.fetch_add(u32::from(set.swap(false, Ordering::SeqCst)), Ordering::SeqCst);
                std::future::ready(Ok::<_, Infallible>(value + 1))
            }
        };
        let workflow = Workflow::builder("w")
            .then("a", spring(0))
            .then("b", spring(1))
            .delay("d", short)
            .then("c", spring(2))
            .wait_for_signal_keeping_timeout::<u32>("w", "go", short)
            .then("e", async |(value, _): (u32, everstep::SignalOutcome<u32>)| Ok::<_, Infallible>(value))
            .then("f", spring(3))
            .build()
            .unwrap();
        let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
        let handle = runtime.start(&workflow, "id", 0).await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(4), "the commit after task {n} failed");
        assert_eq!((store.failed(), runtime.health()), (1, Health::Healthy));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn store_failures_are_not_counted_as_crashes() {
    // The commit of a task's result fails six times in a row, and the store is reopened: the
    // process never crashed.
    let (store, trap) = trapped();
    let failures = AtomicU32::new(6);
    let spring = move |value: u32| {
        let more = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        trap.fetch_add(u32::from(more), Ordering::SeqCst);
        std::future::ready(Ok::<_, Infallible>(value + 1))
    };
    let workflow = Workflow::builder("w").then("spring", spring).then("inc", inc).build().unwrap();
    let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 0).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn wake_up_with_failed_commit_is_not_lost() {
    // The commits of a delay's end and of a wait's timeout fail once. The wake-ups must be repeated
    // by themselves.
    for delayed in [true, false] {
        let (store, fails) = trapped();
        let clock = still_clock();
        let workflow = if delayed {
            Workflow::builder_for::<u32>("w").delay("d", MINUTE).then("inc", inc).build().unwrap()
        } else {
            let waits = Workflow::builder_for::<u32>("w");
            let waits = waits.wait_for_signal_keeping_timeout::<u32>("w", "go", MINUTE);
            waits
                .then("e", async |(n, _): (u32, everstep::SignalOutcome<u32>)| Ok::<_, Infallible>(n + 1))
                .build()
                .unwrap()
        };
        let builder = Runtime::builder(store.store()).register(&workflow).clock(clock.clone());
        let runtime = builder.start().await.unwrap();
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        fails.store(1, Ordering::SeqCst);
        assert_eq!(when_clock_is_at(&clock, clock.now().after(MINUTE), handle.result()).await, Ok(2), "{delayed}");
        assert_eq!((store.failed(), runtime.health()), (1, Health::Healthy));
    }
}

/// Method: the second commit, that of the first result, panics inside the store; the instance must
/// end.
#[tokio::test(flavor = "multi_thread")]
async fn panicking_store_is_reopened_like_a_failing_one() {
    let store = Faulty::new();
    let mut commits = 0;
    store.plan(move |_| {
        commits += 1;
        assert_ne!(commits, 2, "the store panics");
        Fate::Done
    });
    let workflow = Workflow::builder("w").then("a", inc).then("b", inc).build().unwrap();
    let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(3));
    assert_eq!(runtime.health(), Health::Healthy);
}

/// Method: a commit fails, so that the store is reopened, everything in progress listed and the due
/// index read. An instance is deleted, so that there is something to sweep, and another is pruned.
/// One call of one kind panics meanwhile; then a delay must end and its instance be deleted all the
/// same.
#[tokio::test(flavor = "multi_thread")]
async fn store_panic_in_any_call_is_outlasted() {
    for which in ["due", "sweep", "instances", "reopen", "ended"] {
        let (store, clock) = (FaultyStore::new(MemoryStore::new()), still_clock());
        let (fails, panics) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (failing, panicking) = (Arc::clone(&fails), Arc::clone(&panics));
        store.plan(move |_, call| {
            let called = match call {
                Call::Commit(_) if failing.swap(false, Ordering::SeqCst) => {
                    return Fault::FailBefore(StoreError::Fatal("disk".into()));
                }
                Call::Due => "due",
                Call::Sweep => "sweep",
                Call::Instances => "instances",
                Call::Reopen => "reopen",
                Call::Ended => "ended",
                _ => "",
            };
            let panics = called == which && panicking.swap(false, Ordering::SeqCst);
            assert!(!panics, "the store panics in {which}");
            Fault::None
        });
        let workflow = Workflow::builder_for::<u32>("w").delay("delay", MINUTE).then("inc", inc).build().unwrap();
        let builder = Runtime::builder(store).register(&workflow).clock(clock.clone());
        let runtime = builder.retention(Retention::new().cancelled(MINUTE)).start().await.unwrap();
        fails.store(true, Ordering::SeqCst);
        panics.store(true, Ordering::SeqCst);
        for id in ["first", "second"] {
            let handle = runtime.start(&workflow, id, 1).await.unwrap();
            let ended = when_clock_is_at(&clock, clock.now().after(MINUTE), handle.result()).await;
            assert_eq!(ended, Ok(2), "{which}");
            handle.delete().await.unwrap();
            let has_panicked = async {
                while panics.load(Ordering::SeqCst) {
                    tokio::task::yield_now().await;
                }
            };
            moving(&clock, Duration::from_secs(1), has_panicked).await;
        }
        assert_eq!(runtime.health(), Health::Healthy, "{which}");
    }
}

/// Method: thirty delays end while every read of an instance panics, many times over; then the
/// store is well again.
#[tokio::test(flavor = "multi_thread")]
async fn panicking_reads_quarantine_no_instance() {
    let (store, clock) = (FaultyStore::new(MemoryStore::new()), still_clock());
    let workflow = Workflow::builder_for::<u32>("w").delay("delay", MINUTE).then("inc", inc).build().unwrap();
    let builder = Runtime::builder(store.clone()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let mut handles = Vec::new();
    for n in 0..30 {
        handles.push(runtime.start(&workflow, format!("{n}"), n).await.unwrap());
    }
    let panics = Counter::default();
    let panicking = panics.clone();
    store.plan(move |_, call| {
        assert!(!matches!(call, Call::Load(_)) || panicking.hit() == 0, "the store panics");
        Fault::None
    });
    clock.advance(MINUTE);
    // As many panics as would quarantine all instances, if each counted.
    let enough = async {
        while panics.get() < 150 {
            tokio::task::yield_now().await;
        }
    };
    within(enough).await;
    store.heal();
    for (n, handle) in (1..).zip(handles) {
        assert_eq!(when_clock_is_at(&clock, clock.now(), handle.result()).await, Ok(n));
    }
}
