//! Records damaged at rest: whichever record is damaged and however, only its instance is
//! quarantined or reports an error, its bytes stay, and the others continue.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use common::{forced, inc, moving, same, still_clock, within};
use everstep::lifecycle::load;
use everstep::machine::{DamageCause, Envelope, RowChange, RowKey, RowPlace, encode_quarantine};
use everstep::store::{Change, Write};
use everstep::{
    Concurrency, ConflictPolicy, HandleError, Health, InstanceHandle, InstanceId, ManualClock, MemoryStore,
    MessageError, NodePath, ResultError, RunId, Runtime, Stamp, StartError, StartOptions, Status, StatusCode,
    Store as _, Workflow,
};

const MINUTE: Duration = Duration::from_mins(1);
const VICTIM: &str = "victim";

type Texts = Vec<String>;

async fn first((left, _): (String, String)) -> Result<String, std::convert::Infallible> {
    Ok(left)
}

async fn joined(texts: Texts) -> Result<String, std::convert::Infallible> {
    Ok(texts.concat())
}

async fn split(text: String) -> Result<Texts, std::convert::Infallible> {
    Ok(vec![text; 3])
}

/// Returns a workflow whose head refers to a row of each kind; its payloads are too large for the
/// head.
fn victim() -> Workflow<String, String> {
    Workflow::builder("victim")
        .then("result", same::<String>)
        .fork("fork", |fork| {
            fork.branch("ended", |branch| branch.then("same", same::<String>))
                .branch("live", |branch| branch.delay("rest", MINUTE).then("same", same::<String>))
        })
        .join("join", first)
        .wait_for_signal::<String>("wait", "go")
        .wait_for_signal::<String>("wait again", "stop")
        .then("split", split)
        .map("map", Concurrency::AtMost(1), |item| item.delay("rest", MINUTE).then("same", same::<String>))
        .then("joined", joined)
        .build()
        .unwrap()
}

/// Returns a workflow whose input is a row and is read at the end of the delay.
fn late() -> Workflow<String, String> {
    Workflow::builder_for::<String>("late").delay("rest", MINUTE).then("same", same::<String>).build().unwrap()
}

fn beside() -> Workflow<u32, u32> {
    Workflow::builder_for::<u32>("beside").delay("rest", MINUTE).then("inc", inc).build().unwrap()
}

fn text(letter: char) -> String {
    letter.to_string().repeat(300)
}

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

/// The place where the victim is parked when it is damaged.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Parked {
    BeforeItsInputIsRead,
    InAFork,
    WithASignalBuffered,
    InAMap,
}

type Damage = (&'static str, fn(&[u8]) -> Vec<u8>);

/// Damages of a record's bytes, some of them with the bytes of another record of the same kind.
const DAMAGES: [Damage; 6] = [
    ("its first bit flipped", |bytes| flipped(bytes, 0)),
    ("a bit in the middle flipped", |bytes| flipped(bytes, bytes.len() / 2)),
    ("its last bit flipped", |bytes| flipped(bytes, bytes.len() - 1)),
    ("cut in half", |bytes| bytes[..bytes.len() / 2].to_vec()),
    ("emptied", |_| Vec::new()),
    ("of another key", |bytes| bytes.to_vec()),
];

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

/// Returns the key of a row, from its bytes.
fn key(bytes: &[u8]) -> RowKey {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let placed = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap();
        let path = NodePath::new(std::str::from_utf8(&bytes[..end]).unwrap());
        (path, bytes[end + 1..].chunks(4).map(number).collect::<Vec<_>>())
    };
    match (bytes[0], &bytes[1..]) {
        (1, _) => RowKey::Input,
        (2, rest) => {
            let (path, indices) = placed(rest);
            RowKey::Result(RowPlace::new(path, indices))
        }
        (3, rest) => RowKey::Signal(u64::from_be_bytes(rest.try_into().unwrap())),
        (4, rest) => RowKey::Frame(u64::from_be_bytes(rest.try_into().unwrap())),
        (7, rest) => RowKey::SignalId(u64::from_be_bytes(rest.try_into().unwrap())),
        (8, rest) => RowKey::SignalNumber(std::str::from_utf8(rest).unwrap().into()),
        (kind, rest) => {
            let (path, mut indices) = placed(rest);
            let last = indices.pop().unwrap();
            let of = if kind == 5 { RowKey::Branch } else { RowKey::List };
            of(RowPlace::new(path, indices), last)
        }
    }
}

struct Scene {
    store: MemoryStore,
    clock: ManualClock,
    run: RunId,
}

