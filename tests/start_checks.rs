//! Checks before anything is stored or runs: of ids, inputs, workflows and missing services.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::convert::Infallible;

use common::{inc, same, waiting, with, within};
use everstep::{
    Codec, CodecError, ConflictPolicy, Dep, HandleError, IdError, Limits, MemoryStore, MessageError, Runtime,
    RuntimeError, StartError, Workflow, task,
};

const FAIL: ConflictPolicy = ConflictPolicy::Fail;
const USE: ConflictPolicy = ConflictPolicy::UseExisting;
const TERMINATE: ConflictPolicy = ConflictPolicy::TerminateExisting;

#[tokio::test(flavor = "multi_thread")]
async fn invalid_ids_are_refused_at_every_entry_point() {
    // Empty, too long and not printable, for each call that takes an id; the longest allowed one
    // passes.
    let workflow = waiting("w");
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    for bad in [String::new(), "x".repeat(257), "a\nb".into(), "nul\0".into()] {
        for policy in [FAIL, USE, TERMINATE] {
            let started = runtime.start_with(&workflow, &bad, 1, with(policy)).await;
            assert!(matches!(started, Err(StartError::Id(_))), "{bad:?}: {started:?}");
        }
        assert!(matches!(runtime.start(&workflow, &bad, 1).await, Err(StartError::Id(_))), "{bad:?}");
        assert!(matches!(runtime.handle(&workflow, &bad).await, Err(HandleError::Id(_))), "{bad:?}");
    }
    let handle = runtime.start(&workflow, "é".repeat(128), 1).await.unwrap();
    assert_eq!(runtime.handle(&workflow, "é".repeat(128)).await.unwrap().run_id(), handle.run_id());
    let bad_signal_id = handle.signal_with_id("go", &1_u32, "").await.unwrap_err();
    assert_eq!(bad_signal_id, MessageError::SignalId(IdError::Empty { what: "signal id" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn start_that_cannot_run_is_refused_before_a_write() {
    // An unregistered workflow, and an input one byte over the limit; the id stays free.
    let (known, unknown) = (waiting("known"), waiting("unknown"));
    let text = Workflow::builder("text").then("same", same::<String>).build().unwrap();
    let mut limits = Limits::default();
    limits.payload_bytes_max = 100;
    let runtime = Runtime::builder(MemoryStore::new())
        .register(&known)
        .register(&text)
        .limits(limits)
        .codec(Codec::Json)
        .start()
        .await
        .unwrap();
    let error = runtime.start(&unknown, "id", 1).await.unwrap_err();
    assert_eq!(error, StartError::NotRegistered { workflow: "unknown".into() });
    let error = runtime.start(&text, "id", "x".repeat(99)).await.unwrap_err();
    assert!(matches!(error, StartError::Input(CodecError::TooLarge { bytes: 101, bytes_max: 100, .. })), "{error:?}");
    assert_eq!(runtime.handle(&text, "id").await.unwrap_err(), HandleError::NotFound);
    let handle = runtime.start(&text, "id", "x".repeat(98)).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap().len(), 98);
}

async fn wants_two(n: u32, _: Dep<String>, _: Dep<Vec<u8>>) -> Result<u32, Infallible> {
    Ok(n)
}

async fn wants_one(n: u32, _: Dep<str>) -> Result<u32, Infallible> {
    Ok(n)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_missing_services_are_named_at_once() {
    // Two tasks in two workflows lack three services; an existing one is not named.
    let one = Workflow::builder("one").then("two", wants_two).build().unwrap();
    let other = Workflow::builder("other").then("inc", inc).then("one", task(wants_one)).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&one).register(&other);
    let RuntimeError::MissingDeps(missing) = builder.start().await.unwrap_err() else { panic!() };
    let mut missing: Vec<_> = missing.iter().map(|one| (one.type_name, one.asked_by.as_str())).collect();
    missing.sort_unstable();
    let expected = [
        (std::any::type_name::<String>(), "task `two` of workflow `one`"),
        (std::any::type_name::<Vec<u8>>(), "task `two` of workflow `one`"),
        ("str", "task `one` of workflow `other`"),
    ];
    assert_eq!(missing, expected);

    let builder = Runtime::builder(MemoryStore::new()).register(&one).provide(String::new());
    let RuntimeError::MissingDeps(missing) = builder.start().await.unwrap_err() else { panic!() };
    assert_eq!(missing.len(), 1, "{missing:?}");
}
