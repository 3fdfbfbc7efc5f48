//! Every entry point for untrusted bytes, as one call each. The mutation test and the fuzz targets
//! share it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everstep::machine::{
    Context, Envelope, Event, HeadIndex, Kind, RowKey, RowPlace, Snapshot, apply, decode_head, decode_quarantine,
    encode_head,
};
use everstep::{
    AttemptFailure, Builder, Codec, Concurrency, Definition, DefinitionHash, FailureKind, InstanceId, Limits,
    ListCursor, LoopLimit, LoopResult, Manifest, NodePath, SignalOutcome, Timestamp, Workflow, task,
};
use serde::Deserialize;

/// A stored record: a golden file.
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) key: Vec<u8>,
    pub(crate) bytes: Bytes,
    pub(crate) body: Bytes,
    envelope: Envelope,
    definition: Arc<Definition>,
}

/// All golden records, and the instance and definitions to read them with.
pub(crate) struct Golden {
    pub(crate) records: Vec<Record>,
    instance: InstanceId,
    limits: Limits,
}

type Asked = (String, (String, SignalOutcome<String>));

async fn number(n: u32) -> Result<u32, Infallible> {
    Ok(n)
}

async fn ship((n, _): (u32, SignalOutcome<u32>)) -> Result<u32, Infallible> {
    Ok(n)
}

async fn step(text: String) -> Result<LoopResult<String, String>, Infallible> {
    Ok(LoopResult::Done(text))
}

async fn join((done, _): Asked) -> Result<String, Infallible> {
    Ok(done)
}

async fn same<T: Send + 'static>(value: T) -> Result<T, Infallible> {
    Ok(value)
}

/// Returns the definition of the records in `v1`.
fn plain(_: &str) -> Arc<Definition> {
    let workflow = Workflow::builder("golden")
        .version("7")
        .then("reserve", number)
        .then("charge", task(number).version("2"))
        .wait_for_signal_keeping_timeout::<u32>("approval", "approve", Duration::from_mins(1))
        .delay("rest", Duration::from_hours(1))
        .then("ship", ship)
        .build();
    Arc::clone(workflow.unwrap().definition())
}

/// Returns the definition of the records in `v1-branches` and `v2-branches`.
fn branches(_: &str) -> Arc<Definition> {
    let workflow = Workflow::builder_for::<Vec<String>>("branches")
        .map("each", Concurrency::AtMost(2), |item| {
            item.fork("both", |fork| {
                fork.branch("work", |b| b.repeat("again", LoopLimit::AtMost(5), |body| body.then("step", step)))
                    .branch("ask", |b| {
                        b.wait_for_signal_keeping_timeout::<String>("ask", "answer", Duration::from_mins(1))
                    })
            })
            .join("join", join)
        })
        .route(
            "few",
            |texts: &Vec<String>| texts.len() < 9,
            |route| route.arm(true, |arm| arm.delay("rest", Duration::from_hours(1))).arm(false, |arm| arm),
        )
        .map_collect("try", Concurrency::Unlimited, |item| item.then("same", same))
        .build();
    Arc::clone(workflow.unwrap().definition())
}

async fn turn(texts: Vec<String>) -> Result<LoopResult<Vec<String>, Vec<String>>, Infallible> {
    Ok(LoopResult::Done(texts))
}

async fn both((texts, _): (Vec<String>, (Vec<String>, String))) -> Result<Vec<String>, Infallible> {
    Ok(texts)
}

