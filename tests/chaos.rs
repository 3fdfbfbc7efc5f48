//! Chaos: a store whose every call fails, waits and panics at random, and callers that start,
//! replace, signal, cancel, pause, retry, release and delete, under small limits, with and without
//! retention, on both stores.
//!
//! Each round draws its own limits from the seed. `EVERSTEP_CHAOS_SECONDS=3600 cargo test --release
//! --all-features --test chaos` runs longer; `EVERSTEP_SEED` repeats the rounds of a seed, though
//! not their interleaving.
#![cfg(all(feature = "testing", feature = "file-store"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "chaos/dice.rs"]
mod dice;
#[path = "chaos/house.rs"]
mod house;
#[path = "chaos/races.rs"]
mod races;
#[path = "chaos/signals.rs"]
mod signals;
#[path = "common/through.rs"]
mod through;

use std::time::{Duration, Instant};

use dice::Dice;

/// The length of the faulty part of a round. Its instances end after that.
const ROUND: Duration = Duration::from_secs(4);

fn seconds() -> u64 {
    std::env::var("EVERSTEP_CHAOS_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(60)
}

/// Runs rounds, each with dice of its own, until the time is up.
async fn rounds(salt: u64, mut round: impl AsyncFnMut(Dice)) {
    let seed = std::env::var("EVERSTEP_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| std::process::id().into());
    println!("EVERSTEP_SEED={seed}");
    house::silence_planned_panics();
    let end = Instant::now() + Duration::from_secs(seconds());
    for number in 0.. {
        if Instant::now() >= end {
            break;
        }
        round(Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(number * 7 + salt))).await;
    }
}

/// Method: three senders to each of eight collectors; a signal without an answer is sent again
/// under the same id. At the end each collector returns the signals it got, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_loses_doubles_and_reorders_no_signal() {
    rounds(1, signals::round).await;
}

/// Method: twelve callers call ten ids at random, in every way that callers can. No call hangs, no
/// task runs twice at once, no delay ends early, and once the store is well again every instance
/// ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_strands_no_instance_and_no_caller() {
    rounds(2, races::round).await;
}
