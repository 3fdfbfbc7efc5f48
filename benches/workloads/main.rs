//! The benchmark workloads: `cargo bench --workspace --bench workloads -- NAME [options]`.
//!
//! Every workload measures, before and after itself, the limit of the disk: a bare append-only log
//! with group commit, the same number of producers, synced like the store. Compare the ratio to it,
//! not absolute figures: machines differ and drift. Load is driven by spawned tasks, after a
//! warm-up; figures are medians of the rounds.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::struct_excessive_bools,
    reason = "figures are approximate, a benchmark may panic, and options are flags"
)]

/// As `docs/performance.md` advises: another thread frees half of a step's allocations, which is
/// slow with the system's allocator.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

mod chain;
mod held_clock;
mod instances;
mod limit;
mod memory;
mod poison;
mod process;
mod recovery;
mod report;
mod signals;
mod soak;
mod starts;
mod timers;

use std::time::Duration;

use clap::{Parser, ValueEnum};
use everstep::{Checkpoint, Durability};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// Chains of tasks, many in flight: tasks per second.
    Linear,
    /// Chains of tasks, one instance at a time: the time from start to result.
    Alone,
    /// Forks, many in flight: branch tasks per second.
    Fanout,
    /// One list after the other, a branch for each item: items per second.
    Map,
    /// One long chain after the other, with a payload: bytes written, and time per task.
    Chain,
    /// Parked instances, signalled one by one, or all at once with `--burst`: from the signal to
    /// the durable end.
    Signal,
    /// Signals into one instance, each consumed by an iteration of its loop: signals per second.
    SignalOne,
    /// Signals one by one into one instance with `--items` that wait for them: from the signal to
    /// its acknowledgement.
    SignalParked,
    /// Instances that are due at one instant: the delay until each end is durable.
    Timers,
    /// Starts of instances that park at once: acknowledged starts per second.
    Start,
    /// A process killed with instances in flight: from its restart until all have ended.
    Recovery,
    /// Parked instances: the memory of a fresh process.
    Parked,
    /// Parked instances: the time until a fresh process has opened the store and started.
    Open,
    /// Chains, with and without poisonous instances beside them: tasks per second of the healthy
    /// ones.
    Poison,
    /// Instances of one task that are deleted when their retention is over: ends per second in the
    /// last minute by those in the first, and the size of the directory.
    Soak,
    /// Runs in memory, without a store, on one thread: tasks per second.
    Memory,
    /// The disk by itself.
    Limit,
}

impl Workload {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Measures a workload on the embedded store.
#[derive(Parser)]
struct Options {
    #[arg(value_enum)]
    workload: Workload,
    /// Tasks of each instance.
    #[arg(long, default_value_t = 10)]
    tasks: usize,
    /// Branches of each fork.
    #[arg(long, default_value_t = 16)]
    branches: usize,
    /// Items of each list.
    #[arg(long, default_value_t = 10_000)]
    items: u32,
    /// Instances of a round, where their number does not follow from its length.
    #[arg(long, default_value_t = 2_000)]
    count: usize,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 1_024)]
    payload: usize,
    /// Sends all signals at once.
    #[arg(long)]
    burst: bool,
    /// Defers results to a later commit, in chains and in the loop that takes signals.
    #[arg(long)]
    deferred: bool,
    /// Instances, callers or producers at once.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Seconds of a round, where its length does not follow from the number of instances.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Number of rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Milliseconds between two poisonous instances of each kind.
    #[arg(long, default_value_t = 100)]
    poison_ms: u64,
    /// Seconds that instances are kept after their end; for ever without it.
    #[arg(long)]
    retention: Option<f64>,
    /// Bytes of a record of the bare log.
    #[arg(long, default_value_t = 200)]
    record_bytes: usize,
    /// Directory for the store and the log, on the disk to be measured.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    dir: std::path::PathBuf,
    /// Hands commits to the operating system only, instead of syncing them.
    #[arg(long)]
    process_crash: bool,
    /// Prints one JSON object per result, and nothing else, on standard output.
    #[arg(long)]
    json: bool,
    /// Role of a process that this one starts.
    #[arg(long, hide = true)]
    child: Option<String>,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Options {
    fn durability(&self) -> Durability {
        if self.process_crash { Durability::ProcessCrash } else { Durability::Fsync }
    }

    fn checkpoint(&self) -> Checkpoint {
        if self.deferred { Checkpoint::Deferred } else { Checkpoint::Immediate }
    }

    fn round(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn main() -> Result<(), Failed> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.dir)?;
    if options.workload == Workload::Memory {
        // On one thread, as the figure says.
        return tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(memory::run(&options));
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(&options))
}

async fn run(options: &Options) -> Result<(), Failed> {
    match options.workload {
        Workload::Linear | Workload::Alone | Workload::Fanout | Workload::Map => instances::run(options).await,
        Workload::Chain => chain::run(options).await,
        Workload::Signal => signals::run(options).await,
        Workload::SignalOne => signals::run_one(options).await,
        Workload::SignalParked => signals::run_parked(options).await,
        Workload::Timers => timers::run(options).await,
        Workload::Start => starts::run(options).await,
        Workload::Recovery => recovery::run(options).await,
        Workload::Parked | Workload::Open => process::run(options).await,
        Workload::Poison => poison::run(options).await,
        Workload::Soak => soak::run(options).await,
        Workload::Limit => limit::run(options).await,
        Workload::Memory => memory::run(options).await,
    }
}
