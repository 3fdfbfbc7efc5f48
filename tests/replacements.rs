//! New runs in the place of old ones: callers that wait for the old run are told, its task is
//! cancelled, and the new run goes on by itself.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::convert::Infallible;

use common::{Gate, holding, reach_code, still_clock, waiting, with, within};
use everstep::{
    ConflictPolicy, MemoryStore, MessageError, ResultError, Runtime, SignalError, Status, StatusCode, Workflow, task,
};
use tokio::task::JoinSet;

const TERMINATE: ConflictPolicy = ConflictPolicy::TerminateExisting;

/// The states to be replaced, each with a name and its status.
const REPLACED: [(&str, StatusCode); 5] = [
    ("delayed", StatusCode::Waiting),
    ("awaiting", StatusCode::AwaitingSignal),
    ("paused", StatusCode::Paused),
    ("running", StatusCode::InProgress),
    ("completed", StatusCode::Completed),
];

#[tokio::test(flavor = "multi_thread")]
async fn new_run_replaces_an_old_one_in_every_state() {
    // hold -> delay -> wait -> end. The old run is brought to a state and replaced. Callers that
    // wait for it learn of that, and the new run starts at its first task without the old one's
    // pause and signals.
    for (state, code) in REPLACED {
        let (gate, clock) = (Gate::new(), still_clock());
        let workflow = Workflow::builder("w")
            .then("hold", holding::<u32>(&gate))
            .delay("delay", std::time::Duration::from_mins(1))
            .wait_for_signal::<u32>("wait", "go")
            .build()
            .unwrap();
        let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
        let runtime = builder.start().await.unwrap();
        let old = runtime.start(&workflow, "id", 1).await.unwrap();
        gate.entered().await;
        if state != "running" {
            gate.open(1);
            let Status::Waiting { wake_at, .. } = reach_code(&old, StatusCode::Waiting).await else { panic!() };
            match state {
                "awaiting" => {
                    let parked = reach_code(&old, StatusCode::AwaitingSignal);
                    common::when_clock_is_at(&clock, wake_at, parked).await;
                }
                "paused" => old.pause("lunch", "ana").await.unwrap(),
                "completed" => {
                    old.signal("go", &1_u32).await.unwrap();
                    common::when_clock_is_at(&clock, wake_at, old.result()).await.unwrap();
                }
                _ => old.signal("go", &1_u32).await.unwrap(),
            }
        }
        assert_eq!(reach_code(&old, code).await.code(), code);
        let (mut watch, waiter) = (old.watch().await.unwrap(), old.clone());
        let waiter = tokio::spawn(async move { waiter.result().await });
        if state != "completed" {
            assert_eq!(watch.next().await.map(|status| status.code()), Some(code));
        }

        let started = within(runtime.start_with(&workflow, "id", 2, with(TERMINATE))).await.unwrap();
        let new = started.handle;
        assert!(started.existing.is_none());
        assert_ne!(new.run_id(), old.run_id());
        if state != "completed" {
            assert_eq!(within(waiter).await.unwrap(), Err(ResultError::Superseded), "{state}");
            assert_eq!(within(watch.next()).await, None, "{state}");
        }
        assert_eq!(within(old.result()).await, Err(ResultError::Superseded), "{state}");
        gate.entered().await;
        assert_eq!(new.status().await.unwrap(), Status::InProgress, "{state}");
        gate.open(1);
        let Status::Waiting { wake_at, .. } = reach_code(&new, StatusCode::Waiting).await else { panic!() };
        let parked = reach_code(&new, StatusCode::AwaitingSignal);
        common::when_clock_is_at(&clock, wake_at, parked).await;
        new.signal("go", &7_u32).await.unwrap();
        assert_eq!(within(new.result()).await, Ok(7), "{state}");
        assert_eq!(gate.count(), 2, "{state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replacement_cancels_the_old_task_and_its_result() {
    // A blocking task does not look at its token and ends after the new run has begun. The token
    // must show the cancel, and the task's output must appear nowhere.
    let (entered, mut tokens) = tokio::sync::mpsc::unbounded_channel();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let stubborn = move |n: u32, context: everstep::TaskContext| {
        let (entered, held) = (entered.clone(), held.clone());
        async move {
            entered.send(context.cancellation().clone()).unwrap();
            if n == 1 {
                held.lock().unwrap().recv().unwrap();
            }
            Ok::<_, Infallible>(n)
        }
    };
    let workflow = Workflow::builder("w")
        .then("stubborn", task(stubborn).blocking())
        .wait_for_signal_keeping::<()>("wait", "go")
        .build()
        .unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let old = runtime.start(&workflow, "id", 1).await.unwrap();
    let token = within(tokens.recv()).await.unwrap();
    assert!(!token.is_cancelled());
    let new = within(runtime.start_with(&workflow, "id", 2, with(TERMINATE))).await.unwrap().handle;
    within(token.cancelled()).await;
    assert_eq!(within(old.result()).await, Err(ResultError::Superseded));
    reach_code(&new, StatusCode::AwaitingSignal).await;
    release.send(()).unwrap();
    new.signal("go", &()).await.unwrap();
    assert_eq!(within(new.result()).await, Ok((2, ())));
    assert_eq!(new.task_result::<u32>("stubborn").await.unwrap(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_replacements_strand_no_run() {
    // A run whose task is held is replaced 150 times; each new run must reach its task by itself.
    let gate = Gate::new();
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    runtime.start(&workflow, "id", 0).await.unwrap();
    for n in 1..=150 {
        gate.entered().await;
        let started = within(runtime.start_with(&workflow, "id", n, with(TERMINATE))).await.unwrap();
        if n == 150 {
            gate.entered().await;
            gate.open(1);
            assert_eq!(within(started.handle.result()).await, Ok(150));
        }
    }
    assert_eq!(gate.count(), 151);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_replacements_leave_one_running_run() {
    // 30 replacements of one id at once, ten times: all are answered, one run is current and
    // completes, and the callers that wait for the others are told.
    let workflow = waiting("w");
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    for round in 0..10 {
        let id = format!("id {round}");
        runtime.start(&workflow, &id, 0).await.unwrap();
        let mut starts = JoinSet::new();
        for n in 0..30 {
            let (runtime, workflow, id) = (runtime.clone(), workflow.clone(), id.clone());
            starts.spawn(async move { runtime.start_with(&workflow, id, n, with(TERMINATE)).await.unwrap().handle });
        }
        let handles = within(starts.join_all()).await;
        let current = runtime.handle(&workflow, &id).await.unwrap();
        current.signal("go", &1_u32).await.unwrap();
        let mut completed = 0;
        for handle in handles {
            match within(handle.result()).await {
                Ok(1) if handle.run_id() == current.run_id() => completed += 1,
                Err(ResultError::Superseded) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(completed, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_by_an_old_handle_must_fit_present_definition() {
    // The id now runs a workflow whose signal of the same name carries another type: no payload of
    // the wrong type may reach it.
    let old_workflow = waiting("old");
    let new_workflow = Workflow::builder_for::<u32>("new").wait_for_signal::<String>("wait", "go").build().unwrap();
    let runtime =
        Runtime::builder(MemoryStore::new()).register(&old_workflow).register(&new_workflow).start().await.unwrap();
    let old = runtime.start(&old_workflow, "id", 1).await.unwrap();
    let new = runtime.start_with(&new_workflow, "id", 1, with(TERMINATE)).await.unwrap().handle;
    let sent = old.signal("go", &1_u32).await;
    assert!(matches!(sent, Err(MessageError::Signal(SignalError::PayloadType { .. }))), "{sent:?}");
    new.signal("go", &"text".to_owned()).await.unwrap();
    assert_eq!(within(new.result()).await.as_deref(), Ok("text"));
}

/// Method: the commit of the replacement is done and its answer lost, once. The repeated start
/// finds its own run, and the old run's task must be dropped all the same.
#[cfg(feature = "testing")]
#[tokio::test(flavor = "multi_thread")]
async fn replacement_of_unknown_outcome_stops_the_old_task() {
    use std::sync::atomic::{AtomicBool, Ordering};

    use everstep::StoreError;
    use everstep::testing::{Call, Fault, FaultyStore};

    let (gate, dropped) = (Gate::new(), common::Counter::default());
    let hold = common::holding_until_dropped(&gate, &dropped);
    let workflow = Workflow::builder("w").then("hold", hold).build().unwrap();
    let (store, armed) = (FaultyStore::new(MemoryStore::new()), std::sync::Arc::new(AtomicBool::new(false)));
    let fails = armed.clone();
    store.plan(move |_, call| match call {
        Call::Commit(_) if call.writes_to("id") && fails.swap(false, Ordering::SeqCst) => {
            Fault::FailAfter(StoreError::Fatal("the answer is lost".into()))
        }
        _ => Fault::None,
    });
    let runtime = Runtime::builder(store).register(&workflow).start().await.unwrap();
    runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    armed.store(true, Ordering::SeqCst);
    let new = within(runtime.start_with(&workflow, "id", 2, with(TERMINATE))).await.unwrap().handle;
    common::counted(&dropped, 1).await;
    gate.entered().await;
    gate.open(1);
    assert_eq!(within(new.result()).await, Ok(2));
    assert!(!armed.load(Ordering::SeqCst));
}
