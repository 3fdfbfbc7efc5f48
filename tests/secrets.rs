//! Payloads stay out of logs and errors. A marker flows through everything that fails with a
//! message of Everstep, with all logging on, and never appears. A task's own error text is the
//! user's, and is kept; so are keys of routes, which are names.
#![cfg(feature = "file-store")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::convert::Infallible;
use std::fmt::{Debug, Display};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::{Gate, forced, holding, moving, open, reach_code, same, still_clock, within};
use everstep::lifecycle::{fill, load, step};
use everstep::machine::{Context, Event, RowKey, apply};
use everstep::store::{Change, Write as StoreWrite};
use everstep::{
    Clock as _, Codec, Concurrency, ConflictPolicy, Dep, HandleError, InstanceId, Limits, LoopLimit, LoopResult,
    MemoryStore, ResultError, RetryPolicy, RunOnce, Runtime, SignalOutcome, StartOptions, StatusCode, Store as _,
    Timestamp, Value, Workflow, task,
};

const MARKER: &str = "xyzzy-plugh";
const MINUTE: Duration = Duration::from_mins(1);

/// All log lines, and everything that was formatted.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seen {
    fn show(&self, shown: &impl Debug) {
        let shown = format!("{shown:?}\n{shown:#?}\n");
        assert!(!is_in(shown.as_bytes()), "shown after {} bytes of logs: {shown}", self.0.lock().unwrap().len());
    }

    fn tell<E: Debug + Display>(&self, error: &E) {
        self.show(error);
        assert!(!is_in(error.to_string().as_bytes()), "in an error: {error}");
    }
}

/// Returns true if the marker is in the bytes: as text, in hex, or as numbers, as `Debug` of bytes
/// may show it.
fn is_in(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    let hex = MARKER.bytes().take(6).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let numbers: Vec<_> = MARKER.bytes().take(6).map(|byte| byte.to_string()).collect();
    text.contains(MARKER) || text.contains(&hex) || text.contains(&numbers.join(", "))
}

fn secret() -> String {
    format!("{MARKER} {}", "and more than fits a head ".repeat(10))
}

/// A service with a secret.
#[derive(Debug)]
struct Vault(#[allow(dead_code, reason = "held to be shown by mistake")] String);

async fn uses(text: String, vault: Dep<Vault>) -> Result<String, Infallible> {
    drop(vault);
    Ok(text)
}

async fn fails(_: String) -> Result<String, &'static str> {
    Err("no")
}

async fn panics(_: String) -> Result<String, Infallible> {
    panic!("at the task's own risk")
}

async fn again(text: String) -> Result<LoopResult<String, String>, Infallible> {
    Ok(LoopResult::Again(text))
}

async fn grows(text: String) -> Result<String, Infallible> {
    Ok(text.repeat(20))
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.payload_bytes_max = 2_000;
    limits.signals_buffered_max = 3;
    limits
}

/// Returns a workflow for every way in which an instance fails with a message of Everstep.
fn failing(gate: &Gate) -> Vec<Workflow<String, String>> {
    let new = |name: &str| Workflow::builder_for::<String>(name);
    let built = [
        new("an error").then("fails", task(fails).retry(RetryPolicy::fixed(1, Duration::ZERO))).build(),
        new("a panic").then("panics", panics).build(),
        new("a timeout").then("hold", task(holding::<String>(gate)).timeout(MINUTE)).build(),
        Workflow::builder("a deadline").deadline(MINUTE).then("hold", holding::<String>(gate)).build(),
        new("an output too large").then("grows", grows).build(),
        new("a loop without end").repeat("loop", LoopLimit::AtMost(2), |body| body.then("again", again)).build(),
        new("no arm")
            // A key is a name, and appears; the payload it was made of does not.
            .route(
                "way",
                |_: &String| "elsewhere".to_owned(),
                |route| route.arm("nowhere".to_owned(), |arm| arm.then("same", same::<String>)),
            )
            .build(),
        new("a list too large")
            .then("split", async |text: String| Ok::<_, Infallible>(vec![text.repeat(20)]))
            .map("map", Concurrency::Unlimited, |item| item.then("same", same::<String>))
            .then("join", async |texts: Vec<String>| Ok::<_, Infallible>(texts.concat()))
            .build(),
    ];
    built.into_iter().map(Result::unwrap).collect()
}

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

/// Returns a workflow of the same structure, and so of the same hash, with other types.
fn plain() -> Workflow<String, (String, SignalOutcome<String>)> {
    Workflow::builder("plain")
        .then("uses", uses)
        .wait_for_signal_keeping_timeout::<String>("wait", "go", MINUTE)
        .then("same", same::<(String, SignalOutcome<String>)>)
        .build()
        .unwrap()
}

