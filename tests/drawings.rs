//! Workflows as Mermaid flowcharts. The drawings in `tests/golden/drawings` are for readers too:
//! any Mermaid viewer shows them. `EVERSTEP_WRITE_GOLDEN=1 cargo test --test drawings` draws them
//! anew; look at them before you commit them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic anywhere")]

use std::convert::Infallible;
use std::time::Duration;

use everstep::{
    Builder, Concurrency, LoopLimit, LoopResult, Manifest, MemoryStore, Runtime, SignalOutcome, Store as _,
    TaskFailure, Workflow,
};
use proptest::prelude::*;

async fn same(n: u32) -> Result<u32, Infallible> {
    Ok(n)
}

async fn first((n, _): (u32, u32)) -> Result<u32, Infallible> {
    Ok(n)
}

async fn list(n: u32) -> Result<Vec<u32>, Infallible> {
    Ok(vec![n])
}

async fn sum(list: Vec<u32>) -> Result<u32, Infallible> {
    Ok(list.iter().sum())
}

async fn outcomes(list: Vec<Result<u32, TaskFailure>>) -> Result<Vec<u32>, Infallible> {
    Ok(list.into_iter().flatten().collect())
}

async fn kept((n, _): (u32, SignalOutcome<u32>)) -> Result<u32, Infallible> {
    Ok(n)
}

async fn done(n: u32) -> Result<LoopResult<u32, u32>, Infallible> {
    Ok(LoopResult::Done(n))
}

type Chain = Builder<u32, u32>;

/// Adds every kind of node; each node with chains holds one that `inner` makes.
fn every_kind(chain: Chain, inner: fn(Chain) -> Chain) -> Chain {
    let child = inner(Workflow::builder_for::<u32>("child")).build().unwrap();
    chain
        .then("task", same)
        .delay("delay", Duration::from_secs(1))
        .wait_for_signal::<u32>("wait", "go on")
        .fork("fork", |fork| fork.branch("left", inner).branch("right", |branch| branch.then("only", same)))
        .join("join", first)
        .route(
            "route",
            |n: &u32| n.to_string(),
            |route| route.arm("1".to_owned(), inner).arm("2".to_owned(), |arm| arm).otherwise(inner),
        )
        .repeat("loop", LoopLimit::Unlimited, |body| inner(body).then("last", done))
        .child("child", &child)
        .then("list", list)
        .map_collect("map with failures", Concurrency::Unlimited, inner)
        .then("list again", outcomes)
        .map("map", Concurrency::AtMost(2), inner)
        .then("sum", sum)
        .wait_for_signal_keeping_timeout::<u32>("wait a while", "more", Duration::from_secs(1))
        .then("kept", kept)
}

fn leaf(chain: Chain) -> Chain {
    chain.then("leaf", same)
}

fn assert_drawn(name: &str, workflow: &Workflow<u32, u32>) {
    let path = format!("{}/tests/golden/drawings/{name}.mmd", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("EVERSTEP_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, workflow.to_mermaid()).unwrap();
    }
    assert_eq!(workflow.to_mermaid(), std::fs::read_to_string(&path).unwrap(), "{path}");
}

/// Method: compare with a drawing that was checked by eye and that Mermaid's own parser accepts.
#[test]
fn every_kind_of_node_is_drawn() {
    let workflow = every_kind(Workflow::builder_for("every kind"), leaf).build().unwrap();
    assert_drawn("every_kind", &workflow);
}

/// Method: as above, with every kind of node within every other.
#[test]
fn nested_nodes_of_every_kind_are_drawn() {
    let workflow = every_kind(Workflow::builder_for("nested"), |chain| every_kind(chain, leaf)).build().unwrap();
    assert_drawn("nested", &workflow);
}

/// Method: draw a loop whose body ends in an arm without nodes, within a route that ends it, and a
/// route first and last: arrows there begin at a shape with more than one.
#[test]
fn arm_without_nodes_is_drawn_as_an_arrow() {
    let workflow = Workflow::builder_for::<u32>("arms")
        .route("first", |n: &u32| *n > 1, |route| route.arm(true, |arm| arm).arm(false, |arm| arm.then("one", same)))
        .repeat("loop", LoopLimit::AtMost(3), |body| {
            body.then("step", done).route(
                "last",
                |turn: &LoopResult<u32, u32>| *turn == LoopResult::Done(1),
                |route| route.arm(true, |arm| arm).arm(false, |arm| arm.delay("rest", Duration::from_secs(1))),
            )
        })
        .build()
        .unwrap();
    assert_drawn("arms", &workflow);
}

/// Method: use ids of characters that have a meaning in Mermaid, Markdown or HTML.
#[test]
fn any_name_can_be_drawn() {
    let names =
        ["end", "\"quoted\"", "a[b]{c}(d)", "<b> & &lt;", "`#35;`", "1. _one_ - two", "style: #fff;", " ", "日本 ✓"];
    let chain = names.iter().fold(Workflow::builder_for::<u32>("%% \"all\" names"), |chain, name| {
        chain.then(*name, same).wait_for_signal::<u32>(format!("{name} signal"), format!("go {name}"))
    });
    let arm = |name: &str| name.to_owned();
    let workflow = chain.route("end;", |n: &u32| n.to_string(), |route| route.arm(arm("|\"x\"|"), |arm| arm));
    let workflow = workflow.build().unwrap();
    assert_drawn("names", &workflow);
}

/// Method: draw from the bytes in a store, without the workflow.
#[tokio::test]
async fn stored_manifest_is_drawn_without_user_code() {
    let workflow = every_kind(Workflow::builder_for("every kind"), leaf).build().unwrap();
    let store = MemoryStore::new();
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    let bytes = store.manifest(&workflow.hash()).await.unwrap().unwrap();
    runtime.shutdown(Duration::ZERO).await;
    assert_eq!(Manifest::decode(&bytes).unwrap().to_mermaid(), workflow.to_mermaid());
}

/// Returns the text that a label shows: numbers of characters are decoded, and a space that does
/// not break is a space.
fn shown(label: &str) -> String {
    let mut shown = String::new();
    let mut rest = label;
    while let Some((before, after)) = rest.split_once('#') {
        let (number, after) = after.split_once(';').unwrap();
        shown.push_str(before);
        shown.push(char::from_u32(number.parse().unwrap()).unwrap());
        rest = after;
    }
    (shown + rest).replace('\u{a0}', " ")
}

proptest! {
    /// Method: take any id. Its label shows the id, and has only letters, digits, and characters
    /// without another meaning.
    #[test]
    fn label_shows_the_name_without_mermaid_syntax(id in "[^/\\p{Cc}\u{a0}]{1,30}") {
        let drawing = Workflow::builder_for::<u32>("w").then(&*id, same).build().unwrap().to_mermaid();
        let line = drawing.lines().nth(2).unwrap();
        let label = line.strip_prefix("    n0[\"").and_then(|label| label.strip_suffix("\"]")).unwrap();
        prop_assert!(label.chars().all(|c| c.is_alphanumeric() || " #;_-.".contains(c)), "{label}");
        prop_assert_eq!(shown(label), id);
    }
}

/// Method: look for the one label that differs.
#[test]
fn draining_loop_label_names_its_signal() {
    let workflow = Workflow::builder_for::<u32>("w")
        .repeat_draining("loop", LoopLimit::Unlimited, "add", |body| {
            body.wait_for_signal::<u32>("w", "add").then("last", done)
        })
        .build()
        .unwrap();
    let drawing = workflow.to_mermaid();
    assert!(drawing.contains("e0{\"done, and no add left?\"}"), "{drawing}");
}
