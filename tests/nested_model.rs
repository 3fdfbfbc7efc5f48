//! The machine against a naive interpreter: random workflows of every kind of node within every
//! other, and random events, with the same answers after each. `PROPTEST_CASES=1000000 cargo test
//! --release --test nested_model` runs more of them. A failing case is saved in
//! `tests/nested_model.regressions` and repeated at the next run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "nested_model/attempt.rs"]
mod attempt;
#[path = "nested_model/build.rs"]
mod build;
#[path = "nested_model/cursor.rs"]
mod cursor;
#[path = "nested_model/draw.rs"]
mod draw;
#[path = "nested_model/driver.rs"]
mod driver;
#[path = "nested_model/plan.rs"]
mod plan;
#[path = "nested_model/real.rs"]
mod real;
#[path = "nested_model/story.rs"]
mod story;
#[path = "nested_model/told.rs"]
mod told;
#[path = "nested_model/value.rs"]
mod value;
#[path = "nested_model/world.rs"]
mod world;

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{FileFailurePersistence, TestRunner};

use draw::spec;
use driver::{Begin, Driver};
use plan::{Chain, What, plan};
use story::{happenings, text};

const SECOND: u64 = 1_000_000;
const SIGNALS_BUFFERED_MAX: u32 = 6;

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000);
    let seeds = Some(Box::new(FileFailurePersistence::WithSource("regressions")) as Box<_>);
    ProptestConfig { cases, max_shrink_iters: 20_000, failure_persistence: seeds, ..ProptestConfig::default() }
}

fn specs() -> impl Strategy<Value = Vec<plan::Spec>> {
    vec(spec(5), 1..4)
}

fn begin() -> impl Strategy<Value = Begin> {
    (option::weighted(0.1, 5_u64..60), option::weighted(0.25, 20_usize..800), text())
        .prop_map(|(deadline, list_bytes_max, input)| Begin { deadline, list_bytes_max, input })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nested_nodes_agree_with_the_naive_interpreter(
        specs in specs(),
        begin in begin(),
        story in vec((prop_oneof![4 => Just(0_u64), 2 => 1_u64..3, 1 => 3_u64..6], happenings()), 0..80),
    ) {
        // Both get the same events; after each they must ask for the same effects and be at the
        // same place.
        let plan = plan(&specs);
        let mut both = Driver::new(&plan, begin);
        for (seconds, events) in story {
            both.pass(seconds);
            for what in &events {
                both.happen(what);
            }
        }
        both.bring_to_its_end();
    }
}

/// Counts the nodes that have at least four others around them.
fn count(chain: &Chain, depth: usize, deep: &mut BTreeMap<&'static str, usize>) {
    for node in &chain.nodes {
        let kind = match &node.what {
            What::Task { .. } => "task",
            What::Delay(_) => "delay",
            What::Wait { timeout: None, .. } => "wait",
            What::Wait { .. } => "wait with timeout",
            What::Fork { .. } => "fork",
            What::Route { .. } => "route",
            What::Loop { .. } => "loop",
            What::Map { collects: false, .. } => "map",
            What::Map { .. } => "map that collects",
            What::Child { .. } => "child",
        };
        *deep.entry(kind).or_default() += usize::from(depth >= 4);
        for chain in node.inner() {
            count(chain, depth + 1, deep);
        }
    }
}

#[test]
fn every_kind_of_node_is_drawn_four_deep() {
    // Draws two hundred workflows, the same at each run, and counts their nodes.
    let (mut runner, mut deep) = (TestRunner::deterministic(), BTreeMap::new());
    for _ in 0..200 {
        count(&plan(&specs().new_tree(&mut runner).unwrap().current()), 0, &mut deep);
    }
    assert!(deep.len() == 10 && deep.values().all(|nodes| *nodes >= 10), "{deep:?}");
}