/// Returns a definition of the records in `eras`, of which each version upgrades the previous one.
fn eras(version: usize) -> Arc<Definition> {
    let front =
        |builder: Builder<Vec<String>, Vec<String>>, n| builder.delay(format!("front {n}"), Duration::from_hours(1));
    let empty = Workflow::builder("eras").version(version.to_string()).taking::<Vec<String>>();
    let workflow = (0..version)
        .fold(empty, front)
        .then(if version == 1 { "b" } else { "a" }, same)
        .then("small", same)
        .fork("both", |fork| {
            let each = |body: Builder<Vec<String>, Vec<String>>| {
                body.map("each", Concurrency::AtMost(1), |item| item.then("step", same)).then("turn", turn)
            };
            fork.branch("loop", |branch| branch.repeat("again", LoopLimit::Unlimited, each))
                .branch("ask", |branch| branch.wait_for_signal_keeping::<String>("ask", "answer"))
        })
        .join("join", both)
        .build();
    Arc::clone(workflow.unwrap().definition())
}

/// Returns the definition of a record in `eras`.
fn of_era(name: &str) -> Arc<Definition> {
    match name.split('.').next().unwrap() {
        "list_in_a_loop" => eras(0),
        "taken_over" => eras(1),
        _ => eras(2),
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Returns the kind and the row's key of a file, from the part of its name after the fixture's.
fn place(row: &str) -> (Kind, Vec<u8>) {
    let with_id = [("signal_id_", 7), ("signal_number_", 8)];
    if let Some((rest, tag)) = with_id.iter().find_map(|(start, tag)| Some((row.strip_prefix(start)?, *tag))) {
        let key = if tag == 7 { RowKey::SignalId(rest.parse().unwrap()) } else { RowKey::SignalNumber(rest.into()) };
        return (Kind::Signal, key.to_bytes());
    }
    let key = match row.split_once('_').unwrap_or((row, "")) {
        ("input", _) => RowKey::Input,
        ("result", path) => RowKey::result(NodePath::new(path)),
        ("signal", number) => RowKey::Signal(number.parse().unwrap()),
        _ => {
            use Kind::{Branch, Era, Frame, Input, List, Result, Signal};
            let kinds = [Input, Result, Signal, Frame, Branch, List, Signal, Signal, Era];
            let key = from_hex(row);
            return (kinds[usize::from(in_first_era(&key)[0]) - 1], key);
        }
    };
    (key.kind(), key.to_bytes())
}

/// Returns the key as it is in the first era, without the prefix of later ones.
fn in_first_era(key: &[u8]) -> &[u8] {
    if key[0] == 10 { &key[5..] } else { key }
}

impl Golden {
    /// Reads all files from the directory of the golden set.
    pub(crate) fn read(directory: &Path) -> Self {
        // The id's length is at 32, the id at 38: see the drawing in `machine::envelope_v1`.
        let first = std::fs::read(directory.join("v1/start.bin")).unwrap();
        let id_bytes = usize::from(first[33]);
        let instance = InstanceId::new(std::str::from_utf8(&first[38..38 + id_bytes]).unwrap()).unwrap();
        let mut records = Vec::new();
        let sets = [
            ("v1", plain as fn(&str) -> _),
            ("v1-branches", branches),
            ("v2-branches", branches),
            ("format-2/v1", plain),
            ("format-2/v2-branches", branches),
            ("format-2/eras", of_era),
        ];
        for (set, definition_of) in sets {
            let mut paths: Vec<_> =
                std::fs::read_dir(directory.join(set)).unwrap().map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            for path in paths {
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                let definition = definition_of(&name);
                let (kind, key) = match name.split_once('.') {
                    Some((_, row)) => place(row),
                    None if name == "quarantine" => (Kind::Quarantine, Vec::new()),
                    None => (Kind::Head, Vec::new()),
                };
                let bytes = Bytes::from(std::fs::read(&path).unwrap());
                let (envelope, body) = Envelope::open(&instance, kind, &key, &bytes).unwrap();
                if kind == Kind::Head {
                    // With another definition most of these records would be refused at once,
                    // without a look at the rest.
                    let of_head = decode_head(&instance, &bytes).unwrap().definition();
                    assert_eq!(of_head, definition.hash(), "{name}");
                }
                let name = format!("{set}/{name}");
                records.push(Record { name, kind, key, bytes, body, envelope, definition });
            }
        }
        Self { records, instance, limits: Limits::default() }
    }

    /// Reads bytes in the place of a record; returns true if any reader accepts them.
    pub(crate) fn stored(&self, record: &Record, bytes: &Bytes) -> bool {
        let opened = Envelope::open(&self.instance, record.kind, &record.key, bytes).is_ok();
        let head = HeadIndex::of_head(&self.instance, bytes).is_ok() || decode_head(&self.instance, bytes).is_ok();
        let reason = decode_quarantine(&self.instance, bytes);
        let read = self.moves(record, bytes);
        opened || head || read || &*reason != "the quarantine record is damaged"
    }

    /// Reads a body in the place of a record's, with a correct checksum; returns true if it is
    /// accepted. Inspects an accepted snapshot, and applies every event from outside to it.
    pub(crate) fn sealed(&self, record: &Record, body: &[u8]) -> bool {
        self.moves(record, &record.envelope.seal(body, &record.key))
    }

    fn moves(&self, record: &Record, bytes: &Bytes) -> bool {
        match record.kind {
            Kind::Head => match decode_head(&self.instance, bytes) {
                Ok(snapshot) => self.with_frames(record, snapshot, None),
                Err(_) => false,
            },
            Kind::Quarantine => &*decode_quarantine(&self.instance, bytes) != "the quarantine record is damaged",
            Kind::Frame => self.with_frames(record, self.head_beside(record), Some(bytes)),
            Kind::Signal => {
                let mut snapshot = self.head_beside(record);
                let number = || u64::from_be_bytes(record.key[1..].try_into().unwrap());
                let taken = match record.key[0] {
                    7 => snapshot.take_remembered(&RowKey::SignalId(number()), Some(bytes)),
                    8 => {
                        let id = std::str::from_utf8(&record.key[1..]).unwrap().into();
                        snapshot.take_remembered(&RowKey::SignalNumber(id), Some(bytes))
                    }
                    _ => snapshot.take_signal_row(number(), bytes),
                };
                taken.is_ok() && self.with_frames(record, snapshot, None)
            }
            Kind::Input | Kind::Result => self.head_beside(record).open_value(&RowKey::Input, bytes).is_ok(),
            Kind::Branch | Kind::List => self.reads_parts(record, bytes),
            Kind::Era => {
                let number = u32::from_be_bytes(record.key[1..].try_into().unwrap());
                self.head_beside(record).open_row(&RowKey::Era(number), bytes).is_ok()
            }
        }
    }

    fn reads_parts(&self, record: &Record, bytes: &Bytes) -> bool {
        let era = if record.key[0] == 10 { u32::from_be_bytes(record.key[1..5].try_into().unwrap()) } else { 0 };
        let mut key = in_first_era(&record.key)[1..].splitn(2, |byte| *byte == 0);
        let path = NodePath::new(std::str::from_utf8(key.next().unwrap()).unwrap());
        let mut indices: Vec<_> =
            key.next().unwrap().chunks(4).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap())).collect();
        let last = indices.pop().unwrap();
        let of = if record.kind == Kind::Branch { RowKey::Branch } else { RowKey::List };
        let value =
            self.head_beside(record).open_value(&of(RowPlace { era, ..RowPlace::new(path, indices) }, last), bytes);
        value.is_ok_and(|value| value.unread().len() <= value.tokens().len())
    }

    /// Returns the head that the record's row belongs to.
    fn head_beside(&self, record: &Record) -> Snapshot {
        let fixture = record.name.split('.').next().unwrap();
        let head = self.records.iter().find(|other| other.name == fixture).unwrap();
        decode_head(&self.instance, &head.bytes).unwrap()
    }

    /// Reads the branches as they are stored, one of them from other bytes, and applies events to
    /// the result.
    fn with_frames(&self, record: &Record, mut snapshot: Snapshot, changed: Option<&Bytes>) -> bool {
        let fixture = record.name.split('.').next().unwrap();
        let belongs = |other: &&Record| other.kind == Kind::Frame && other.name.split('.').next() == Some(fixture);
        let rows = self.records.iter().filter(belongs).map(|row| {
            let bytes = changed.filter(|_| row.key == record.key).unwrap_or(&row.bytes);
            (u64::from_be_bytes(row.key[1..].try_into().unwrap()), bytes.clone())
        });
        if snapshot.unread_frames() > 0 && snapshot.take_frame_rows(rows.collect()).is_err() {
            return false;
        }
        let program = record.definition.program();
        let looks = (snapshot.status(program), snapshot.waits(program), snapshot.next_wake(), snapshot.unread());
        let shown = format!("{looks:?}").len();
        if snapshot.check(program).is_err() {
            return shown == 0;
        }
        snapshot.take_remembered(&RowKey::SignalNumber("another".into()), None).unwrap();
        for event in events() {
            let context = Context { program, limits: &self.limits, now: Timestamp::from_micros(1_900_000_000_000_000) };
            // A refusal is fine.
            let _ = apply(&context, &mut snapshot, event);
        }
        !encode_head(program, &snapshot).is_empty()
    }
}

