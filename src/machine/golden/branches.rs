//! Records of one instance with branches, their results and lists, after each of several events.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::fixtures::{NOW, instance};
use crate::codec::{LoopResult, SignalOutcome, Token, Value};
use crate::definition::{
    AttemptFailure, Concurrency, Definition, FailureKind, LoopLimit, NodeNames as _, TaskFailure, Workflow,
};
use crate::id::{NodePath, RunId};
use crate::limits::Limits;
use crate::machine::{
    Context, Effect, Envelope, Event, Kind, NewRun, Outcome, RowKey, RowPlace, Run, Snapshot, Transition, apply,
    decode_head, encode_head, start,
};
use crate::status::StatusCode;

type Asked = (String, (String, SignalOutcome<String>));

async fn step(text: String) -> Result<LoopResult<String, String>, Infallible> {
    Ok(LoopResult::Done(text))
}

async fn join((done, _): Asked) -> Result<String, Infallible> {
    Ok(done)
}

async fn same(text: String) -> Result<String, Infallible> {
    Ok(text)
}

/// Returns a definition with each kind of node with a chain within. Its hash is in every head, so
/// it must never change.
fn definition() -> Arc<Definition> {
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
        .build()
        .unwrap();
    Arc::clone(workflow.definition())
}

/// The instance, and its rows in the store.
pub(super) struct Told {
    pub(super) definition: Arc<Definition>,
    pub(super) snapshot: Snapshot,
    rows: BTreeMap<Vec<u8>, Bytes>,
    pub(super) asked: Vec<Run>,
}

/// Returns the result of a split: a payload for each item.
pub(super) fn list(items: &[Bytes]) -> Value {
    let leaves = items.iter().flat_map(|item| Value::from(item.clone()).into_tokens());
    let count = u32::try_from(items.len()).unwrap();
    Value::from_tokens(std::iter::once(Token::List(count)).chain(leaves).collect())
}

pub(super) fn large() -> Bytes {
    (0..=255).collect()
}

fn context(definition: &Definition, limits: &Limits, happen: impl FnOnce(&Context<'_>)) {
    happen(&Context { program: definition.program(), limits, now: NOW });
}

impl Told {
    pub(super) fn start(definition: Arc<Definition>) -> Self {
        let input = Bytes::from_static(b"\x93");
        let run = RunId::from_bytes([2; 16]);
        let new = NewRun { instance: instance(), run, codec: 1, input, traceparent: None };
        let mut told = None;
        context(&definition, &Limits::default(), |context| told = Some(start(context, new)));
        let (snapshot, transition) = told.unwrap();
        let mut told = Self { definition, snapshot, rows: BTreeMap::new(), asked: Vec::new() };
        told.take(transition);
        told
    }

    pub(super) fn take(&mut self, transition: Transition) {
        for row in transition.rows {
            match row.value {
                Some(value) => self.rows.insert(row.key.to_bytes(), value),
                None => self.rows.remove(&row.key.to_bytes()),
            };
        }
        let runs = transition.effects.into_iter().filter_map(|effect| match effect {
            Effect::Run(run) => Some(run),
            _ => None,
        });
        self.asked.extend(runs);
    }

    pub(super) fn happen(&mut self, event: Event) {
        let (definition, limits) = (Arc::clone(&self.definition), Limits::default());
        let mut told = None;
        context(&definition, &limits, |context| told = Some(apply(context, &mut self.snapshot, event).unwrap()));
        self.take(told.unwrap());
    }

    /// Ends the oldest attempt at this node.
    pub(super) fn end(&mut self, path: &str, outcome: Outcome) {
        let names = self.definition.program();
        let at = self.asked.iter().position(|run| names.path(run.node).unwrap().as_str() == path);
        let run = self.asked.remove(at.unwrap_or_else(|| panic!("nothing runs at {path}")));
        self.happen(Event::AttemptFinished { attempt_id: run.attempt_id, outcome });
    }

    fn signal(&mut self, id: &str, payload: &'static [u8]) {
        self.happen(Event::Signal { name: "answer".into(), id: id.into(), payload: Bytes::from_static(payload) });
    }

    pub(super) fn record(&self, name: &'static str) -> Point {
        let head = encode_head(self.definition.program(), &self.snapshot);
        Point { name, head, rows: self.rows.clone() }
    }
}

pub(super) struct Point {
    pub(super) name: &'static str,
    pub(super) head: Bytes,
    pub(super) rows: BTreeMap<Vec<u8>, Bytes>,
}

/// Returns the points. Three items, two at a time: one runs two iterations of a loop and waits, one
/// gets its signal and ends, the third starts.
fn points() -> Vec<Point> {
    let mut told = Told::start(definition());
    let mut points = Vec::new();
    told.end("each", Ok(list(&[Bytes::from_static(b"\xa1a"), large(), Bytes::from_static(b"\xa1c")])));
    points.push(told.record("items_started"));
    told.end("each/both/work/again/step", Ok(Value::from(large()).behind(Token::Again)));
    told.end("each/both/work/again/step", Ok(Value::from(large()).behind(Token::Done)));
    told.signal("one", b"\xa3yes");
    points.push(told.record("branches_ended"));
    told.signal("two", b"\xa2no");
    told.end("each/join", Ok(Bytes::from_static(b"\xa1b").into()));
    points.push(told.record("an_item_ended"));
    for _ in 0..2 {
        told.end("each/both/work/again/step", Ok(Value::from(Bytes::from_static(b"\xa1d")).behind(Token::Done)));
    }
    told.signal("three", b"\xa3why");
    told.end("each/join", Ok(large().into()));
    told.end("each/join", Ok(Bytes::from_static(b"\xa1f").into()));
    told.end("few", Ok(Bytes::from_static(b"true").into()));
    points.push(told.record("list_in_a_delay"));
    let until = told.snapshot.next_wake().unwrap();
    let (definition, limits) = (Arc::clone(&told.definition), Limits::default());
    let context = Context { program: definition.program(), limits: &limits, now: until };
    let woken = apply(&context, &mut told.snapshot, Event::Wake).unwrap();
    told.take(woken);
    told.end("try", Ok(list(&[Bytes::from_static(b"\xa1g"), large()])));
    told.end("try/same", Err(AttemptFailure::new(FailureKind::Error, "no")));
    told.end("try/same", Ok(large().into()));
    points.push(told.record("completed_with_a_failure"));
    assert_eq!(told.snapshot.status_code(), StatusCode::Completed);
    points
}

/// The version that is written today. In `v1` a consumed signal has one row, as a buffered one, in
/// place of the two by its number and by its id. The first two are in format 1 of the envelope.
const WRITTEN: &str = "format-2/v2-branches";
const READ: [&str; 3] = ["v1-branches", "v2-branches", WRITTEN];

fn directory(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version)
}

