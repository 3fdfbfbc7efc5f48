//! The cost of parked instances for a fresh process: memory, and the time until it has started.

use std::path::Path;
use std::time::{Duration, Instant};

use everstep::{Durability, FileStore, Runtime, Workflow};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::report::{Figures, Round, Written, figures, rss_bytes};
use crate::{Failed, Options, Workload};

/// Callers that start instances.
const CALLERS: usize = 256;
/// The time that a fresh process is left alone before its memory is read.
const REST: Duration = Duration::from_secs(2);

/// Figures of a fresh process.
#[derive(Serialize, Deserialize)]
struct Found {
    rss_bytes: u64,
    seconds: f64,
}

fn workflow() -> Result<Workflow<u32, u32>, Failed> {
    let month = Duration::from_hours(30 * 24);
    let first = Workflow::builder_for::<u32>("parked");
    Ok(first.wait_for_signal_timeout::<u32>("wait", "go", month).then("end", async |_| Ok::<u32, Failed>(1)).build()?)
}

pub(crate) async fn run(options: &Options) -> Result<(), Failed> {
    if options.child.is_some() {
        return open(options).await;
    }
    let dir = tempfile::Builder::new().prefix("everstep-bench").tempdir_in(&options.dir)?;
    let (empty, full) = (dir.path().join("empty"), dir.path().join("full"));
    park(&empty, 0).await?;
    park(&full, options.count).await?;
    let mut rounds = Vec::new();
    let mut each = Vec::new();
    for _ in 0..options.rounds.max(1) {
        let (without, with) = (child::<Found>(options, &empty)?, child::<Found>(options, &full)?);
        let bytes = with.rss_bytes.saturating_sub(without.rss_bytes);
        each.push(bytes);
        let elapsed = Duration::from_secs_f64(with.seconds);
        rounds.push(Round {
            steps: options.count,
            count: options.count,
            elapsed,
            latencies: vec![elapsed],
            written: Written::default(),
        });
    }
    each.sort_unstable();
    let rss_bytes = each[each.len() / 2];
    if !options.json {
        let per_instance = rss_bytes as f64 / options.count.max(1) as f64;
        println!("  {per_instance:.0} B in memory for each of {} parked instances", options.count);
    }
    // The latency is the time until the start is answered.
    let figures = figures(options, rounds, 0.0);
    Ok(Figures { tasks: 0, in_flight: 0, rss_bytes, ..figures }.print(options.json)?)
}

/// Parks that many instances.
async fn park(path: &Path, count: usize) -> Result<(), Failed> {
    let (store, workflow) = (FileStore::open_with(path, Durability::ProcessCrash).await?, workflow()?);
    let runtime = Runtime::builder(store).register(&workflow).start().await?;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        callers.spawn(async move {
            for n in (caller..count).step_by(CALLERS) {
                runtime.start(&workflow, format!("instance-{n}"), 1).await?;
            }
            Ok::<_, Failed>(())
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    runtime.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// Runs the fresh process: opens the store, starts, and prints the cost.
async fn open(options: &Options) -> Result<(), Failed> {
    let workflow = workflow()?;
    let begun = Instant::now();
    let store = FileStore::open_with(&options.dir, options.durability()).await?;
    let runtime = Runtime::builder(store).register(&workflow).start().await?;
    let seconds = begun.elapsed().as_secs_f64();
    if options.workload == Workload::Parked {
        tokio::time::sleep(REST).await;
    }
    println!("{}", serde_json::to_string(&Found { rss_bytes: rss_bytes(), seconds })?);
    runtime.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// Returns this program again, as a command on a directory.
pub(crate) fn command(options: &Options, role: &str, dir: &Path) -> Result<std::process::Command, Failed> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg(options.workload.name()).arg("--child").arg(role).arg("--dir").arg(dir);
    command.arg("--count").arg(options.count.to_string()).arg("--tasks").arg(options.tasks.to_string());
    if options.process_crash {
        command.arg("--process-crash");
    }
    Ok(command)
}

/// Runs a child process and returns its figures.
fn child<T: for<'a> Deserialize<'a>>(options: &Options, dir: &Path) -> Result<T, Failed> {
    let output = command(options, "open", dir)?.stderr(std::process::Stdio::inherit()).output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}
