//! A process killed with instances in flight: the time until the next one has ended all of them,
//! and the number of tasks that ran twice.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use everstep::{ConflictPolicy, Dep, FileStore, Runtime, StartOptions, TaskContext, Workflow};
use tokio::task::JoinSet;

use crate::process::command;
use crate::report::{Figures, Round, Written, figures};
use crate::{Failed, Options};

/// The length of each task, so that instances are in flight.
const TASK: Duration = Duration::from_millis(20);

/// A line for every run of a task.
struct Ledger(File);

async fn work(n: u32, context: TaskContext, ledger: Dep<Ledger>) -> Result<u32, Failed> {
    tokio::time::sleep(TASK).await;
    // One write: lines of concurrent tasks do not mix.
    (&ledger.0.0).write_all(format!("{}\n", context.idempotency_key()).as_bytes())?;
    Ok(n + 1)
}

fn workflow(tasks: usize) -> Result<Workflow<u32, u32>, Failed> {
    let first = Workflow::builder_for::<u32>("recovery");
    Ok((0..tasks).fold(first, |chain, n| chain.then(format!("task{n}"), work)).build()?)
}

pub(crate) async fn run(options: &Options) -> Result<(), Failed> {
    if let Some(role) = &options.child {
        return live(options, role == "again").await;
    }
    let mut rounds = Vec::new();
    for _ in 0..options.rounds.max(1) {
        let dir = tempfile::Builder::new().prefix("everstep-bench").tempdir_in(&options.dir)?;
        let mut first = command(options, "first", dir.path())?.stdout(Stdio::piped()).spawn()?;
        let told = first.stdout.take().ok_or("no output")?;
        // The child prints a line when all have started; some tasks later it is killed.
        BufReader::new(told).lines().next().ok_or("the process ended early")??;
        std::thread::sleep(TASK * 3);
        first.kill()?;
        first.wait()?;
        let begun = Instant::now();
        let again = command(options, "again", dir.path())?.status()?;
        let elapsed = begun.elapsed();
        let twice = ran_twice(dir.path())?;
        if !again.success() {
            return Err("the second process failed".into());
        }
        if !options.json {
            println!("  {:.2} s until all had ended; {twice} tasks ran twice", elapsed.as_secs_f64());
        }
        rounds.push(Round {
            steps: options.count,
            count: twice,
            elapsed,
            latencies: vec![elapsed],
            written: Written::default(),
        });
    }
    // The latency is the time to the last end; the count is that of tasks that ran twice.
    let figures = figures(options, rounds, 0.0);
    Ok(Figures { in_flight: options.count, ..figures }.print(options.json)?)
}

fn ran_twice(dir: &Path) -> Result<usize, Failed> {
    let mut runs = HashMap::<String, usize>::new();
    for key in BufReader::new(File::open(dir.join("ledger"))?).lines() {
        *runs.entry(key?).or_default() += 1;
    }
    Ok(runs.values().map(|runs| runs - 1).sum())
}

/// Starts all instances, or lets an earlier process's continue, and waits for their ends.
async fn live(options: &Options, again: bool) -> Result<(), Failed> {
    let workflow = workflow(options.tasks)?;
    let ledger = File::options().create(true).append(true).open(options.dir.join("ledger"))?;
    let store = FileStore::open_with(options.dir.join("store"), options.durability()).await?;
    let runtime = Runtime::builder(store).register(&workflow).provide(Ledger(ledger)).start().await?;
    let mut starts = JoinSet::new();
    for n in 0..options.count {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        starts.spawn(async move {
            let existing = StartOptions::new().policy(ConflictPolicy::UseExisting);
            let id = format!("i{n}");
            let handle = if again {
                runtime.handle(&workflow, id).await?
            } else {
                runtime.start_with(&workflow, id, 1, existing).await?.handle
            };
            Ok::<_, Failed>(handle)
        });
    }
    let mut ends = JoinSet::new();
    while let Some(handle) = starts.join_next().await {
        let handle = handle??;
        ends.spawn(async move { handle.result().await });
    }
    if !again {
        println!("started");
    }
    while let Some(end) = ends.join_next().await {
        end??;
    }
    runtime.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
