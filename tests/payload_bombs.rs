//! Payloads made to do harm, as a service may get them from outside: deep nesting, and lengths
//! beyond the end. Each is a typed error, on the stack of an ordinary thread.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::{inc, reach_code, still_clock, within};
use everstep::lifecycle::{fill_frames, load, step};
use everstep::limits::PAYLOAD_DEPTH_MAX;
use everstep::machine::{Context, Event};
use everstep::store::Store as _;
use everstep::{
    Clock as _, Codec, CodecError, Failure, FailureKind, Health, InstanceId, Limits, MemoryStore, MessageError,
    ResultError, Runtime, StartError, StatusCode, Workflow,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Types that are recursive in each way of serde: an enum, an option, one with an inner tag, one
/// without a tag.
#[derive(Debug, Serialize, Deserialize)]
enum Boxed {
    Leaf,
    Boxed(Box<Self>),
}

#[derive(Debug, Serialize, Deserialize)]
struct Chain {
    next: Option<Box<Self>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "t")]
enum Tagged {
    Leaf,
    Node { x: Vec<Self> },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u32),
    List(Vec<Self>),
    Map(BTreeMap<String, Self>),
}

fn refuses<T: DeserializeOwned>(codec: &Codec, bytes: &[u8], what: &str) {
    let error = codec.decode::<T>(bytes).err();
    let error = error.unwrap_or_else(|| panic!("{codec:?}: {what} decodes"));
    assert!(matches!(error, CodecError::Decode { .. } | CodecError::TooDeep { .. }), "{codec:?}: {what}: {error:?}");
}

/// Checks that the bytes are refused as each type.
fn refused(codec: &Codec, bytes: &[u8], what: &str) {
    refuses::<serde_json::Value>(codec, bytes, what);
    refuses::<Untagged>(codec, bytes, what);
    refuses::<Vec<Vec<Vec<u64>>>>(codec, bytes, what);
    if matches!(codec, Codec::Json) {
        // serde_json skips fields that a type does not have, without a stack.
        let passed_over = [codec.decode::<Boxed>(bytes).is_ok(), codec.decode::<Chain>(bytes).is_ok()];
        assert_ne!(passed_over, [true, true], "{what}");
        return;
    }
    refuses::<Boxed>(codec, bytes, what);
    refuses::<Chain>(codec, bytes, what);
    refuses::<Tagged>(codec, bytes, what);
    refuses::<serde::de::IgnoredAny>(codec, bytes, what);
}

const LEVELS: usize = 100_000;

#[test]
fn endlessly_nested_payloads_are_refused() {
    // A hundred thousand levels, in the shape of each type, on a thread with 2 MiB of stack; and
    // one level above the limit.
    let shapes: [(&[u8], &[u8]); 8] = [
        (b"\x91", b"\xc0"),
        (b"\xdd\0\0\0\x01", b"\xc0"),
        (b"\x81\xa1x", b"\xc0"),
        (b"\x81\xa5Boxed", b"\xa4Leaf"),
        (b"\x81\xa4next", b"\xc0"),
        (b"\x82\xa1t\xa4Node\xa1x\x91", b"\x81\xa1t\xa4Leaf"),
        (b"\x81\x91\x01", b"\xc0"),
        (b"\x81", b"\xc0"),
    ];
    for (level, end) in shapes {
        for levels in [PAYLOAD_DEPTH_MAX + 1, 1_000, LEVELS] {
            let bytes = [&level.repeat(levels)[..], end].concat();
            refused(&Codec::MessagePack, &bytes, &format!("{levels} times {level:x?}"));
        }
    }
    let shapes: [(&[u8], &[u8], &[u8]); 5] = [
        (b"[", b"null", b"]"),
        (b"{\"Boxed\":", b"\"Leaf\"", b"}"),
        (b"{\"next\":", b"null", b"}"),
        (b"{\"t\":\"Node\",\"x\":[", b"{\"t\":\"Leaf\"}", b"]}"),
        (b"[", b"", b""),
    ];
    for (open, middle, close) in shapes {
        for levels in [PAYLOAD_DEPTH_MAX + 1, 1_000, LEVELS] {
            let bytes = [&open.repeat(levels)[..], middle, &close.repeat(levels)[..]].concat();
            refused(&Codec::Json, &bytes, &format!("{levels} times {:?}", String::from_utf8_lossy(open)));
        }
    }
}

#[test]
fn payloads_with_lengths_past_their_end_are_refused() {
    // A length of up to four billion elements, characters or bytes, alone and within another; few
    // are there.
    for marker in [0xdb_u8, 0xc6, 0xdd, 0xdf, 0xc9] {
        for length in [u32::MAX, i32::MAX as u32, 1 << 28, 1 << 20] {
            let claim = [&[marker][..], &length.to_be_bytes()].concat();
            for bytes in [[&claim[..], b"\x01\x02"].concat(), claim.repeat(100), [b"\x93", &claim[..]].concat()] {
                refused(&Codec::MessagePack, &bytes, &format!("{marker:x} of {length}"));
            }
        }
    }
}

