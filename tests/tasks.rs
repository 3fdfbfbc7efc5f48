//! Tasks: how attempts are made, repeated, timed and ended, and what a task is given.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Counter, Gate, holding, inc, moving, reach_code, same, still_clock, when_clock_is_at, within};
use everstep::{
    BoxError, Clock as _, Codec, CustomCodec, Dep, Failure, FailureKind, ManualClock, MemoryStore, Permanent, Priority,
    ReadWith, ResultError, RetryAfter, RetryPolicy, RunOnce, RunOnceError, Runtime, SignalOutcome, Status, StatusCode,
    TaskContext, TaskFailure, Timestamp, Workflow, task,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const SECOND: Duration = Duration::from_secs(1);

/// Every attempt tells when it began and its number, and fails until the input's number of failures is reached.
type Attempts = UnboundedSender<(u32, Duration)>;
type Failing = Ready<Result<u32, String>>;

fn failing(clock: &ManualClock, told: Attempts) -> impl Fn(u32, TaskContext) -> Failing + Send + Sync + use<> {
    let (clock, start) = (clock.clone(), clock.now());
    move |failures, context| {
        told.send((context.attempt(), clock.now().since(start))).unwrap();
        let done = context.attempt() > failures;
        ready(if done { Ok(failures) } else { Err(format!("failure {}", context.attempt())) })
    }
}

async fn next(told: &mut UnboundedReceiver<(u32, Duration)>) -> (u32, Duration) {
    within(told.recv()).await.unwrap()
}

async fn runtime(workflow: &Workflow<u32, u32>, clock: &ManualClock, store: &MemoryStore) -> Runtime {
    Runtime::builder(store.clone()).register(workflow).clock(clock.clone()).start().await.unwrap()
}

fn failed(error: ResultError) -> TaskFailure {
    let ResultError::Failed(Failure::Task(failure)) = error else { panic!("{error:?}") };
    failure
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_numbered_and_come_no_earlier_than_the_policy_says() {
    // Fixed and capped exponential waits on a clock the test moves: each attempt notes its time, which must not be before
    // the sum of the waits; at that time it must come by itself.
    let seconds = Duration::from_secs;
    let exponential = RetryPolicy::exponential(4).initial(seconds(10)).max_delay(seconds(30)).jitter(0.0);
    let policies = [(RetryPolicy::fixed(4, seconds(10)), [0, 10, 20, 30, 40]), (exponential, [0, 10, 30, 60, 90])];
    for (policy, times) in policies {
        let (clock, (told, mut attempts)) = (still_clock(), unbounded_channel());
        let workflow = Workflow::builder("w").then("t", task(failing(&clock, told)).retry(policy)).build().unwrap();
        let store = MemoryStore::new();
        let runtime = runtime(&workflow, &clock, &store).await;
        let start = clock.now();
        let handle = runtime.start(&workflow, "id", 4).await.unwrap();
        for (attempt, time) in (1..).zip(times) {
            let not_before = start.after(seconds(time));
            clock.advance((not_before.since(clock.now())).saturating_sub(Duration::from_micros(1)));
            let (number, at) = moving(&clock, Duration::from_millis(100), next(&mut attempts)).await;
            assert_eq!(number, attempt);
            assert!(at >= seconds(time) && at < seconds(time + 5), "attempt {attempt} after {at:?}, not {time} s");
            if attempt < 5 {
                common::backing_off(&store, "id", clock.now()).await;
            }
        }
        assert_eq!(within(handle.result()).await, Ok(4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_retry_the_failure_names_task_attempt_and_message_and_keeps_results() {
    // One retry too few; the task before it keeps its result, and no retry policy at all means one attempt.
    for (retries, attempt) in [(0, 1), (2, 3)] {
        let (clock, (told, mut attempts)) = (still_clock(), unbounded_channel());
        let workflow = Workflow::builder("w")
            .then("inc", inc)
            .then("t", task(failing(&clock, told)).retry(RetryPolicy::fixed(retries, Duration::ZERO)))
            .build()
            .unwrap();
        let runtime = runtime(&workflow, &clock, &MemoryStore::new()).await;
        let handle = runtime.start(&workflow, "id", 100).await.unwrap();
        let failure = failed(within(handle.result()).await.unwrap_err());
        assert_eq!((failure.task.as_str(), failure.attempt, failure.kind), ("t", attempt, FailureKind::Error));
        assert_eq!(failure.message, format!("failure {attempt}"));
        assert_eq!(handle.status().await.unwrap(), Status::Failed { failure: Failure::Task(failure) });
        assert_eq!(handle.task_result::<u32>("inc").await.unwrap(), Some(101));
        assert_eq!(handle.task_result::<u32>("t").await.unwrap(), None);
        for number in 1..=attempt {
            assert_eq!(next(&mut attempts).await.0, number);
        }
        assert!(attempts.try_recv().is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_backoff_is_honoured_after_a_restart() {
    // A backoff of ten minutes; the runtime is dropped after four, and the next attempt comes six later, with its number.
    let (clock, store, (told, mut attempts)) = (still_clock(), MemoryStore::new(), unbounded_channel());
    let policy = RetryPolicy::fixed(3, 600 * SECOND);
    let workflow = Workflow::builder("w").then("t", task(failing(&clock, told)).retry(policy)).build().unwrap();
    let first = runtime(&workflow, &clock, &store).await;
    first.start(&workflow, "id", 1).await.unwrap();
    assert_eq!(next(&mut attempts).await, (1, Duration::ZERO));
    first.shutdown(SECOND).await;
    clock.advance(240 * SECOND);
    let second = runtime(&workflow, &clock, &store).await;
    let handle = second.handle(&workflow, "id").await.unwrap();
    clock.advance(359 * SECOND);
    let probe = second.start(&workflow, "probe", 0).await.unwrap();
    assert_eq!(within(probe.result()).await, Ok(0));
    assert_eq!(next(&mut attempts).await, (1, 599 * SECOND));
    assert!(attempts.try_recv().is_err(), "the second attempt came before its backoff was over");
    let (number, at) = moving(&clock, SECOND, next(&mut attempts)).await;
    assert!(number == 2 && at >= 600 * SECOND, "attempt {number} at {at:?}");
    assert_eq!(within(handle.result()).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_errors_are_not_retried_and_retry_after_replaces_the_wait() {
    // Three kinds of boxed error from one task under a policy of a minute.
    let clock = still_clock();
    let (told, mut attempts) = unbounded_channel();
    let (times, start) = (clock.clone(), clock.now());
    let kinds = move |kind: u32, context: TaskContext| {
        told.send((context.attempt(), times.now().since(start))).unwrap();
        let error: BoxError = match (kind, context.attempt()) {
            (0, _) => Permanent::new("never").into(),
            (1, 1) => RetryAfter::new("busy", 300 * SECOND).into(),
            (2, 1) => std::io::Error::other("disk").into(),
            _ => return ready(Ok(kind)),
        };
        ready(Err(error))
    };
    let policy = RetryPolicy::fixed(3, 60 * SECOND);
    let workflow = Workflow::builder("w").then("t", task(kinds).retry(policy)).build().unwrap();
    let runtime = runtime(&workflow, &clock, &MemoryStore::new()).await;
    let permanent = runtime.start(&workflow, "permanent", 0).await.unwrap();
    let failure = failed(within(permanent.result()).await.unwrap_err());
    assert_eq!((failure.attempt, failure.kind, failure.message.as_str()), (1, FailureKind::Permanent, "never"));
    next(&mut attempts).await;
    let began = clock.now().since(start);
    let disk = runtime.start(&workflow, "disk", 2).await.unwrap();
    next(&mut attempts).await;
    let (_, at) = moving(&clock, 10 * SECOND, next(&mut attempts)).await;
    assert!(at >= began + 60 * SECOND && at < began + 300 * SECOND, "{at:?}");
    assert_eq!(within(disk.result()).await, Ok(2));
    let began = clock.now().since(start);
    let busy = runtime.start(&workflow, "busy", 1).await.unwrap();
    next(&mut attempts).await;
    let (_, at) = moving(&clock, 10 * SECOND, next(&mut attempts)).await;
    assert!(at >= began + 300 * SECOND, "{at:?}");
    assert_eq!(within(busy.result()).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_a_failed_attempt() {
    // Panics before the first await, after it, and in a blocking task; the second attempt succeeds, without one it fails.
    let early = |n: u32, context: TaskContext| {
        assert!(context.attempt() > 1, "early");
        ready(Ok::<_, Infallible>(n))
    };
    let late = async |n: u32, context: TaskContext| {
        tokio::task::yield_now().await;
        assert!(context.attempt() > 1, "late");
        Ok::<_, Infallible>(n)
    };
    let once = RetryPolicy::fixed(1, Duration::ZERO);
    let workflow = Workflow::builder("w")
        .then("early", task(early).retry(once.clone()))
        .then("late", task(late).retry(once.clone()))
        .then("blocking", task(late).retry(once).blocking())
        .then("final", late)
        .build()
        .unwrap();
    let runtime = runtime(&workflow, &still_clock(), &MemoryStore::new()).await;
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let failure = failed(within(handle.result()).await.unwrap_err());
    assert_eq!((failure.task.as_str(), failure.kind, failure.attempt), ("final", FailureKind::Panicked, 1));
    assert!(failure.message.contains("late"), "{}", failure.message);
    assert_eq!(handle.task_result::<u32>("blocking").await.unwrap(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_times_out_is_cancelled_and_retried() {
    // The first attempt of each task never ends by itself: its token must be cancelled and the second attempt must come;
    // a task that has no second one fails as timed out.
    for blocking in [false, true] {
        let (clock, (told, mut tokens)) = (still_clock(), unbounded_channel());
        let stuck = move |n: u32, context: TaskContext| {
            let told = told.clone();
            async move {
                told.send((context.attempt(), context.cancellation().clone(), context.deadline())).unwrap();
                if context.attempt() <= n {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(n)
            }
        };
        let mut options = task(stuck).timeout(10 * SECOND).retry(RetryPolicy::fixed(1, SECOND));
        if blocking {
            options = options.blocking();
        }
        let workflow = Workflow::builder("w").then("stuck", options).build().unwrap();
        let runtime = runtime(&workflow, &clock, &MemoryStore::new()).await;
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        let (attempt, token, deadline) = within(tokens.recv()).await.unwrap();
        assert_eq!((attempt, deadline), (1, Some(clock.now().after(10 * SECOND))));
        clock.advance(9 * SECOND);
        assert!(!token.is_cancelled());
        moving(&clock, SECOND, token.cancelled()).await;
        let (attempt, ..) = moving(&clock, SECOND, tokens.recv()).await.unwrap();
        assert_eq!(attempt, 2);
        assert_eq!(within(handle.result()).await, Ok(1));

        let handle = runtime.start(&workflow, "never", 9).await.unwrap();
        let failure = failed(moving(&clock, 2 * SECOND, handle.result()).await.unwrap_err());
        assert_eq!((failure.attempt, failure.kind), (2, FailureKind::TimedOut));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workflow_deadline_ends_what_runs_waits_or_is_delayed() {
    // One workflow each that is held in a task, a wait and a delay past its deadline of a minute.
    let (clock, gate) = (still_clock(), Gate::new());
    let new = |name: &str| Workflow::builder(name).deadline(60 * SECOND).then("inc", inc);
    let workflows = [
        new("held").then("hold", holding::<u32>(&gate)).build().unwrap(),
        new("waiting").wait_for_signal::<u32>("wait", "go").build().unwrap(),
        new("delayed").delay("delay", 3_600 * SECOND).build().unwrap(),
    ];
    for workflow in workflows {
        let runtime = runtime(&workflow, &clock, &MemoryStore::new()).await;
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        match workflow.definition().info().name() {
            "held" => gate.entered().await,
            "waiting" => drop(reach_code(&handle, StatusCode::AwaitingSignal).await),
            _ => drop(reach_code(&handle, StatusCode::Waiting).await),
        }
        clock.advance(59 * SECOND);
        assert!(!handle.status().await.unwrap().is_terminal());
        let ended = when_clock_is_at(&clock, clock.now().after(SECOND), handle.result()).await;
        assert_eq!(ended, Err(ResultError::Failed(Failure::DeadlineExceeded)));
        assert_eq!(handle.task_result::<u32>("inc").await.unwrap(), Some(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_slot_the_most_urgent_goes_first() {
    // While one task has the slot, tasks of every priority queue up, the least urgent first; they run in order of
    // priority, and within one in order of arrival.
    let (gate, order) = (Gate::new(), Arc::new(Mutex::new(Vec::new())));
    let note = |priority: Priority| {
        let order = Arc::clone(&order);
        let note = move |n: u32| {
            order.lock().unwrap().push((priority, n));
            ready(Ok::<_, Infallible>(n))
        };
        Workflow::builder(format!("{priority:?}")).then("note", task(note).priority(priority)).build().unwrap()
    };
    let priorities = [Priority::Minimal, Priority::Low, Priority::Normal, Priority::High, Priority::Critical];
    let workflows = priorities.map(note);
    let holder = Workflow::builder("holder").then("hold", holding::<u32>(&gate)).build().unwrap();
    let mut limits = everstep::Limits::default();
    limits.tasks_running_max = 1;
    let mut builder = Runtime::builder(MemoryStore::new()).register(&holder).limits(limits).clock(still_clock());
    for workflow in &workflows {
        builder = builder.register(workflow);
    }
    let runtime = builder.start().await.unwrap();
    let first = runtime.start(&holder, "first", 0).await.unwrap();
    gate.entered().await;
    let mut handles = Vec::new();
    for n in 0..2 {
        for workflow in &workflows {
            let handle =
                runtime.start(workflow, format!("{} {n}", workflow.definition().info().name()), n).await.unwrap();
            // Queued once its actor has performed the start; an answer from it says so.
            handle.signal("none", &0_u32).await.unwrap_err();
            handle.pause("x", "y").await.unwrap();
            handle.unpause().await.unwrap();
            handles.push(handle);
        }
    }
    gate.open(1);
    within(first.result()).await.unwrap();
    for handle in &handles {
        within(handle.result()).await.unwrap();
    }
    let order = order.lock().unwrap().clone();
    let expected: Vec<_> = priorities.iter().rev().flat_map(|priority| [(*priority, 0), (*priority, 1)]).collect();
    assert_eq!(order, expected);
}

trait Greeter: Send + Sync {
    fn greet(&self, name: &str) -> String;
}

struct Polite;

impl Greeter for Polite {
    fn greet(&self, name: &str) -> String {
        format!("good day, {name}")
    }
}

async fn greet(
    name: String,
    Dep(greeter): Dep<dyn Greeter>,
    context: TaskContext,
    Dep(count): Dep<AtomicU32>,
) -> Result<String, Infallible> {
    Ok(format!("{} ({} {})", greeter.greet(&name), count.fetch_add(1, Ordering::SeqCst), context.attempt()))
}

async fn shout(text: String, context: TaskContext, Dep(count): Dep<AtomicU32>) -> Result<String, Infallible> {
    Ok(format!("{} {} {}", text.to_uppercase(), count.load(Ordering::SeqCst), context.node()))
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_context_come_in_any_order_also_as_trait_objects() {
    // Two tasks that take the same things in different order, in a runtime and in memory.
    let workflow = Workflow::builder("w").then("greet", greet).then("shout", task(shout).blocking()).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).provide(AtomicU32::new(5));
    let runtime = builder.provide_arc::<dyn Greeter>(Arc::new(Polite)).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", "ana".to_owned()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), "GOOD DAY, ANA (5 1) 6 shout");
    let once = RunOnce::new(&workflow).provide(AtomicU32::new(1)).provide_arc::<dyn Greeter>(Arc::new(Polite));
    assert_eq!(once.run("bo".to_owned()).await.unwrap(), "GOOD DAY, BO (1 1) 2 shout");
    let error = workflow.run_once("bo".to_owned()).await.unwrap_err();
    let RunOnceError::MissingDeps(missing) = error else { panic!("{error:?}") };
    assert_eq!(missing.len(), 3, "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_tells_the_attempt_it_is_in_and_its_key_is_the_positions() {
    // Two tasks in two instances, the first with two attempts: all contexts are collected, and their keys are equal where
    // only the attempt differs and nowhere else.
    let (told, mut contexts) = unbounded_channel::<TaskContext>();
    let tell = move |n: u32, context: TaskContext| {
        told.send(context.clone()).unwrap();
        let again = context.node().as_str() == "first" && context.attempt() == 1;
        ready(if again { Err("again") } else { Ok(n) })
    };
    let first = task(tell.clone()).retry(RetryPolicy::fixed(1, Duration::ZERO)).timeout(SECOND).tag("x").tag("y");
    let first = first.priority(Priority::High).version("v7").display_name("First").description("the first");
    let workflow = Workflow::builder("named")
        .version("3")
        .description("text")
        .metadata("team", "blue")
        .then("first", first)
        .then("second", task(tell))
        .build()
        .unwrap();
    let runtime = runtime(&workflow, &still_clock(), &MemoryStore::new()).await;
    let mut keys = std::collections::BTreeMap::<String, Vec<(String, String)>>::new();
    for id in ["a", "b"] {
        let handle = runtime.start(&workflow, id, 1).await.unwrap();
        within(handle.result()).await.unwrap();
        for (node, attempt) in [("first", 1), ("first", 2), ("second", 1)] {
            let context = contexts.try_recv().unwrap();
            let place = (context.instance().as_str(), context.node().as_str(), context.attempt(), context.run());
            assert_eq!(place, (id, node, attempt, handle.run_id()));
            let info = context.workflow();
            assert_eq!((info.name(), info.version(), info.description()), ("named", "3", Some("text")));
            assert_eq!(info.metadata().get("team").map(String::as_str), Some("blue"));
            let options = context.options();
            if node == "first" {
                assert_eq!(
                    (options.tags(), options.priority()),
                    (&["x".to_owned(), "y".to_owned()][..], Priority::High)
                );
                assert_eq!((options.version(), options.timeout()), ("v7", Some(SECOND)));
                assert_eq!((options.display_name(), options.description()), (Some("First"), Some("the first")));
                assert_eq!(context.deadline(), Some(Timestamp::from_micros(1_800_000_001_000_000)));
            } else {
                assert_eq!((options.priority(), context.deadline()), (Priority::Normal, None));
            }
            let place = (id.to_owned(), node.to_owned());
            keys.entry(context.idempotency_key()).or_default().push(place);
        }
    }
    assert_eq!(keys.len(), 4, "{keys:?}");
    assert!(keys.keys().all(|key| key.len() == 64));
    assert!(keys.values().all(|places| places.iter().all(|place| *place == places[0])), "{keys:?}");
}

/// JSON, each byte inverted.
struct Inverted;

impl CustomCodec for Inverted {
    fn id(&self) -> u8 {
        200
    }

    fn name(&self) -> &'static str {
        "inverted JSON"
    }

    fn encode(&self, value: &dyn erased_serde::Serialize) -> Result<Vec<u8>, erased_serde::Error> {
        let bytes = serde_json::to_vec(value).map_err(serde::ser::Error::custom)?;
        Ok(bytes.into_iter().map(|byte| !byte).collect())
    }

    fn decode(&self, bytes: &[u8], read: &mut ReadWith<'_>) -> Result<(), erased_serde::Error> {
        let bytes: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        let mut deserializer = serde_json::Deserializer::from_slice(&bytes);
        read(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut deserializer))?;
        deserializer.end().map_err(serde::de::Error::custom)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_carries_input_results_and_signals() {
    // The same workflow with each codec, stopped in the middle; the second runtime's own codec is the default, since an
    // instance goes on with the one it was started with.
    for codec in [Codec::MessagePack, Codec::Json, Codec::Custom(Arc::new(Inverted))] {
        let workflow = Workflow::builder("w")
            .then("same", same::<(String, Option<u8>)>)
            .wait_for_signal_keeping::<Vec<i64>>("wait", "go")
            .then("again", same::<((String, Option<u8>), Vec<i64>)>)
            .build()
            .unwrap();
        let store = MemoryStore::new();
        let builder = Runtime::builder(store.clone()).register(&workflow).codec(codec.clone());
        let first = builder.start().await.unwrap();
        let handle = first.start(&workflow, "id", ("é".repeat(200), None)).await.unwrap();
        reach_code(&handle, StatusCode::AwaitingSignal).await;
        first.shutdown(SECOND).await;
        let second = Runtime::builder(store).register(&workflow).also_codec(codec.clone()).start().await.unwrap();
        let handle = second.handle(&workflow, "id").await.unwrap();
        handle.signal("go", &vec![i64::MIN, -1, i64::MAX]).await.unwrap();
        let output = within(handle.result()).await.unwrap();
        assert_eq!(output, (("é".repeat(200), None), vec![i64::MIN, -1, i64::MAX]), "{codec:?}");
        let stored = handle.task_result::<(String, Option<u8>)>("same").await.unwrap();
        assert_eq!(stored, Some(("é".repeat(200), None)), "{codec:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn run_once_goes_through_delays_retries_and_timeouts_and_needs_no_signal() {
    // One workflow with all of that on a clock that is moved; one that fails for good; one that waits for a signal.
    let (clock, (told, _attempts)) = (still_clock(), unbounded_channel());
    let workflow = Workflow::builder("w")
        .then("t", task(failing(&clock, told)).retry(RetryPolicy::fixed(2, 60 * SECOND)))
        .delay("delay", 3_600 * SECOND)
        .wait_for_signal_keeping_timeout::<u32>("wait", "go", 60 * SECOND)
        .build()
        .unwrap();
    let start = clock.now();
    let run = RunOnce::new(&workflow).clock(clock.clone()).run(2);
    assert_eq!(moving(&clock, 60 * SECOND, run).await, Ok((2, SignalOutcome::TimedOut)));
    assert!(clock.now() >= start.after(3_780 * SECOND));
    let run = RunOnce::new(&workflow).clock(clock.clone()).run(3);
    let Err(RunOnceError::Failed(Failure::Task(failure))) = moving(&clock, 60 * SECOND, run).await else { panic!() };
    assert_eq!((failure.attempt, failure.message.as_str()), (3, "failure 3"));

    let counter = Counter::default();
    let waits = Workflow::builder("w").then("count", common::counting::<u32>(&counter)).delay("d", SECOND / 100);
    let waits = waits.wait_for_signal::<u32>("wait", "go").build().unwrap();
    let Err(RunOnceError::NeedsSignal { node }) = within(waits.run_once(1)).await else { panic!() };
    assert_eq!((node.as_str(), counter.get()), ("wait", 1));
}
