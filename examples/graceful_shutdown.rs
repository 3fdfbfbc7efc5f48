//! A service that ends gently: on SIGTERM or ctrl-c it accepts no more work, lets running tasks end
//! for a while, and prints what is left for the next start, which continues it.
//!
//! Run it, type a line of text now and then (each is an instance), and end it: `kill -TERM $PID`.
//! Run it again.
//!
//! ```sh
//! cargo run --example graceful_shutdown -- ./shutdown-data 5
//! ```

use std::convert::Infallible;
use std::time::Duration;

use everstep::{
    BoxError, ConflictPolicy, FileStore, Runtime, StartError, StartOptions, StatusCode, Store as _, TaskContext,
    Workflow, task,
};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Default time for running tasks to end. Orchestrators usually kill a process some thirty seconds
/// after asking it to end.
const GRACE: Duration = Duration::from_secs(5);

/// Takes as many seconds as its line has characters, and stops early when cancelled.
async fn work(line: String, context: TaskContext) -> Result<usize, Infallible> {
    println!("working on `{line}`");
    let seconds = Duration::from_secs(line.len() as u64);
    tokio::select! {
        () = tokio::time::sleep(seconds) => println!("done with `{line}`"),
        // Not required, since this future is dropped anyway: for work that must be cleaned up
        // first.
        () = context.cancellation().cancelled() => println!("cut off: `{line}`"),
    }
    Ok(line.len())
}

/// Ends when the process gets SIGTERM, the usual request to a service to end, or ctrl-c. Listens to
/// both from now on.
#[cfg(unix)]
fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}

/// Starts an instance for each line. The line is its id too, so a repeated line starts nothing.
async fn take_work(runtime: &Runtime, workflow: &Workflow<String, usize>) -> Result<(), BoxError> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let options = StartOptions::new().policy(ConflictPolicy::UseExisting);
        match runtime.start_with(workflow, &line, line.clone(), options).await {
            Ok(_) => println!("accepted `{line}`"),
            Err(StartError::ShuttingDown) => return Ok(()),
            Err(error) => println!("not accepted `{line}`: {error}"),
        }
    }
    // Standard input has ended. Accepted work continues until the process is asked to end.
    std::future::pending().await
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| "shutdown-data".to_owned());
    let grace = arguments.next().map_or(Ok(GRACE), |seconds| seconds.parse().map(Duration::from_secs))?;
    let workflow = Workflow::builder("line").then("work", task(work)).build()?;
    // Before any work is accepted: until then, a signal ends the process at once.
    let asked_to_end = asked_to_end()?;
    let runtime = Runtime::builder(FileStore::open(&directory).await?).register(&workflow).start().await?;
    println!("ready");

    tokio::select! {
        () = asked_to_end => {}
        taken = take_work(&runtime, &workflow) => taken?,
    }
    println!("shutting down");
    runtime.shutdown(grace).await;

    // The directory is free again, for the next process or for inspection.
    let store = FileStore::open(&directory).await?;
    let left = store.instances(&workflow.hash(), StatusCode::InProgress, None, 100).await?;
    let names: Vec<_> = left.iter().map(|id| format!("`{id}`")).collect();
    println!("left for the next start: {}", if names.is_empty() { "nothing".to_owned() } else { names.join(", ") });
    store.close().await;
    // The thread that reads standard input cannot be stopped: the end of `main` would wait for one
    // more line.
    std::process::exit(0)
}