/// Returns all files of a directory.
pub(super) fn stored(version: &str) -> BTreeMap<String, Bytes> {
    let paths = std::fs::read_dir(directory(version)).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    paths.map(|path| (name(&path), std::fs::read(&path).unwrap().into())).collect()
}

/// Returns a point as files: its head, and each row by its key.
fn files(point: &Point) -> BTreeMap<String, Bytes> {
    let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let rows = point.rows.iter().map(|(key, row)| (format!("{}.{}.bin", point.name, hex(key)), row.clone()));
    std::iter::once((format!("{}.bin", point.name), point.head.clone())).chain(rows).collect()
}

#[test]
fn branches_and_lists_are_written_as_before() {
    compare(WRITTEN, &points());
}

/// Compares a directory with the records written today, file by file, so that none is forgotten.
pub(super) fn compare(written: &str, points: &[Point]) {
    let today: BTreeMap<_, _> = points.iter().flat_map(files).collect();
    if !directory(written).exists() && std::env::var_os("EVERSTEP_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(directory(written)).unwrap();
        for (name, bytes) in &today {
            std::fs::write(directory(written).join(name), bytes).unwrap();
        }
    }
    let stored = stored(written);
    let names = |files: &BTreeMap<String, Bytes>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&stored), names(&today));
    for (name, bytes) in today {
        assert_eq!(stored[&name], bytes, "{name}: instances stored by an earlier version look otherwise");
    }
}

/// Returns the rows of a point, by their keys.
pub(super) fn rows_of(point: &str, files: &BTreeMap<String, Bytes>) -> BTreeMap<Vec<u8>, Bytes> {
    let byte = |hex: &[u8]| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap();
    let key = |name: &str| {
        let hex = name.strip_prefix(point)?.strip_prefix('.')?.strip_suffix(".bin")?;
        Some(hex.as_bytes().chunks(2).map(byte).collect())
    };
    files.iter().filter_map(|(name, row)| Some((key(name)?, row.clone()))).collect()
}

pub(super) fn number_in(key: &[u8]) -> u64 {
    u64::from_be_bytes(key[1..].try_into().unwrap())
}

