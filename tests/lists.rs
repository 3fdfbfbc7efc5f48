//! Lists and counts of instances: in pages, by workflow, definition and status.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use common::{forced, quarantine, within};
use everstep::store::Change;
use everstep::{
    InstanceFilter, InstanceSummary, ListCursor, MemoryStore, ParseCursorError, Runtime, StatusCode, Store as _,
    Workflow,
};
use tokio::task::JoinSet;

/// Commits a write to an existing instance, past the runtime.
async fn force(store: &MemoryStore, instance: &str, change: Change) {
    let write = forced(store, instance, change).await;
    assert_eq!(store.commit(&[write]).await.unwrap(), [Ok(())]);
}

/// Returns a workflow of this name; the name of its delay makes it another definition.
fn parked(name: &str, delay: &str) -> Workflow<u32, u32> {
    let builder = Workflow::builder_for::<u32>(name).wait_for_signal::<u32>("wait", "go");
    builder.delay(delay, Duration::from_hours(1)).build().unwrap()
}

/// Returns everything that a filter lists, in pages of `limit`; the cursor goes through its text
/// form.
async fn paged(runtime: &Runtime, filter: &InstanceFilter, limit: usize) -> Vec<InstanceSummary> {
    let (mut all, mut cursor) = (Vec::new(), None::<ListCursor>);
    loop {
        let page = runtime.list(filter, cursor.as_ref(), limit).await.unwrap();
        let full = page.instances.len() == limit;
        assert!(full || page.next.is_none(), "a page of {limit} has {}, and more come", page.instances.len());
        all.extend(page.instances);
        match page.next {
            Some(next) => cursor = Some(next.to_string().parse().unwrap()),
            None => return all,
        }
    }
}

/// The instances that a test made, by id.
type Made = BTreeMap<String, (Workflow<u32, u32>, StatusCode)>;