#[test]
fn payload_depth_limit_is_exact() {
    // Both formats have the same limit: every written payload can be read.
    for codec in [Codec::MessagePack, Codec::Json] {
        let nested =
            |levels| (0..levels).fold(serde_json::Value::Null, |value, _| serde_json::Value::from(vec![value]));
        let allowed = nested(PAYLOAD_DEPTH_MAX);
        let bytes = codec.encode(&allowed, 1_000).unwrap();
        assert_eq!(codec.decode::<serde_json::Value>(&bytes).unwrap(), allowed, "{codec:?}");
        let refused = codec.encode(&nested(PAYLOAD_DEPTH_MAX + 1), 1_000).unwrap_err();
        assert!(matches!(refused, CodecError::TooDeep { depth_max: PAYLOAD_DEPTH_MAX, .. }), "{codec:?}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_deep_value_is_refused_where_it_enters() {
    // As an input, as a signal, and as a task's output.
    let deep = |levels| (0..levels).fold(serde_json::Value::Null, |value, _| serde_json::Value::from(vec![value]));
    let grow = |value: serde_json::Value| std::future::ready(Ok::<_, String>(serde_json::Value::from(vec![value])));
    let workflow = Workflow::builder_for::<serde_json::Value>("w")
        .wait_for_signal::<serde_json::Value>("wait", "go")
        .then("grow", grow)
        .build()
        .unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let refused = within(runtime.start(&workflow, "id", deep(200))).await.unwrap_err();
    assert!(matches!(refused, StartError::Input(CodecError::TooDeep { .. })), "{refused:?}");
    let handle = within(runtime.start(&workflow, "id", deep(1))).await.unwrap();
    let refused = within(handle.signal("go", &deep(200))).await.unwrap_err();
    assert!(matches!(refused, MessageError::Payload(CodecError::TooDeep { .. })), "{refused:?}");
    within(handle.signal("go", &deep(PAYLOAD_DEPTH_MAX))).await.unwrap();
    let failed = within(handle.result()).await.unwrap_err();
    let ResultError::Failed(Failure::Task(failure)) = failed else { panic!("{failed:?}") };
    assert_eq!(failure.kind, FailureKind::Codec, "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bomb_in_a_signal_costs_only_its_instance() {
    // A service with a scheduler of its own passes bytes from outside on as a signal; then a
    // runtime continues the instance.
    let workflow = Workflow::builder_for::<u32>("w")
        .wait_for_signal::<serde_json::Value>("wait", "go")
        .then("same", common::same::<serde_json::Value>)
        .build()
        .unwrap();
    let good = Workflow::builder("good").then("inc", inc).build().unwrap();
    let lengths = [&b"\xdd\xff\xff\xff\xff"[..], &b"\xdb\xff\xff\xff\xff"[..]].concat();
    for bomb in [b"\x91".repeat(LEVELS), b"\x81\xa1x".repeat(LEVELS), lengths, Vec::new()] {
        let (store, clock) = (MemoryStore::new(), still_clock());
        let builder = || Runtime::builder(store.clone()).register(&workflow).register(&good).clock(clock.clone());
        let runtime = builder().start().await.unwrap();
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        reach_code(&handle, StatusCode::AwaitingSignal).await;
        drop(handle);
        within(runtime.shutdown(std::time::Duration::from_secs(1))).await;

        let id = InstanceId::new("id").unwrap();
        let program = workflow.definition().program();
        let mut snapshot = load(&store, &id).await.unwrap().unwrap().snapshot;
        fill_frames(&store, program, &mut snapshot).await.unwrap();
        let context = Context { program, limits: &Limits::default(), now: clock.now() };
        let event = Event::Signal { name: "go".into(), id: "one".into(), payload: Bytes::from(bomb) };
        let write = step(&context, &mut snapshot, event).unwrap().write.unwrap();
        assert_eq!(store.commit(&[write]).await.unwrap(), [Ok(())]);

        let runtime = within(builder().start()).await.unwrap();
        let handle = within(runtime.handle(&workflow, "id")).await.unwrap();
        let failed = within(handle.result()).await.unwrap_err();
        let ResultError::Failed(Failure::Task(failure)) = failed else { panic!("{failed:?}") };
        assert_eq!(failure.kind, FailureKind::Codec, "{failure:?}");
        let beside = within(runtime.start(&good, "beside", 1)).await.unwrap();
        assert_eq!(within(beside.result()).await, Ok(2));
        assert_eq!(runtime.health(), Health::Healthy);
    }
}
