//! Instances of an older definition continue on a newer one, or are left unchanged.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;
#[path = "upgrades/manifests.rs"]
mod manifests;
#[path = "upgrades/names.rs"]
mod names;
#[path = "upgrades/rows.rs"]
mod rows;
#[path = "common/through.rs"]
mod through;

use std::convert::Infallible;
use std::time::Duration;

use common::{Gate, holding, inc, reach_code, same, still_clock, within};
use everstep::{
    BuildError, Builder, Concurrency, ConflictPolicy, InstanceHandle, InstanceId, MemoryStore, MessageError, Runtime,
    RuntimeError, StatusCode, Store, UpgradeFrom, Workflow,
};

const HOUR: Duration = Duration::from_hours(1);

/// Starts a runtime with one workflow.
async fn runtime<I, O: 'static>(store: &MemoryStore, workflow: &Workflow<I, O>) -> Runtime {
    Runtime::builder(store.clone()).register(workflow).clock(still_clock()).start().await.unwrap()
}

async fn grow(text: String) -> Result<String, Infallible> {
    Ok(text.repeat(100))
}

async fn shout(text: String) -> Result<String, Infallible> {
    Ok(text + "!")
}

/// Parks an instance of the old workflow at its wait, and returns the store.
async fn parked<O: 'static>(old: &Workflow<String, O>, input: &str) -> MemoryStore {
    let store = MemoryStore::new();
    let runtime = runtime(&store, old).await;
    let handle = runtime.start(old, "id", input.to_owned()).await.unwrap();
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    store
}

async fn send_and_finish<O: PartialEq + std::fmt::Debug + 'static>(handle: &InstanceHandle<O>, expected: O) {
    within(handle.signal("go", &"word".to_owned())).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(expected));
}

