//! Delays and signal waits: never early, never lost, in order, and typed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::convert::Infallible;
use std::time::Duration;

use common::{Gate, holding, inc, moving, reach, reach_code, same, still_clock, when_clock_is_at, within};
use everstep::{
    Clock as _, Codec, CodecError, HandleError, InstanceHandle, Limits, ManualClock, MemoryStore, MessageError,
    Runtime, SignalError, SignalOutcome, Status, StatusCode, Timestamp, Workflow, machine,
};
use tokio::task::JoinSet;

const MINUTE: Duration = Duration::from_mins(1);
const MOMENT: Duration = Duration::from_micros(1);
/// A moment less than a minute.
const ALMOST: Duration = Duration::from_micros(59_999_999);

/// Its delay is a moment shorter than a minute.
fn probe() -> Workflow<u32, u32> {
    Workflow::builder_for::<u32>("probe").delay("delay", ALMOST).build().unwrap()
}

async fn start(workflow: &Workflow<u32, u32>, clock: &ManualClock) -> Runtime {
    let builder = Runtime::builder(MemoryStore::new()).register(workflow).register(&probe());
    builder.clock(clock.clone()).start().await.unwrap()
}

/// Says what came in a type that a task may give.
fn shown(outcome: SignalOutcome<String>) -> Option<String> {
    match outcome {
        SignalOutcome::Received(text) => Some(text),
        SignalOutcome::TimedOut => None,
    }
}

