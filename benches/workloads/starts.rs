//! Starts of instances that park at once, from many callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use everstep::Workflow;

use crate::instances::Bench;
use crate::report::{Round, Written};
use crate::{Failed, Options, limit};

pub(crate) async fn run(options: &Options) -> Result<(), Failed> {
    let workflow = Workflow::builder_for::<u32>("start").wait_for_signal::<u32>("wait", "go").build()?;
    let bench = Bench::open(options, &workflow).await?;
    let next = Arc::new(AtomicUsize::new(0));
    limit::around(options, options.in_flight, 1, async || {
        let (begun, before) = (Instant::now(), Written::so_far());
        let until = begun + options.round();
        let callers: Vec<_> = (0..options.in_flight)
            .map(|_| {
                let (runtime, workflow, next) = (bench.runtime.clone(), workflow.clone(), Arc::clone(&next));
                tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    while Instant::now() < until {
                        let started = Instant::now();
                        let id = format!("i{}", next.fetch_add(1, Ordering::Relaxed));
                        runtime.start(&workflow, id, 1).await?;
                        latencies.push(started.elapsed());
                    }
                    Ok::<_, Failed>(latencies)
                })
            })
            .collect();
        let mut latencies = Vec::new();
        for caller in callers {
            latencies.extend(caller.await??);
        }
        let (elapsed, count) = (begun.elapsed(), latencies.len());
        Ok(Round { steps: count, count, elapsed, latencies, written: Written::since(before) })
    })
    .await?;
    bench.close().await;
    Ok(())
}
