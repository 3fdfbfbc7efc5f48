//! Delays and deadlines: never early, never lost, however many are due at once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::convert::Infallible;
use std::time::Duration;

use common::{Gate, holding, inc, moving, reach, reach_code, same, still_clock, when_clock_is_at, within};
use everstep::{
    Clock as _, Failure, InstanceHandle, Limits, ManualClock, MemoryStore, ResultError, Runtime, Status, StatusCode,
    Timestamp, Workflow,
};
use tokio::task::JoinSet;

const MINUTE: Duration = Duration::from_mins(1);
const MOMENT: Duration = Duration::from_micros(1);
/// A moment less than a minute.
const ALMOST: Duration = Duration::from_micros(59_999_999);

/// Returns a workflow whose delay is a moment shorter than a minute.
fn probe() -> Workflow<u32, u32> {
    Workflow::builder_for::<u32>("probe").delay("delay", ALMOST).build().unwrap()
}

async fn start(workflow: &Workflow<u32, u32>, clock: &ManualClock) -> Runtime {
    let builder = Runtime::builder(MemoryStore::new()).register(workflow).register(&probe());
    builder.clock(clock.clone()).start().await.unwrap()
}

/// Moves the clock to a moment before `wake_at`, lets the timers act on that, and checks that the
/// instance has not moved.
async fn is_not_early(runtime: &Runtime, clock: &ManualClock, handle: &InstanceHandle<u32>, wake_at: Timestamp) {
    let before = handle.status().await.unwrap();
    // The probe is due a moment before the instance: once it has ended, the timers have seen that
    // time. Giving up makes the test weaker, not wrong.
    let probe = runtime.start(&probe(), format!("before {}", wake_at.as_micros()), 1).await.unwrap();
    clock.advance(wake_at.since(clock.now()).saturating_sub(MOMENT));
    let _ = tokio::time::timeout(Duration::from_millis(300), probe.result()).await;
    assert_eq!(handle.status().await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_in_every_position_ends_on_time_with_its_value() {
    // Each shape is driven through its waits (d a delay, s a signal that brings 100): at each delay
    // the clock stops a moment before its end, and then passes it.
    type Shape = (&'static str, u32, Workflow<u32, u32>);
    let new = || Workflow::builder_for::<u32>("shape");
    let add = |(a, b): (u32, u32)| std::future::ready(Ok::<_, Infallible>(a + b));
    let shapes: [Shape; 8] = [
        ("d", 1, new().delay("a", MINUTE).build().unwrap()),
        ("d", 2, new().delay("a", MINUTE).then("inc", inc).build().unwrap()),
        ("d", 2, new().then("inc", inc).delay("a", MINUTE).build().unwrap()),
        ("dd", 2, new().delay("a", MINUTE).delay("b", MINUTE).then("inc", inc).build().unwrap()),
        ("ds", 100, new().delay("a", MINUTE).wait_for_signal::<u32>("w", "go").build().unwrap()),
        ("sd", 100, new().wait_for_signal::<u32>("w", "go").delay("a", MINUTE).build().unwrap()),
        ("dsd", 101, {
            let before = new().delay("a", MINUTE).wait_for_signal::<u32>("w", "go").delay("b", MINUTE);
            before.then("inc", inc).build().unwrap()
        }),
        ("sds", 200, {
            let first = new().wait_for_signal::<u32>("v", "go").delay("a", MINUTE);
            first.wait_for_signal_keeping::<u32>("w", "go").then("add", add).build().unwrap()
        }),
    ];
    for (parks, output, workflow) in shapes {
        let clock = still_clock();
        let runtime = start(&workflow, &clock).await;
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        let mut last = Status::InProgress;
        for park in parks.chars() {
            let code = if park == 'd' { StatusCode::Waiting } else { StatusCode::AwaitingSignal };
            let parked = reach(&handle, |status| *status != last && status.code() == code);
            // One delay may be due at the very instant at which the previous one ended.
            last = moving(&clock, MOMENT, parked).await;
            match &last {
                Status::Waiting { wake_at, .. } => {
                    is_not_early(&runtime, &clock, &handle, *wake_at).await;
                    clock.advance(MOMENT);
                }
                _ => handle.signal("go", &100_u32).await.unwrap(),
            }
        }
        let result = moving(&clock, Duration::from_millis(10), handle.result()).await;
        assert_eq!(result, Ok(output), "{parks}: {workflow:?}");
    }
}

/// Starts this many instances of a delay, all due at the same instant, and waits for all of them.
async fn all_end(instances: usize, limits: Limits) {
    let clock = still_clock();
    let workflow =
        Workflow::builder_for::<usize>("w").delay("delay", MINUTE).then("same", same::<usize>).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone()).limits(limits);
    let runtime = builder.start().await.unwrap();
    let mut starts = JoinSet::new();
    for n in 0..instances {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        starts.spawn(async move { runtime.start(&workflow, format!("i{n}"), n).await.unwrap() });
    }
    let handles = within(starts.join_all()).await;
    clock.advance(MINUTE);
    let all = async {
        for handle in &handles {
            handle.result().await.unwrap();
        }
    };
    moving(&clock, Duration::from_secs(1), all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_instances_due_at_one_instant_all_end() {
    // More than the timers wake in one go.
    all_end(2_000, Limits::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_instances_than_the_timer_window_holds_all_end() {
    // 300 wake-ups are due at one instant with room for 40: the window must be refilled until none
    // is left.
    let mut limits = Limits::default();
    limits.timer_window_max = 40;
    all_end(300, limits).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadline_past_the_timer_window_holds_for_running_task() {
    // The window has room for 2 and is full of nearer delays, so the deadline is only in the
    // store's index. Then the instance gets its signal, and its task runs past the deadline.
    let (clock, gate) = (still_clock(), Gate::new());
    let filler = Workflow::builder_for::<u32>("filler").delay("delay", MINUTE / 2).build().unwrap();
    let workflow = Workflow::builder("deadline")
        .deadline(MINUTE)
        .then("inc", inc)
        .wait_for_signal::<u32>("wait", "go")
        .then("hold", holding::<u32>(&gate))
        .build()
        .unwrap();
    let mut limits = Limits::default();
    limits.timer_window_max = 2;
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).register(&filler).limits(limits);
    let runtime = builder.clock(clock.clone()).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    for n in 0..8 {
        runtime.start(&filler, format!("filler {n}"), 1).await.unwrap();
    }
    handle.signal("go", &1_u32).await.unwrap();
    gate.entered().await;
    let failed = when_clock_is_at(&clock, clock.now().after(MINUTE), handle.result()).await;
    let failure = everstep::ResultError::Failed(everstep::Failure::DeadlineExceeded);
    assert_eq!(failed, Err(failure));
}

/// Method: the wall clock is set past the deadline while a task runs, so that no sleeper notices;
/// then the task ends.
#[tokio::test(flavor = "multi_thread")]
async fn result_past_the_deadline_does_not_complete_the_run() {
    let gate = Gate::new();
    let workflow = Workflow::builder("w").deadline(MINUTE).then("hold", holding::<u32>(&gate)).build().unwrap();
    let clock = still_clock();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    clock.set_wall(clock.now().after(2 * MINUTE));
    gate.open(1);
    assert_eq!(within(handle.result()).await, Err(ResultError::Failed(Failure::DeadlineExceeded)));
}