/// Starts `each` instances of each workflow in each of five states.
async fn populate(runtime: &Runtime, store: &MemoryStore, workflows: &[Workflow<u32, u32>], each: usize) -> Made {
    let statuses = [
        StatusCode::AwaitingSignal,
        StatusCode::Waiting,
        StatusCode::Paused,
        StatusCode::Cancelled,
        StatusCode::Quarantined,
    ];
    let (mut made, mut starts) = (Made::new(), JoinSet::new());
    for (n, workflow) in workflows.iter().enumerate() {
        for (m, status) in statuses.into_iter().enumerate() {
            for number in 0..each {
                // Ids that do not sort by workflow and status.
                let name = format!("{:03} {n} {m}", number * 7 % each);
                made.insert(name.clone(), (workflow.clone(), status));
                let (runtime, workflow, store) = (runtime.clone(), workflow.clone(), store.clone());
                starts.spawn(async move {
                    let handle = runtime.start(&workflow, &name, 1).await.unwrap();
                    match status {
                        StatusCode::Waiting => handle.signal("go", &1_u32).await.unwrap(),
                        StatusCode::Paused => handle.pause("lunch", "ana").await.unwrap(),
                        StatusCode::Cancelled => handle.cancel("enough", "ana").await.unwrap(),
                        StatusCode::Quarantined => {
                            quarantine(&store, &name, "it bites").await;
                        }
                        _ => {}
                    }
                });
            }
        }
    }
    within(starts.join_all()).await;
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_list_every_instance_once_and_counts_agree() {
    // Four definitions, two of them of one name, with instances in five states, and one instance
    // whose head is damaged, are listed by every filter, seven at a time.
    let workflows = [parked("a", "1"), parked("a", "2"), parked("b", "1"), parked("c", "1")];
    let store = MemoryStore::new();
    let builder = workflows.iter().fold(Runtime::builder(store.clone()), everstep::RuntimeBuilder::register);
    let runtime = builder.start().await.unwrap();
    let made = populate(&runtime, &store, &workflows, 100).await;
    assert_eq!(made.len(), 2_000);
    runtime.start(&workflows[0], "damaged", 1).await.unwrap();
    force(&store, "damaged", Change::Head(Bytes::from_static(b"no head at all"))).await;
    quarantine(&store, "damaged", "damaged").await;

    let names = [None, Some("a"), Some("b"), Some("nobody")];
    let hashes = workflows.iter().map(|workflow| Some(workflow.hash())).chain([None]);
    let statuses = StatusCode::ALL.map(Some).into_iter().chain([None]);
    let mut found_by_any = BTreeSet::new();
    for name in names {
        for hash in hashes.clone() {
            for status in statuses.clone() {
                let mut filter = InstanceFilter::new();
                filter = name.map_or(filter.clone(), |name| filter.workflow(name));
                filter = hash.map_or(filter.clone(), |hash| filter.definition(hash));
                filter = status.map_or(filter.clone(), |status| filter.status(status));
                let wanted = |workflow: &Workflow<u32, u32>, in_status: StatusCode| {
                    name.is_none_or(|name| workflow.definition().info().name() == name)
                        && hash.is_none_or(|hash| workflow.hash() == hash)
                        && status.is_none_or(|status| status == in_status)
                };
                let mut expected: BTreeSet<_> = made
                    .iter()
                    .filter(|(_, (workflow, in_status))| wanted(workflow, *in_status))
                    .map(|(id, (workflow, in_status))| (id.clone(), *in_status, Some(workflow.hash())))
                    .collect();
                if name.is_none() && hash.is_none() && status.is_none_or(|status| status == StatusCode::Quarantined) {
                    expected.insert(("damaged".into(), StatusCode::Quarantined, None));
                }
                let listed = paged(&runtime, &filter, 7).await;
                let count = listed.len();
                let listed: BTreeSet<_> =
                    listed.into_iter().map(|one| (one.instance.to_string(), one.status, one.definition)).collect();
                assert_eq!(listed.len(), count, "{filter:?} lists an instance twice");
                assert_eq!(listed, expected, "{filter:?}");
                assert_eq!(runtime.count(&filter).await.unwrap(), count as u64, "{filter:?}");
                found_by_any.extend(listed);
            }
        }
    }
    assert_eq!(found_by_any.len(), 2_001);
    let all = runtime.list(&InstanceFilter::new(), None, 100_000).await.unwrap();
    assert_eq!((all.instances.len(), all.next), (2_001, None), "in one page, without a cap");
    for limit in [1, 2_000, 2_001, 2_002] {
        assert_eq!(paged(&runtime, &InstanceFilter::new(), limit).await, all.instances, "in pages of {limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cursor_stays_valid_while_instances_come_and_go() {
    // Between two pages the last listed instance is deleted, and new ones start before and after
    // the cursor. The others are listed once each, in order, and the list ends.
    let (store, workflow) = (MemoryStore::new(), parked("a", "1"));
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    for n in 0..100 {
        let handle = runtime.start(&workflow, format!("{n:03}"), 1).await.unwrap();
        handle.cancel("enough", "ana").await.unwrap();
    }
    let filter = InstanceFilter::new().workflow("a").status(StatusCode::Cancelled);
    let (mut given, mut cursor, mut deleted) = (Vec::new(), None, Vec::new());
    loop {
        let page = runtime.list(&filter, cursor.as_ref(), 7).await.unwrap();
        given.extend(page.instances.iter().map(|one| one.instance.to_string()));
        let Some(next) = page.next else { break };
        let last = page.instances.last().unwrap().instance.clone();
        within(runtime.delete(&last)).await.unwrap();
        deleted.push(last.to_string());
        for name in [format!("{last} after"), format!("0 before {last}")] {
            runtime.start(&workflow, &name, 1).await.unwrap().cancel("enough", "ana").await.unwrap();
        }
        cursor = Some(next);
    }
    assert!(given.is_sorted(), "{given:?}");
    let old: Vec<_> = given.iter().filter(|name| name.len() == 3).cloned().collect();
    assert_eq!(old, (0..100).map(|n| format!("{n:03}")).collect::<Vec<_>>());
    assert_eq!(given.iter().filter(|name| name.ends_with("after")).count(), deleted.len(), "new ones after the cursor");
    assert_eq!(given.iter().filter(|name| name.starts_with("0 before")).count(), 0, "new ones before it");
}

#[test]
fn invalid_cursor_text_is_refused() {
    // Texts that lack a part, or have another in its place.
    let hash = "0".repeat(64);
    for text in ["", "4", "x", "8id", "7", "4id", &format!("4{hash}"), &format!("4{}gid", &hash[1..]), "ü7id"] {
        assert_eq!(text.parse::<ListCursor>(), Err(ParseCursorError), "`{text}`");
    }
    for text in ["7id", &format!("4{hash}id"), &format!("0{hash}ä/ ✓")] {
        assert_eq!(text.parse::<ListCursor>().unwrap().to_string(), *text);
    }
}

#[cfg(feature = "file-store")]
#[tokio::test(flavor = "multi_thread")]
async fn list_after_shutdown_is_refused_as_such() {
    // The store is closed.
    let directory = tempfile::tempdir().unwrap();
    let store = common::open(directory.path()).await;
    let runtime = Runtime::builder(store).register(&parked("a", "1")).start().await.unwrap();
    runtime.shutdown(Duration::ZERO).await;
    assert_eq!(runtime.list(&InstanceFilter::new(), None, 7).await, Err(everstep::ListError::ShuttingDown));
    assert_eq!(runtime.count(&InstanceFilter::new()).await, Err(everstep::ListError::ShuttingDown));
}
