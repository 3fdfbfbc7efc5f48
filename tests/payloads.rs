//! Payloads that serde does not read back as they were written: an accepted one comes out equal,
//! and any other is refused where it enters.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::option_option, reason = "nested options are the subject")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt::Debug;
use std::net::IpAddr;

use common::{same, within};
use everstep::{
    Codec, CodecError, Failure, FailureKind, MemoryStore, MessageError, ResultError, Runtime, StartError, Workflow,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

trait Payload: Serialize + DeserializeOwned + Clone + PartialEq + Debug + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Clone + PartialEq + Debug + Send + Sync + 'static> Payload for T {}

/// The fate of a payload.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// The payload came out equal.
    Carried,
    /// The payload was refused where it entered.
    Refused,
}

use Fate::{Carried, Refused};

fn fate<T: Payload>(result: Result<T, ResultError>, value: &T) -> Fate {
    match result {
        Ok(found) => {
            assert_eq!(&found, value);
            Carried
        }
        Err(ResultError::Failed(Failure::Task(failure))) => {
            assert_eq!((failure.task.as_str(), failure.kind), ("gives", FailureKind::Codec), "{failure}");
            assert!(failure.message.contains("does not read back from"), "{failure}");
            Refused
        }
        Err(other) => panic!("{other}"),
    }
}

/// Returns the fates of a value as input, signal, result that a task takes, and last result.
async fn fates<T: Payload>(codec: &Codec, value: &T) -> [Fate; 4] {
    let kept = value.clone();
    let gives = move |()| std::future::ready(Ok::<_, Infallible>(kept.clone()));
    let input = Workflow::builder("input").then("takes", same::<T>).build().unwrap();
    let signal = Workflow::builder_for::<()>("signal").wait_for_signal::<T>("wait", "go").build().unwrap();
    let result = Workflow::builder("result").then("gives", gives.clone()).then("takes", same::<T>).build().unwrap();
    let last = Workflow::builder("last").then("gives", gives).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&input).register(&signal).register(&result);
    let runtime = builder.register(&last).codec(codec.clone()).start().await.unwrap();
    let as_input = match runtime.start(&input, "input", value.clone()).await {
        Ok(handle) => fate(within(handle.result()).await, value),
        Err(StartError::Input(CodecError::NotReadable { .. })) => Refused,
        Err(other) => panic!("{other}"),
    };
    let waiting = runtime.start(&signal, "signal", ()).await.unwrap();
    let as_signal = match waiting.signal("go", value).await {
        Ok(()) => fate(within(waiting.result()).await, value),
        Err(MessageError::Payload(CodecError::NotReadable { .. })) => Refused,
        Err(other) => panic!("{other}"),
    };
    let result = runtime.start(&result, "result", ()).await.unwrap();
    let last = runtime.start(&last, "last", ()).await.unwrap();
    [as_input, as_signal, fate(within(result.result()).await, value), fate(within(last.result()).await, value)]
}

