//! Instances that are due at one instant: the delay until the end of each is durable.

use std::time::{Duration, Instant};

use everstep::{Clock as _, Timestamp, Workflow};
use tokio::task::JoinSet;

use crate::held_clock::HeldClock;
use crate::instances::Bench;
use crate::report::{Round, Written};
use crate::{Failed, Options, limit};

/// The delay from the moment at which the clock starts.
const DELAY: Duration = Duration::from_secs(2);
/// Callers that start instances.
const CALLERS: usize = 256;

pub(crate) async fn run(options: &Options) -> Result<(), Failed> {
    let workflow = Workflow::builder_for::<u32>("timers").delay("delay", DELAY).build()?;
    limit::around(options, options.count, 1, async || {
        let clock = HeldClock::new(Timestamp::from_micros(1_900_000_000_000_000));
        let setup = |builder: everstep::RuntimeBuilder| builder.register(&workflow).clock(clock.clone());
        let bench = Bench::open_with(options, setup).await?;
        let due = clock.now().after(DELAY);
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (runtime, workflow) = (bench.runtime.clone(), workflow.clone());
            let ids = (caller..options.count).step_by(CALLERS);
            callers.spawn(async move {
                let mut handles = Vec::new();
                for n in ids {
                    handles.push(runtime.start(&workflow, format!("i{n}"), 1).await?);
                }
                Ok::<_, Failed>(handles)
            });
        }
        let mut ends = JoinSet::new();
        while let Some(handles) = callers.join_next().await {
            for handle in handles?? {
                let clock = clock.clone();
                ends.spawn(async move {
                    handle.result().await?;
                    Ok::<_, Failed>(clock.now().since(due))
                });
            }
        }
        // All instances wait.
        tokio::time::sleep(Duration::from_secs(1)).await;
        clock.let_go();
        tokio::time::sleep(DELAY).await;
        let (begun, before) = (Instant::now(), Written::so_far());
        let mut latencies = Vec::with_capacity(options.count);
        while let Some(late) = ends.join_next().await {
            latencies.push(late??);
        }
        let (elapsed, count) = (begun.elapsed(), latencies.len());
        bench.close().await;
        Ok(Round { steps: count, count, elapsed, latencies, written: Written::since(before) })
    })
    .await
}
