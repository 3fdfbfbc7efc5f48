//! Instances of trivial tasks, in chains, forks or maps: many in flight, or one alone.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use everstep::{BuildErrors, Concurrency, FileStore, NamedFork, Runtime, Workflow};

use crate::report::{Round, bytes_written, figures};
use crate::{Options, limit};

async fn increment(n: u32) -> Result<u32, Infallible> {
    Ok(n.wrapping_add(1))
}

async fn list(items: u32) -> Result<Vec<u32>, Infallible> {
    Ok((0..items).collect())
}

async fn sum(numbers: Vec<u32>) -> Result<u32, Infallible> {
    Ok(numbers.iter().fold(0, |sum, n| sum.wrapping_add(*n)))
}

async fn sum_by_name(numbers: BTreeMap<String, u32>) -> Result<u32, Infallible> {
    Ok(numbers.values().fold(0, |sum, n| sum.wrapping_add(*n)))
}

/// What each instance runs, and how many steps of it count.
pub(crate) fn workload(options: &Options) -> Result<(Workflow<u32, u32>, usize), BuildErrors> {
    let first = Workflow::builder_for::<u32>(&options.workload);
    Ok(match options.workload.as_str() {
        "fanout" => {
            let branches = |fork| {
                (0..options.branches).fold(fork, |fork: NamedFork<u32, u32>, n| {
                    fork.branch(format!("b{n}"), |branch| branch.then("task", increment))
                })
            };
            (first.fork_by_name("fork", branches).join("join", sum_by_name).build()?, options.branches)
        }
        "map" => {
            let mapped =
                first.then("list", list).map("map", Concurrency::Unlimited, |item| item.then("task", increment));
            (mapped.then("sum", sum).build()?, options.items as usize)
        }
        _ => {
            let chain = (0..options.tasks).fold(first, |chain, n| chain.then(format!("task{n}"), increment));
            (chain.build()?, options.tasks)
        }
    })
}

pub(crate) async fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let in_flight = if matches!(options.workload.as_str(), "alone" | "map") { 1 } else { options.in_flight };
    let before = limit::round(options, in_flight).await?.per_s();
    let (workflow, steps) = workload(options)?;
    let dir = tempfile::Builder::new().prefix("everstep-bench").tempdir_in(&options.dir)?;
    let store = FileStore::open_with(dir.path().join("store"), options.durability()).await?;
    let runtime = Runtime::builder(store).register(&workflow).start().await?;
    let next = Arc::new(AtomicUsize::new(0));
    let mut rounds = Vec::new();
    // The first is the warm-up.
    for _ in 0..=options.rounds {
        rounds.push(round(options, &runtime, &workflow, &next, (in_flight, steps)).await?);
    }
    runtime.shutdown(std::time::Duration::from_secs(5)).await;
    let after = limit::round(options, in_flight).await?.per_s();
    let mut figures = figures(options.workload.clone(), options, rounds.split_off(1), f64::midpoint(before, after));
    figures.tasks = steps;
    Ok(figures.print(options.json)?)
}

pub(crate) async fn round(
    options: &Options,
    runtime: &Runtime,
    workflow: &Workflow<u32, u32>,
    next: &Arc<AtomicUsize>,
    (in_flight, steps): (usize, usize),
) -> Result<Round, Box<dyn std::error::Error>> {
    let (started, written_before) = (Instant::now(), bytes_written());
    let until = started + options.round();
    let mut callers = Vec::new();
    for _ in 0..in_flight {
        let (runtime, workflow, next) = (runtime.clone(), workflow.clone(), Arc::clone(next));
        let input = options.items;
        callers.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while Instant::now() < until {
                let begun = Instant::now();
                let id = format!("i{}", next.fetch_add(1, Ordering::Relaxed));
                let handle = runtime.start(&workflow, id, input).await.map_err(|error| error.to_string())?;
                handle.result().await.map_err(|error| error.to_string())?;
                latencies.push(begun.elapsed());
            }
            Ok::<_, String>(latencies)
        }));
    }
    let mut latencies = Vec::new();
    for caller in callers {
        latencies.extend(caller.await??);
    }
    let (elapsed, count) = (started.elapsed(), latencies.len());
    let bytes_written = bytes_written() - written_before;
    Ok(Round { steps: count * steps.max(1), count, elapsed, latencies, bytes_written })
}