/// Checks the fate of a value in all places, with MessagePack and with JSON.
async fn assert_fates<T: Payload>(value: T, message_pack: Fate, json: Fate) {
    for (codec, fate) in [(Codec::MessagePack, message_pack), (Codec::Json, json)] {
        assert_eq!(fates(&codec, &value).await, [fate; 4], "{value:?} as {codec:?}");
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Newtype<T>(T);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Plain<T> {
    value: T,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flat<T> {
    beside: u32,
    #[serde(flatten)]
    within: Plain<T>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Tagged<T> {
    Some { value: T },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "content")]
enum Adjacent<T> {
    Some { value: T },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged<T> {
    Value(T),
    Text(String),
}

/// Method: a type with one form for readers and one for machines, within each kind of type that
/// serde buffers.
#[tokio::test(flavor = "multi_thread")]
async fn buffered_addresses_round_trip_or_are_refused() {
    let ip = || IpAddr::from([8, 8, 8, 8]);
    assert_fates(ip(), Carried, Carried).await;
    assert_fates(Plain { value: vec![ip()] }, Carried, Carried).await;
    assert_fates(Adjacent::Some { value: ip() }, Carried, Carried).await;
    assert_fates(Untagged::Value(ip()), Refused, Carried).await;
    assert_fates(Tagged::Some { value: ip() }, Refused, Carried).await;
    assert_fates(Flat { beside: 1, within: Plain { value: ip() } }, Refused, Carried).await;
    assert_fates(Flat { beside: 1, within: Plain { value: "8.8.8.8".to_owned() } }, Carried, Carried).await;
}

/// Method: numbers wider than 64 bits, plain and within types that serde buffers.
#[tokio::test(flavor = "multi_thread")]
async fn wide_numbers_round_trip_or_are_refused() {
    for number in [0, u128::from(u64::MAX), u128::MAX] {
        assert_fates(number, Carried, Carried).await;
    }
    assert_fates(i128::MIN, Carried, Carried).await;
    assert_fates(Flat { beside: 1, within: Plain { value: u64::MAX } }, Carried, Carried).await;
    for number in [5, 10_u128.pow(18), u128::MAX] {
        for codec in [Codec::MessagePack, Codec::Json] {
            for value in [Untagged::Value(number), Untagged::Text(number.to_string())] {
                let [first, others @ ..] = fates(&codec, &value).await;
                assert_eq!(others, [first; 3], "{value:?} as {codec:?}");
            }
            let flat = Flat { beside: 1, within: Plain { value: number } };
            let [first, others @ ..] = fates(&codec, &flat).await;
            assert_eq!(others, [first; 3], "{flat:?} as {codec:?}");
        }
    }
    assert_fates(Untagged::<u128>::Value(5), Refused, Refused).await;
}

/// Method: a `Some` that is written as nothing.
#[tokio::test(flavor = "multi_thread")]
async fn some_of_nothing_round_trips_or_is_refused() {
    assert_fates(Some(1), Carried, Carried).await;
    assert_fates(None::<()>, Carried, Carried).await;
    assert_fates(Some(Some(1)), Carried, Carried).await;
    assert_fates(Some(()), Refused, Refused).await;
    assert_fates(Some(None::<u32>), Refused, Refused).await;
    assert_fates(Some(Newtype(())), Refused, Refused).await;
    assert_fates(Plain { value: vec![Some(Some(1)), Some(None)] }, Refused, Refused).await;
    assert_fates(Some(Unit), Carried, Refused).await;
    assert_fates(Some(serde_json::Value::Null), Refused, Refused).await;
    assert_fates(serde_json::json!({"a": null, "b": [1, 2.5]}), Carried, Carried).await;
}

/// Method: numbers that JSON does not have.
#[tokio::test(flavor = "multi_thread")]
async fn infinite_numbers_round_trip_or_are_refused() {
    assert_fates(f64::INFINITY, Carried, Refused).await;
    assert_fates(f32::NEG_INFINITY, Carried, Refused).await;
    assert_fates(Plain { value: vec![Some(f64::INFINITY)] }, Carried, Refused).await;
    // NaN is not equal to itself.
    let workflow = Workflow::builder("w").then("same", same::<Vec<f64>>).build().unwrap();
    assert!(workflow.run_once(vec![1.0, f64::NAN]).await.unwrap().iter().any(|number| number.is_nan()));
    let workflow = Workflow::builder("w").then("gives", |()| std::future::ready(Ok::<_, Infallible>(f64::NAN)));
    let workflow = workflow.build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).codec(Codec::Json);
    let handle = builder.start().await.unwrap().start(&workflow, "id", ()).await.unwrap();
    assert_eq!(fate(within(handle.result()).await, &0.0), Refused);
}

/// Method: numbers whose text is often read as the nearest other number.
#[tokio::test(flavor = "multi_thread")]
async fn floats_round_trip_to_the_last_bit() {
    let mut bits = 0x3ff0_0000_0000_0000_u64;
    let numbers: Vec<f64> = std::iter::repeat_with(|| {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from_bits(bits)
    })
    .filter(|number| number.is_finite())
    .take(10_000)
    .collect();
    assert_fates(numbers, Carried, Carried).await;
}

/// A map whose keys are text with JSON, which has no other keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Keyed {
    #[serde(flatten)]
    names: BTreeMap<u32, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct LeftOut {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct NeverWritten {
    #[serde(skip_serializing)]
    name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Defaulted {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(default, with = "nullable", skip_serializing_if = "Option::is_none")]
    patch: Option<Option<u32>>,
}

/// A field that is present and null, told from one that is missing.
mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    pub(super) fn serialize<S: Serializer>(value: &Option<Option<u32>>, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u32>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}

/// Method: fields that are left out, keys that are no text, and maps in any order.
#[tokio::test(flavor = "multi_thread")]
async fn fields_and_keys_round_trip_or_are_refused() {
    assert_fates(LeftOut { name: "x".into() }, Carried, Carried).await;
    assert_fates(LeftOut { name: String::new() }, Refused, Refused).await;
    assert_fates(NeverWritten { name: String::new() }, Refused, Refused).await;
    assert_fates(Defaulted::default(), Carried, Carried).await;
    assert_fates(Defaulted { name: "x".into(), patch: Some(Some(1)) }, Carried, Carried).await;
    assert_fates(Defaulted { name: "x".into(), patch: Some(None) }, Carried, Carried).await;
    assert_fates(BTreeMap::from([(1_u32, 2_u32)]), Carried, Carried).await;
    assert_fates(Tagged::Some { value: BTreeMap::from([(1_u32, 2_u32)]) }, Carried, Refused).await;
    let many: HashMap<String, u128> = (0..100).map(|n| (n.to_string(), n)).collect();
    assert_fates(many, Carried, Carried).await;
    let [first, others @ ..] = fates(&Codec::Json, &Keyed { names: BTreeMap::from([(1, "x".into())]) }).await;
    assert_eq!(others, [first; 3]);
}

/// Method: bytes as a list and as bytes, close to the limit.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_in_a_list_are_refused_with_a_hint() {
    let noise: Vec<u8> = (0..760_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let workflow = Workflow::builder("bytes").then("same", same::<bytes::Bytes>).build().unwrap();
    assert_eq!(workflow.run_once(noise.clone().into()).await.unwrap(), noise);
    let error = Workflow::builder("list").then("same", same::<Vec<u8>>).build().unwrap().run_once(noise).await;
    let said = error.unwrap_err().to_string();
    assert!(said.contains("bytes::Bytes"), "{said}");
}