async fn runtime(store: &MemoryStore, clock: &ManualClock) -> Runtime {
    let builder = Runtime::builder(store.clone()).register(&victim()).register(&late()).register(&beside());
    within(builder.clock(clock.clone()).start()).await.unwrap()
}

impl Scene {
    /// Parks both instances, and drops the runtime.
    async fn of(parked: Parked) -> Self {
        let (store, clock) = (MemoryStore::new(), still_clock());
        let runtime = runtime(&store, &clock).await;
        let workflow = if parked == Parked::BeforeItsInputIsRead { late() } else { victim() };
        let handle = within(runtime.start(&workflow, VICTIM, text('i'))).await.unwrap();
        let reach = |code| common::reach_code(&handle, code);
        reach(StatusCode::Waiting).await;
        if parked == Parked::WithASignalBuffered {
            within(handle.signal("stop", &text('s'))).await.unwrap();
        }
        if parked == Parked::InAMap {
            moving(&clock, MINUTE, reach(StatusCode::AwaitingSignal)).await;
            within(handle.signal("go", &text('g'))).await.unwrap();
            within(handle.signal("stop", &text('s'))).await.unwrap();
            reach(StatusCode::Waiting).await;
        }
        within(runtime.start(&beside(), "beside", 1)).await.unwrap();
        let run = handle.run_id();
        drop(handle);
        moving(&clock, Duration::from_millis(1), runtime.shutdown(Duration::from_millis(1))).await;
        Self { store, clock, run }
    }

    async fn rows(&self) -> Vec<(RowKey, Bytes)> {
        let rows = self.store.rows(self.run, &[], None).await.unwrap();
        rows.iter().map(|(bytes, row)| (key(bytes), row.clone())).collect()
    }

    /// Writes the victim, past the runtime.
    async fn force(&self, change: Change, rows: Vec<RowChange>) {
        let write = Write { rows, run: self.run, ..forced(&self.store, VICTIM, change).await };
        assert_eq!(self.store.commit(&[write]).await.unwrap(), [Ok(())]);
    }

    async fn head(&self) -> Bytes {
        self.store.load(&id(VICTIM)).await.unwrap().unwrap().head
    }

    /// Starts a runtime on the store: the other instance must complete, and the victim must come to
    /// rest.
    async fn outcome(&self, what: &str) -> Told {
        let runtime = runtime(&self.store, &self.clock).await;
        let beside = within(runtime.handle(&beside(), "beside")).await.unwrap();
        assert_eq!(moving(&self.clock, MINUTE, beside.result()).await, Ok(2), "{what}");
        let mut told = match within(runtime.handle(&victim(), VICTIM)).await {
            Err(HandleError::DefinitionMismatch { .. }) => {
                self.ends(&runtime.handle(&late(), VICTIM).await.unwrap()).await
            }
            Err(HandleError::Damaged(_)) => Told::Error,
            Err(error) => panic!("{what}: {error}"),
            Ok(handle) => self.ends(&handle).await,
        };
        if let (Told::Error, Some(quarantine)) =
            (&told, self.store.load(&id(VICTIM)).await.unwrap().unwrap().quarantine)
        {
            assert!(!quarantine.is_empty(), "{what}");
            told = Told::Quarantined;
        }
        assert_eq!(runtime.health(), Health::Healthy, "{what}");
        told
    }

