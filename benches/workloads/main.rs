//! The benchmark workloads: `cargo bench --bench workloads -- NAME [options]`.
//!
//! Every workload measures, before and after itself, what the disk allows: a bare append-only log with group commit, the
//! same number of producers, synced like the store. Compare the ratio to it, not absolute figures: machines differ and
//! drift. Load is driven by spawned tasks, after a warm-up; figures are medians of the rounds.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    reason = "figures are approximate, and a benchmark may panic"
)]

mod instances;
mod limit;
mod poison;
mod report;

use std::time::Duration;

use clap::Parser;
use everstep::Durability;

/// Measures a workload on the embedded store.
#[derive(Parser)]
struct Options {
    /// linear: chains, many in flight; alone: chains, one at a time; fanout: forks, many in flight; map: one list after the
    /// other; poison: chains, with and without poisonous instances beside them; limit: the disk by itself.
    #[arg(value_parser = ["linear", "alone", "fanout", "map", "poison", "limit"])]
    workload: String,
    /// Tasks of each instance.
    #[arg(long, default_value_t = 10)]
    tasks: usize,
    /// Branches of each fork.
    #[arg(long, default_value_t = 16)]
    branches: usize,
    /// Items of each list.
    #[arg(long, default_value_t = 10_000)]
    items: u32,
    /// Instances, or producers, at once.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// How long a round takes.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How many rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Milliseconds between two poisonous instances of each kind.
    #[arg(long, default_value_t = 100)]
    poison_ms: u64,
    /// Bytes of a record of the bare log.
    #[arg(long, default_value_t = 200)]
    record_bytes: usize,
    /// Where the store and the log are put, on the disk to be measured.
    #[arg(long, default_value = "target")]
    dir: std::path::PathBuf,
    /// Hand commits to the operating system only, instead of syncing them.
    #[arg(long)]
    process_crash: bool,
    /// One JSON object per result, and nothing else, on standard output.
    #[arg(long)]
    json: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn durability(&self) -> Durability {
        if self.process_crash { Durability::ProcessCrash } else { Durability::Fsync }
    }

    fn round(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    match options.workload.as_str() {
        "limit" => limit::run(&options).await,
        "poison" => poison::run(&options).await,
        _ => instances::run(&options).await,
    }
}
