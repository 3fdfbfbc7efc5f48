//! Recorded results are found by the present name of their task.

use std::convert::Infallible;

use everstep::{
    Builder, InstanceHandle, LoopLimit, LoopResult, MemoryStore, Runtime, StatusCode, UpgradeFrom, Workflow,
};

use crate::common::{Gate, holding, inc, reach_code, within};
use crate::{grow, runtime};

async fn hundred(n: u32) -> Result<u32, Infallible> {
    Ok(n + 100)
}

type Numbers = Workflow<u32, u32>;

/// Returns the recorded results of tasks, in their order.
async fn results(handle: &InstanceHandle<u32>, tasks: &[&str]) -> Vec<Option<u32>> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(within(handle.task_result(task)).await.unwrap());
    }
    results
}

/// Parks an instance of `first` at its wait, for input 1.
async fn parked(first: &Numbers) -> MemoryStore {
    let store = MemoryStore::new();
    let runtime = runtime(&store, first).await;
    reach_code(&runtime.start(first, "id", 1).await.unwrap(), StatusCode::AwaitingSignal).await;
    store
}

/// Upgrades the instance, by a message that changes nothing else.
async fn upgraded<T: 'static>(store: &MemoryStore, newer: &Workflow<T, T>) -> (Runtime, InstanceHandle<T>) {
    let runtime = runtime(store, newer).await;
    let handle = runtime.handle(newer, "id").await.unwrap();
    within(handle.pause("why", "who")).await.unwrap();
    within(handle.unpause()).await.unwrap();
    assert!(runtime.left_alone().is_empty());
    (runtime, handle)
}

/// Returns a builder of the version that upgrades `older`, with these names changed.
fn version(version: &str, older: &Numbers, renamed: &[(&str, &str)]) -> Builder<u32, u32> {
    let upgrade_from =
        renamed.iter().fold(UpgradeFrom::of(older.hash()), |upgrade_from, (old, new)| upgrade_from.renamed(*old, *new));
    Workflow::builder("w").version(version).upgrades_from(upgrade_from).taking::<u32>()
}

fn waiting(builder: Builder<u32, u32>) -> Builder<u32, u32> {
    builder.wait_for_signal::<u32>("wait", "go")
}

/// Method: `a` becomes `b`, and another task gets its name. Read each result before and after that
/// one has run.
#[tokio::test(flavor = "multi_thread")]
async fn task_at_freed_name_has_its_own_result() {
    let old = waiting(Workflow::builder_for("w").then("a", hundred)).build().unwrap();
    let store = parked(&old).await;
    let new = waiting(version("2", &old, &[("a", "b")]).then("b", hundred)).then("a", inc);
    let new = new.wait_for_signal::<u32>("end", "end").build().unwrap();
    let (runtime, handle) = upgraded(&store, &new).await;
    assert_eq!(results(&handle, &["a", "b"]).await, [None, Some(101)]);
    within(handle.signal("go", &1_u32)).await.unwrap();
    within(async {
        while results(&handle, &["a"]).await == [None] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(results(&handle, &["a", "b"]).await, [Some(2), Some(101)]);
    drop(runtime);
    // Once more: now both have another name, and a third task has that of the first.
    let renamed = [("a", "c"), ("b", "a")];
    let newest = version("3", &new, &renamed).then("a", hundred).wait_for_signal::<u32>("wait", "go").then("c", inc);
    let newest = newest.wait_for_signal::<u32>("end", "end").then("b", inc).build().unwrap();
    let (_runtime, handle) = upgraded(&store, &newest).await;
    assert_eq!(results(&handle, &["a", "b", "c"]).await, [Some(101), None, Some(2)]);
    within(handle.signal("end", &7_u32)).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(8));
    assert_eq!(results(&handle, &["a", "b", "c"]).await, [Some(101), Some(8), Some(2)]);
}

/// Method: three upgrades, each with a new name; the last one is back to the first definition.
#[tokio::test(flavor = "multi_thread")]
async fn result_is_found_after_several_renames_and_a_way_back() {
    let named = |builder: Builder<u32, u32>, name: &str| waiting(builder.then(name, hundred)).build().unwrap();
    let first = named(Workflow::builder_for("w"), "a");
    let store = parked(&first).await;
    let second = named(version("2", &first, &[("a", "b")]), "b");
    let third = named(version("3", &second, &[("b", "c")]), "c");
    for (newer, name) in [(&second, "b"), (&third, "c")] {
        let (_runtime, handle) = upgraded(&store, newer).await;
        assert_eq!(results(&handle, &[name]).await, [Some(101)]);
    }
    let back = Workflow::builder("w").upgrades_from(UpgradeFrom::of(third.hash()).renamed("c", "a")).taking::<u32>();
    let back = named(back, "a");
    assert_eq!(back.hash(), first.hash());
    let (_runtime, handle) = upgraded(&store, &back).await;
    assert_eq!(results(&handle, &["a"]).await, [Some(101)]);
    within(handle.signal("go", &7_u32)).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(7));
}

