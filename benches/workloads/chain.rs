//! One long chain after the other, each task passing a payload on.

use std::convert::Infallible;
use std::time::Instant;

use everstep::Workflow;

use crate::instances::Bench;
use crate::report::{Round, Written};
use crate::{Failed, Options, limit};

async fn hand_on(payload: String) -> Result<String, Infallible> {
    Ok(payload)
}

pub(crate) async fn run(options: &Options) -> Result<(), Failed> {
    let first = Workflow::builder_for::<String>("chain");
    let chain = (0..options.tasks).fold(first, |chain, n| chain.then(format!("task{n}"), hand_on));
    let workflow = chain.build()?;
    let bench = Bench::open(options, &workflow).await?;
    let mut next = 0;
    limit::around(options, 1, options.tasks, async || {
        let (begun, before) = (Instant::now(), Written::so_far());
        let mut latencies = Vec::new();
        while begun.elapsed() < options.round() {
            let started = Instant::now();
            let (runtime, workflow, payload) = (bench.runtime.clone(), workflow.clone(), "p".repeat(options.payload));
            let id = format!("i{next}");
            next += 1;
            // From a spawned task, as in every workload.
            tokio::spawn(async move {
                let handle = runtime.start(&workflow, id, payload).await?;
                handle.result().await?;
                Ok::<_, Failed>(())
            })
            .await??;
            latencies.extend(std::iter::repeat_n(started.elapsed() / options.tasks as u32, options.tasks));
        }
        let (elapsed, steps) = (begun.elapsed(), latencies.len());
        let written = Written::since(before);
        if !options.json {
            let of_payload = |bytes: u64| bytes as f64 / (steps * options.payload) as f64;
            let (bytes, on_disk) = (of_payload(written.bytes), of_payload(written.on_disk));
            println!("  {bytes:.2} bytes written for each byte of payload, {on_disk:.2} in pages");
        }
        Ok(Round { steps, count: steps / options.tasks, elapsed, latencies, written })
    })
    .await?;
    bench.close().await;
    Ok(())
}
