//! An instance in each state in which a request can meet it.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::time::Duration;

use everstep::{
    Clock as _, Dep, InstanceHandle, Limits, ManualClock, MemoryStore, RetryPolicy, Runtime, Status, StatusCode,
    Workflow, task,
};

use crate::common::{Counter, Gate, backing_off, inc, reach_code, still_clock, when_clock_is_at};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum State {
    Queued,
    Running,
    BackingOff,
    Delayed,
    Awaiting,
    Paused,
}

pub(crate) const STATES: [State; 6] =
    [State::Queued, State::Running, State::BackingOff, State::Delayed, State::Awaiting, State::Paused];

/// A guard that counts when its future is dropped.
struct Dropped(Counter);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.hit();
    }
}

pub(crate) struct Stage {
    pub(crate) gate: Gate,
    pub(crate) clock: ManualClock,
    pub(crate) workflow: Workflow<u32, u32>,
    pub(crate) runtime: Runtime,
    /// In the requested state.
    pub(crate) handle: InstanceHandle<u32>,
    /// Holds the only slot if the requested state is `Queued`.
    pub(crate) first: Option<InstanceHandle<u32>>,
    pub(crate) dropped: Counter,
}

pub(crate) async fn hold(n: u32, Dep(gate): Dep<Gate>, Dep(dropped): Dep<Counter>) -> Result<u32, &'static str> {
    let _guard = Dropped(Counter::clone(&dropped));
    gate.pass().await;
    if n == 13 { Err("unlucky") } else { Ok(n) }
}

/// Brings the workflow hold (fails for 13, again after an hour) -> delay -> wait -> inc, with one
/// slot, to a state.
pub(crate) async fn stage(state: State) -> Stage {
    let workflow = Workflow::builder("w")
        .then("hold", task(hold).retry(RetryPolicy::fixed(5, HOUR)))
        .delay("delay", MINUTE)
        .wait_for_signal::<u32>("wait", "go")
        .then("inc", inc)
        .build()
        .unwrap();
    let (gate, dropped, clock, store) = (Gate::new(), Counter::default(), still_clock(), MemoryStore::new());
    let mut limits = Limits::default();
    limits.tasks_running_max = 1;
    let builder = Runtime::builder(store.clone()).register(&workflow).clock(clock.clone()).limits(limits);
    let builder = builder.provide(gate.clone()).provide(dropped.clone());
    let runtime = builder.start().await.unwrap();
    let first = if state == State::Queued { Some(runtime.start(&workflow, "first", 1).await.unwrap()) } else { None };
    if first.is_some() {
        gate.entered().await;
    }
    let input = if state == State::BackingOff { 13 } else { 1 };
    let handle = runtime.start(&workflow, "id", input).await.unwrap();
    if state != State::Queued {
        gate.entered().await;
    }
    match state {
        State::Queued | State::Running => {}
        State::BackingOff => {
            gate.open(1);
            backing_off(&store, "id", clock.now()).await;
        }
        State::Delayed | State::Awaiting | State::Paused => {
            gate.open(1);
            let Status::Waiting { wake_at, .. } = reach_code(&handle, StatusCode::Waiting).await else { panic!() };
            if state == State::Awaiting {
                when_clock_is_at(&clock, wake_at, reach_code(&handle, StatusCode::AwaitingSignal)).await;
            }
            if state == State::Paused {
                handle.pause("first", "ana").await.unwrap();
            }
        }
    }
    Stage { gate, clock, workflow, runtime, handle, first, dropped }
}
