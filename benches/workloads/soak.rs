//! Instances of one task that are deleted when their retention is over: the speed of the last
//! stretch against the first.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use everstep::{Retention, Workflow};
use serde_json::json;

use crate::instances::{Bench, increment};
use crate::{Failed, Options};

/// The length of a stretch: a minute, or a tenth of a shorter run.
const STRETCH_MAX: Duration = Duration::from_mins(1);

/// Returns the bytes of the files in a directory and below; files may go meanwhile.
fn bytes_in(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

pub(crate) async fn run(options: &Options) -> Result<(), Failed> {
    let workflow = Workflow::builder_for::<u32>("soak").then("task", increment).build()?;
    let kept = options.retention.map(Duration::from_secs_f64);
    let bench = Bench::open_with(options, |builder| {
        let builder = builder.register(&workflow);
        match kept {
            Some(kept) => builder.retention(Retention::new().completed(kept)),
            None => builder,
        }
    })
    .await?;
    let (ended, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = Vec::new();
    for driver in 0..options.in_flight {
        let (runtime, workflow) = (bench.runtime.clone(), workflow.clone());
        let (ended, stop) = (Arc::clone(&ended), Arc::clone(&stop));
        tasks.push(tokio::spawn(async move {
            for n in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let handle = runtime.start(&workflow, format!("{driver}-{n}"), 1).await?;
                // The instance may be gone before the call.
                let _ = handle.result().await;
                ended.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Failed>(())
        }));
    }
    let stretch = STRETCH_MAX.min(options.round() / 10).max(Duration::from_millis(1));
    let stretches = (options.round().as_secs_f64() / stretch.as_secs_f64()).round().max(1.0) as usize;
    let (mut rates, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..stretches {
        let (before, began) = (ended.load(Ordering::Relaxed), std::time::Instant::now());
        tokio::time::sleep(stretch).await;
        let done = ended.load(Ordering::Relaxed) - before;
        rates.push((done as f64 / began.elapsed().as_secs_f64()).round());
        sizes.push(bytes_in(bench.dir()) >> 20);
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    let last_to_first = rates[rates.len() - 1] / rates[0];
    let figures = json!({
        "workload": "soak", "retention_s": options.retention, "in_flight": options.in_flight, "stretch_s": stretch.as_secs_f64(),
        "per_s": rates, "mib_on_disk": sizes, "last_to_first": last_to_first,
    });
    println!("{figures}");
    bench.close().await;
    Ok(())
}
