//! A backup of a store in use holds everything acknowledged before the backup began, and runs on
//! from there.
#![cfg(feature = "file-store")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Counter, open, waiting, within};
use everstep::{FileStore, HandleError, Runtime, Store as _, StoreError};

const SECOND: Duration = Duration::from_secs(1);

/// Method: callers start and signal instances all the while. Everything acknowledged before the
/// backup is in the copy and ends there with the value of its signal; later writes are in the copy
/// whole or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn backup_of_a_busy_store_holds_all_that_was_acknowledged() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let workflow = Arc::new(waiting("w"));
    let store = FileStore::open(dir.path()).await.unwrap();
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    let (started, stop) = (Counter::default(), Arc::new(AtomicBool::new(false)));
    let caller = {
        let (runtime, workflow, started, stop) = (runtime.clone(), workflow.clone(), started.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let n = started.get();
                let handle = runtime.start(&workflow, format!("{n}"), n).await.unwrap();
                if n.is_multiple_of(3) {
                    handle.signal("go", &n).await.unwrap();
                }
                started.hit();
            }
        })
    };
    let enough = async {
        while started.get() < 200 {
            tokio::task::yield_now().await;
        }
    };
    within(enough).await;
    let before = started.get();
    let backup = store.backup(to.path()).await.unwrap();
    assert!(backup.is_whole(), "{backup:?}");
    stop.store(true, Ordering::SeqCst);
    within(caller).await.unwrap();
    within(runtime.shutdown(SECOND)).await;

    let runtime = Runtime::builder(open(to.path()).await).register(&workflow).start().await.unwrap();
    for n in 0..started.get() {
        let handle = match runtime.handle(&workflow, format!("{n}")).await {
            Err(HandleError::NotFound) if n >= before => continue,
            handle => handle.unwrap(),
        };
        if n >= before || !n.is_multiple_of(3) {
            // The instance may have ended before it was copied.
            let _ = handle.signal_with_id("go", &n, "after the backup").await;
        }
        assert_eq!(within(handle.result()).await, Ok(n));
    }
}

/// Method: back up to a directory that is not empty, and from a closed store.
#[tokio::test(flavor = "multi_thread")]
async fn backup_that_cannot_be_whole_is_refused() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = FileStore::open(dir.path()).await.unwrap();
    std::fs::write(to.path().join("notes"), "mine").unwrap();
    let refused = store.backup(to.path()).await;
    assert!(matches!(refused, Err(StoreError::Unreadable { .. })), "{refused:?}");
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 1, "the directory is unchanged");
    let later = to.path().join("later");
    store.close().await;
    assert!(store.backup(&later).await.is_err());
    assert!(FileStore::open(dir.path()).await.is_ok(), "nothing holds the directory");
}