/// Method: two tasks swap names in the newer definition.
#[tokio::test(flavor = "multi_thread")]
async fn results_of_tasks_that_swap_names_swap_with_them() {
    let old = waiting(Workflow::builder_for("w").then("a", hundred).then("b", inc)).build().unwrap();
    let store = parked(&old).await;
    let new = version("2", &old, &[("a", "b"), ("b", "a")]).then("b", hundred).then("a", inc);
    let new = waiting(new).build().unwrap();
    let (_runtime, handle) = upgraded(&store, &new).await;
    assert_eq!(results(&handle, &["a", "b"]).await, [Some(102), Some(101)]);
}

/// Starts an instance that consumes one signal, and stops its runtime.
async fn park_after_signal(store: &MemoryStore, old: &Workflow<String, String>, name: &str, payload: &str) {
    let first = runtime(store, old).await;
    let handle = first.start(old, "id", String::new()).await.unwrap();
    within(handle.signal(name, &payload.to_owned())).await.unwrap();
    first.shutdown(std::time::Duration::ZERO).await;
}

/// Method: a large signal payload is stored like a result; then a task has the name of the wait.
#[tokio::test(flavor = "multi_thread")]
async fn payload_of_wait_is_no_result_of_task_in_its_place() {
    let old = Workflow::builder_for::<String>("w").wait_for_signal::<String>("a", "first");
    let old = old.wait_for_signal::<String>("wait", "go").build().unwrap();
    let store = MemoryStore::new();
    park_after_signal(&store, &old, "first", &"word".repeat(100)).await;
    let new = Workflow::builder("w").upgrades_from(old.hash()).taking::<String>().then("a", grow);
    let new = new.wait_for_signal::<String>("wait", "go").build().unwrap();
    let runtime = runtime(&store, &new).await;
    let handle = runtime.handle(&new, "id").await.unwrap();
    assert_eq!(handle.task_result::<String>("a").await.unwrap(), None, "before the upgrade");
    within(handle.signal("go", &"end".to_owned())).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok("end".to_owned()));
    assert_eq!(handle.task_result::<String>("a").await.unwrap(), None);
}

/// Method: as above, but a version between has no node of that name.
#[tokio::test(flavor = "multi_thread")]
async fn payload_of_wait_is_no_result_of_later_task_of_its_name() {
    let old = Workflow::builder_for::<String>("w").wait_for_signal::<String>("a", "first");
    let old = old.wait_for_signal::<String>("wait", "go").build().unwrap();
    let store = MemoryStore::new();
    park_after_signal(&store, &old, "first", &"word".repeat(100)).await;
    let between = Workflow::builder("w").upgrades_from(old.hash()).taking::<String>();
    let between = between.wait_for_signal::<String>("wait", "go").build().unwrap();
    let (second, handle) = upgraded(&store, &between).await;
    drop(handle);
    second.shutdown(std::time::Duration::ZERO).await;
    let new = Workflow::builder("w").upgrades_from(between.hash()).taking::<String>().then("a", grow);
    let new = new.wait_for_signal::<String>("wait", "go").build().unwrap();
    let (_runtime, handle) = upgraded(&store, &new).await;
    assert_eq!(handle.task_result::<String>("a").await.unwrap(), None);
}

/// Method: an instance waits at a node to whose name another node is renamed, while its own stays.
#[tokio::test(flavor = "multi_thread")]
async fn instance_at_a_name_given_to_another_node_is_not_upgraded() {
    let old = Workflow::builder_for::<String>("w").wait_for_signal::<String>("first", "go");
    let old = old.wait_for_signal::<String>("wait", "go").build().unwrap();
    let store = MemoryStore::new();
    park_after_signal(&store, &old, "go", "word").await;
    let upgrade_from = UpgradeFrom::of(old.hash()).renamed("first", "wait");
    let new = Workflow::builder("w").version("2").upgrades_from(upgrade_from).taking::<String>();
    let new = new.wait_for_signal::<String>("wait", "go").build().unwrap();
    let runtime = runtime(&store, &new).await;
    let handle = runtime.handle(&new, "id").await.unwrap();
    let sent = within(handle.signal("go", &"end".to_owned())).await;
    assert!(matches!(sent, Err(everstep::MessageError::CannotUpgrade(_))), "{sent:?}");
}

