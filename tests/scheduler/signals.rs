//! Signals in rare cases: repeated, forgotten, and buffered for a wait whose time is odd.

use std::convert::Infallible;
use std::time::Duration;

use everstep::lifecycle::{Committer, get_resume_input, read_signal_id, step};
use everstep::machine::{Event, Refusal};
use everstep::{Codec, SignalOutcome, Status, StatusCode, Store as _, Workflow};

use crate::bench::{Bench, NOW, encoded};

type Polling = Bench<u64, SignalOutcome<u64>>;

/// Returns a workflow of a task, and then a wait for `go` with a timeout, whose outcome is the
/// workflow's output.
fn polling(timeout: Duration) -> Polling {
    let task = async |n: u64| Ok::<_, Infallible>(n);
    let workflow = Workflow::builder("poll").then("task", task).wait_for_signal_timeout("wait", "go", timeout);
    Bench::new(workflow.build().unwrap())
}

async fn output(bench: &Polling) -> Option<SignalOutcome<u64>> {
    let snapshot = bench.snapshot().await;
    Some(bench.workflow.decode_output(snapshot.output()?, &Codec::MessagePack).unwrap())
}

#[tokio::test]
async fn last_10_000_signal_ids_survive_a_restart() {
    // 10,000 signals are buffered. Repeats of the first and the last are ignored, read back from
    // the store or not. One more makes the first forgotten, so that its id is new.
    let workflow = Workflow::builder_for::<u64>("many").wait_for_signal::<u64>("a", "first");
    let mut bench = Bench::new(workflow.wait_for_signal::<u64>("b", "go").build().unwrap());
    bench.limits.signals_buffered_max = 20_000;
    bench.start(0).await;
    let signal = |n: u64| Event::Signal { name: "go".into(), id: format!("s{n}").into(), payload: encoded(&n) };
    let mut snapshot = bench.snapshot().await;
    for n in 0..10_000 {
        let write = step(&bench.context(), &mut snapshot, signal(n)).unwrap().write.unwrap();
        Committer::commit(&bench.store, write).await.unwrap();
    }
    let read_back = bench.snapshot().await;
    for mut snapshot in [snapshot, read_back] {
        for repeated in [0, 9_999] {
            assert!(step(&bench.context(), &mut snapshot, signal(repeated)).unwrap().write.is_none(), "s{repeated}");
        }
    }
    bench.apply(signal(10_000)).await.unwrap();
    let mut snapshot = bench.snapshot().await;
    assert!(step(&bench.context(), &mut snapshot, signal(1)).unwrap().write.is_none(), "s1 is the oldest remembered");
    assert!(step(&bench.context(), &mut snapshot, signal(0)).unwrap().write.is_some(), "s0 is forgotten");
    // Forgotten or not, the signal sent first is the first one taken.
    bench.apply(Event::Signal { name: "first".into(), id: "f".into(), payload: encoded(&0_u64) }).await.unwrap();
    let output = bench.snapshot().await.output().cloned().unwrap();
    assert_eq!(bench.workflow.decode_output(&output, &Codec::MessagePack), Ok(0));
}

#[tokio::test]
async fn consumed_signal_ids_are_looked_up_singly() {
    // 10,002 signals are consumed as they come. The instance is read back for each, and then has no
    // id in memory.
    let mut chain = Workflow::builder_for::<u64>("many").wait_for_signal::<u64>("first", "go");
    for n in 0..10_003 {
        chain = chain.wait_for_signal::<u64>(format!("{n}"), "go");
    }
    let bench = Bench::new(chain.build().unwrap());
    bench.start(0).await;
    for n in 0..10_002 {
        bench.signal(&format!("s{n}"), n).await;
    }
    let run = bench.stored().await.snapshot.run();
    for (prefix, rows) in [([3], 0), ([7], 10_000), ([8], 10_000)] {
        assert_eq!(bench.store.rows(run, &prefix, None).await.unwrap().len(), rows, "rows of {prefix:?}");
    }
    for (id, is_remembered) in [("s10001", true), ("s2", true), ("s1", false), ("s0", false), ("new", false)] {
        let signal = || Event::Signal { name: "go".into(), id: id.into(), payload: encoded(&0_u64) };
        let mut snapshot = bench.snapshot().await;
        let unread = step(&bench.context(), &mut snapshot, signal()).unwrap_err();
        assert_eq!(unread, Refusal::SignalIdNotRead, "{id}: without the look-up the signal would count twice");
        read_signal_id(&bench.store, &mut snapshot, &id.into()).await.unwrap();
        let write = step(&bench.context(), &mut snapshot, signal()).unwrap().write;
        assert_eq!(write.is_none(), is_remembered, "{id}");
        // Once more on top, before anything is committed.
        read_signal_id(&bench.store, &mut snapshot, &id.into()).await.unwrap();
        assert!(step(&bench.context(), &mut snapshot, signal()).unwrap().write.is_none(), "{id}, repeated at once");
    }
}

