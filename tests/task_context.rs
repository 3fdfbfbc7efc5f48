//! Inputs of a task besides its value: services, the context of its attempt, and the key of its
//! position.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{still_clock, within};
use everstep::{
    Concurrency, Dep, LoopLimit, LoopResult, MemoryStore, Priority, RetryPolicy, RunOnce, RunOnceError, Runtime,
    TaskContext, Timestamp, Workflow, task,
};
use tokio::sync::mpsc::unbounded_channel;

const SECOND: Duration = Duration::from_secs(1);

trait Greeter: Send + Sync {
    fn greet(&self, name: &str) -> String;
}

struct Polite;

impl Greeter for Polite {
    fn greet(&self, name: &str) -> String {
        format!("good day, {name}")
    }
}

async fn greet(
    name: String,
    Dep(greeter): Dep<dyn Greeter>,
    context: TaskContext,
    Dep(count): Dep<AtomicU32>,
) -> Result<String, Infallible> {
    Ok(format!("{} ({} {})", greeter.greet(&name), count.fetch_add(1, Ordering::SeqCst), context.attempt()))
}

async fn shout(text: String, context: TaskContext, Dep(count): Dep<AtomicU32>) -> Result<String, Infallible> {
    Ok(format!("{} {} {}", text.to_uppercase(), count.load(Ordering::SeqCst), context.node()))
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_context_come_in_any_order() {
    // Two tasks that take the same inputs in different order, in a runtime and in memory.
    let workflow = Workflow::builder("w").then("greet", greet).then("shout", task(shout).blocking()).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).provide(AtomicU32::new(5));
    let runtime = builder.provide_arc::<dyn Greeter>(Arc::new(Polite)).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", "ana".to_owned()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), "GOOD DAY, ANA (5 1) 6 shout");
    let once = RunOnce::new(&workflow).provide(AtomicU32::new(1)).provide_arc::<dyn Greeter>(Arc::new(Polite));
    assert_eq!(once.run("bo".to_owned()).await.unwrap(), "GOOD DAY, BO (1 1) 2 shout");
    let error = workflow.run_once("bo".to_owned()).await.unwrap_err();
    let RunOnceError::MissingDeps(missing) = error else { panic!("{error:?}") };
    assert_eq!(missing.len(), 3, "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn task_context_names_attempt_and_key_of_its_position() {
    // Two tasks in two instances, the first with two attempts. All contexts are collected; their
    // keys are equal where only the attempt differs, and nowhere else.
    let (told, mut contexts) = unbounded_channel::<TaskContext>();
    let tell = move |n: u32, context: TaskContext| {
        told.send(context.clone()).unwrap();
        let again = context.node().as_str() == "first" && context.attempt() == 1;
        ready(if again { Err("again") } else { Ok(n) })
    };
    let first = task(tell.clone()).retry(RetryPolicy::fixed(1, Duration::ZERO)).timeout(SECOND).tag("x").tag("y");
    let first = first.priority(Priority::High).version("v7").display_name("First").description("the first");
    let workflow = Workflow::builder("named")
        .version("3")
        .description("text")
        .metadata("team", "blue")
        .then("first", first)
        .then("second", task(tell))
        .build()
        .unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(still_clock());
    let runtime = builder.start().await.unwrap();
    let mut keys = std::collections::BTreeMap::<String, Vec<(String, String)>>::new();
    for id in ["a", "b"] {
        let handle = runtime.start(&workflow, id, 1).await.unwrap();
        within(handle.result()).await.unwrap();
        for (node, attempt) in [("first", 1), ("first", 2), ("second", 1)] {
            let context = contexts.try_recv().unwrap();
            let place = (context.instance().as_str(), context.node().as_str(), context.attempt(), context.run());
            assert_eq!(place, (id, node, attempt, handle.run_id()));
            let info = context.workflow();
            assert_eq!((info.name(), info.version(), info.description()), ("named", "3", Some("text")));
            assert_eq!(info.metadata().get("team").map(String::as_str), Some("blue"));
            let options = context.options();
            if node == "first" {
                assert_eq!(
                    (options.tags(), options.priority()),
                    (&["x".to_owned(), "y".to_owned()][..], Priority::High)
                );
                assert_eq!((options.version(), options.timeout()), ("v7", Some(SECOND)));
                assert_eq!((options.display_name(), options.description()), (Some("First"), Some("the first")));
                assert_eq!(context.deadline(), Some(Timestamp::from_micros(1_800_000_001_000_000)));
            } else {
                assert_eq!((options.priority(), context.deadline()), (Priority::Normal, None));
            }
            let place = (id.to_owned(), node.to_owned());
            keys.entry(context.idempotency_key()).or_default().push(place);
        }
    }
    assert_eq!(keys.len(), 4, "{keys:?}");
    assert!(keys.keys().all(|key| key.len() == 64));
    assert!(keys.values().all(|places| places.iter().all(|place| *place == places[0])), "{keys:?}");
}

/// Method: a task takes a guard of its token and drops it, as tasks do to stop helpers, in a
/// runtime and in memory.
#[tokio::test(flavor = "multi_thread")]
async fn task_cancelling_its_own_token_ends_as_usual() {
    let guarded = async |n: u32, context: TaskContext| {
        let helper = context.cancellation().clone();
        drop(context.cancellation().clone().drop_guard());
        tokio::task::yield_now().await;
        if helper.is_cancelled() { Ok(n + 1) } else { Err("a helper still runs") }
    };
    let plain = Workflow::builder("plain").then("guarded", guarded).build().unwrap();
    let timed = Workflow::builder("timed").then("guarded", task(guarded).timeout(SECOND)).build().unwrap();
    let blocking = Workflow::builder("blocking").then("guarded", task(guarded).blocking()).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&plain).register(&timed).register(&blocking);
    let runtime = builder.start().await.unwrap();
    for (id, workflow) in [("plain", plain), ("timed", timed), ("blocking", blocking)] {
        let handle = runtime.start(&workflow, id, 1).await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(2));
        assert_eq!(within(workflow.run_once(1)).await.unwrap(), 2);
    }
}

/// Method: tasks in a map within a loop report their indices.
#[tokio::test(flavor = "multi_thread")]
async fn indices_count_iterations_from_one_and_items_from_zero() {
    let (told, mut indices) = unbounded_channel::<Vec<u64>>();
    let tell = move |n: u32, context: TaskContext| {
        told.send(context.indices().to_vec()).unwrap();
        ready(Ok::<_, Infallible>(n))
    };
    let workflow = Workflow::builder_for::<Vec<u32>>("w")
        .repeat("twice", LoopLimit::AtMost(2), |body| {
            let body = body.map("each", Concurrency::AtMost(1), |item| item.then("tell", tell.clone()));
            body.then("again", async |list: Vec<u32>, context: TaskContext| {
                let is_last = context.indices() == [2];
                Ok::<_, Infallible>(if is_last { LoopResult::Done(list) } else { LoopResult::Again(list) })
            })
        })
        .build()
        .unwrap();
    workflow.run_once(vec![7, 8]).await.unwrap();
    let told: Vec<_> = std::iter::from_fn(|| indices.try_recv().ok()).collect();
    assert_eq!(told, [[1, 0], [1, 1], [2, 0], [2, 1]]);
}
