//! Tasks: how attempts are made, repeated, timed and ended, and which task goes first.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Gate, failing, holding, inc, moving, reach_code, still_clock, when_clock_is_at, within};
use everstep::{
    BoxError, Clock as _, Failure, FailureKind, ManualClock, MemoryStore, Permanent, Priority, ResultError, RetryAfter,
    RetryPolicy, Runtime, Status, StatusCode, TaskContext, TaskFailure, Workflow, task,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const SECOND: Duration = Duration::from_secs(1);

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
async fn attempts_are_numbered_and_respect_the_policy() {
    // Fixed and capped exponential backoffs on a clock that the test moves. Each attempt records
    // its time, which must not be before the sum of the backoffs; at that time it must come by
    // itself.
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
async fn final_failure_names_task_attempt_and_message() {
    // One retry too few; the previous task keeps its result. A task without a retry policy has one
    // attempt.
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
async fn rest_of_a_backoff_is_honoured_after_a_restart() {
    // A backoff of ten minutes; the runtime is dropped after four, and the next attempt comes six
    // later, with its number.
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
async fn permanent_error_ends_retries_and_retry_after_delays() {
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
async fn panic_is_a_failed_attempt() {
    // Panics before the first await, after it, and in a blocking task. The second attempt succeeds;
    // without one the task fails.
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
async fn timed_out_attempt_is_cancelled_and_retried() {
    // The first attempt of each task never ends by itself: its token must be cancelled, and the
    // second attempt must come. A task without a second attempt fails as timed out.
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
async fn workflow_deadline_ends_tasks_waits_and_delays() {
    // Three workflows, held in a task, in a wait and in a delay past their deadline of a minute.
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
async fn most_urgent_task_gets_the_only_slot_first() {
    // While one task has the slot, tasks of every priority queue up, the least urgent first. They
    // run in order of priority, and within one in order of arrival.
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
            // The task is queued once its actor has performed the start; an answer of the actor
            // shows that.
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

/// Method: one slot, a map with nine items queued, and then another instance. Its task must not run
/// after all of the map's.
#[tokio::test(flavor = "multi_thread")]
async fn instances_take_turns_at_the_slots_within_a_priority() {
    let (gate, order) = (Gate::new(), Arc::new(Mutex::new(Vec::new())));
    let (inside, noted) = (gate.clone(), order.clone());
    let note = move |n: u32| {
        let (gate, order) = (inside.clone(), noted.clone());
        async move {
            order.lock().unwrap().push(n);
            gate.pass().await;
            Ok::<_, Infallible>(n)
        }
    };
    let list = |n: u32| ready(Ok::<_, Infallible>((0..n).collect::<Vec<u32>>()));
    let map = Workflow::builder("map")
        .then("list", list)
        .map("each", everstep::Concurrency::Unlimited, |item| item.then("note", note.clone()))
        .build()
        .unwrap();
    let other = Workflow::builder("other").then("note", note).build().unwrap();
    let mut limits = everstep::Limits::default();
    limits.tasks_running_max = 1;
    let builder = Runtime::builder(MemoryStore::new()).register(&map).register(&other).limits(limits);
    let runtime = builder.clock(still_clock()).start().await.unwrap();
    let map = runtime.start(&map, "map", 10).await.unwrap();
    gate.entered().await;
    let other = runtime.start(&other, "other", 99).await.unwrap();
    // The task is queued once its actor has performed the start; an answer of the actor shows that.
    other.signal("none", &0_u32).await.unwrap_err();
    gate.open(11);
    assert_eq!(within(map.result()).await.unwrap().len(), 10);
    within(other.result()).await.unwrap();
    let order = order.lock().unwrap().clone();
    assert!(order.iter().position(|n| *n == 99).is_some_and(|place| place <= 3), "{order:?}");
}

/// A stopped clock that counts how often it is read.
#[derive(Clone)]
struct Looks(ManualClock, Arc<std::sync::atomic::AtomicU32>);

impl everstep::Clock for Looks {
    fn now(&self) -> everstep::Timestamp {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.now()
    }

    fn sleep(&self, duration: Duration) -> everstep::BoxFuture<'static, ()> {
        self.0.sleep(duration)
    }
}

/// Method: one slot, one thread, a map whose items queue: each is placed with one read of the
/// clock. Another task of that thread counts the reads between two of its turns.
#[tokio::test]
async fn map_of_many_items_leaves_the_thread_to_others() {
    const ITEMS: u32 = 5_000;
    let (gate, looks) = (Gate::new(), Looks(still_clock(), Arc::default()));
    let numbers = |n: u32| ready(Ok::<_, Infallible>((0..n).collect::<Vec<u32>>()));
    let map = Workflow::builder("map")
        .then("list", numbers)
        .map("each", everstep::Concurrency::Unlimited, |item| item.then("hold", holding::<u32>(&gate)))
        .build()
        .unwrap();
    let mut limits = everstep::Limits::default();
    limits.tasks_running_max = 1;
    let builder = Runtime::builder(MemoryStore::new()).register(&map).limits(limits);
    let runtime = builder.clock(looks.clone()).start().await.unwrap();
    let mapped = runtime.start(&map, "map", ITEMS).await.unwrap();
    let (mut last, mut most) = (looks.1.load(std::sync::atomic::Ordering::Relaxed), 0);
    let all = within(async {
        while last < ITEMS {
            tokio::task::yield_now().await;
            let now = looks.1.load(std::sync::atomic::Ordering::Relaxed);
            (most, last) = (most.max(now - last), now);
        }
    });
    all.await;
    assert!(most < ITEMS / 10, "{most}");
    mapped.cancel("x", "y").await.unwrap();
}
