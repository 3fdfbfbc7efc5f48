//! Forks, routes, loops, maps and children through the runtime: the promises of each, by noun.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

#[path = "store_failures/faulty.rs"]
mod faulty;

#[path = "nesting/building.rs"]
mod building;
#[path = "nesting/children.rs"]
mod children;
#[path = "nesting/depth.rs"]
mod depth;
#[path = "nesting/forks.rs"]
mod forks;
#[path = "nesting/keys.rs"]
mod keys;
#[path = "nesting/loops.rs"]
mod loops;
#[path = "nesting/maps.rs"]
mod maps;
#[path = "nesting/positions.rs"]
mod positions;
#[path = "nesting/requests.rs"]
mod requests;
#[path = "nesting/routes.rs"]
mod routes;
#[path = "nesting/waits.rs"]
mod waits;

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::{Ready, ready};

use common::{Counter, still_clock, within};
use everstep::machine::RowKey;
use everstep::{
    Failure, InstanceHandle, Limits, LoopResult, ManualClock, MemoryStore, ResultError, Runtime, RuntimeBuilder,
    Status, Store as _, TaskFailure, Workflow,
};

/// A store and a clock that outlive the runtimes on them.
struct World {
    store: MemoryStore,
    clock: ManualClock,
}

impl World {
    fn new() -> Self {
        Self { store: MemoryStore::new(), clock: still_clock() }
    }

    fn builder<I, O: 'static>(&self, workflow: &Workflow<I, O>) -> RuntimeBuilder {
        Runtime::builder(self.store.clone()).register(workflow).clock(self.clock.clone())
    }

    async fn runtime<I, O: 'static>(&self, workflow: &Workflow<I, O>) -> Runtime {
        self.builder(workflow).start().await.unwrap()
    }

    async fn limited<I, O: 'static>(&self, workflow: &Workflow<I, O>, set: impl FnOnce(&mut Limits)) -> Runtime {
        let mut limits = Limits::default();
        set(&mut limits);
        self.builder(workflow).limits(limits).start().await.unwrap()
    }

    /// Returns how many branches of the run have a record.
    async fn branches<O: 'static>(&self, handle: &InstanceHandle<O>) -> usize {
        self.store.rows(handle.run_id(), RowKey::FRAMES, None).await.unwrap().len()
    }
}

/// A guard that counts when its future is dropped.
struct Dropped(Counter);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.hit();
    }
}

/// Returns the task's failure that a run ended with.
#[track_caller]
fn task_failure<O: Debug>(result: Result<O, ResultError>) -> TaskFailure {
    match result {
        Err(ResultError::Failed(Failure::Task(failure))) => failure,
        other => panic!("not a task's failure: {other:?}"),
    }
}

/// Asks again and again until the answer is a wanted one.
#[track_caller]
fn until<F: Future>(ask: impl Fn() -> F, wanted: impl Fn(&F::Output) -> bool) -> impl Future<Output = F::Output> {
    within(async move {
        loop {
            let answer = ask().await;
            if wanted(&answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    })
}

/// Waits until the instance waits in this many branches at once.
#[track_caller]
fn waiting_in<O: 'static>(handle: &InstanceHandle<O>, branches: usize) -> impl Future<Output = Vec<Status>> {
    until(async || handle.waits().await.unwrap(), move |waits| waits.len() == branches)
}

/// Ends a loop's body without ever ending the loop.
fn again(n: u32) -> Ready<Result<LoopResult<u32, u32>, Infallible>> {
    ready(Ok(LoopResult::Again(n)))
}

/// Joins two results.
fn both((left, right): (u32, u32)) -> Ready<Result<u32, Infallible>> {
    ready(Ok(100 * left + right))
}