#[test]
fn branches_read_and_write_unchanged() {
    // Each point is read from its files as the runtime does: the head, then the records of its
    // branches, then the signals. A consumed signal is recognized, whichever version wrote its
    // rows.
    let (definition, limits) = (definition(), Limits::default());
    for (version, point) in READ.into_iter().flat_map(|version| points().into_iter().map(move |point| (version, point)))
    {
        let files = stored(version);
        let (head, rows) = (&files[&format!("{}.bin", point.name)], rows_of(point.name, &files));
        let mut read = decode_head(&instance(), head).unwrap();
        let told_by_head = (read.status(definition.program()), read.status_code());
        let of = |prefix: &'static [u8]| rows.iter().filter(move |(key, _)| key.starts_with(prefix));
        read.take_frame_rows(of(RowKey::FRAMES).map(|(key, row)| (number_in(key), row.clone())).collect()).unwrap();
        read.check(definition.program()).unwrap();
        let told = (read.status(definition.program()), read.status_code());
        assert_eq!(told, told_by_head, "{}: a head alone says the same", point.name);
        assert_eq!(encode_head(definition.program(), &read), point.head, "{}", point.name);
        for (key, row) in of(RowKey::SIGNALS) {
            read.take_signal_row(number_in(key), row).unwrap();
        }
        let accepted = usize::try_from(read.signals.accepted).unwrap();
        for id in &["one", "two", "three"][..accepted] {
            for key in read.unread_signal_rows(&(*id).into()) {
                read.take_remembered(&key, rows.get(&key.to_bytes())).unwrap();
            }
            let repeated = Event::Signal { name: "answer".into(), id: (*id).into(), payload: Bytes::new() };
            context(&definition, &limits, |context| {
                let ignored = apply(context, &mut read, repeated).unwrap();
                assert!(!ignored.changed, "{version}, {}: {id} is taken again", point.name);
            });
        }
    }
}

#[test]
fn collected_failure_reads_back() {
    // The failure of an item, as its row has had it since the first version.
    let points = points();
    let last = points.last().unwrap();
    let key = RowKey::Branch(RowPlace::new(NodePath::new("try"), []), 0);
    let snapshot = decode_head(&instance(), &last.head).unwrap();
    let value = snapshot.open_value(&key, &last.rows[&key.to_bytes()]).unwrap();
    let [Token::Failed(failure)] = value.tokens() else { panic!("{value:?}") };
    let failure = TaskFailure::from_bytes(failure).unwrap();
    assert_eq!((failure.task.as_str(), failure.attempt, failure.message.as_str()), ("try/same", 1, "no"));
}

/// Method: replace every byte of every row in turn, with a correct checksum: an error, or a record
/// that can be inspected and can take events. Never a panic.
#[test]
fn row_with_any_byte_changed_does_no_harm() {
    let (definition, limits) = (definition(), Limits::default());
    let markers = [0x00, 0x7f, 0x81, 0x90, 0x9f, 0xa1, 0xc0, 0xc4, 0xcc, 0xcf, 0xdb, 0xdd, 0xdf, 0xff];
    let mut read = 0;
    for point in points() {
        let head = decode_head(&instance(), &point.head).unwrap();
        for (key, row) in point.rows.iter().filter(|(key, _)| [4, 5, 6].contains(&key[0])) {
            let kind = [Kind::Frame, Kind::Branch, Kind::List][usize::from(key[0]) - 4];
            let (envelope, body) = Envelope::open(&instance(), kind, key, row).unwrap();
            for (at, marker) in (0..body.len()).flat_map(|at| markers.map(|marker| (at, marker))) {
                let mut body = body.to_vec();
                body[at] = marker;
                let changed = envelope.seal(&body, key);
                if kind == Kind::Frame {
                    read += usize::from(reads_and_moves(&head, &point, key, &changed, &definition, &limits));
                } else {
                    read += usize::from(crate::machine::value_record::decode_value(&body).is_some());
                }
            }
        }
    }
    assert!(read > 1_000, "most changes of texts and numbers are read: {read}");
}

fn reads_and_moves(
    head: &Snapshot,
    point: &Point,
    changed_key: &[u8],
    changed: &Bytes,
    definition: &Definition,
    limits: &Limits,
) -> bool {
    let mut snapshot = head.clone();
    let frames = point.rows.iter().filter(|(key, _)| key.starts_with(RowKey::FRAMES)).map(|(key, row)| {
        let row = if key == changed_key { changed } else { row };
        (u64::from_be_bytes(key[1..].try_into().unwrap()), row.clone())
    });
    if snapshot.take_frame_rows(frames.collect()).is_err() || snapshot.check(definition.program()).is_err() {
        return false;
    }
    let later = NOW.after(Duration::from_hours(9));
    let context = Context { program: definition.program(), limits, now: later };
    let events = [
        Event::Resumed { alive: Vec::new(), process_crashed: true },
        Event::Signal { name: "answer".into(), id: "four".into(), payload: Bytes::new() },
        Event::Wake,
    ];
    snapshot.take_remembered(&RowKey::SignalNumber("four".into()), None).unwrap();
    for event in events {
        // A refusal is fine.
        let _ = apply(&context, &mut snapshot, event);
    }
    !encode_head(definition.program(), &snapshot).is_empty()
}