    async fn ends(&self, handle: &InstanceHandle<String>) -> Told {
        for signal in ["go", "stop"] {
            match within(handle.signal(signal, &text('x'))).await {
                Ok(())
                | Err(
                    MessageError::Quarantined(_)
                    | MessageError::Damaged(_)
                    | MessageError::AlreadyTerminal(_)
                    // The late workflow has no signal to wait for.
                    | MessageError::Signal(_),
                ) => {}
                Err(error) => panic!("{error}"),
            }
        }
        match moving(&self.clock, MINUTE, handle.result()).await {
            Ok(output) => Told::Completed(output),
            Err(ResultError::Quarantined { reason }) => {
                assert!(reason.contains("damaged"), "{reason}");
                Told::Quarantined
            }
            Err(ResultError::Handle(HandleError::Damaged(_))) => Told::Error,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The state of the victim in the end.
#[derive(Debug)]
enum Told {
    /// The victim is quarantined.
    Quarantined,
    /// Every call gets a typed error.
    Error,
    Completed(String),
}

/// Method: in each place where the victim is parked, damage each of its rows in turn in each way.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_row_quarantines_only_its_instance() {
    let mut kinds = BTreeSet::new();
    for parked in [Parked::BeforeItsInputIsRead, Parked::InAFork, Parked::WithASignalBuffered, Parked::InAMap] {
        let expected = match Scene::of(parked).await.outcome("undamaged").await {
            Told::Completed(output) => output,
            told => panic!("{parked:?}: undamaged, it is {told:?}"),
        };
        let count = Scene::of(parked).await.rows().await.len();
        for row in 0..count {
            let mut aside = 0;
            let mut kind = "";
            for (how, damage) in DAMAGES {
                let scene = Scene::of(parked).await;
                let rows = scene.rows().await;
                let (key, bytes) = rows[row].clone();
                kind = key.kind().name();
                let source = if how == "of another key" { &rows[(row + 1) % count].1 } else { &bytes };
                let damaged = Bytes::from(damage(source));
                let change = RowChange { key: key.clone(), value: Some(damaged.clone()) };
                scene.force(Change::Head(scene.head().await), vec![change]).await;
                let what = format!("{parked:?}, {key:?} {how}");
                match scene.outcome(&what).await {
                    // The row was not read any more, or was written anew.
                    Told::Completed(output) => assert_eq!(output, expected, "{what}"),
                    told => {
                        aside += 1;
                        let row = scene.store.row(scene.run, &key).await.unwrap();
                        assert_eq!(row, Some(damaged), "{what}: {told:?}, and its bytes were touched");
                    }
                }
            }
            // A row that is read is read whatever its damage. With one row, there is none of
            // another key.
            if aside > 0 {
                let all = if count > 1 { DAMAGES.len() } else { DAMAGES.len() - 1 };
                assert_eq!(aside, all, "{parked:?}, {kind} row {row}: damages that were noticed");
                kinds.insert(kind);
            }
        }
    }
    let all = ["branch", "frame", "input", "list", "result", "signal"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), all, "kinds whose damage was noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_head_is_reported_and_hurts_no_other_instance() {
    // The head is damaged in each way, also replaced by that of another instance. Its bytes stay.
    for (how, damage) in DAMAGES {
        let scene = Scene::of(Parked::InAFork).await;
        let source = match how {
            "of another key" => scene.store.load(&id("beside")).await.unwrap().unwrap().head,
            _ => scene.head().await,
        };
        let damaged = Bytes::from(damage(&source));
        scene.force(Change::Head(damaged.clone()), Vec::new()).await;
        let told = scene.outcome(how).await;
        assert!(!matches!(told, Told::Completed(_)), "{how}: {told:?}");
        assert_eq!(scene.head().await, damaged, "{how}: its bytes were touched");
        let loaded = load(&scene.store, &id(VICTIM)).await;
        assert!(loaded.is_err(), "{how}: {loaded:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_quarantine_record_keeps_the_quarantine() {
    // The quarantine's reason is lost; the quarantine is not.
    for (how, damage) in DAMAGES {
        let scene = Scene::of(Parked::InAFork).await;
        let instance = if how == "of another key" { id("beside") } else { id(VICTIM) };
        let record = encode_quarantine(&instance, "it bites", Stamp::generate());
        scene.force(Change::Quarantine(damage(&record).into()), Vec::new()).await;
        let runtime = runtime(&scene.store, &scene.clock).await;
        let handle = within(runtime.handle(&victim(), VICTIM)).await.unwrap();
        let status = within(handle.status()).await.unwrap();
        assert_eq!(status, Status::Quarantined { reason: "the quarantine record is damaged".into() }, "{how}");
        within(handle.release()).await.unwrap();
        assert!(matches!(scene.ends(&handle).await, Told::Completed(_)), "{how}");
    }
}

/// Returns the MessagePack of a part that is stored in another row: of this kind, of the fork, with
/// this number.
fn part(kind: &str, number: u32) -> Vec<u8> {
    const FORK: u32 = 1;
    let at = serde_json::json!({ "at": { "is": kind, "node": FORK, "n": number } });
    rmp_serde::to_vec_named(&at).unwrap()
}

/// Method: write the row of an ended branch with a correct checksum, so that its part is itself, or
/// its parts are, or it claims four billion parts. A read that follows it would never end, or would
/// fill the memory.
#[tokio::test(flavor = "multi_thread")]
async fn self_referring_or_oversized_rows_quarantine() {
    let itself = [&b"\x91"[..], &part("branch", 0)].concat();
    let itself_twice = [&b"\x92"[..], &part("branch", 0), &part("branch", 0)].concat();
    let endless = [&b"\x91"[..], &part("branches", u32::MAX)].concat();
    let around = [&b"\x92"[..], &part("branches", 1), &part("branches", 1)].concat();
    for body in [itself, itself_twice, endless, around] {
        let scene = Scene::of(Parked::InAFork).await;
        let key = RowKey::Branch(RowPlace::new(NodePath::new("fork"), []), 0);
        let row = scene.store.row(scene.run, &key).await.unwrap().unwrap();
        let (envelope, _) = Envelope::open(&id(VICTIM), key.kind(), &key.to_bytes(), &row).unwrap();
        let change = RowChange { value: Some(envelope.seal(&body, &key.to_bytes())), key };
        scene.force(Change::Head(scene.head().await), vec![change]).await;
        let told = scene.outcome("self-referring").await;
        assert!(matches!(told, Told::Quarantined), "{body:x?}: {told:?}");
    }
}

/// Returns a head with a changed beginning or body, and a correct checksum.
fn resealed(head: &Bytes, change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut content = head[..head.len() - 8].to_vec();
    change(&mut content);
    let seed = xxhash_rust::xxh3::xxh3_64(VICTIM.as_bytes());
    let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(&content, seed);
    content.extend_from_slice(&checksum.to_be_bytes());
    content.into()
}

/// Method: a head as a newer version might write it: of another format, with an unknown status,
/// with one more field. The instance is neither quarantined nor written, whatever call comes and
/// whatever is due. The list shows it, and the others continue.
#[tokio::test(flavor = "multi_thread")]
async fn head_of_newer_version_is_left_alone_and_listed() {
    for how in ["format", "status", "field"] {
        let scene = Scene::of(Parked::InAFork).await;
        let sound = scene.head().await;
        // The envelope comes first, its sequence number one byte here; then the index part, then a
        // map.
        let newer = resealed(&sound, |content| match how {
            "format" => content[2] = 3,
            "status" => content[31] = 99,
            _ => {
                content[31 + 41] += 1;
                content.extend_from_slice(b"\xa5later\x92\x01\x02");
            }
        });
        scene.force(Change::Head(newer.clone()), Vec::new()).await;
        let told = scene.outcome(how).await;
        assert!(matches!(told, Told::Error), "{how}: {told:?}");

        let runtime = runtime(&scene.store, &scene.clock).await;
        let deleted = within(runtime.delete(&id(VICTIM))).await.unwrap_err();
        assert!(
            matches!(&deleted, MessageError::Damaged(damaged) if damaged.cause == DamageCause::Newer),
            "{how}: {deleted}"
        );
        for policy in [ConflictPolicy::Fail, ConflictPolicy::UseExisting, ConflictPolicy::TerminateExisting] {
            let options = StartOptions::new().policy(policy);
            let started = within(runtime.start_with(&victim(), VICTIM, text('i'), options)).await.unwrap_err();
            assert!(
                matches!(&started, StartError::Damaged(damaged) if damaged.cause == DamageCause::Newer),
                "{how}: {started}"
            );
        }
        let listed: Vec<_> = runtime.left_alone().into_iter().map(|one| (one.instance, one.definition)).collect();
        assert_eq!(listed, [(id(VICTIM), None)], "{how}");
        let loaded = scene.store.load(&id(VICTIM)).await.unwrap().unwrap();
        assert_eq!((loaded.head, loaded.quarantine), (newer, None), "{how}");
    }
}

/// Method: damage a head while a handle exists, and call the instance again and again. The instance
/// is quarantined once; a later status read writes nothing.
#[cfg(feature = "testing")]
#[tokio::test(flavor = "multi_thread")]
async fn damaged_head_is_quarantined_once() {
    let scene = Scene::of(Parked::InAFork).await;
    let store = everstep::store::FaultyStore::new(scene.store.clone());
    let commits = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = std::sync::Arc::clone(&commits);
    store.plan(move |_, call| {
        count.fetch_add(u32::from(call.writes_to(VICTIM)), std::sync::atomic::Ordering::SeqCst);
        everstep::store::Fault::None
    });
    let builder = Runtime::builder(store).register(&victim()).register(&late()).register(&beside());
    let runtime = within(builder.clock(scene.clock.clone()).start()).await.unwrap();
    let handle = within(runtime.handle(&victim(), VICTIM)).await.unwrap();
    scene.force(Change::Head(Bytes::from_static(b"rotten")), Vec::new()).await;
    let before = commits.load(std::sync::atomic::Ordering::SeqCst);
    for _ in 0..5 {
        let sent = within(handle.signal("go", &text('x'))).await.unwrap_err();
        assert!(matches!(sent, MessageError::Quarantined(_)), "{sent}");
    }
    assert_eq!(commits.load(std::sync::atomic::Ordering::SeqCst) - before, 1);
}
