//! The window of wake-ups in memory, made very small: every instance is woken in time, whether its
//! wake-up is in the window or not.
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use common::{Gate, holding, inc, reach_code, still_clock, when_clock_is_at, within};
use everstep::{
    BoxFuture, Clock, Failure, InstanceHandle, Limits, ManualClock, MemoryStore, ResultError, Runtime, StatusCode,
    Timestamp, Workflow,
};
#[cfg(feature = "testing")]
use everstep::{
    StoreError,
    store::{Call, Fault, FaultyStore},
};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// Starts a runtime whose window holds four wake-ups.
async fn runtime(clock: &ManualClock, workflows: [&Workflow<u32, u32>; 2]) -> Runtime {
    let mut limits = Limits::default();
    limits.timer_window_max = 4;
    let builder = Runtime::builder(MemoryStore::new()).limits(limits).clock(clock.clone());
    workflows.into_iter().fold(builder, everstep::RuntimeBuilder::register).start().await.unwrap()
}

fn delayed() -> Workflow<u32, u32> {
    Workflow::builder_for::<u32>("delayed").delay("delay", MINUTE).then("inc", inc).build().unwrap()
}

async fn start_many(runtime: &Runtime, workflow: &Workflow<u32, u32>, many: u32) -> Vec<InstanceHandle<u32>> {
    let mut handles = Vec::new();
    for n in 0..many {
        let id = format!("{} {n}", workflow.definition().info().name());
        handles.push(runtime.start(workflow, id, n).await.unwrap());
    }
    handles
}

async fn all_end_well(clock: &ManualClock, handles: &[InstanceHandle<u32>]) {
    let at = clock.now().after(MINUTE);
    for (n, handle) in (1..).zip(handles) {
        assert_eq!(when_clock_is_at(clock, at, handle.result()).await, Ok(n));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_of_running_tasks_do_not_block_window_refill() {
    // Running tasks, each with a deadline in an hour, would half fill the window; then there are
    // more delays than it holds.
    let (clock, gate) = (still_clock(), Gate::new());
    let running = Workflow::builder("running").deadline(HOUR).then("hold", holding::<u32>(&gate)).build().unwrap();
    let delayed = delayed();
    let runtime = runtime(&clock, [&running, &delayed]).await;
    start_many(&runtime, &running, 6).await;
    for _ in 0..6 {
        gate.entered().await;
    }
    let handles = start_many(&runtime, &delayed, 12).await;
    all_end_well(&clock, &handles).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadline_of_a_task_past_the_window_is_kept() {
    // An instance parks with a deadline later than a dozen delays, so that the window does not have
    // it. A signal then starts its task, which never ends, and takes its deadline off the store's
    // list.
    let (clock, gate) = (still_clock(), Gate::new());
    let deadline = Workflow::builder("deadline")
        .deadline(2 * MINUTE)
        .then("inc", inc)
        .wait_for_signal::<u32>("wait", "go")
        .then("hold", holding::<u32>(&gate))
        .build()
        .unwrap();
    let delayed = delayed();
    let runtime = runtime(&clock, [&deadline, &delayed]).await;
    let handles = start_many(&runtime, &delayed, 12).await;
    let handle = runtime.start(&deadline, "late", 1).await.unwrap();
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    handle.signal("go", &5_u32).await.unwrap();
    gate.entered().await;
    all_end_well(&clock, &handles).await;
    let ended = when_clock_is_at(&clock, clock.now().after(2 * MINUTE), handle.result()).await;
    assert_eq!(ended, Err(ResultError::Failed(Failure::DeadlineExceeded)));
}

/// A clock that moves by a minute right before the next sleep begins, whose length was computed
/// already.
#[derive(Clone)]
struct Jumping {
    clock: ManualClock,
    jumps: Arc<AtomicBool>,
}

impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if self.jumps.swap(false, Ordering::SeqCst) {
            self.clock.advance(MINUTE);
        }
        self.clock.sleep(duration)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_jump_while_arming_a_wake_up_wakes() {
    // The clock jumps to the end of a delay after the timers read it and before the sleep computed
    // from that begins, and is stopped then: the sleep would never end.
    let clock = Jumping { clock: still_clock(), jumps: Arc::default() };
    let delayed = delayed();
    let runtime = Runtime::builder(MemoryStore::new()).clock(clock.clone()).register(&delayed).start().await.unwrap();
    for n in 0..20 {
        clock.jumps.store(true, Ordering::SeqCst);
        let handle = runtime.start(&delayed, format!("{n}"), n).await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(n + 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn far_deadlines_do_not_crowd_out_near_delays() {
    // A hundred parked instances, each with a deadline in an hour, and then a dozen delays of a
    // minute.
    let clock = still_clock();
    let parked = Workflow::builder("parked")
        .deadline(HOUR)
        .then("inc", inc)
        .wait_for_signal::<u32>("wait", "go")
        .build()
        .unwrap();
    let delayed = delayed();
    let runtime = runtime(&clock, [&parked, &delayed]).await;
    for handle in start_many(&runtime, &parked, 100).await {
        reach_code(&handle, StatusCode::AwaitingSignal).await;
    }
    let handles = start_many(&runtime, &delayed, 12).await;
    all_end_well(&clock, &handles).await;
}

/// Method: there are more far delays than half fill the window. One commit fails, the store
/// reopens, and recovery lists the work in progress. A one-minute delay that begins after that is
/// due before all the far ones.
#[cfg(feature = "testing")]
#[tokio::test(flavor = "multi_thread")]
async fn near_delays_end_after_a_store_failure_with_many_far_ones() {
    let (clock, store, fails) = (still_clock(), FaultyStore::new(MemoryStore::new()), Arc::new(AtomicBool::new(false)));
    let (recovers, failing) = (Arc::new(Semaphore::new(0)), Arc::clone(&fails));
    let (recovering, mut has_failed) = (Arc::clone(&recovers), false);
    store.plan(move |_, call| match call {
        Call::Commit(_) if failing.swap(false, Ordering::SeqCst) => {
            has_failed = true;
            Fault::FailBefore(StoreError::Fatal("disk".into()))
        }
        Call::Instances if has_failed => {
            recovering.add_permits(1);
            Fault::None
        }
        _ => Fault::None,
    });
    let far = Workflow::builder_for::<u32>("far").delay("delay", HOUR).then("inc", inc).build().unwrap();
    let delayed = delayed();
    let mut limits = Limits::default();
    limits.timer_window_max = 8;
    let builder = Runtime::builder(store).limits(limits).clock(clock.clone());
    let runtime = builder.register(&far).register(&delayed).start().await.unwrap();
    start_many(&runtime, &far, 20).await;
    fails.store(true, Ordering::SeqCst);
    runtime.start(&far, "its commit fails", 0).await.unwrap();
    // Both workflows are listed by now, once.
    within(recovers.acquire_many(2)).await.unwrap().forget();
    let handles = start_many(&runtime, &delayed, 50).await;
    all_end_well(&clock, &handles).await;
}
