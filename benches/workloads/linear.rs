//! Chains of trivial tasks: many instances in flight, or one alone.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use everstep::{FileStore, Runtime, Workflow};

use crate::report::{Round, bytes_written, figures};
use crate::{Options, limit};

async fn increment(n: u32) -> Result<u32, Infallible> {
    Ok(n.wrapping_add(1))
}

pub(crate) async fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let in_flight = if options.workload == "alone" { 1 } else { options.in_flight };
    let before = limit::round(options, in_flight).await?.per_s();
    let chain = (0..options.tasks)
        .fold(Workflow::builder_for::<u32>("linear"), |chain, n| chain.then(format!("task{n}"), increment))
        .build()?;
    let dir = tempfile::Builder::new().prefix("everstep-bench").tempdir_in(&options.dir)?;
    let store = FileStore::open_with(dir.path().join("store"), options.durability()).await?;
    let runtime = Runtime::builder(store).register(&chain).start().await?;
    let next = Arc::new(AtomicUsize::new(0));
    let mut rounds = Vec::new();
    // The first is the warm-up.
    for _ in 0..=options.rounds {
        rounds.push(round(options, &runtime, &chain, &next, in_flight).await?);
    }
    runtime.shutdown(std::time::Duration::from_secs(5)).await;
    let after = limit::round(options, in_flight).await?.per_s();
    let figures = figures(options.workload.clone(), options, rounds.split_off(1), f64::midpoint(before, after));
    Ok(figures.print(options.json)?)
}

async fn round(
    options: &Options,
    runtime: &Runtime,
    chain: &Workflow<u32, u32>,
    next: &Arc<AtomicUsize>,
    in_flight: usize,
) -> Result<Round, Box<dyn std::error::Error>> {
    let (started, written_before) = (Instant::now(), bytes_written());
    let until = started + options.round();
    let mut callers = Vec::new();
    for _ in 0..in_flight {
        let (runtime, chain, next) = (runtime.clone(), chain.clone(), Arc::clone(next));
        callers.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while Instant::now() < until {
                let begun = Instant::now();
                let id = format!("i{}", next.fetch_add(1, Ordering::Relaxed));
                let handle = runtime.start(&chain, id, 0).await.map_err(|error| error.to_string())?;
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
    Ok(Round { steps: count * options.tasks.max(1), count, elapsed, latencies, bytes_written })
}
