//! Signals: to parked instances, from the signal to the durable end; many to one instance; and to
//! one with many waits.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use everstep::{Concurrency, InstanceHandle, LoopLimit, LoopResult, StatusCode, Workflow, task};
use tokio::task::JoinSet;

use crate::instances::Bench;
use crate::report::{Round, Written};
use crate::{Failed, Options, limit};

/// Senders of the many signals to one instance.
const SENDERS: usize = 64;

async fn signal_to_end(handle: InstanceHandle<u32>) -> Result<Duration, Failed> {
    let sent = Instant::now();
    handle.signal("go", &1_u32).await?;
    handle.result().await?;
    Ok(sent.elapsed())
}

pub(crate) async fn run(options: &Options) -> Result<(), Failed> {
    let workflow = Workflow::builder_for::<u32>("signal").wait_for_signal::<u32>("wait", "go").build()?;
    let bench = Bench::open(options, &workflow).await?;
    let mut next = 0;
    let producers = if options.burst { options.count } else { 1 };
    limit::around(options, producers, 1, async || {
        let handles = parked(&bench, &workflow, next..next + options.count).await?;
        next += options.count;
        let (begun, before) = (Instant::now(), Written::so_far());
        let mut latencies = Vec::with_capacity(handles.len());
        if options.burst {
            let mut ends: JoinSet<_> = handles.into_iter().map(signal_to_end).collect();
            while let Some(end) = ends.join_next().await {
                latencies.push(end??);
            }
        } else {
            let ends = tokio::spawn(async move {
                let mut latencies = Vec::with_capacity(handles.len());
                for handle in handles {
                    latencies.push(signal_to_end(handle).await?);
                }
                Ok::<_, Failed>(latencies)
            });
            latencies = ends.await??;
        }
        let (elapsed, count) = (begun.elapsed(), latencies.len());
        Ok(Round { steps: count, count, elapsed, latencies, written: Written::since(before) })
    })
    .await?;
    bench.close().await;
    Ok(())
}

/// Starts instances that park at once.
async fn parked(
    bench: &Bench,
    workflow: &Workflow<u32, u32>,
    ids: std::ops::Range<usize>,
) -> Result<Vec<InstanceHandle<u32>>, Failed> {
    let start = |n| {
        let (runtime, workflow) = (bench.runtime.clone(), workflow.clone());
        async move { Ok::<_, Failed>(runtime.start(&workflow, format!("i{n}"), 1).await?) }
    };
    let mut starts: JoinSet<_> = ids.map(start).collect();
    let mut handles = Vec::with_capacity(starts.len());
    while let Some(started) = starts.join_next().await {
        handles.push(started??);
    }
    Ok(handles)
}

/// Ends the loop after its last signal.
async fn turn(left: u32) -> Result<LoopResult<u32, u32>, Infallible> {
    Ok(if left == 0 { LoopResult::Done(0) } else { LoopResult::Again(left) })
}

pub(crate) async fn run_one(options: &Options) -> Result<(), Failed> {
    let workflow = Workflow::builder_for::<u32>("signal one")
        .repeat("each", LoopLimit::Unlimited, |body| {
            let turn = task(turn).checkpoint(options.checkpoint());
            body.wait_for_signal::<u32>("wait", "go").then("turn", turn)
        })
        .build()?;
    let bench = Bench::open(options, &workflow).await?;
    let mut next = 0;
    limit::around(options, 1, 1, async || {
        next += 1;
        let handle = bench.runtime.start(&workflow, format!("i{next}"), 1).await?;
        let (begun, before) = (Instant::now(), Written::so_far());
        let each = options.count / SENDERS;
        let send = |_| {
            let handle = handle.clone();
            async move {
                let mut latencies = Vec::with_capacity(each);
                for _ in 0..each {
                    let sent = Instant::now();
                    handle.signal("go", &1_u32).await?;
                    latencies.push(sent.elapsed());
                }
                Ok::<_, Failed>(latencies)
            }
        };
        let mut sending: JoinSet<_> = (0..SENDERS).map(send).collect();
        let mut latencies = Vec::new();
        while let Some(sent) = sending.join_next().await {
            latencies.extend(sent??);
        }
        let last = handle.clone();
        tokio::spawn(async move {
            last.signal("go", &0_u32).await?;
            last.result().await?;
            Ok::<_, Failed>(())
        })
        .await??;
        // Latencies are those of the acknowledgements.
        let (elapsed, count) = (begun.elapsed(), each * SENDERS + 1);
        Ok(Round { steps: count, count, elapsed, latencies, written: Written::since(before) })
    })
    .await?;
    bench.close().await;
    Ok(())
}

pub(crate) async fn run_parked(options: &Options) -> Result<(), Failed> {
    let workflow = Workflow::builder_for::<Vec<u32>>("signal parked")
        .map("each", Concurrency::Unlimited, |item| item.wait_for_signal::<u32>("wait", "go"))
        .build()?;
    let bench = Bench::open(options, &workflow).await?;
    let mut next = 0;
    limit::around(options, 1, 1, async || {
        next += 1;
        let handle = bench.runtime.start(&workflow, format!("i{next}"), (0..options.items).collect()).await?;
        let mut watch = handle.watch().await?;
        while let Some(status) = watch.next().await {
            if status.code() == StatusCode::AwaitingSignal {
                break;
            }
        }
        let (begun, before) = (Instant::now(), Written::so_far());
        let (count, to) = (options.count.min(options.items as usize), handle.clone());
        let sending = tokio::spawn(async move {
            let mut latencies = Vec::with_capacity(count);
            for _ in 0..count {
                let sent = Instant::now();
                to.signal("go", &1_u32).await?;
                latencies.push(sent.elapsed());
            }
            Ok::<_, Failed>(latencies)
        });
        let latencies = sending.await??;
        let round = Round { steps: count, count, elapsed: begun.elapsed(), latencies, written: Written::since(before) };
        if count < options.items as usize {
            handle.cancel("measured", "bench").await?;
        }
        Ok(round)
    })
    .await?;
    bench.close().await;
    Ok(())
}