fn mistyped() -> Workflow<u64, (u64, SignalOutcome<u64>)> {
    Workflow::builder("plain")
        .then("uses", same::<u64>)
        .wait_for_signal_keeping_timeout::<u64>("wait", "go", MINUTE)
        .then("same", same::<(u64, SignalOutcome<u64>)>)
        .build()
        .unwrap()
}

async fn fails_in_every_way(seen: &Seen) {
    let (clock, gate) = (still_clock(), Gate::new());
    let failing = failing(&gate);
    let builder = Runtime::builder(MemoryStore::new()).clock(clock.clone()).limits(limits());
    let builder = failing.iter().fold(builder, everstep::RuntimeBuilder::register);
    let runtime = builder.start().await.unwrap();
    for workflow in &failing {
        let name = workflow.definition().info().name().to_owned();
        let handle = within(runtime.start(workflow, &name, secret())).await.unwrap();
        let failed = moving(&clock, MINUTE, handle.result()).await.unwrap_err();
        assert!(matches!(failed, ResultError::Failed(_)), "{name}: {failed:?}");
        seen.tell(&failed);
        seen.show(&(handle.status().await.unwrap(), workflow, &handle, &runtime));
    }
    let refused = within(runtime.start(&failing[0], "large", secret().repeat(20))).await.unwrap_err();
    seen.tell(&refused);
    let once = RunOnce::new(&failing[4]).run(secret().repeat(5_000)).await.unwrap_err();
    seen.tell(&once);
}

async fn messages_and_their_refusals(seen: &Seen) {
    // One instance gets every message that is refused, and is timed out, cancelled, and read with
    // the wrong types.
    let (directory, clock, workflow) = (tempfile::tempdir().unwrap(), still_clock(), plain());
    let start = async |workflow: &Workflow<String, _>| {
        let store = open(directory.path()).await;
        seen.show(&store);
        let builder = Runtime::builder(store).register(workflow).clock(clock.clone()).limits(limits());
        within(builder.provide(Vault(secret())).start()).await.unwrap()
    };
    let runtime = start(&workflow).await;
    let handle = within(runtime.start(&workflow, "id", secret())).await.unwrap();
    let status = reach_code(&handle, StatusCode::AwaitingSignal).await;
    seen.show(&status);
    seen.tell(&within(handle.signal("go", &vec![secret()])).await.unwrap_err());
    seen.tell(&within(handle.signal("gone", &secret())).await.unwrap_err());
    seen.tell(&within(handle.signal("go", &secret().repeat(20))).await.unwrap_err());
    seen.tell(&within(runtime.start(&workflow, "id", secret())).await.unwrap_err());
    let existing = StartOptions::new().policy(ConflictPolicy::UseExisting);
    drop(within(runtime.start_with(&workflow, "id", secret(), existing)).await.unwrap());
    seen.tell(&within(handle.task_result::<u64>("uses")).await.unwrap_err());
    seen.tell(&within(handle.unpause()).await.unwrap_err());
    within(handle.signal("go", &secret())).await.unwrap();
    assert!(within(handle.result()).await.is_ok());
    let wrong = within(runtime.handle(&mistyped(), "id")).await.unwrap();
    let unreadable = within(wrong.result()).await.unwrap_err();
    assert!(matches!(unreadable, ResultError::Handle(HandleError::Codec(_))), "{unreadable:?}");
    seen.tell(&unreadable);
    seen.tell(&within(handle.signal("go", &secret())).await.unwrap_err());
    let cancelled = within(runtime.start(&workflow, "cancelled", secret())).await.unwrap();
    within(cancelled.cancel("why", "who")).await.unwrap();
    seen.tell(&within(cancelled.result()).await.unwrap_err());
    within(runtime.shutdown(Duration::from_secs(1))).await;
    seen.tell(&within(handle.signal("go", &secret())).await.unwrap_err());
}

