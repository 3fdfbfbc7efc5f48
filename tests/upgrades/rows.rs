//! An upgrade moves no value: stored values stay at their place, and heads stay small.

use std::convert::Infallible;
use std::time::Duration;

use everstep::machine::{RowKey, RowPlace};
use everstep::{
    Builder, Concurrency, DefinitionHash, InstanceHandle, InstanceId, LoopLimit, LoopResult, MemoryStore, NodePath,
    RunId, StatusCode, Store as _, UpgradeFrom, Workflow,
};

use crate::common::{Gate, holding, reach_code, same, within};
use crate::{grow, runtime};

/// The most bytes of a head after an upgrade, whatever its instance holds.
const HEAD_BYTES: usize = 1_000;

async fn head_bytes(store: &MemoryStore) -> usize {
    store.load(&InstanceId::new("id").unwrap()).await.unwrap().unwrap().head.len()
}

/// Returns the result of a branch as it was stored in an era.
async fn branch_row(
    store: &MemoryStore,
    run: RunId,
    era: u32,
    path: &str,
    index: u32,
) -> Option<everstep::bytes::Bytes> {
    let place = RowPlace { era, ..RowPlace::new(NodePath::new(path), []) };
    store.row(run, &RowKey::Branch(place, index)).await.unwrap()
}

/// Returns a builder of the version that upgrades `older`.
fn version<I: serde::de::DeserializeOwned + Send + 'static>(version: &str, older: DefinitionHash) -> Builder<I, I> {
    Workflow::builder("w").version(version).upgrades_from(older).taking::<I>()
}

async fn list(n: u32) -> Result<Vec<u32>, Infallible> {
    Ok((0..n).collect())
}

async fn text(n: u32) -> Result<String, Infallible> {
    Ok(format!("{n:0>120}"))
}

async fn bytes((texts, n): (Vec<String>, u32)) -> Result<usize, Infallible> {
    Ok(texts.iter().map(String::len).sum::<usize>() + n as usize)
}

/// Method: an instance is parked after a map of 10,000 results. The newer definition renames the
/// task before the map, and has one task more. Measure the head after each of its writes.
#[tokio::test(flavor = "multi_thread")]
async fn head_stays_small_after_upgrade_with_long_list() {
    let build = |builder: Builder<u32, u32>, name: &str, more: bool| {
        let each = builder.then(name, list).map("each", Concurrency::Unlimited, |b| b.then("text", text));
        let end = each.wait_for_signal_keeping::<u32>("wait", "go").then("bytes", bytes);
        if more { end.then("more", same).build().unwrap() } else { end.build().unwrap() }
    };
    let old = build(Workflow::builder_for("w"), "list", false);
    let store = MemoryStore::new();
    let first = runtime(&store, &old).await;
    let handle = first.start(&old, "id", 10_000).await.unwrap();
    let mut watch = handle.watch().await.unwrap();
    let is_parked = async { while watch.next().await.unwrap().code() != StatusCode::AwaitingSignal {} };
    tokio::time::timeout(Duration::from_mins(1), is_parked).await.unwrap();
    first.shutdown(Duration::ZERO).await;
    let upgrade_from = UpgradeFrom::of(old.hash()).renamed("list", "numbers");
    let new = build(Workflow::builder("w").upgrades_from(upgrade_from).taking::<u32>(), "numbers", true);
    let second = runtime(&store, &new).await;
    let handle = second.handle(&new, "id").await.unwrap();
    for _ in 0..2 {
        within(handle.pause("why", "who")).await.unwrap();
        assert!(head_bytes(&store).await < HEAD_BYTES, "{} bytes", head_bytes(&store).await);
        within(handle.unpause()).await.unwrap();
        assert!(head_bytes(&store).await < HEAD_BYTES, "{} bytes", head_bytes(&store).await);
    }
    within(handle.signal("go", &2_u32)).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(120 * 10_000 + 2));
}