fn events() -> Vec<Event> {
    let signal = |name: &str| Event::Signal { name: name.into(), id: "another".into(), payload: Bytes::new() };
    vec![
        Event::Resumed { alive: Vec::new(), process_crashed: true },
        signal("answer"),
        signal("approve"),
        Event::Wake,
        Event::Pause { reason: "why".into(), by: "who".into() },
        Event::Unpause,
        Event::Released,
        Event::Retry { deadline: Some(Duration::from_hours(1)) },
        Event::Cancel { reason: "why".into(), by: "who".into() },
    ]
}

/// Types that are recursive in each way of serde, which harmful payloads aim at.
#[derive(Deserialize)]
#[allow(dead_code, reason = "decoded alone")]
enum Recursive {
    Unit,
    Boxed(Box<Self>),
    List(Vec<Self>),
    Named { next: Option<Box<Self>>, by: BTreeMap<String, Self> },
}

#[derive(Deserialize)]
#[serde(untagged)]
#[allow(dead_code, reason = "decoded alone")]
enum Untagged {
    Number(f64),
    Text(String),
    List(Vec<Self>),
    Map(BTreeMap<String, Self>),
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "decoded alone")]
struct Flat {
    #[serde(default)]
    cents: u64,
    #[serde(default)]
    who: Option<String>,
    #[serde(default)]
    bytes: Bytes,
    #[serde(default)]
    many: Vec<(u32, i8)>,
}

