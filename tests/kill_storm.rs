//! A service killed with `kill -9` at random moments, again and again, under all kinds of work: no
//! acknowledged work is lost, no recorded task runs again. `EVERSTEP_KILLS=10000 cargo test
//! --release --all-features --test kill_storm` kills more often; `EVERSTEP_SEED` repeats the
//! choices of a run.
#![cfg(all(unix, feature = "file-store"))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic anywhere, and its numbers are small"
)]

#[path = "kill_storm/check.rs"]
mod check;
#[path = "kill_storm/child.rs"]
mod child;
#[path = "kill_storm/instance.rs"]
mod instance;
mod kill;
#[path = "kill_storm/kinds.rs"]
mod kinds;
#[path = "kill_storm/ledger.rs"]
mod ledger;
#[path = "kill_storm/process.rs"]
mod process;
#[path = "kill_storm/storm.rs"]
mod storm;

use std::path::PathBuf;

use crate::child::State;
use crate::kill::Random;
use crate::ledger::Ledger;
use crate::process::{DATA, LIFE};
use crate::storm::Storm;

const KILLS: usize = 100;
/// Kills in one directory, before everything in it must end and is checked.
const KILLS_AT_ONCE: usize = 25;

/// Method: a parent drives a child over pipes. The child runs a runtime and prints every
/// acknowledgement of it; its tasks write to a ledger of their own when they begin and end. The
/// parent kills it at random moments, starts it again, and sends more requests. In the end every
/// instance must have ended as expected, and the ledger must agree with the acknowledgements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_acknowledged_and_redo_nothing() {
    if let Some(data) = std::env::var_os(DATA).map(PathBuf::from) {
        let life = std::env::var(LIFE).unwrap().parse().unwrap();
        return child::run(&data, life).await;
    }
    let kills = std::env::var("EVERSTEP_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let mut random = Random::seeded();
    for first in (0..kills).step_by(KILLS_AT_ONCE) {
        let dir = tempfile::tempdir().unwrap();
        let test = "kills_lose_nothing_acknowledged_and_redo_nothing";
        let mut storm = Storm::new(test, dir.path(), &mut random);
        for _ in first..kills.min(first + KILLS_AT_ONCE) {
            storm.life().await;
        }
        storm.settle().await;
        let ledger = Ledger::read(&dir.path().join("ledger"));
        check::check(&storm.instances, &ledger);
        let cancelled = storm.instances.iter().filter(|one| one.end == Some(State::Cancelled)).count();
        println!(
            "{} kills: {} instances, {cancelled} of them cancelled, {} answers, {} lines in the ledger",
            kills.min(first + KILLS_AT_ONCE),
            storm.instances.len(),
            storm.answers,
            ledger.len(),
        );
    }
}