/// Method: a run that has ended stays on its definition. The newer one has other names and numbers
/// for its nodes, and another task at the old name.
#[tokio::test(flavor = "multi_thread")]
async fn ended_run_is_read_by_names_of_newer_definition() {
    let old = Workflow::builder_for::<String>("w").then("a", grow).then("last", crate::shout).build().unwrap();
    let store = MemoryStore::new();
    let first = runtime(&store, &old).await;
    let handle = first.start(&old, "id", "ab".to_owned()).await.unwrap();
    let output = within(handle.result()).await.unwrap();
    first.shutdown(std::time::Duration::ZERO).await;
    let upgrade_from = UpgradeFrom::of(old.hash()).renamed("a", "b");
    let new = Workflow::builder("w").version("2").upgrades_from(upgrade_from).taking::<String>();
    let new = new.then("a", grow).then("b", grow).then("new", grow).then("last", crate::shout).build().unwrap();
    let runtime = runtime(&store, &new).await;
    let handle = runtime.handle(&new, "id").await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(output));
    assert_eq!(handle.task_result::<String>("a").await.unwrap(), None);
    assert_eq!(handle.task_result::<String>("b").await.unwrap(), Some("ab".repeat(100)));
}

/// Method: a task fails in the old definition; the newer one renames the previous task, whose large
/// result is its input.
#[tokio::test(flavor = "multi_thread")]
async fn failed_run_is_retried_by_newer_definition() {
    async fn fails(_: String) -> Result<String, &'static str> {
        Err("no")
    }
    let old = Workflow::builder_for::<String>("w").then("a", grow).then("b", fails).build().unwrap();
    let store = MemoryStore::new();
    let first = runtime(&store, &old).await;
    let handle = first.start(&old, "id", "ab".to_owned()).await.unwrap();
    within(handle.result()).await.unwrap_err();
    first.shutdown(std::time::Duration::ZERO).await;
    let upgrade_from = UpgradeFrom::of(old.hash()).renamed("a", "first").renamed("b", "a");
    let new = Workflow::builder("w").upgrades_from(upgrade_from).taking::<String>().then("first", grow);
    let new = new.then("a", crate::shout).then("b", crate::shout).build().unwrap();
    let runtime = runtime(&store, &new).await;
    let handle = runtime.handle(&new, "id").await.unwrap();
    within(handle.retry()).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok("ab".repeat(100) + "!!"));
    let result = async |task| handle.task_result::<String>(task).await.unwrap();
    assert_eq!(result("first").await, Some("ab".repeat(100)));
    assert_eq!(result("a").await, Some("ab".repeat(100) + "!"));
    assert_eq!(result("b").await, Some("ab".repeat(100) + "!!"));
}

/// Method: a loop runs one iteration before the upgrade that renames it, and one after it.
#[tokio::test(flavor = "multi_thread")]
async fn renamed_loop_shows_its_latest_iteration() {
    async fn until_five(n: u32) -> Result<LoopResult<u32, u32>, Infallible> {
        Ok(if n < 5 { LoopResult::Again(n) } else { LoopResult::Done(n) })
    }
    let gate = Gate::new();
    let body = |b: Builder<u32, u32>, name: &str| {
        let body = |b: Builder<u32, u32>| b.then("hold", holding(&gate)).then("inc", inc).then("until", until_five);
        b.repeat(name, LoopLimit::Unlimited, body).build().unwrap()
    };
    let old = body(Workflow::builder_for("w"), "loop");
    let store = MemoryStore::new();
    let first = runtime(&store, &old).await;
    first.start(&old, "id", 1).await.unwrap();
    gate.entered().await;
    gate.open(1);
    gate.entered().await;
    first.shutdown(std::time::Duration::ZERO).await;
    let new = body(version("2", &old, &[("loop", "round")]), "round");
    let second = runtime(&store, &new).await;
    gate.entered().await;
    let handle = second.handle(&new, "id").await.unwrap();
    assert_eq!(results(&handle, &["round/inc"]).await, [Some(2)]);
    gate.open(1);
    gate.entered().await;
    assert_eq!(results(&handle, &["round/inc"]).await, [Some(3)]);
    gate.open(9);
    assert_eq!(within(handle.result()).await, Ok(5));
    assert_eq!(results(&handle, &["round/inc"]).await, [Some(5)]);
}