#[tokio::test]
async fn zero_timeout_wait_takes_buffered_or_times_out() {
    // The signal comes while the task runs, a second before its end; then the same without the
    // signal.
    for (sent, expected) in [(true, SignalOutcome::Received(5)), (false, SignalOutcome::TimedOut)] {
        let mut bench = polling(Duration::ZERO);
        bench.start(1).await;
        if sent {
            bench.signal("s1", 5).await;
        }
        bench.now = NOW.after(Duration::from_secs(1));
        bench.finish_task(2).await;
        assert_eq!(output(&bench).await, Some(expected));
    }
}

#[tokio::test]
async fn signal_in_time_wins_at_unpause_for_zero_timeout() {
    // As above, but the task ends in a pause: the wait is entered paused, where no signal is
    // consumed. A signal that came before the wait's deadline must win over its timeout at unpause.
    for timeout in [Duration::from_secs(1), Duration::ZERO] {
        let mut bench = polling(timeout);
        bench.start(1).await;
        bench.signal("s1", 5).await;
        bench.now = NOW.after(Duration::from_secs(1));
        bench.apply(Event::Pause { reason: "why".into(), by: "who".into() }).await.unwrap();
        bench.finish_task(2).await;
        bench.now = NOW.after(Duration::from_mins(1));
        bench.apply(Event::Wake).await.unwrap();
        // Refused if it has ended, which the output then shows.
        let _ = bench.apply(Event::Unpause).await;
        assert_eq!(output(&bench).await, Some(SignalOutcome::Received(5)), "timeout {timeout:?}");
    }
}

#[tokio::test]
async fn buffered_signal_is_consumed_after_clock_set_back() {
    // The signal is buffered, then the clock goes back a minute, then a wait of ten seconds begins.
    // The signal is there before the wait, whatever the clock says, and one that is sent now must
    // not overtake it.
    let mut bench = polling(Duration::from_secs(10));
    bench.now = NOW.after(Duration::from_mins(1));
    bench.start(1).await;
    bench.signal("s1", 5).await;
    bench.now = NOW;
    bench.finish_task(2).await;
    bench.now = NOW.after(Duration::from_secs(1));
    if bench.stored().await.snapshot.end().is_none() {
        bench.signal("s2", 6).await;
    }
    assert_eq!(output(&bench).await, Some(SignalOutcome::Received(5)), "first in, first out");
}

#[tokio::test]
async fn kept_value_and_large_payload_survive_a_restart() {
    // The kept value and the signal's payload are in two rows; each step reads the instance back.
    let task = async |n: usize| Ok::<_, Infallible>("a".repeat(n));
    let workflow = Workflow::builder("keep").then("task", task).wait_for_signal_keeping::<String>("wait", "go");
    let bench = Bench::new(workflow.delay("nap", Duration::from_secs(1)).build().unwrap());
    bench.start(500).await;
    let attempt_id = bench.snapshot().await.running().next().unwrap();
    bench.apply(Event::AttemptFinished { attempt_id, outcome: Ok(encoded(&"a".repeat(500)).into()) }).await.unwrap();
    let payload = encoded(&"b".repeat(500));
    bench.apply(Event::Signal { name: "go".into(), id: "s1".into(), payload }).await.unwrap();
    let snapshot = bench.snapshot().await;
    let Status::Waiting { .. } = snapshot.status(bench.workflow.definition().program()) else { panic!("in its delay") };
    assert_eq!(snapshot.status_code(), StatusCode::Waiting);
    let input = get_resume_input(&snapshot).unwrap();
    let both = bench.workflow.decode_output(&input, &Codec::MessagePack);
    assert_eq!(both, Ok(("a".repeat(500), "b".repeat(500))));
}