async fn damage_and_quarantine(seen: &Seen) {
    // A head and a row that hold the marker are damaged, read with another type, and formatted as
    // they are.
    let (store, clock, workflow) = (MemoryStore::new(), still_clock(), plain());
    let start = async || {
        let builder = Runtime::builder(store.clone()).register(&workflow).clock(clock.clone()).limits(limits());
        within(builder.provide(Vault(secret())).start()).await.unwrap()
    };
    let runtime = start().await;
    for name in ["head", "row", "mistyped"] {
        let handle = within(runtime.start(&workflow, name, secret())).await.unwrap();
        reach_code(&handle, StatusCode::AwaitingSignal).await;
    }
    within(runtime.shutdown(Duration::ZERO)).await;
    for name in ["head", "row"] {
        let loaded = store.load(&id(name)).await.unwrap().unwrap();
        seen.show(&loaded);
        let run = everstep::machine::HeadIndex::of_head(&id(name), &loaded.head).unwrap().run;
        let key = RowKey::result(everstep::NodePath::new("uses"));
        let row = store.row(run, &key).await.unwrap().unwrap();
        assert!(is_in(&row), "the marker is in the row itself");
        let damaged = |bytes: &Bytes| [&bytes[..], b"x"].concat().into();
        let rows = vec![everstep::machine::RowChange { key, value: Some(damaged(&row)) }];
        let head = if name == "head" { damaged(&loaded.head) } else { loaded.head };
        let write = StoreWrite { rows, ..forced(&store, name, Change::Head(head)).await };
        seen.show(&write);
        assert_eq!(store.commit(&[write]).await.unwrap(), [Ok(())]);
    }
    seen.show(&store);
    let runtime = start().await;
    clock.advance(2 * MINUTE);
    seen.tell(&within(runtime.handle(&workflow, "head")).await.unwrap_err());
    let row = within(runtime.handle(&workflow, "row")).await.unwrap();
    let quarantined = moving(&clock, MINUTE, row.result()).await.unwrap_err();
    assert!(matches!(quarantined, ResultError::Quarantined { .. }), "{quarantined:?}");
    seen.tell(&quarantined);
    drop((row, runtime));
    let wrong = mistyped();
    let builder = Runtime::builder(store.clone()).register(&wrong).clock(clock.clone()).limits(limits());
    let runtime = within(builder.start()).await.unwrap();
    let handle = within(runtime.handle(&wrong, "mistyped")).await.unwrap();
    seen.tell(&moving(&clock, MINUTE, handle.result()).await.unwrap_err());
}

async fn what_the_machine_handles(seen: &Seen) {
    // Each type that holds a payload on its way, as `Debug` shows it.
    let (store, clock, workflow) = (MemoryStore::new(), still_clock(), plain());
    let builder = Runtime::builder(store.clone()).register(&workflow).clock(clock.clone());
    let runtime = builder.provide(Vault(secret())).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", secret()).await.unwrap();
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    let program = workflow.definition().program();
    let stored = load(&store, &id("id")).await.unwrap().unwrap();
    let mut snapshot = stored.snapshot.clone();
    fill(&store, program, &mut snapshot).await.unwrap();
    seen.show(&(&stored, &snapshot));
    let payload = Codec::MessagePack.encode(&secret(), 10_000).unwrap();
    seen.show(&Value::from(payload.clone()));
    let limits = limits();
    let context = Context { program, limits: &limits, now: clock.now() };
    let signal = |name: &str| Event::Signal { name: "go".into(), id: name.into(), payload: payload.clone() };
    seen.show(&signal("one"));
    let mut again = snapshot.clone();
    seen.show(&step(&context, &mut again, signal("one")).unwrap());
    let transition = apply(&context, &mut again, signal("two")).unwrap();
    seen.show(&(&again, &transition));
    let later = Context { now: Timestamp::from_micros(u64::MAX / 2), ..context };
    seen.show(&(apply(&later, &mut again, Event::Wake).unwrap(), &again));
    let given = |event: Event| seen.show(&event);
    for attempt_id in again.running() {
        given(Event::AttemptFinished { attempt_id, outcome: Ok(payload.clone().into()) });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_appear_in_no_log_error_or_debug_text() {
    let seen = Seen::default();
    let writer = seen.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let stories = async {
        fails_in_every_way(&seen).await;
        messages_and_their_refusals(&seen).await;
        damage_and_quarantine(&seen).await;
        what_the_machine_handles(&seen).await;
    };
    tokio::time::timeout(Duration::from_mins(2), stories).await.unwrap();
    tracing::trace!("the last line");
    let logged = seen.0.lock().unwrap().clone();
    let text = String::from_utf8_lossy(&logged);
    assert!(
        text.contains("the last line") && text.contains("TRACE") && text.contains("everstep"),
        "nothing was logged"
    );
    if let Some(line) = text.lines().find(|line| is_in(line.as_bytes())) {
        panic!("logged: {line}");
    }
    println!("{} lines were logged, none with a payload", text.lines().count());
}

#[test]
fn this_test_detects_a_payload_in_every_form_of_bytes() {
    let bytes = Bytes::from(secret());
    assert!(is_in(format!("{bytes:?}").as_bytes()));
    assert!(is_in(format!("{:?}", bytes.to_vec()).as_bytes()));
    assert!(is_in(format!("{bytes:x}").as_bytes()) && is_in(secret().as_bytes()));
    assert!(!is_in(b"300 bytes"));
}