/// Method: a result of 1 MB is carried past a wait, into a fork of sixteen; its task is renamed.
#[tokio::test(flavor = "multi_thread")]
async fn large_result_of_renamed_task_stays_in_its_row() {
    async fn large(n: u32) -> Result<String, Infallible> {
        Ok("x".repeat(n as usize))
    }
    async fn count((text, _): (String, u32)) -> Result<usize, Infallible> {
        Ok(text.len())
    }
    async fn sum(counts: std::collections::BTreeMap<String, usize>) -> Result<usize, Infallible> {
        Ok(counts.values().sum())
    }
    let build = |builder: Builder<u32, u32>, name: &str| {
        let fork = builder.then(name, large).fork_by_name::<usize>("fork", |fork| {
            (0..16).fold(fork, |fork, n| {
                let chain =
                    |b: Builder<String, String>| b.wait_for_signal_keeping::<u32>("wait", "go").then("count", count);
                fork.branch(format!("{n}"), chain)
            })
        });
        fork.join("sum", sum).build().unwrap()
    };
    let old = build(Workflow::builder_for("w"), "large");
    let store = MemoryStore::new();
    let first = runtime(&store, &old).await;
    let handle = first.start(&old, "id", 1_000_000).await.unwrap();
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    let run = handle.run_id();
    first.shutdown(Duration::ZERO).await;
    let upgrade_from = UpgradeFrom::of(old.hash()).renamed("large", "big");
    let new = build(Workflow::builder("w").upgrades_from(upgrade_from).taking::<u32>(), "big");
    let second = runtime(&store, &new).await;
    let handle = second.handle(&new, "id").await.unwrap();
    within(handle.pause("why", "who")).await.unwrap();
    within(handle.unpause()).await.unwrap();
    let frames = store.rows(run, RowKey::FRAMES, None).await.unwrap();
    assert_eq!(frames.len(), 16);
    for bytes in frames.iter().map(|(_, row)| row.len()).chain([head_bytes(&store).await]) {
        assert!(bytes < HEAD_BYTES, "{bytes} bytes");
    }
    for _ in 0..16 {
        within(handle.signal("go", &1_u32)).await.unwrap();
    }
    assert_eq!(within(handle.result()).await, Ok(16_000_000));
    assert_eq!(handle.task_result::<String>("big").await.unwrap().unwrap().len(), 1_000_000);
}