/// Adds a fork of `grow` beside a wait, joined.
fn forked(
    builder: Builder<String, String>,
    fork: &str,
    [first, second]: [&str; 2],
    signal: &str,
) -> Workflow<String, (String, String)> {
    let fork = builder.fork(fork, |fork| {
        let fork = fork.branch(first, |b| b.then("grow", grow));
        fork.branch(second, |b| b.wait_for_signal::<String>("wait", signal))
    });
    fork.join("join", same).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_instance_continues_on_the_newer_definition() {
    // The wait is renamed, a task after it added, and the task before it renamed, whose result is
    // too large for the head.
    let old = Workflow::builder("w").then("grow", grow).wait_for_signal_keeping::<String>("wait", "go");
    let old = old.build().unwrap();
    let store = parked(&old, "ab").await;
    let upgrade_from = UpgradeFrom::of(old.hash()).renamed("grow", "extend").renamed("wait", "approval");
    let new = Workflow::builder("w").version("2").upgrades_from(upgrade_from).then("extend", grow);
    let new = new.wait_for_signal_keeping::<String>("approval", "go").then("join", same).build().unwrap();
    let runtime = runtime(&store, &new).await;
    assert!(runtime.report().unregistered.is_empty(), "the instance is upgraded, not left alone");
    let handle = runtime.handle(&new, "id").await.unwrap();
    let found = common::with(ConflictPolicy::UseExisting);
    let found = within(runtime.start_with(&new, "id", "other".to_owned(), found)).await.unwrap().existing.unwrap();
    assert_eq!(found.status, handle.status().await.unwrap());
    send_and_finish(&handle, ("ab".repeat(100), "word".to_owned())).await;
    assert_eq!(handle.task_result::<String>("extend").await.unwrap(), Some("ab".repeat(100)));
    assert!(runtime.left_alone().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_within_a_fork_keeps_ended_branches() {
    // One branch has ended with a large result, one waits; the newer definition renames and adds
    // nodes in both.
    let old = forked(Workflow::builder_for("w"), "fork", ["a", "b"], "go");
    let store = parked(&old, "ab").await;
    let upgrade_from = UpgradeFrom::of(old.hash()).renamed("fork/b/wait", "fork/b/hold on").renamed("join", "merge");
    let new = Workflow::builder("w")
        .upgrades_from(upgrade_from)
        .taking::<String>()
        .delay("new before", HOUR)
        .fork("fork", |fork| {
            fork.branch("a", |b| b.then("grow", grow).then("new", shout))
                .branch("b", |b| b.wait_for_signal::<String>("hold on", "go").then("shout", shout))
        })
        .join("merge", same::<(String, String)>)
        .build()
        .unwrap();
    let runtime = runtime(&store, &new).await;
    let handle = runtime.handle(&new, "id").await.unwrap();
    // The first branch had ended, so its new nodes do not run.
    send_and_finish(&handle, ("ab".repeat(100), "word!".to_owned())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_within_a_map_continues_item_by_item() {
    // One item after the other: the first has ended, the second runs when its runtime stops. The
    // next runtime upgrades the instance by itself when it starts, with the same item.
    let gate = Gate::new();
    let build = |older: &str| {
        let empty = Workflow::builder("w");
        let old: Option<everstep::DefinitionHash> = older.parse().ok();
        let builder = match old {
            Some(old) => empty.upgrades_from(old).taking::<Vec<String>>(),
            None => empty.taking::<Vec<String>>(),
        };
        let map =
            builder.map("each", Concurrency::AtMost(1), |item| item.then("hold", holding(&gate)).then("grow", grow));
        if old.is_some() { map.then("new", same::<Vec<String>>).build().unwrap() } else { map.build().unwrap() }
    };
    let (old, store) = (build("none"), MemoryStore::new());
    let first = runtime(&store, &old).await;
    let items: Vec<String> = ["ab", "cd", "ef"].map(str::to_owned).to_vec();
    first.start(&old, "id", items).await.unwrap();
    gate.entered().await;
    gate.open(1);
    gate.entered().await;
    first.shutdown(Duration::ZERO).await;
    let new = build(&old.hash().to_string());
    let second = runtime(&store, &new).await;
    gate.open(2);
    let handle = second.handle(&new, "id").await.unwrap();
    let expected: Vec<_> = ["ab", "cd", "ef"].map(|text| text.repeat(100)).to_vec();
    assert_eq!(within(handle.result()).await, Ok(expected));
    assert_eq!(gate.count(), 4, "the item in progress ran again, and no other");
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_without_a_place_is_unchanged_and_listed() {
    // Each newer definition lacks the instance's node in another way. The instance's bytes stay,
    // and the old definition continues it.
    let old = forked(Workflow::builder_for("w"), "fork", ["a", "b"], "go");
    let store = parked(&old, "ab").await;
    let id = InstanceId::new("id").unwrap();
    let before = store.load(&id).await.unwrap();
    let upgrade_from = || UpgradeFrom::of(old.hash());
    let taking = |upgrade_from| Workflow::builder("w").version("2").upgrades_from(upgrade_from).taking::<String>();
    let swapped = upgrade_from().renamed("fork/a/grow", "fork/b/grow").renamed("fork/b/wait", "fork/a/wait");
    let newer = [
        forked(taking(upgrade_from()), "fork", ["a", "c"], "go"),
        forked(taking(upgrade_from()), "fork", ["b", "a"], "go"),
        forked(taking(upgrade_from()), "fork", ["a", "b"], "other"),
        forked(taking(upgrade_from().renamed("fork", "work")), "work", ["a", "b"], "go"),
        forked(taking(swapped), "fork", ["b", "a"], "go"),
    ];
    for new in newer {
        let runtime = runtime(&store, &new).await;
        let handle = runtime.handle(&new, "id").await.unwrap();
        let sent = within(handle.signal("go", &"word".to_owned())).await;
        assert!(matches!(sent, Err(MessageError::CannotUpgrade(_))), "{sent:?}");
        let [left_alone] = &runtime.left_alone()[..] else { panic!("{new:?}: {:?}", runtime.left_alone()) };
        assert_eq!((&left_alone.instance, left_alone.definition), (&id, Some(old.hash())));
        assert_eq!(handle.status().await.unwrap().code(), StatusCode::AwaitingSignal);
        assert_eq!(store.load(&id).await.unwrap(), before, "{}", left_alone.why);
    }
    let runtime = runtime(&store, &old).await;
    send_and_finish(&runtime.handle(&old, "id").await.unwrap(), ("ab".repeat(100), "word".to_owned())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_run_side_by_side() {
    // The older definition is registered as well, so its instance stays there although the newer
    // one could upgrade it.
    let old = Workflow::builder("w").then("inc", inc).wait_for_signal::<u32>("wait", "go").build().unwrap();
    let new = Workflow::builder("w").version("2").upgrades_from(old.hash()).then("inc", inc);
    let new = new.wait_for_signal::<u32>("wait", "go").then("again", inc).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&old).register(&new);
    let runtime = builder.start().await.unwrap();
    let (one, two) = (runtime.start(&old, "one", 1).await.unwrap(), runtime.start(&new, "two", 1).await.unwrap());
    for handle in [&one, &two] {
        reach_code(handle, StatusCode::AwaitingSignal).await;
        handle.signal("go", &5_u32).await.unwrap();
    }
    assert_eq!((within(one.result()).await, within(two.result()).await), (Ok(5), Ok(6)));
}

#[tokio::test(flavor = "multi_thread")]
async fn mistaken_upgrade_is_refused() {
    // A new name that is no node does not build; two workflows that upgrade the same one do not
    // start.
    let old = common::waiting("w");
    let upgrade_from = UpgradeFrom::of(old.hash()).renamed("wait", "nowhere");
    let errors = Workflow::builder("w").upgrades_from(upgrade_from).then("inc", inc).build().unwrap_err().0;
    assert_eq!(errors, [BuildError::UnknownNewName { renamed: "wait".into(), path: "nowhere".into() }]);
    let new =
        |version| Workflow::builder("w").version(version).upgrades_from(old.hash()).then("inc", inc).build().unwrap();
    let started = Runtime::builder(MemoryStore::new()).register(&new("2")).register(&new("3")).start().await;
    assert_eq!(started.unwrap_err(), RuntimeError::UpgradedTwice { older: old.hash() });
}
