//! Pause and unpause in every state: what is held, what continues meanwhile, and that no instance
//! is stranded.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "common/stage.rs"]
mod stage;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use common::{Counter, Gate, counting, holding, inc, reach_code, still_clock, when_clock_is_at, within};
use everstep::{
    Clock as _, Failure, Limits, MemoryStore, MessageError, ResultError, Runtime, SignalOutcome, Status, StatusCode,
    Workflow, task,
};
use stage::{STATES, State, hold, stage};
use tokio::task::JoinSet;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// Runs a few other instances from start to end: everything sent before has had its turn then.
async fn others_have_run(runtime: &Runtime, other: &Workflow<u32, u32>) {
    for n in 0..5 {
        let id = format!("other {n} {:?}", Instant::now());
        assert_eq!(within(runtime.start(other, id, 1).await.unwrap().result()).await, Ok(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_holds_every_state_and_unpause_resumes() {
    // Bring an instance to a state, pause it twice, and unpause it. Whatever was in progress
    // meanwhile, it then ends.
    for state in STATES {
        let stage = stage(state).await;
        if state != State::Paused {
            let error = stage.handle.unpause().await.unwrap_err();
            assert!(matches!(error, MessageError::NotPaused(_)), "{state:?}: {error}");
        }
        let began = Instant::now();
        let first = if state == State::Paused { "first" } else { "lunch" };
        stage.handle.pause("lunch", "ana").await.unwrap();
        stage.handle.pause("again", "bob").await.unwrap();
        let status = stage.handle.status().await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{state:?} took {:?}", began.elapsed());
        assert_eq!(status, Status::Paused { reason: first.into(), by: "ana".into() }, "{state:?}");
        stage.handle.signal("go", &40_u32).await.unwrap();
        assert_eq!(stage.handle.status().await.unwrap(), status, "{state:?}");
        if state == State::BackingOff {
            // The backoff ends for another instance too; once that runs again, this one could have.
            let other = stage.runtime.start(&stage.workflow, "other", 1).await.unwrap();
            stage.gate.entered().await;
            stage.clock.advance(2 * HOUR);
            stage.gate.open(1);
            reach_code(&other, StatusCode::Waiting).await;
            assert_eq!(stage.gate.count(), 2, "an attempt was made while paused");
        }
        stage.handle.unpause().await.unwrap();
        let error = stage.handle.unpause().await.unwrap_err();
        assert!(matches!(error, MessageError::NotPaused(_) | MessageError::AlreadyTerminal(_)), "{error}");
        stage.gate.open(2);
        if state == State::BackingOff {
            // The task fails again, and its next backoff begins. The test asks no more than that.
            stage.gate.entered().await;
            assert_eq!(stage.gate.count(), 3);
            continue;
        }
        assert_eq!(common::moving(&stage.clock, MINUTE, stage.handle.result()).await, Ok(41), "{state:?}");
        assert_eq!(stage.gate.count(), if state == State::Queued { 2 } else { 1 }, "{state:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_task_does_not_start_while_paused() {
    // The instance is queued for the only slot and paused; then the slot is freed, and others use
    // it. The instance starts only after the unpause.
    let (gate, clock) = (Gate::new(), still_clock());
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
    let other = Workflow::builder("other").then("inc", inc).build().unwrap();
    let mut limits = Limits::default();
    limits.tasks_running_max = 1;
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).register(&other).limits(limits);
    let runtime = builder.clock(clock).start().await.unwrap();
    let first = runtime.start(&workflow, "first", 1).await.unwrap();
    gate.entered().await;
    let second = runtime.start(&workflow, "second", 2).await.unwrap();
    second.pause("later", "ana").await.unwrap();
    gate.open(1);
    assert_eq!(within(first.result()).await, Ok(1));
    others_have_run(&runtime, &other).await;
    assert_eq!(gate.count(), 1);
    second.unpause().await.unwrap();
    gate.entered().await;
    gate.open(1);
    assert_eq!(within(second.result()).await, Ok(2));
    assert_eq!(gate.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn task_running_at_pause_is_recorded_next_is_not_started() {
    // The instance is paused while its first task runs. Its result appears while the second task
    // has not run; that runs after the unpause.
    let (gate, next) = (Gate::new(), Counter::default());
    let workflow = Workflow::builder("w")
        .then("hold", holding::<u32>(&gate))
        .then("next", counting::<u32>(&next))
        .then("inc", inc)
        .build()
        .unwrap();
    let other = Workflow::builder("other").then("inc", inc).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).register(&other);
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    handle.pause("lunch", "ana").await.unwrap();
    gate.open(1);
    let recorded = async {
        while handle.task_result::<u32>("hold").await.unwrap() != Some(1) {
            tokio::task::yield_now().await;
        }
    };
    within(recorded).await;
    others_have_run(&runtime, &other).await;
    assert_eq!((next.get(), handle.status().await.unwrap().code()), (0, StatusCode::Paused));
    handle.unpause().await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(2));
    assert_eq!((gate.count(), next.get()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_runs_on_while_paused() {
    // The delay ends during the pause: the next task starts at the unpause, without another wait.
    let (clock, next) = (still_clock(), Counter::default());
    let workflow =
        Workflow::builder_for::<u32>("w").delay("delay", MINUTE).then("next", counting::<u32>(&next)).build().unwrap();
    let other = Workflow::builder_for::<u32>("other").delay("d", MINUTE).then("inc", inc).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).register(&other);
    let runtime = builder.clock(clock.clone()).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    handle.pause("lunch", "ana").await.unwrap();
    let beside = runtime.start(&other, "beside", 1).await.unwrap();
    when_clock_is_at(&clock, clock.now().after(MINUTE), beside.result()).await.unwrap();
    assert_eq!((next.get(), handle.status().await.unwrap().code()), (0, StatusCode::Paused));
    handle.unpause().await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_in_time_beats_timeout_over_a_pause() {
    // Both are paused at a wait that ends in a minute. One gets its signal before that, the other
    // after; both are unpaused long after.
    let show = async |outcome| Ok::<_, Infallible>(if let SignalOutcome::Received(n) = outcome { n } else { 0_u32 });
    let workflow = Workflow::builder_for::<u32>("w")
        .wait_for_signal_timeout::<u32>("wait", "go", MINUTE)
        .then("show", show)
        .build()
        .unwrap();
    for timers_see_it in [true, false] {
        let clock = still_clock();
        let builder = Runtime::builder(MemoryStore::new()).register(&workflow);
        let runtime = builder.clock(clock.clone()).start().await.unwrap();
        let in_time = runtime.start(&workflow, "in time", 1).await.unwrap();
        let late = runtime.start(&workflow, "late", 1).await.unwrap();
        let nothing = runtime.start(&workflow, "nothing", 1).await.unwrap();
        for handle in [&in_time, &late] {
            handle.pause("lunch", "ana").await.unwrap();
        }
        in_time.signal("go", &1_u32).await.unwrap();
        if timers_see_it {
            // The third instance times out by itself, so the timers have looked.
            assert_eq!(when_clock_is_at(&clock, clock.now().after(MINUTE), nothing.result()).await, Ok(0));
        } else {
            clock.set_wall(clock.now().after(MINUTE));
        }
        late.signal("go", &2_u32).await.unwrap();
        for handle in [&in_time, &late] {
            assert_eq!(handle.status().await.unwrap().code(), StatusCode::Paused);
            handle.unpause().await.unwrap();
        }
        assert_eq!(within(in_time.result()).await, Ok(1), "{timers_see_it}");
        assert_eq!(within(late.result()).await, Ok(0), "{timers_see_it}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_instance_ends_by_result_failure_or_deadline() {
    // The last task is held and the instance paused; then the task ends well, ends badly, or never
    // ends.
    for ending in ["well", "badly", "never"] {
        let (gate, clock) = (Gate::new(), still_clock());
        let workflow = Workflow::builder("w").deadline(HOUR).then("hold", task(hold)).build().unwrap();
        let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
        let runtime = builder.provide(gate.clone()).provide(Counter::default()).start().await.unwrap();
        let handle = runtime.start(&workflow, "id", if ending == "badly" { 13 } else { 1 }).await.unwrap();
        gate.entered().await;
        handle.pause("lunch", "ana").await.unwrap();
        if ending != "never" {
            gate.open(1);
        }
        let ended = if ending == "never" {
            when_clock_is_at(&clock, clock.now().after(HOUR), handle.result()).await
        } else {
            within(handle.result()).await
        };
        match (ending, ended) {
            ("badly", Err(ResultError::Failed(Failure::Task(failure)))) => assert_eq!(failure.message, "unlucky"),
            ("well", Ok(1)) | ("never", Err(ResultError::Failed(Failure::DeadlineExceeded))) => {}
            (ending, ended) => panic!("{ending}: {ended:?}"),
        }
        assert!(matches!(handle.unpause().await, Err(MessageError::AlreadyTerminal(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_racing_with_tasks_strand_nothing() {
    // Sixty instances of ten quick tasks are paused and unpaused again and again while they run;
    // every task runs once.
    let runs = Counter::default();
    let mut builder = Workflow::builder_for::<u32>("w");
    for n in 0..10 {
        builder = builder.then(format!("t{n}"), counting::<u32>(&runs));
    }
    let workflow = builder.build().unwrap();
    let mut limits = Limits::default();
    limits.tasks_running_max = 4;
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).limits(limits);
    let runtime = builder.start().await.unwrap();
    let mut instances = JoinSet::new();
    for n in 0..60 {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        instances.spawn(async move {
            let handle = runtime.start(&workflow, format!("i{n}"), n).await.unwrap();
            loop {
                match handle.pause("x", "y").await {
                    Ok(()) => {}
                    Err(MessageError::AlreadyTerminal(_)) => break,
                    Err(error) => panic!("{error}"),
                }
                match handle.unpause().await {
                    Ok(()) | Err(MessageError::AlreadyTerminal(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(handle.result().await, Ok(n));
        });
    }
    within(instances.join_all()).await;
    assert_eq!(runs.get(), 600);
}

/// Method: an instance is paused while its task runs, and the process crashes. The deadline passes
/// without any message to the instance.
#[tokio::test(flavor = "multi_thread")]
async fn paused_deadline_passes_also_after_a_crash() {
    let gate = Gate::new();
    let workflow = Workflow::builder("w").deadline(HOUR).then("hold", holding::<u32>(&gate)).build().unwrap();
    let (store, clock) = (MemoryStore::new(), still_clock());
    let builder = || Runtime::builder(store.clone()).register(&workflow).clock(clock.clone());
    let runtime = builder().start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    handle.pause("lunch", "ana").await.unwrap();
    drop((runtime, handle));
    let runtime = builder().start().await.unwrap();
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    let ended = when_clock_is_at(&clock, clock.now().after(HOUR), handle.result()).await;
    assert_eq!(ended, Err(ResultError::Failed(Failure::DeadlineExceeded)));
}
