//! Actors that panic: the runtime loads the instance again, and quarantines it if panics repeat.
//! `EVERSTEP_PANICS=100000 cargo test --all-features --test actor_panics` runs more panics, in a
//! debug build only: the clock below finds the actor by the names on the stack.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{Counter, Gate, counting, holding, inc, long, reach, reach_code, still_clock, within};
use everstep::{
    BoxFuture, Checkpoint, Clock, ConflictPolicy, Health, InstanceHandle, LoopLimit, LoopResult, ManualClock,
    MemoryStore, MessageError, ResultError, Runtime, StartOptions, Status, StatusCode, Timestamp, Workflow, task,
};

/// A stopped clock that panics in an instance's actor while it is armed. Sleeping takes real time.
#[derive(Clone)]
struct Treacherous {
    clock: ManualClock,
    panics: Arc<AtomicU32>,
    /// True if sleeping takes the clock's time, which is stopped.
    stands: bool,
}

impl Treacherous {
    fn new() -> Self {
        Self { clock: still_clock(), panics: Arc::default(), stands: false }
    }

    fn standing() -> Self {
        Self { stands: true, ..Self::new() }
    }
}

impl Clock for Treacherous {
    fn now(&self) -> Timestamp {
        let armed = self.panics.load(Ordering::SeqCst) > 0;
        if armed && std::backtrace::Backtrace::force_capture().to_string().contains("everstep::actors::active") {
            let one_less = |left: u32| left.checked_sub(1);
            assert!(self.panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_err(), "no time");
        }
        self.clock.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if self.stands { self.clock.sleep(duration) } else { Box::pin(tokio::time::sleep(duration)) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn task_after_an_undurable_result_reruns_after_a_panic() {
    // The actor panics while it receives the second task's result. The store does not know yet that
    // the first task has ended; that outcome is still in memory.
    let (clock, gate, count) = (Treacherous::new(), Gate::new(), Counter::default());
    let workflow = Workflow::builder("deferred")
        .then("first", task(counting::<u32>(&count)).checkpoint(Checkpoint::Deferred))
        .then("second", task(holding::<u32>(&gate)).checkpoint(Checkpoint::Deferred))
        .then("third", counting::<u32>(&count))
        .build()
        .unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone()).start().await.unwrap();
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    gate.entered().await;
    clock.panics.store(1, Ordering::SeqCst);
    gate.open(2);
    assert_eq!(within(handle.result()).await, Ok(1));
    assert_eq!((clock.panics.load(Ordering::SeqCst), gate.count(), count.get()), (0, 2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_actor_panic_reloads_and_finishes_the_instance() {
    // The actor panics while it handles a result, a wake-up, a signal and a pause; finished tasks
    // stay finished.
    let (clock, gate, count) = (Treacherous::new(), Gate::new(), Counter::default());
    let workflow = long(&count, &gate);
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    clock.panics.store(1, Ordering::SeqCst);
    gate.open(2);
    let Status::Waiting { wake_at, .. } = reach_code(&handle, StatusCode::Waiting).await else { panic!() };
    clock.panics.store(1, Ordering::SeqCst);
    clock.clock.set_wall(wake_at);
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    clock.panics.store(1, Ordering::SeqCst);
    // The caller does not know if the pause took effect. Repeating it is harmless and works once
    // the panicking actor is gone.
    while let Err(error) = within(handle.pause("x", "y")).await {
        assert!(matches!(error, MessageError::OutcomeUnknown(_)), "{error:?}");
    }
    handle.unpause().await.unwrap();
    clock.panics.store(1, Ordering::SeqCst);
    within(handle.signal("go", &41_u32)).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(42));
    assert_eq!((clock.panics.load(Ordering::SeqCst), count.get()), (0, 1));
    assert_eq!(runtime.health(), Health::Healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_actor_panics_quarantine_the_instance() {
    // The clock panics until the instance is quarantined. Others continue, and the instance stays
    // quarantined until it is replaced.
    let (clock, store) = (Treacherous::new(), MemoryStore::new());
    let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").build().unwrap();
    let builder = || Runtime::builder(store.clone()).register(&workflow).clock(clock.clone());
    let runtime = builder().start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let beside = runtime.start(&workflow, "beside", 1).await.unwrap();
    let waiter = {
        let handle = handle.clone();
        tokio::spawn(async move { handle.result().await })
    };
    clock.panics.store(u32::MAX, Ordering::SeqCst);
    let sent = within(handle.cancel("x", "y")).await;
    assert!(matches!(sent, Err(MessageError::OutcomeUnknown(_) | MessageError::Quarantined(_))), "{sent:?}");
    let status = reach_code(&handle, StatusCode::Quarantined).await;
    clock.panics.store(0, Ordering::SeqCst);
    let Status::Quarantined { reason } = &status else { panic!("{status}") };
    assert!(reason.contains("no time"), "{reason}");
    assert_eq!(within(waiter).await.unwrap(), Err(ResultError::Quarantined { reason: reason.clone() }));
    beside.signal("go", &1_u32).await.unwrap();
    assert_eq!(within(beside.result()).await, Ok(1));
    for runtime in [runtime, builder().start().await.unwrap()] {
        let handle = runtime.handle(&workflow, "id").await.unwrap();
        assert_eq!(handle.status().await.unwrap(), status);
        assert_eq!(handle.signal("go", &1_u32).await, Err(MessageError::Quarantined(status.clone())));
    }
    let runtime = builder().start().await.unwrap();
    let replace = StartOptions::new().policy(ConflictPolicy::TerminateExisting);
    let new = within(runtime.start_with(&workflow, "id", 1, replace)).await.unwrap().handle;
    new.signal("go", &3_u32).await.unwrap();
    assert_eq!(within(new.result()).await, Ok(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn released_instance_continues_with_signal_and_result() {
    // The clock panics until the instance is quarantined, with a signal buffered and a task done.
    // After a release the instance continues.
    let (clock, store, count) = (Treacherous::new(), MemoryStore::new(), Counter::default());
    let workflow = Workflow::builder("w")
        .then("count", counting::<u32>(&count))
        .wait_for_signal::<u32>("wait", "go")
        .wait_for_signal::<u32>("wait too", "on")
        .build()
        .unwrap();
    let builder = Runtime::builder(store.clone()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    handle.signal("on", &2_u32).await.unwrap();
    let waiting = reach_code(&handle, StatusCode::AwaitingSignal).await;
    assert_eq!(within(handle.release()).await, Err(MessageError::NotQuarantined(waiting)));
    clock.panics.store(u32::MAX, Ordering::SeqCst);
    // The error may be any one: the cancel is never carried out.
    assert!(within(handle.cancel("x", "y")).await.is_err());
    reach_code(&handle, StatusCode::Quarantined).await;
    clock.panics.store(0, Ordering::SeqCst);
    within(handle.release()).await.unwrap();
    assert_eq!(handle.status().await.unwrap().code(), StatusCode::AwaitingSignal);
    handle.signal("go", &1_u32).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(2));
    assert_eq!(count.get(), 1);
    assert_eq!(within(handle.release()).await, Err(MessageError::NotQuarantined(Status::Completed)));
}

/// Returns a workflow that takes signals until a zero comes, and returns all of them, one decimal
/// digit each.
fn listening() -> Workflow<u64, u64> {
    async fn note((sum, digit): (u64, u32)) -> Result<LoopResult<u64, u64>, Infallible> {
        let sum = (sum * 10 + u64::from(digit)) % 1_000_000_007;
        Ok(if digit == 0 { LoopResult::Done(sum) } else { LoopResult::Again(sum) })
    }
    Workflow::builder_for::<u64>("listening")
        .repeat("loop", LoopLimit::Unlimited, |body| {
            body.wait_for_signal_keeping::<u32>("wait", "go").then("note", note)
        })
        .build()
        .unwrap()
}

/// Sends a message, with that many actor panics on the way, until it is acknowledged.
async fn acknowledged(clock: &Treacherous, panics: u32, handle: &InstanceHandle<u64>, message: Message) {
    clock.panics.store(panics, Ordering::SeqCst);
    loop {
        let answer = match message {
            // The handle repeats a signal by itself, with the same id.
            Message::Signal(digit) => within(handle.signal("go", &digit)).await,
            Message::Pause => within(handle.pause("why", "who")).await,
            Message::Unpause => within(handle.unpause()).await,
        };
        match (answer, message) {
            // An unpause that is refused had taken effect before.
            (Ok(()), _) | (Err(MessageError::NotPaused(_)), Message::Unpause) => break,
            (Err(MessageError::OutcomeUnknown(_)), _) => {}
            (Err(error), _) => panic!("{error:?}"),
        }
    }
    // Uses up the remaining panics if the message was not the last one that the actor handled.
    let is_over = async {
        while clock.panics.load(Ordering::SeqCst) > 0 {
            handle.pause("once more", "who").await.ok();
            if message != Message::Pause {
                handle.unpause().await.ok();
            }
        }
    };
    within(is_over).await;
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Message {
    Signal(u32),
    Pause,
    Unpause,
}

/// Returns the resident memory of this process in bytes.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    1024 * line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_actor_panics_lose_no_acknowledged_message() {
    // Twenty instances take turns in getting a message that panics their actors up to three times;
    // now and then another instance runs beside them. More than a minute passes between turns, so
    // that none is quarantined.
    let panics_max = std::env::var("EVERSTEP_PANICS").ok().and_then(|panics| panics.parse().ok()).unwrap_or(1_000);
    let (clock, workflow) = (Treacherous::new(), listening());
    let beside = Workflow::builder("beside").then("first", inc).then("second", inc).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).register(&beside).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let (mut handles, mut sums) = (Vec::new(), vec![0; 20]);
    for n in 0..sums.len() {
        handles.push(runtime.start(&workflow, format!("i{n}"), 0).await.unwrap());
    }
    let (mut panics, mut turn, mut warm) = (0, 0_u32, None);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    while panics < panics_max {
        let (n, several) = (turn as usize % handles.len(), 1 + turn % 3);
        let message = match (turn as usize / handles.len()) % 4 {
            0 => Message::Pause,
            1 => Message::Signal(1 + turn % 9),
            2 => Message::Unpause,
            _ => Message::Signal(1 + turn % 7),
        };
        acknowledged(&clock, several, &handles[n], message).await;
        match message {
            Message::Signal(digit) => sums[n] = (sums[n] * 10 + u64::from(digit)) % 1_000_000_007,
            Message::Pause => assert_eq!(handles[n].status().await.unwrap().code(), StatusCode::Paused),
            Message::Unpause => assert_ne!(handles[n].status().await.unwrap().code(), StatusCode::Paused),
        }
        if turn % 50 == 0 {
            let beside = runtime.start(&beside, format!("beside {turn}"), 1).await.unwrap();
            assert_eq!(within(beside.result()).await, Ok(3));
            beside.delete().await.unwrap();
        }
        // Otherwise the next panics would count together with these.
        reach(&handles[n], |status| matches!(status, Status::AwaitingSignal { .. } | Status::Paused { .. })).await;
        clock.clock.advance(Duration::from_secs(61));
        (panics, turn) = (panics + several, turn + 1);
        if panics >= panics_max / 4 && warm.is_none() {
            warm = Some((tasks(), resident_bytes()));
        }
    }
    let (tasks_before, bytes_before) = warm.unwrap();
    assert!(tasks() <= tasks_before + 40, "{} tasks live, {tasks_before} after a quarter of the panics", tasks());
    let grown = resident_bytes().saturating_sub(bytes_before);
    println!("{panics} panics, memory grew by {} KiB in the last three quarters", grown >> 10);
    assert!(grown < 24 << 20, "{grown} bytes more than after a quarter of the panics");
    for (handle, sum) in handles.iter().zip(sums) {
        handle.unpause().await.ok();
        handle.signal("go", &0_u32).await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(sum * 10 % 1_000_000_007));
    }
    assert_eq!(runtime.health(), Health::Healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifth_actor_panic_in_a_minute_quarantines() {
    // Two panics at once, time and again, with more than a minute between; then three more within
    // the minute. A shard may hear of a panic a little later, when the clock has moved on: two at a
    // time still count less than five.
    let (clock, workflow) = (Treacherous::new(), listening());
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 0).await.unwrap();
    for message in [Message::Pause, Message::Unpause, Message::Signal(7), Message::Pause, Message::Unpause] {
        clock.clock.advance(Duration::from_secs(61));
        acknowledged(&clock, 2, &handle, message).await;
    }
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    clock.clock.advance(Duration::from_secs(59));
    clock.panics.store(3, Ordering::SeqCst);
    assert!(within(handle.cancel("why", "who")).await.is_err());
    let Status::Quarantined { reason } = reach_code(&handle, StatusCode::Quarantined).await else { panic!() };
    assert!(reason.contains("5 times"), "{reason}");
}

/// Sends cancels that panic the actor until the instance is quarantined.
async fn quarantine_by_panics(clock: &Treacherous, panics: u32, handle: &InstanceHandle<u32>) {
    clock.panics.store(panics, Ordering::SeqCst);
    within(handle.cancel("x", "y")).await.unwrap_err();
    reach_code(handle, StatusCode::Quarantined).await;
    clock.panics.store(0, Ordering::SeqCst);
}

/// Method: an actor panics too often while its instance's task runs. The task's future must be
/// dropped, and a release runs the task again.
#[tokio::test(flavor = "multi_thread")]
async fn quarantine_stops_attempts_and_release_runs_them_once() {
    let (clock, gate, dropped) = (Treacherous::new(), Gate::new(), Counter::default());
    let hold = common::holding_until_dropped(&gate, &dropped);
    let workflow = Workflow::builder("w").then("hold", hold).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone()).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    quarantine_by_panics(&clock, u32::MAX, &handle).await;
    common::counted(&dropped, 1).await;
    within(handle.release()).await.unwrap();
    gate.entered().await;
    gate.open(1);
    assert_eq!(within(handle.result()).await, Ok(1));
    assert_eq!(gate.count(), 2);
}

/// Method: one panic quarantines the instance while `b` runs after `a`, whose result is not
/// durable. Both run again after the release, and the first result of `b` must not be taken for
/// that of `a`.
#[tokio::test(flavor = "multi_thread")]
async fn outcome_of_a_lost_attempt_is_never_taken_for_another() {
    for panics_max in [0, 1] {
        let (clock, gate, count) = (Treacherous::standing(), Gate::new(), Counter::default());
        let hold = gate.clone();
        let times_1000 = move |n: u32| {
            let hold = hold.clone();
            async move {
                hold.pass().await;
                Ok::<_, Infallible>(n * 1000)
            }
        };
        let counter = count.clone();
        let counted_inc = move |n: u32| {
            counter.hit();
            std::future::ready(Ok::<_, Infallible>(n + 1))
        };
        let workflow = Workflow::builder("w")
            .then("a", task(counted_inc).checkpoint(Checkpoint::Deferred))
            .then("b", times_1000)
            .then("c", inc)
            .build()
            .unwrap();
        let mut limits = everstep::Limits::default();
        limits.panics_max = panics_max;
        let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone()).limits(limits);
        let runtime = builder.start().await.unwrap();
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        gate.entered().await;
        quarantine_by_panics(&clock, 1, &handle).await;
        within(handle.release()).await.unwrap();
        gate.open(2);
        assert_eq!(within(handle.result()).await, Ok(2001), "{panics_max}");
        assert_eq!(handle.task_result::<u32>("a").await.unwrap(), Some(2), "{panics_max}");
        assert_eq!(count.get(), 2, "{panics_max}");
    }
}