/// Method: of three branches one ends in each version. Each result is read under the version that
/// the fork began in, and must be there as it was written.
#[tokio::test(flavor = "multi_thread")]
async fn fork_keeps_ended_branches_over_two_upgrades() {
    type Three = std::collections::BTreeMap<String, String>;
    let build = |builder: Builder<String, String>, before: usize| {
        // More nodes at the front, so that every node's number changes.
        let builder = (0..before).fold(builder, |b, n| b.delay(format!("before {n}"), Duration::from_hours(1)));
        let fork = builder.fork_by_name::<String>("fork", |fork| {
            ["a", "b", "c"].into_iter().fold(fork, |fork, name| {
                fork.branch(name, |b| b.wait_for_signal::<String>("wait", name).then("grow", grow))
            })
        });
        fork.join("join", same::<Three>).build().unwrap()
    };
    let first = build(Workflow::builder_for("w"), 0);
    let second = build(version("2", first.hash()), 1);
    let third = build(version("3", second.hash()), 2);
    let store = MemoryStore::new();
    let mut rows = Vec::new();
    for (index, (workflow, name)) in (0..).zip([(&first, "a"), (&second, "b"), (&third, "c")]) {
        let runtime = runtime(&store, workflow).await;
        let handle: InstanceHandle<Three> = match index {
            0 => runtime.start(workflow, "id", "x".to_owned()).await.unwrap(),
            _ => runtime.handle(workflow, "id").await.unwrap(),
        };
        within(handle.signal(name, &name.to_owned())).await.unwrap();
        let run = handle.run_id();
        within(async {
            while branch_row(&store, run, 0, "fork", index).await.is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        rows.push(branch_row(&store, run, 0, "fork", index).await);
        for (before, row) in (0..).zip(&rows) {
            assert_eq!(&branch_row(&store, run, 0, "fork", before).await, row, "branch {before} is written once");
            assert_eq!(branch_row(&store, run, index, "fork", before).await.filter(|_| index > 0), None);
        }
        assert!(head_bytes(&store).await < HEAD_BYTES);
        if index == 2 {
            let expected = ["a", "b", "c"].map(|name| (name.to_owned(), name.repeat(100)));
            assert_eq!(within(handle.result()).await, Ok(expected.into()));
            for (name, grown) in expected_results() {
                assert_eq!(handle.task_result::<String>(&format!("fork/{name}/grow")).await.unwrap(), Some(grown));
            }
        }
        runtime.shutdown(Duration::ZERO).await;
    }
}

fn expected_results() -> [(&'static str, String); 3] {
    ["a", "b", "c"].map(|name| (name, name.repeat(100)))
}

/// Method: items one after the other, an item in each of three versions; the list is in rows of the
/// first one.
#[tokio::test(flavor = "multi_thread")]
async fn map_continues_item_by_item_over_two_upgrades() {
    let gate = Gate::new();
    let build = |builder: Builder<Vec<String>, Vec<String>>, before: usize| {
        let builder = (0..before).fold(builder, |b, n| b.delay(format!("before {n}"), Duration::from_hours(1)));
        let item = |item: Builder<String, String>| item.then("hold", holding(&gate)).then("grow", grow);
        builder.map("each", Concurrency::AtMost(1), item).build().unwrap()
    };
    let first = build(Workflow::builder_for("w"), 0);
    let second = build(version("2", first.hash()), 1);
    let third = build(version("3", second.hash()), 2);
    let store = MemoryStore::new();
    let items: Vec<String> = (0..4).map(|n| format!("{n}").repeat(200)).collect();
    let mut run = None;
    for workflow in [&first, &second, &third] {
        let runtime = runtime(&store, workflow).await;
        if run.is_none() {
            run = Some(runtime.start(workflow, "id", items.clone()).await.unwrap().run_id());
        }
        // The item that was in progress when the runtime stopped, and the next one.
        gate.entered().await;
        gate.open(1);
        gate.entered().await;
        assert!(head_bytes(&store).await < HEAD_BYTES);
        runtime.shutdown(Duration::ZERO).await;
    }
    let runtime = runtime(&store, &third).await;
    let handle = runtime.handle(&third, "id").await.unwrap();
    gate.open(1);
    let expected: Vec<_> = items.iter().map(|item| item.repeat(100)).collect();
    assert_eq!(within(handle.result()).await.as_ref(), Ok(&expected));
    for (index, grown) in (0..).zip(expected) {
        assert_eq!(handle.task_result_at::<String>("each/grow", &[index]).await.unwrap(), Some(grown), "item {index}");
    }
}

/// Method: a loop maps lists of 3, 1 and no items, each as often as the gate lets it. Items past
/// the end of the latest list have no result. The last list is split after an upgrade.
#[tokio::test(flavor = "multi_thread")]
async fn items_beyond_a_shorter_list_have_no_result() {
    async fn shrink(items: Vec<String>) -> Result<LoopResult<Vec<String>, Vec<String>>, Infallible> {
        let left = items.len().saturating_sub(2);
        Ok(LoopResult::Again(vec!["x".repeat(200); left]))
    }
    let gate = Gate::new();
    let build = |builder: Builder<Vec<String>, Vec<String>>| {
        let body = |b: Builder<Vec<String>, Vec<String>>| {
            let each = b.map("each", Concurrency::Unlimited, |item: Builder<String, String>| item.then("same", same));
            each.then("hold", holding(&gate)).then("shrink", shrink)
        };
        builder.repeat("loop", LoopLimit::Unlimited, body).build().unwrap()
    };
    let old = build(Workflow::builder_for("w"));
    let new = build(version("2", old.hash()));
    let store = MemoryStore::new();
    let first = runtime(&store, &old).await;
    let handle = first.start(&old, "id", vec!["x".repeat(200); 3]).await.unwrap();
    let found = async |handle: &InstanceHandle<Vec<String>>| {
        let mut found = Vec::new();
        for index in 0..4 {
            found.push(handle.task_result_at::<String>("loop/each/same", &[index]).await.unwrap().is_some());
        }
        found
    };
    gate.entered().await;
    assert_eq!(found(&handle).await, [true, true, true, false]);
    gate.open(1);
    gate.entered().await;
    assert_eq!(found(&handle).await, [true, false, false, false]);
    first.shutdown(Duration::ZERO).await;
    let second = runtime(&store, &new).await;
    let handle = second.handle(&new, "id").await.unwrap();
    gate.entered().await;
    assert_eq!(found(&handle).await, [true, false, false, false], "the list is older than the upgrade");
    gate.open(1);
    gate.entered().await;
    assert_eq!(found(&handle).await, [false; 4]);
}
