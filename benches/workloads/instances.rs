//! Instances of trivial tasks, in chains, forks or maps: many in flight, or one alone.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use everstep::{BuildErrors, Concurrency, FileStore, NamedFork, Runtime, RuntimeBuilder, Workflow, task};

use crate::report::{Round, Written};
use crate::{Failed, Options, Workload, limit};

pub(crate) async fn increment(n: u32) -> Result<u32, Infallible> {
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

/// Returns the workflow of each instance, and the number of its steps that count.
pub(crate) fn workload(options: &Options) -> Result<(Workflow<u32, u32>, usize), BuildErrors> {
    let first = Workflow::builder_for::<u32>(options.workload.name());
    Ok(match options.workload {
        Workload::Fanout => {
            let branches = |fork| {
                (0..options.branches).fold(fork, |fork: NamedFork<u32, u32>, n| {
                    fork.branch(format!("b{n}"), |branch| branch.then("task", increment))
                })
            };
            (first.fork_by_name("fork", branches).join("join", sum_by_name).build()?, options.branches)
        }
        Workload::Map => {
            let mapped =
                first.then("list", list).map("map", Concurrency::Unlimited, |item| item.then("task", increment));
            (mapped.then("sum", sum).build()?, options.items as usize)
        }
        _ => {
            let step = || task(increment).checkpoint(options.checkpoint());
            let chain = (0..options.tasks).fold(first, |chain, n| chain.then(format!("task{n}"), step()));
            (chain.build()?, options.tasks)
        }
    })
}

pub(crate) async fn run(options: &Options) -> Result<(), Failed> {
    let in_flight = if matches!(options.workload, Workload::Alone | Workload::Map) { 1 } else { options.in_flight };
    let (workflow, steps) = workload(options)?;
    let bench = Bench::open(options, &workflow).await?;
    let next = Arc::new(AtomicUsize::new(0));
    limit::around(options, in_flight, steps, async || {
        round(options, &bench.runtime, &workflow, &next, (in_flight, steps)).await
    })
    .await?;
    bench.close().await;
    Ok(())
}

/// A runtime on a store of its own, on the disk to be measured.
pub(crate) struct Bench {
    pub(crate) runtime: Runtime,
    dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) async fn open<I, O: 'static>(options: &Options, workflow: &Workflow<I, O>) -> Result<Self, Failed> {
        Self::open_with(options, |builder| builder.register(workflow)).await
    }

    pub(crate) async fn open_with(
        options: &Options,
        setup: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder,
    ) -> Result<Self, Failed> {
        let dir = tempfile::Builder::new().prefix("everstep-bench").tempdir_in(&options.dir)?;
        let store = FileStore::open_with(dir.path().join("store"), options.durability()).await?;
        let runtime = setup(Runtime::builder(store)).start().await?;
        Ok(Self { runtime, dir })
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) async fn close(self) {
        self.runtime.shutdown(std::time::Duration::from_secs(5)).await;
    }
}

pub(crate) async fn round(
    options: &Options,
    runtime: &Runtime,
    workflow: &Workflow<u32, u32>,
    next: &Arc<AtomicUsize>,
    (in_flight, steps): (usize, usize),
) -> Result<Round, Failed> {
    let (started, before) = (Instant::now(), Written::so_far());
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
    let written = Written::since(before);
    Ok(Round { steps: count * steps.max(1), count, elapsed, latencies, written })
}
