//! The manifest of an upgraded run's earlier definition.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use everstep::bytes::Bytes;
use everstep::store::{Answers, Write};
use everstep::{
    BoxFuture, Builder, DefinitionHash, HandleError, MemoryStore, Runtime, StatusCode, Store as _, StoreError, Workflow,
};

use crate::common::{reach_code, same, still_clock, within};
use crate::through::{Hooks, Through};
use crate::{grow, parked, runtime};

/// A store that has lost one manifest.
struct Lost {
    definition: DefinitionHash,
    is_lost: AtomicBool,
}

impl Hooks for Lost {
    fn commit<'a>(&'a self, store: &'a MemoryStore, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        store.commit(batch)
    }

    fn manifest(&self, definition: &DefinitionHash, found: Option<Bytes>) -> Option<Bytes> {
        found.filter(|_| *definition != self.definition || !self.is_lost.load(Ordering::Relaxed))
    }
}

/// Method: a run with a large result is upgraded; then the manifest of its first definition is
/// lost. A caller asks for the result, and a task needs it; later the manifest is there again.
#[tokio::test(flavor = "multi_thread")]
async fn upgraded_run_without_old_manifest_is_left_alone_and_listed() {
    let start =
        |builder: Builder<String, String>| builder.then("grow", grow).wait_for_signal_keeping::<String>("wait", "go");
    let old = start(Workflow::builder_for("w")).build().unwrap();
    let store = parked(&old, "ab").await;
    let new = Workflow::builder("w").version("2").upgrades_from(old.hash()).taking::<String>();
    let new = start(new).then("join", same).build().unwrap();
    let upgraded = runtime(&store, &new).await;
    within(upgraded.handle(&new, "id").await.unwrap().pause("why", "who")).await.unwrap();
    within(upgraded.handle(&new, "id").await.unwrap().unpause()).await.unwrap();
    drop(upgraded);

    let hooks = Arc::new(Lost { definition: old.hash(), is_lost: AtomicBool::new(true) });
    let start = || Runtime::builder(Through::new(&store, &hooks)).register(&new).clock(still_clock()).start();
    let first = start().await.unwrap();
    let handle = first.handle(&new, "id").await.unwrap();
    let refused = handle.task_result::<String>("grow").await.unwrap_err();
    assert!(matches!(refused, HandleError::Damaged(_)), "{refused}");
    assert!(refused.to_string().contains(&old.hash().to_string()), "{refused}");
    within(handle.signal("go", &"word".to_owned())).await.unwrap();
    within(async {
        while first.left_alone().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(first.left_alone()[0].definition, Some(old.hash()));
    assert_eq!(handle.status().await.unwrap().code(), StatusCode::InProgress);
    assert!(store.quarantined(None, 10).await.unwrap().is_empty());
    drop(first);

    hooks.is_lost.store(false, Ordering::Relaxed);
    let second = start().await.unwrap();
    let handle = second.handle(&new, "id").await.unwrap();
    reach_code(&handle, StatusCode::Completed).await;
    assert_eq!(within(handle.result()).await, Ok(("ab".repeat(100), "word".to_owned())));
}