/// Reads a payload from outside, in both formats and as types of every shape; returns true if any
/// of them accepts it.
pub(crate) fn payload(bytes: &[u8]) -> bool {
    let mut read = false;
    for codec in [Codec::MessagePack, Codec::Json] {
        read |= codec.decode::<serde_json::Value>(bytes).is_ok();
        read |= codec.decode::<Recursive>(bytes).is_ok();
        read |= codec.decode::<Untagged>(bytes).is_ok();
        read |= codec.decode::<Flat>(bytes).is_ok();
        read |= codec.decode::<Vec<Vec<u64>>>(bytes).is_ok();
    }
    read
}

/// Reads bytes that are in no envelope: manifests, and texts.
pub(crate) fn unsealed(bytes: &[u8]) -> bool {
    let manifest = Manifest::decode(bytes);
    let drawn = manifest.as_ref().map(|manifest| manifest.to_mermaid().len());
    let Ok(text) = std::str::from_utf8(bytes) else { return drawn.is_some() };
    let cursor = text.parse::<ListCursor>().is_ok_and(|cursor| cursor.to_string() == text);
    let hash = text.parse::<DefinitionHash>().is_ok();
    let failure = AttemptFailure::new(FailureKind::Error, text);
    drawn.is_some() || cursor || hash || failure.message.len() > text.len() || InstanceId::new(text).is_ok()
}
