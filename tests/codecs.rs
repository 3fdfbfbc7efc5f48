//! Codecs and payloads: every codec carries every value, at every size, and a missing codec does no
//! harm.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Gate, holding, reach_code, same, still_clock, when_clock_is_at, within};
use everstep::{
    Clock as _, Codec, ConflictPolicy, CustomCodec, DeserializeFn, HandleError, MemoryStore, MessageError, ResultError,
    Runtime, SignalOutcome, StartError, StartOptions, Status, StatusCode, Workflow,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// A codec: JSON, each byte inverted.
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

    fn decode(&self, bytes: &[u8], read: &mut DeserializeFn<'_>) -> Result<(), erased_serde::Error> {
        let bytes: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        let mut deserializer = serde_json::Deserializer::from_slice(&bytes);
        read(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut deserializer))?;
        deserializer.end().map_err(serde::de::Error::custom)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_carries_input_results_and_signals() {
    // The workflow runs with each codec and is stopped in the middle. The second runtime has
    // another default codec: an instance keeps the codec of its start.
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
        let second = Runtime::builder(store).register(&workflow).add_codec(codec.clone()).start().await.unwrap();
        let handle = second.handle(&workflow, "id").await.unwrap();
        handle.signal("go", &vec![i64::MIN, -1, i64::MAX]).await.unwrap();
        let output = within(handle.result()).await.unwrap();
        assert_eq!(output, (("é".repeat(200), None), vec![i64::MIN, -1, i64::MAX]), "{codec:?}");
        let stored = handle.task_result::<(String, Option<u8>)>("same").await.unwrap();
        assert_eq!(stored, Some(("é".repeat(200), None)), "{codec:?}");
    }
}

/// A codec: JSON by another id.
struct Other;

impl CustomCodec for Other {
    fn id(&self) -> u8 {
        130
    }

    fn name(&self) -> &'static str {
        "other JSON"
    }

    fn encode(&self, value: &dyn erased_serde::Serialize) -> Result<Vec<u8>, erased_serde::Error> {
        serde_json::to_vec(value).map_err(serde::ser::Error::custom)
    }

    fn decode(&self, bytes: &[u8], read: &mut DeserializeFn<'_>) -> Result<(), erased_serde::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        read(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut deserializer))?;
        deserializer.end().map_err(serde::de::Error::custom)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_with_missing_codec_waits_for_it() {
    // One instance runs, one has completed. Without the codec no record is read wrongly, and others
    // are not slowed.
    let (store, gate) = (MemoryStore::new(), Gate::new());
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
    let codec = Codec::Custom(Arc::new(Other));
    let runtime = Runtime::builder(store.clone()).register(&workflow).codec(codec.clone()).start().await.unwrap();
    let done = runtime.start(&workflow, "done", 5).await.unwrap();
    gate.open(1);
    within(done.result()).await.unwrap();
    runtime.start(&workflow, "running", 6).await.unwrap();
    within(async { (gate.entered().await, gate.entered().await) }).await;
    drop((runtime, done));

    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    // One permit for the attempt that was dropped, if it is still there.
    gate.open(2);
    let beside = runtime.start(&workflow, "beside", 7).await.unwrap();
    assert_eq!(within(beside.result()).await, Ok(7));
    let done = runtime.handle(&workflow, "done").await.unwrap();
    assert_eq!(done.status().await.unwrap(), Status::Completed);
    assert_eq!(done.result().await, Err(ResultError::Handle(HandleError::UnknownCodec(130))));
    assert_eq!(done.task_result::<u32>("hold").await, Err(HandleError::UnknownCodec(130)));
    let policy = StartOptions::new().policy(ConflictPolicy::UseExisting);
    let refused = runtime.start_with(&workflow, "done", 5, policy).await.unwrap_err();
    assert_eq!(refused, StartError::UnknownCodec(130));
    let running = runtime.handle(&workflow, "running").await.unwrap();
    assert_eq!(running.status().await.unwrap(), Status::InProgress);
    assert_eq!(running.cancel("x", "y").await, Err(MessageError::NotRegistered));
    drop((runtime, beside, done, running));

    let runtime = Runtime::builder(store).register(&workflow).add_codec(codec).start().await.unwrap();
    gate.open(1);
    let running = runtime.handle(&workflow, "running").await.unwrap();
    assert_eq!(within(running.result()).await, Ok(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_around_inline_size_survive_every_stop() {
    // Input, task output and two signals have one size. The runtime is dropped in the delay, at the
    // wait while the next signal is buffered, and at the second wait.
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
