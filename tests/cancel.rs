//! Cancel in every state: which side of a race wins, what ends with the instance, and which calls
//! are refused.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "common/stage.rs"]
mod stage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Gate, holding, inc, reach_code, within};
use everstep::{MemoryStore, MessageError, ResultError, Runtime, Status, StatusCode, Workflow, machine};
use stage::{STATES, State, stage};
use tokio::task::JoinSet;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_an_instance_in_every_state() {
    // Method: bring an instance to each state and cancel it. Answer, status and result agree, with
    // reason and caller, within a second of noisy machine; a running future is dropped, its slot is
    // free again, and every later call is refused.
    for state in STATES {
        let stage = stage(state).await;
        let waiter = {
            let handle = stage.handle.clone();
            tokio::spawn(async move { handle.result().await })
        };
        let began = Instant::now();
        stage.handle.cancel("no more", "ana").await.unwrap();
        let cancelled = Status::Cancelled { reason: "no more".into(), by: "ana".into() };
        assert_eq!(stage.handle.status().await.unwrap(), cancelled, "{state:?}");
        let result = within(waiter).await.unwrap();
        assert_eq!(result, Err(ResultError::Cancelled { reason: "no more".into(), by: "ana".into() }), "{state:?}");
        let refused = MessageError::AlreadyTerminal(cancelled);
        assert_eq!(stage.handle.cancel("again", "bob").await, Err(refused.clone()), "{state:?}");
        if state == State::Running {
            while stage.dropped.get() == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{state:?} took {:?}", began.elapsed());
        assert_eq!(stage.handle.pause("x", "y").await, Err(refused.clone()), "{state:?}");
        assert_eq!(stage.handle.unpause().await, Err(refused.clone()), "{state:?}");
        assert_eq!(stage.handle.signal("go", &1_u32).await, Err(refused), "{state:?}");

        let attempts = stage.gate.count();
        if let Some(first) = &stage.first {
            stage.gate.open(1);
            reach_code(first, StatusCode::Waiting).await;
            assert_eq!(stage.gate.count(), attempts, "a cancelled instance got the slot");
        }
        stage.clock.advance(2 * HOUR);
        let workflow = Workflow::builder("w").then("x", inc).build().unwrap();
        assert!(stage.runtime.handle(&workflow, "id").await.is_err());
        if let Some(first) = &stage.first {
            first.signal("go", &1_u32).await.unwrap();
            assert_eq!(common::moving(&stage.clock, MINUTE, first.result()).await, Ok(2));
        }
        assert_eq!(stage.gate.count(), attempts, "{state:?}: a cancelled instance continued");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_racing_completion_has_one_winner() {
    // Let the last task end and cancel at once, a hundred rounds, three times over. One answer
    // names the winner, and status and result agree with it.
    let gate = Gate::new();
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let mut completed = 0;
    for round in 0..100 {
        let handle = runtime.start(&workflow, format!("i{round}"), round).await.unwrap();
        gate.entered().await;
        let mut cancels = JoinSet::new();
        let start = Arc::new(tokio::sync::Barrier::new(4));
        for _ in 0..3 {
            let (handle, start) = (handle.clone(), Arc::clone(&start));
            cancels.spawn(async move {
                start.wait().await;
                handle.cancel("now", "ana").await
            });
        }
        start.wait().await;
        gate.open(1);
        let answers = within(cancels.join_all()).await;
        let won = answers.iter().filter(|answer| answer.is_ok()).count();
        let status = handle.status().await.unwrap();
        for error in answers.into_iter().filter_map(Result::err) {
            assert_eq!(error, MessageError::AlreadyTerminal(status.clone()));
        }
        match (won, within(handle.result()).await) {
            (0, Ok(n)) if n == round && status == Status::Completed => completed += 1,
            (1, Err(ResultError::Cancelled { .. })) if status.code() == StatusCode::Cancelled => {
                // A task that was cancelled before it passed the gate leaves its permit.
                gate.forget_open();
            }
            other => panic!("round {round}: {other:?} {status}"),
        }
    }
    println!("{completed} of 100 completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn overlong_reason_is_refused_without_effect() {
    // Each text of each request is one byte longer than its limit.
    let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let long = "x".repeat(everstep::limits::REASON_BYTES_MAX + 1);
    let refused = Err(MessageError::Refused(machine::Refusal::ReasonTooLong { bytes: long.len() }));
    assert_eq!(handle.cancel(&long, "ana").await, refused);
    assert_eq!(handle.cancel("x", &long).await, refused);
    assert_eq!(handle.pause(&long, "ana").await, refused);
    assert_eq!(handle.pause("x", &long).await, refused);
    assert_eq!(handle.status().await.unwrap().code(), StatusCode::AwaitingSignal);
}