/// Moves the clock to a moment before `wake_at`, lets the timers act on that, and finds the instance where it was.
async fn is_not_early(runtime: &Runtime, clock: &ManualClock, handle: &InstanceHandle<u32>, wake_at: Timestamp) {
    let before = handle.status().await.unwrap();
    // Due a moment before the instance: once it has ended, the timers have seen that time. Giving up makes the test weaker,
    // not wrong.
    let probe = runtime.start(&probe(), format!("before {}", wake_at.as_micros()), 1).await.unwrap();
    clock.advance(wake_at.since(clock.now()).saturating_sub(MOMENT));
    let _ = tokio::time::timeout(Duration::from_millis(300), probe.result()).await;
    assert_eq!(handle.status().await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_in_every_position_ends_on_time_with_the_right_value() {
    // Each shape is driven through its parks (d a delay, s a wait that gets 100): a delay is left a moment before its time,
    // then passed.
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
            // One delay may be due at the very instant at which the one before it ended.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_timeout_fires_on_the_real_clock_with_no_other_traffic() {
    // Nothing is done but waiting for the result; the wait must end by itself and not before its time.
    let workflow = Workflow::builder_for::<u32>("w")
        .wait_for_signal_keeping_timeout::<String>("wait", "go", Duration::from_millis(80))
        .build()
        .unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let began = std::time::Instant::now();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok((1, SignalOutcome::TimedOut)));
    assert!(began.elapsed() >= Duration::from_millis(80));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wait_gives_says_whether_the_signal_came() {
    // Both forms with a timeout, once signalled a moment before it, once left alone.
    let plain = Workflow::builder_for::<u32>("plain")
        .wait_for_signal_timeout::<String>("wait", "go", MINUTE)
        .then("show", async |outcome| Ok::<_, Infallible>(shown(outcome)))
        .build()
        .unwrap();
    let keeping = Workflow::builder_for::<u32>("keeping")
        .wait_for_signal_keeping_timeout::<String>("wait", "go", MINUTE)
        .then("show", async |(n, outcome): (u32, _)| Ok::<_, Infallible>((n, shown(outcome))))
        .build()
        .unwrap();
    let clock = still_clock();
    let builder = Runtime::builder(MemoryStore::new()).register(&plain).register(&keeping).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let plain_handles = (runtime.start(&plain, "p1", 1).await.unwrap(), runtime.start(&plain, "p2", 1).await.unwrap());
    let keeping_handles =
        (runtime.start(&keeping, "k1", 1).await.unwrap(), runtime.start(&keeping, "k2", 1).await.unwrap());
    let Status::AwaitingSignal { node, signal, wake_at } = plain_handles.0.status().await.unwrap() else { panic!() };
    assert_eq!((node.as_str(), signal.as_str(), wake_at), ("wait", "go", Some(clock.now().after(MINUTE))));
    clock.advance(ALMOST);
    plain_handles.0.signal("go", &"yes".to_owned()).await.unwrap();
    keeping_handles.0.signal("go", &"yes".to_owned()).await.unwrap();
    let received = || Some("yes".to_owned());
    assert_eq!(within(plain_handles.0.result()).await, Ok(received()));
    assert_eq!(within(keeping_handles.0.result()).await, Ok((1, received())));
    clock.advance(MOMENT);
    assert_eq!(moving(&clock, MINUTE, plain_handles.1.result()).await, Ok(None));
    assert_eq!(moving(&clock, MINUTE, keeping_handles.1.result()).await, Ok((1, None)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_comes_after_the_deadline_loses_and_stays_for_the_next_wait() {
    // The wall clock passes the deadline without a timer noticing; the signal is then the first thing to reach the actor.
    let workflow = Workflow::builder_for::<u32>("w")
        .wait_for_signal_timeout::<u32>("first", "go", MINUTE)
        .wait_for_signal_keeping::<u32>("second", "go")
        .build()
        .unwrap();
    let clock = still_clock();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let (late, in_time) =
        (runtime.start(&workflow, "late", 1).await.unwrap(), runtime.start(&workflow, "in time", 1).await.unwrap());
    let deadline = clock.now().after(MINUTE);
    clock.set_wall(Timestamp::from_micros(deadline.as_micros() - 1));
    in_time.signal("go", &1_u32).await.unwrap();
    clock.set_wall(deadline);
    late.signal("go", &1_u32).await.unwrap();
    in_time.signal("go", &2_u32).await.unwrap();
    assert_eq!(within(late.result()).await, Ok((SignalOutcome::TimedOut, 1)));
    assert_eq!(within(in_time.result()).await, Ok((SignalOutcome::Received(1), 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_consumed_once_each_first_in_first_out_by_name() {
    // All are sent while the first task is held, interleaved and with repeated ids; later a consumed id is repeated.
    let gate = Gate::new();
    let workflow = Workflow::builder("w")
        .then("hold", holding::<u32>(&gate))
        .wait_for_signal_keeping::<String>("a1", "a")
        .wait_for_signal_keeping::<u32>("b1", "b")
        .wait_for_signal_keeping::<String>("a2", "a")
        .wait_for_signal_keeping::<String>("a3", "a")
        .build()
        .unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 0).await.unwrap();
    gate.entered().await;
    for text in ["one", "two"] {
        handle.signal_with_id("a", &text.to_owned(), text).await.unwrap();
    }
    handle.signal_with_id("a", &"again".to_owned(), "one").await.unwrap();
    handle.signal("b", &2_u32).await.unwrap();
    gate.open(1);
    let Status::AwaitingSignal { node, .. } = reach_code(&handle, StatusCode::AwaitingSignal).await else { panic!() };
    assert_eq!(node.as_str(), "a3");
    handle.signal_with_id("a", &"again".to_owned(), "two").await.unwrap();
    assert_eq!(handle.status().await.unwrap().code(), StatusCode::AwaitingSignal);
    handle.signal("a", &"three".to_owned()).await.unwrap();
    let output = ((((0, "one".to_owned()), 2), "two".to_owned()), "three".to_owned());
    assert_eq!(within(handle.result()).await, Ok(output));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_signals_sent_at_once_none_is_lost_or_counted_twice() {
    // 40 senders, each sending its signal twice by one id, to a chain of 40 waits whose payloads are summed.
    let add = |(a, b): (u32, u32)| std::future::ready(Ok::<_, Infallible>(a + b));
    let mut builder = Workflow::builder_for::<u32>("sum");
    for n in 0..40 {
        builder = builder.wait_for_signal_keeping::<u32>(format!("w{n}"), "go").then(format!("add{n}"), add);
    }
    let workflow = builder.build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 0).await.unwrap();
    let mut senders = JoinSet::new();
    for n in 0..40_u32 {
        let handle = handle.clone();
        senders.spawn(async move {
            handle.signal_with_id("go", &n, &n.to_string()).await.unwrap();
            match handle.signal_with_id("go", &n, &n.to_string()).await {
                Ok(()) | Err(MessageError::AlreadyTerminal(_)) => {}
                Err(error) => panic!("{error}"),
            }
        });
    }
    within(senders.join_all()).await;
    assert_eq!(within(handle.result()).await, Ok((0..40).sum()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_cannot_be_meant_is_refused_with_a_reason() {
    // Wrong name, wrong type, too large, no such instance, and instances that have ended in each way.
    let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<String>("wait", "go").build().unwrap();
    let mut limits = Limits::default();
    limits.payload_bytes_max = 10;
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).codec(Codec::Json).limits(limits);
    let runtime = builder.start().await.unwrap();
    assert_eq!(runtime.handle(&workflow, "nobody").await.unwrap_err(), HandleError::NotFound);
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let unknown = SignalError::UnknownSignal { workflow: "w".into(), signal: "gone".into(), known: vec!["go".into()] };
    assert_eq!(handle.signal("gone", &"x".to_owned()).await, Err(MessageError::Signal(unknown)));
    let wrong = handle.signal("go", &1_u64).await;
    assert!(matches!(wrong, Err(MessageError::Signal(SignalError::PayloadType { found: "u64", .. }))), "{wrong:?}");
    let large = handle.signal("go", &"123456789".to_owned()).await;
    assert!(matches!(large, Err(MessageError::Payload(CodecError::TooLarge { bytes: 11, .. }))), "{large:?}");
    handle.signal("go", &"12345678".to_owned()).await.unwrap();
    within(handle.result()).await.unwrap();
    let ended = handle.signal("go", &"x".to_owned()).await;
    assert_eq!(ended, Err(MessageError::AlreadyTerminal(Status::Completed)));
    let cancelled = runtime.start(&workflow, "cancelled", 1).await.unwrap();
    cancelled.cancel("why", "who").await.unwrap();
    let ended = cancelled.signal("go", &"x".to_owned()).await;
    let status = Status::Cancelled { reason: "why".into(), by: "who".into() };
    assert_eq!(ended, Err(MessageError::AlreadyTerminal(status)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_buffer_refuses_and_what_is_waited_for_passes() {
    // Two signals or 20 bytes may be buffered. At the wait a third is not buffered, so it passes.
    for (payload, refused) in [("x", 2_u32), ("0123456789", 1)] {
        let gate = Gate::new();
        let workflow = Workflow::builder("w")
            .then("hold", holding::<u32>(&gate))
            .wait_for_signal::<String>("w1", "go")
            .wait_for_signal::<String>("w2", "go")
            .wait_for_signal::<String>("w3", "go")
            .build()
            .unwrap();
        let mut limits = Limits::default();
        limits.signals_buffered_max = 2;
        limits.signal_buffer_bytes_max = 20;
        let builder = Runtime::builder(MemoryStore::new()).register(&workflow).codec(Codec::Json).limits(limits);
        let runtime = builder.start().await.unwrap();
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        gate.entered().await;
        for _ in 0..refused {
            handle.signal("go", &payload.to_owned()).await.unwrap();
        }
        let full = handle.signal_with_id("go", &payload.to_owned(), "again").await;
        let Err(MessageError::Refused(machine::Refusal::SignalBufferFull { count, count_max: 2, .. })) = full else {
            panic!("{full:?}")
        };
        assert_eq!(count, refused);
        gate.open(1);
        reach_code(&handle, StatusCode::AwaitingSignal).await;
        // A refused id was not remembered.
        for id in ["again", "more", "last"].iter().take(3 - refused as usize) {
            handle.signal_with_id("go", &format!("{payload}{id}"), id).await.unwrap();
        }
        assert!(within(handle.result()).await.unwrap().len() > payload.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_around_and_far_over_the_inline_size_survive_every_kind_of_stop() {
    // Input, task output and two signals of one size; the runtime is dropped in the delay, at the wait with a signal
    // buffered behind it, and at the second wait.
    for size in [126, 127, 128, 129, 100_000] {
        for codec in [Codec::MessagePack, Codec::Json] {
            let workflow = Workflow::builder_for::<String>("w")
                .delay("delay", MINUTE)
                .then("same", same::<String>)
                .wait_for_signal_keeping::<String>("one", "go")
                .wait_for_signal_keeping_timeout::<String>("two", "stop", MINUTE)
                .delay("end", MINUTE)
                .build()
                .unwrap();
            let (store, clock, text) = (MemoryStore::new(), still_clock(), |c: char| c.to_string().repeat(size));
            let again = async || {
                let builder = Runtime::builder(store.clone()).register(&workflow).codec(codec.clone());
                builder.clock(clock.clone()).start().await.unwrap()
            };
            let runtime = again().await;
            runtime.start(&workflow, "id", text('i')).await.unwrap();
            drop(runtime);
            let runtime = again().await;
            let handle = runtime.handle(&workflow, "id").await.unwrap();
            handle.signal("stop", &text('s')).await.unwrap();
            let at = clock.now().after(MINUTE);
            when_clock_is_at(&clock, at, reach_code(&handle, StatusCode::AwaitingSignal)).await;
            drop((runtime, handle));
            let runtime = again().await;
            let handle = runtime.handle(&workflow, "id").await.unwrap();
            handle.signal("go", &text('g')).await.unwrap();
            reach_code(&handle, StatusCode::Waiting).await;
            drop((runtime, handle));
            let runtime = again().await;
            let handle = runtime.handle(&workflow, "id").await.unwrap();
            let output = when_clock_is_at(&clock, clock.now().after(MINUTE), handle.result()).await;
            let expected = ((text('i'), text('g')), SignalOutcome::Received(text('s')));
            assert!(output == Ok(expected), "{size} bytes as {codec:?}");
        }
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
    // 300 wake-ups at one instant with room for 40: the window must be refilled until none is left.
    let mut limits = Limits::default();
    limits.timer_window_max = 40;
    all_end(300, limits).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_behind_the_timer_window_holds_for_a_task_that_runs_meanwhile() {
    // The window has room for 2 and is full of nearer delays, so the deadline is only in the store's index; then the
    // instance gets its signal, and its task runs past the deadline.
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
