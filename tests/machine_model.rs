//! The machine against a naive interpreter: random linear workflows and random events, with the
//! same answers after each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "machine_model/definitions.rs"]
mod definitions;
#[path = "machine_model/naive.rs"]
mod naive;
#[path = "machine_model/real.rs"]
mod real;
#[path = "machine_model/story.rs"]
mod story;

use proptest::collection::vec;
use proptest::prelude::*;

use definitions::node;
use real::begin;
use story::{happenings, payload};

const SECOND: u64 = 1_000_000;
const SIGNALS_BUFFERED_MAX: u32 = 4;

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000);
    let seeds = proptest::test_runner::FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(seeds)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn machine_agrees_with_the_naive_interpreter(
        nodes in vec(node(), 1..12),
        deadline in proptest::option::weighted(0.2, 3_u64..30),
        input in payload(),
        story in vec((prop_oneof![3 => Just(0_u64), 2 => 1_u64..3, 1 => 3_u64..6], happenings()), 0..60),
    ) {
        // Both get the same events; after each they must give the same answer and be at the same
        // place.
        let (mut real, mut model) = begin(nodes, deadline, &input);
        for (seconds, events) in story {
            let now = model.now + seconds * SECOND;
            for what in &events {
                real.happen(what, &mut model, now);
            }
        }
    }
}
