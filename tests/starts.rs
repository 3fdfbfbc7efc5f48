//! Starting instances: what each conflict policy does with what is there, and what is refused before anything runs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::convert::Infallible;
use std::pin::Pin;
use std::task::Poll;

use common::{Counter, Gate, counting, holding, inc, reach_code, same, still_clock, within};
use everstep::{
    Codec, CodecError, ConflictPolicy, Dep, HandleError, IdError, InstanceHandle, Limits, MemoryStore, MessageError,
    ResultError, Runtime, RuntimeError, SignalError, StartError, StartOptions, Status, StatusCode, Workflow, task,
};
use tokio::task::JoinSet;

fn with(policy: ConflictPolicy) -> StartOptions {
    StartOptions::new().policy(policy)
}

const FAIL: ConflictPolicy = ConflictPolicy::Fail;
const USE: ConflictPolicy = ConflictPolicy::UseExisting;
const TERMINATE: ConflictPolicy = ConflictPolicy::TerminateExisting;

/// A workflow that waits for one number.
fn waiting(name: &str) -> Workflow<u32, u32> {
    Workflow::builder_for::<u32>(name).wait_for_signal::<u32>("wait", "go").build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_starts_of_one_id_run_once_and_99_are_refused_by_fail() {
    // A hundred tasks start the same id at once; the one task counts.
    let runs = Counter::default();
    let workflow = Workflow::builder("one").then("count", counting::<u32>(&runs)).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let mut starts = JoinSet::new();
    for n in 0..100 {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        starts.spawn(async move { runtime.start(&workflow, "the one", n).await });
    }
    let (won, lost): (Vec<_>, Vec<_>) = within(starts.join_all()).await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 99));
    for error in lost.into_iter().map(Result::unwrap_err) {
        assert!(matches!(error, StartError::InstanceAlreadyExists { .. }), "{error:?}");
    }
    for handle in won.into_iter().flatten() {
        within(handle.result()).await.unwrap();
    }
    assert_eq!(runs.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_starts_of_one_id_run_once_and_share_it_by_use_existing() {
    // As above; every starter must be led to the same run and the same output.
    let runs = Counter::default();
    let workflow = Workflow::builder("one").then("count", counting::<u32>(&runs)).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let mut starts = JoinSet::new();
    for n in 0..100 {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        starts.spawn(async move {
            let started = runtime.start_with(&workflow, "the one", n, with(USE)).await.unwrap();
            (started.existing.is_none(), started.handle.run_id(), started.handle.result().await.unwrap())
        });
    }
    let starts = within(starts.join_all()).await;
    assert_eq!(starts.iter().filter(|(fresh, ..)| *fresh).count(), 1);
    assert!(starts.iter().all(|(_, run, output)| (*run, *output) == (starts[0].1, starts[0].2)), "{starts:?}");
    assert_eq!(runs.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_sent_beside_the_start_strand_nothing() {
    // Whoever finds the instance sends its signal before the one who started it has come back; the delay behind the wait
    // must still end, whichever order the two arm it in.
    let workflow = Workflow::builder_for::<u32>("beside")
        .wait_for_signal::<u32>("wait", "go")
        .delay("short", std::time::Duration::from_millis(20))
        .then("inc", inc)
        .build()
        .unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let mut starts = JoinSet::new();
    for n in 0..400 {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        starts.spawn(async move {
            let id = format!("i{}", n / 4);
            let handle = runtime.start_with(&workflow, id, 0, with(USE)).await.unwrap().handle;
            handle.signal_with_id("go", &7_u32, "once").await.or_else(|error| match error {
                MessageError::AlreadyTerminal(_) => Ok(()),
                error => Err(error),
            })?;
            Ok::<_, MessageError>(handle.result().await.unwrap())
        });
    }
    for output in within(starts.join_all()).await {
        assert_eq!(output, Ok(8));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_for_which_there_is_no_room_runs_its_tasks_once() {
    // Two actors may be awake: most starts leave their instance to recovery, which races with them.
    let runs: Vec<Counter> = (0..300).map(|_| Counter::default()).collect();
    let counters = runs.clone();
    let count = move |n: usize| {
        counters[n].hit();
        std::future::ready(Ok::<_, Infallible>(n))
    };
    let workflow = Workflow::builder("crowd").then("count", count).then("last", same::<usize>).build().unwrap();
    let mut limits = Limits::default();
    limits.resident_max = 2;
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).limits(limits).start().await.unwrap();
    let mut starts = JoinSet::new();
    for n in 0..runs.len() {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        starts.spawn(async move {
            let handle = runtime.start(&workflow, format!("i{n}"), n).await.unwrap();
            assert_eq!(handle.result().await.unwrap(), n);
        });
    }
    within(starts.join_all()).await;
    let twice: Vec<_> = (0..runs.len()).filter(|n| runs[*n].get() != 1).collect();
    assert!(twice.is_empty(), "tasks of instances that finished ran again: {twice:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fail_refuses_whatever_is_there() {
    // One parked and one completed instance; both are refused with the status they are in.
    let workflow = waiting("w");
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let error = runtime.start_with(&workflow, "id", 1, with(FAIL)).await.unwrap_err();
    let StartError::InstanceAlreadyExists { instance, status } = error else { panic!("{error:?}") };
    assert_eq!((instance.as_str(), status.code()), ("id", StatusCode::AwaitingSignal));
    handle.signal("go", &5_u32).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(5));
    let error = runtime.start(&workflow, "id", 1).await.unwrap_err();
    assert!(matches!(error, StartError::InstanceAlreadyExists { status: Status::Completed, .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_definition_under_the_id_is_refused_unless_it_is_to_be_replaced() {
    // An instance of one workflow, then every policy and a handle with another.
    let (one, other) = (waiting("one"), waiting("other"));
    let runtime = Runtime::builder(MemoryStore::new()).register(&one).register(&other).start().await.unwrap();
    let old = runtime.start(&one, "id", 1).await.unwrap();
    for policy in [FAIL, USE] {
        let error = runtime.start_with(&other, "id", 1, with(policy)).await.unwrap_err();
        let StartError::DefinitionMismatch { expected, found, .. } = error else { panic!("{error:?}") };
        assert_eq!((expected, found), (other.hash(), one.hash()));
    }
    let error = runtime.handle(&other, "id").await.unwrap_err();
    assert_eq!(error, HandleError::DefinitionMismatch { expected: other.hash(), found: one.hash() });
    assert_eq!(old.status().await.unwrap().code(), StatusCode::AwaitingSignal);

    let new = runtime.start_with(&other, "id", 1, with(TERMINATE)).await.unwrap().handle;
    assert_eq!(within(old.result()).await, Err(ResultError::Superseded));
    new.signal("go", &9_u32).await.unwrap();
    assert_eq!(within(new.result()).await, Ok(9));
}

/// An input that must not be encoded when it is armed.
#[derive(serde::Deserialize)]
struct Bomb(bool);

impl serde::Serialize for Bomb {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(!self.0, "the input was encoded");
        serializer.serialize_newtype_struct("Bomb", &self.0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn use_existing_gives_what_is_there_and_does_not_touch_the_input() {
    // The second and third start bring an input whose encoding panics: once while it waits, once completed.
    let runs = Counter::default();
    let workflow = Workflow::builder("w")
        .then("count", counting::<Bomb>(&runs))
        .wait_for_signal::<String>("wait", "go")
        .build()
        .unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let first = runtime.start_with(&workflow, "id", Bomb(false), with(USE)).await.unwrap();
    assert!(first.existing.is_none());
    reach_code(&first.handle, StatusCode::AwaitingSignal).await;

    let second = runtime.start_with(&workflow, "id", Bomb(true), with(USE)).await.unwrap();
    let existing = second.existing.unwrap();
    assert_eq!((existing.status.code(), existing.output), (StatusCode::AwaitingSignal, None));
    assert_eq!(second.handle.run_id(), first.handle.run_id());
    second.handle.signal("go", &"done ".repeat(100)).await.unwrap();
    within(first.handle.result()).await.unwrap();

    let third = runtime.start_with(&workflow, "id", Bomb(true), with(USE)).await.unwrap();
    let existing = third.existing.unwrap();
    assert_eq!((existing.status, existing.output), (Status::Completed, Some("done ".repeat(100))));
    assert_eq!(third.handle.result().await.unwrap(), "done ".repeat(100));
    assert_eq!(runs.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn use_existing_of_a_failed_instance_gives_its_failure() {
    // A task that fails at once; the second start finds the failure and runs nothing.
    let runs = Counter::default();
    let counter = runs.clone();
    let fail = move |_: u32| {
        counter.hit();
        std::future::ready(Err::<u32, _>("no"))
    };
    let workflow = Workflow::builder("w").then("fail", fail).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let first = runtime.start(&workflow, "id", 1).await.unwrap();
    let ResultError::Failed(failure) = within(first.result()).await.unwrap_err() else { panic!() };
    let existing = runtime.start_with(&workflow, "id", 2, with(USE)).await.unwrap().existing.unwrap();
    assert_eq!((existing.status, existing.output), (Status::Failed { failure }, None));
    assert_eq!(runs.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_ids_are_refused_at_every_entry_point() {
    // Empty, too long and not printable, for each call that takes an id; the longest allowed one passes.
    let workflow = waiting("w");
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    for bad in [String::new(), "x".repeat(257), "a\nb".into(), "nul\0".into()] {
        for policy in [FAIL, USE, TERMINATE] {
            let started = runtime.start_with(&workflow, &bad, 1, with(policy)).await;
            assert!(matches!(started, Err(StartError::Id(_))), "{bad:?}: {started:?}");
        }
        assert!(matches!(runtime.start(&workflow, &bad, 1).await, Err(StartError::Id(_))), "{bad:?}");
        assert!(matches!(runtime.handle(&workflow, &bad).await, Err(HandleError::Id(_))), "{bad:?}");
    }
    let handle = runtime.start(&workflow, "é".repeat(128), 1).await.unwrap();
    assert_eq!(runtime.handle(&workflow, "é".repeat(128)).await.unwrap().run_id(), handle.run_id());
    let bad_signal_id = handle.signal_with_id("go", &1_u32, "").await.unwrap_err();
    assert_eq!(bad_signal_id, MessageError::SignalId(IdError::Empty { what: "signal id" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_refused_before_anything_is_stored() {
    // An unregistered workflow, and an input one byte over the limit; the id stays free.
    let (known, unknown) = (waiting("known"), waiting("unknown"));
    let text = Workflow::builder("text").then("same", same::<String>).build().unwrap();
    let mut limits = Limits::default();
    limits.payload_bytes_max = 100;
    let runtime = Runtime::builder(MemoryStore::new())
        .register(&known)
        .register(&text)
        .limits(limits)
        .codec(Codec::Json)
        .start()
        .await
        .unwrap();
    let error = runtime.start(&unknown, "id", 1).await.unwrap_err();
    assert_eq!(error, StartError::NotRegistered { workflow: "unknown".into() });
    let error = runtime.start(&text, "id", "x".repeat(99)).await.unwrap_err();
    assert!(matches!(error, StartError::Input(CodecError::TooLarge { bytes: 101, bytes_max: 100, .. })), "{error:?}");
    assert_eq!(runtime.handle(&text, "id").await.unwrap_err(), HandleError::NotFound);
    let handle = runtime.start(&text, "id", "x".repeat(98)).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap().len(), 98);
}

async fn wants_two(n: u32, _: Dep<String>, _: Dep<Vec<u8>>) -> Result<u32, Infallible> {
    Ok(n)
}

async fn wants_one(n: u32, _: Dep<str>) -> Result<u32, Infallible> {
    Ok(n)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_missing_services_are_named_at_once() {
    // Two tasks in two workflows lack three services; one that is there is not named.
    let one = Workflow::builder("one").then("two", wants_two).build().unwrap();
    let other = Workflow::builder("other").then("inc", inc).then("one", task(wants_one)).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&one).register(&other);
    let RuntimeError::MissingDeps(missing) = builder.start().await.unwrap_err() else { panic!() };
    let mut missing: Vec<_> = missing.iter().map(|one| (one.type_name, one.asked_by.as_str())).collect();
    missing.sort_unstable();
    let expected = [
        (std::any::type_name::<String>(), "task `two` of workflow `one`"),
        (std::any::type_name::<Vec<u8>>(), "task `two` of workflow `one`"),
        ("str", "task `one` of workflow `other`"),
    ];
    assert_eq!(missing, expected);

    let builder = Runtime::builder(MemoryStore::new()).register(&one).provide(String::new());
    let RuntimeError::MissingDeps(missing) = builder.start().await.unwrap_err() else { panic!() };
    assert_eq!(missing.len(), 1, "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_by_an_old_handle_must_fit_the_definition_that_runs_now() {
    // The id now runs a workflow whose signal of the same name carries another type: nothing of the wrong type may reach it.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_of_a_held_instance_reads_it_without_holding_it_up() {
    // While the task is held, every read answers; nothing of it is lost afterwards.
    let gate = Gate::new();
    let workflow = Workflow::builder("w").then("inc", inc).then("hold", holding::<u32>(&gate)).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).clock(still_clock()).start().await.unwrap();
    runtime.start(&workflow, "id", 1).await.unwrap();
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    gate.entered().await;
    assert_eq!(handle.status().await.unwrap(), Status::InProgress);
    assert_eq!(handle.task_result::<u32>("inc").await.unwrap(), Some(2));
    assert_eq!(handle.task_result::<u32>("hold").await.unwrap(), None);
    let nowhere = handle.task_result::<u32>("nowhere").await;
    assert!(matches!(nowhere, Err(HandleError::NoSuchTask { .. })), "{nowhere:?}");
    assert!(matches!(handle.task_result::<String>("inc").await, Err(HandleError::Codec(_))));
    gate.open(1);
    assert_eq!(within(handle.result()).await, Ok(2));
    assert_eq!(handle.task_result::<u32>("hold").await.unwrap(), Some(2));
}

/// What each state to be replaced looks like: a name, and the status it is known by.
const REPLACED: [(&str, StatusCode); 5] = [
    ("delayed", StatusCode::Waiting),
    ("awaiting", StatusCode::AwaitingSignal),
    ("paused", StatusCode::Paused),
    ("running", StatusCode::InProgress),
    ("completed", StatusCode::Completed),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_new_run_takes_the_place_of_an_old_one_in_every_state() {
    // hold -> delay -> wait -> end. The old run is brought to a state and replaced; old waiters learn of it, and the new
    // run starts at its first task without the old one's pause and signals.
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
async fn the_task_of_a_replaced_run_is_cancelled_and_its_late_result_ignored() {
    // A blocking task does not look at its token and ends after the new run has begun: the token must say that it was
    // cancelled, and its output must appear nowhere.
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
async fn replacing_running_instances_again_and_again_strands_no_run() {
    // 150 times a run whose task is held is replaced; each new run must reach its task by itself.
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
async fn of_many_replacements_at_once_one_run_remains_and_it_runs() {
    // 30 replacements of one id at once, ten times: all are answered, one run is current and completes, the waiters of all
    // others are told.
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

/// Starts an instance and polls that once, so that its write is on its way; gives it when that is committed and the caller
/// has not heard of it yet. Another id is tried when the answer was there at once.
async fn committed<'a, O: 'static>(runtime: &'a Runtime, workflow: &'a Workflow<u32, O>) -> Committed<'a, O> {
    for n in 0.. {
        let id = format!("id {n}");
        let mut start: StartFuture<'a, O> = Box::pin(runtime.start(workflow, id.clone(), 1));
        if std::future::poll_fn(|context| Poll::Ready(start.as_mut().poll(context))).await.is_ready() {
            continue;
        }
        let found = async {
            loop {
                match runtime.handle(workflow, &id).await {
                    Err(HandleError::NotFound) => tokio::task::yield_now().await,
                    found => return found.unwrap(),
                }
            }
        };
        return (within(found).await, start);
    }
    unreachable!("some answer takes a while")
}

type StartFuture<'a, O> = Pin<Box<dyn Future<Output = Result<InstanceHandle<O>, StartError>> + Send + 'a>>;
type Committed<'a, O> = (InstanceHandle<O>, StartFuture<'a, O>);

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_comes_back_late_does_not_run_finished_tasks_again() {
    // The start's future is not polled between its commit and the instance's end, which somebody else's message brings
    // about; when it is, nothing may run a second time.
    let runs = Counter::default();
    let counter = runs.clone();
    let count = move |n: u32, context: everstep::TaskContext| {
        // Other ids are only there to take time.
        if context.instance().as_str().starts_with("id") {
            counter.hit();
        }
        std::future::ready(Ok::<_, Infallible>(n))
    };
    let workflow = Workflow::builder("w").then("count", count).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let (handle, start) = committed(&runtime, &workflow).await;
    let _ = handle.pause("x", "y").await;
    let _ = handle.unpause().await;
    assert_eq!(within(handle.result()).await, Ok(1));
    // While others run from start to end, its actor leaves.
    for n in 0..10 {
        within(runtime.start(&workflow, format!("other {n}"), 1).await.unwrap().result()).await.unwrap();
    }
    assert_eq!(within(start).await.unwrap().run_id(), handle.run_id());
    // What the late start has set going is over when the runtime is.
    within(runtime.shutdown(std::time::Duration::from_secs(1))).await;
    let id_number: u32 = handle.id().as_str()[3..].parse().unwrap();
    assert_eq!(runs.get(), id_number + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_comes_back_late_does_not_stop_a_newer_wake_up() {
    // As above; meanwhile a signal has moved the instance into a delay, whose wake-up must stay.
    let clock = still_clock();
    let workflow = Workflow::builder_for::<u32>("w")
        .wait_for_signal::<u32>("wait", "go")
        .delay("delay", std::time::Duration::from_mins(1))
        .build()
        .unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let (handle, start) = committed(&runtime, &workflow).await;
    handle.signal("go", &7_u32).await.unwrap();
    let Status::Waiting { wake_at, .. } = reach_code(&handle, StatusCode::Waiting).await else { panic!() };
    within(start).await.unwrap();
    assert_eq!(common::when_clock_is_at(&clock, wake_at, handle.result()).await, Ok(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_given_up_after_its_commit_goes_on_by_itself() {
    // The caller drops the future, as a timeout around it does; the instance is durable, so it must run: at a task, and
    // in a delay.
    let clock = still_clock();
    let task_first = Workflow::builder("task").then("inc", inc).build().unwrap();
    let delay_first =
        Workflow::builder_for::<u32>("delay").delay("d", std::time::Duration::from_mins(1)).then("inc", inc).build();
    for workflow in [delay_first.unwrap(), task_first] {
        let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
        let runtime = builder.start().await.unwrap();
        let (handle, start) = committed(&runtime, &workflow).await;
        drop(start);
        let ended = common::moving(&clock, std::time::Duration::from_secs(10), handle.result()).await;
        assert_eq!(ended, Ok(2), "{workflow:?}");
    }
}
