//! Running in memory: what differs from a runtime is only that nothing survives.
#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

use std::convert::Infallible;
use std::time::Duration;

use everstep::{Failure, RunOnceError, Runtime, RuntimeError, Workflow};

async fn never(_: u32) -> Result<u32, Infallible> {
    std::future::pending().await
}

async fn same(n: u32) -> Result<u32, Infallible> {
    Ok(n)
}

async fn other(n: u32) -> Result<u32, Infallible> {
    Ok(n + 1)
}

/// Method: a task that never ends, in a workflow with a deadline.
#[tokio::test]
async fn a_deadline_ends_a_run_in_memory_while_a_task_runs() {
    let workflow = Workflow::builder("w").deadline(Duration::from_millis(20)).then("never", never).build().unwrap();
    assert_eq!(workflow.run_once(1).await, Err(RunOnceError::Failed(Failure::DeadlineExceeded)));
}

/// Method: register two workflows that differ in code only. Instances could not tell them apart.
#[tokio::test]
async fn two_workflows_that_instances_cannot_tell_apart_are_refused() {
    let first = Workflow::builder("w").then("task", same).build().unwrap();
    let second = Workflow::builder("w").then("task", other).build().unwrap();
    let builder = Runtime::builder(everstep::MemoryStore::new());
    let started = builder.register(&first).register(&first).register(&second).start().await;
    assert_eq!(started.err(), Some(RuntimeError::RegisteredTwice { workflow: "w".into() }));
}
