//! A store that is down for seconds while much work is in progress: no workflow fails because of
//! it.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]

mod common;
#[path = "store_failures/faulty.rs"]
mod faulty;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Counter, counting, inc, with};
use everstep::{ConflictPolicy, Health, Runtime, Workflow};
use faulty::{Fate, Faulty};
use tokio::task::JoinSet;

const INSTANCES: u32 = 400;
/// Tries to reopen the store, with waits that begin at 10 ms, double, and are a second at most:
/// more than five seconds.
const TRIES: u64 = 12;

/// Method: while hundreds of instances are in tasks, delays and waits, and more are started, every
/// commit fails, and so does every try to reopen the store, until there were so many tries that
/// five seconds are over. No task has a second attempt, so any failure that the store caused would
/// fail the workflow.
#[tokio::test(flavor = "multi_thread")]
async fn store_down_for_five_seconds_fails_no_workflow() {
    let (store, ran, is_up) = (Faulty::new(), Counter::default(), Arc::new(AtomicBool::new(true)));
    let up = Arc::clone(&is_up);
    store.plan(move |_| if up.load(Ordering::SeqCst) { Fate::Done } else { Fate::FailsBefore });
    let workflow = Workflow::builder("busy")
        .then("first", counting::<u32>(&ran))
        .delay("delay", Duration::from_millis(20))
        .wait_for_signal_keeping::<u32>("wait", "go")
        .then("sum", |(n, m): (u32, u32)| std::future::ready(Ok::<u32, String>(n + m)))
        .then("inc", inc)
        .build()
        .unwrap();
    let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
    let mut all = JoinSet::new();
    for n in 0..INSTANCES {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        all.spawn(async move {
            tokio::time::sleep(Duration::from_millis(n.into())).await;
            let handle = loop {
                // Repeats a start whose outcome is unknown.
                let options = with(ConflictPolicy::UseExisting);
                match runtime.start_with(&workflow, format!("i{n}"), n, options).await {
                    Ok(started) => break started.handle,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            };
            while handle.signal_with_id("go", &1_000_u32, "the only one").await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            handle.result().await
        });
    }
    store.reaches_commit(50).await;
    is_up.store(false, Ordering::SeqCst);
    store.stay_closed();
    store.reopening_failed_times(TRIES).await;
    assert!(matches!(runtime.health(), Health::Unhealthy { .. }));
    is_up.store(true, Ordering::SeqCst);
    store.let_reopen();
    let all = tokio::time::timeout(Duration::from_mins(1), all.join_all()).await;
    let mut results = all.expect("all instances end");
    results.sort_by_key(|result| result.clone().unwrap_or_default());
    assert_eq!(results, (0..INSTANCES).map(|n| Ok(n + 1_001)).collect::<Vec<_>>());
    assert_eq!((ran.get(), store.failed() > 0), (INSTANCES, true), "no task ran twice, and the store had failed");
    assert_eq!(runtime.health(), Health::Healthy);
}
