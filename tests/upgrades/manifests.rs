//! The manifest of an upgraded run's earlier definition.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use everstep::bytes::Bytes;
use everstep::store::{Answers, Write};
use everstep::{
    BoxFuture, Builder, ConflictPolicy, DefinitionHash, HandleError, MemoryStore, Runtime, StartError, StatusCode,
    Store as _, StoreError, Workflow,
};

use crate::common::{reach_code, same, still_clock, with, within};
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

/// Method: a run with a large output has ended; the newer definition has other nodes at its
/// numbers, and the older manifest is lost. A start and a handle ask for the output; then the run
/// is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn output_is_not_read_by_names_of_another_definition() {
    let old = Workflow::builder_for::<String>("w").then("first", grow).then("last", grow).build().unwrap();
    let store = MemoryStore::new();
    let ended = runtime(&store, &old).await;
    within(ended.start(&old, "id", "a".to_owned()).await.unwrap().result()).await.unwrap();
    drop(ended);
    let new = Workflow::builder("w").version("2").upgrades_from(old.hash()).taking::<String>();
    let new = new.then("last", grow).then("first", grow).build().unwrap();
    let hooks = Arc::new(Lost { definition: old.hash(), is_lost: AtomicBool::new(true) });
    let runtime = Runtime::builder(Through::new(&store, &hooks)).register(&new).clock(still_clock());
    let runtime = runtime.start().await.unwrap();
    let used = with(ConflictPolicy::UseExisting);
    let refused = within(runtime.start_with(&new, "id", String::new(), used)).await.unwrap_err();
    assert!(refused.to_string().contains(&old.hash().to_string()), "{refused}");
    let handle = runtime.handle(&new, "id").await.unwrap();
    let refused = within(handle.result()).await.unwrap_err();
    assert!(refused.to_string().contains(&old.hash().to_string()), "{refused}");
    let refused = within(runtime.start(&new, "id", String::new())).await.unwrap_err();
    assert!(matches!(refused, StartError::InstanceAlreadyExists { .. }), "{refused}");
    let replaced = with(ConflictPolicy::TerminateExisting);
    let replaced = within(runtime.start_with(&new, "id", "b".to_owned(), replaced)).await.unwrap();
    assert_eq!(within(replaced.handle.result()).await, Ok("b".repeat(10_000)));
    assert!(runtime.left_alone().is_empty());
}
