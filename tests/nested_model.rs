//! The machine against a naive interpreter: random workflows of every kind of node within every other, random events, the
//! same answers after each. `PROPTEST_CASES=1000000 cargo test --release --test nested_model` for more of them; a failing
//! one is kept in `tests/nested_model.regressions`, and told again at the next run.
#![allow(dead_code, reason = "the random ones come with a later commit")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "nested_model/attempt.rs"]
mod attempt;
#[path = "nested_model/build.rs"]
mod build;
#[path = "nested_model/cursor.rs"]
mod cursor;
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

const SECOND: u64 = 1_000_000;
const SIGNALS_BUFFERED_MAX: u32 = 6;
