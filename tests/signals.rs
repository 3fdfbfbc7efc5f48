//! Signals: none lost or counted twice, in order, typed, and refused when they cannot be meant.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::convert::Infallible;

use common::{Gate, holding, reach_code, within};
use everstep::machine::Refusal;
use everstep::{
    Codec, CodecError, HandleError, Limits, MemoryStore, MessageError, Runtime, SignalError, Status, StatusCode,
    Workflow, machine,
};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_consumed_once_in_order_of_their_name() {
    // All signals are sent while the first task is held, interleaved and with repeated ids; later a
    // consumed id is repeated.
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
async fn concurrent_signals_are_neither_lost_nor_doubled() {
    // 40 senders, each sending its signal twice by one id, to a chain of 40 waits whose payloads
    // are summed.
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
async fn mistaken_signal_is_refused_with_its_reason() {
    // Wrong name, wrong type, too large, no such instance, and instances that have ended in each
    // way.
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
async fn full_buffer_refuses_all_but_awaited_signals() {
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

/// Method: a signal comes while no wait is open, once as usual and once with the request not to be
/// buffered; then a wait begins.
#[tokio::test(flavor = "multi_thread")]
async fn signal_that_nothing_waits_for_is_refused_on_request() {
    let gate = Gate::new();
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate));
    let workflow = workflow.wait_for_signal::<u32>("wait", "go").build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    let refused = Err(MessageError::Refused(Refusal::NotAwaited { name: "go".into() }));
    assert_eq!(within(handle.signal_if_awaited("go", &2_u32)).await, refused);
    assert!(handle.buffered_signals().await.unwrap().is_empty());
    gate.open(1);
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    handle.pause("lunch", "ana").await.unwrap();
    assert_eq!(within(handle.signal_if_awaited("go", &3_u32)).await, Ok(()), "the wait takes it after the pause");
    assert_eq!(within(handle.signal_if_awaited("go", &4_u32)).await, refused, "the wait takes one");
    handle.unpause().await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(3));
}

/// Method: two signals are acknowledged while the last task runs, and no wait ever takes them.
#[tokio::test(flavor = "multi_thread")]
async fn signals_left_unread_at_the_end_are_counted() {
    let gate = Gate::new();
    let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go");
    let workflow = workflow.then("hold", holding::<u32>(&gate)).build().unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    for n in 1..=3_u32 {
        handle.signal("go", &n).await.unwrap();
    }
    gate.entered().await;
    let unread = [("go".into(), 2)].into();
    assert_eq!(handle.buffered_signals().await.unwrap(), unread);
    gate.open(1);
    assert_eq!(within(handle.result()).await, Ok(1));
    assert_eq!(handle.buffered_signals().await.unwrap(), unread);
}
