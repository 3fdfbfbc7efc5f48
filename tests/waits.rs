//! Waits for a signal with a timeout: their results, and which signals are in time.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::convert::Infallible;
use std::time::Duration;

use common::{moving, still_clock, within};
use everstep::{Clock as _, MemoryStore, Runtime, SignalOutcome, Status, Timestamp, Workflow};

const MINUTE: Duration = Duration::from_mins(1);
const MOMENT: Duration = Duration::from_micros(1);
/// A moment less than a minute.
const ALMOST: Duration = Duration::from_micros(59_999_999);

/// Returns the outcome in a type that a task may return.
fn shown(outcome: SignalOutcome<String>) -> Option<String> {
    match outcome {
        SignalOutcome::Received(text) => Some(text),
        SignalOutcome::TimedOut => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_timeout_fires_on_the_real_clock_when_idle() {
    // The test only waits for the result; the wait must end by itself and not before its time.
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
async fn wait_outcome_shows_if_the_signal_came() {
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
async fn signal_after_the_timeout_stays_for_the_next_wait() {
    // The wall clock passes the deadline without a timer noticing; the signal is then the first
    // message to reach the actor.
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
