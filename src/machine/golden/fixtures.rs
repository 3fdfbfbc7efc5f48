//! Fixed snapshots of every shape. A snapshot here never changes; a new shape gets a new one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::codec::{Home, Place, SignalOutcome, Token, Value};
use crate::definition::{Definition, FailureKind, NodeNames as _, Priority, Workflow, task};
use crate::id::{InstanceId, RunId, Stamp};
use crate::machine::frame::{Lineage, ROOT};
use crate::machine::frames::Frames;
use crate::machine::inline_results::InlineResults;
use crate::machine::rows::{encode_signal, encode_signal_number};
use crate::machine::snapshot::{Buffered, Request, Signals};
use crate::machine::{End, Frame, Phase, RowKey, Shape, Snapshot, Stage};
use crate::time::Timestamp;

async fn number(n: u32) -> Result<u32, Infallible> {
    Ok(n)
}

async fn ship((n, _): (u32, SignalOutcome<u32>)) -> Result<u32, Infallible> {
    Ok(n)
}

/// The stamp of every head and quarantine record.
pub(super) const STAMP: Stamp = Stamp::from_bytes(*b"\x01stamped");

/// Returns a definition with one of each op. Its hash is in every head, so it must never change.
pub(super) fn definition() -> Arc<Definition> {
    let workflow = Workflow::builder("golden")
        .version("7")
        .then("reserve", number)
        .then("charge", task(number).priority(Priority::Critical).tag("card").tag("eu").version("2"))
        .wait_for_signal_keeping_timeout::<u32>("approval", "approve", Duration::from_mins(1))
        .delay("rest", Duration::from_hours(1))
        .then("ship", ship)
        .build()
        .unwrap();
    Arc::clone(workflow.definition())
}

const RESERVE: u32 = 0;
const CHARGE: u32 = 1;
const APPROVAL: u32 = 2;
const REST: u32 = 3;
const SHIP: u32 = 4;

/// A snapshot, and the rows that belong to it.
pub(super) struct Fixture {
    pub(super) name: &'static str,
    pub(super) snapshot: Snapshot,
    pub(super) rows: Vec<Row>,
}

pub(super) struct Row {
    pub(super) key: RowKey,
    pub(super) body: Vec<u8>,
}

impl Row {
    /// Returns the name of the row's file.
    pub(super) fn file(&self, fixture: &str) -> String {
        match &self.key {
            RowKey::Input => format!("{fixture}.input"),
            RowKey::Result(place) => format!("{fixture}.result_{}", place.path),
            RowKey::Signal(number) => format!("{fixture}.signal_{number}"),
            RowKey::SignalId(number) => format!("{fixture}.signal_id_{number}"),
            RowKey::SignalNumber(id) => format!("{fixture}.signal_number_{id}"),
            other => unreachable!("no fixture has {other:?}"),
        }
    }
}

/// Returns the row that holds a value.
pub(super) fn row_of(home: &Home) -> RowKey {
    match home {
        Home::Input => RowKey::Input,
        Home::Result(place) => RowKey::result(definition().program().path(place.node).unwrap().clone()),
        other => unreachable!("no fixture has {other:?}"),
    }
}

pub(super) const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_123_456);

fn later(seconds: u64) -> Timestamp {
    NOW.after(Duration::from_secs(seconds))
}

pub(super) fn instance() -> InstanceId {
    InstanceId::new("order/42 ✓").unwrap()
}

/// Returns the place of the result of a node that is within no map.
fn result_of(node: u32) -> Home {
    Home::Result(Place { era: 0, node, indices: [].into() })
}

fn small(bytes: &'static [u8]) -> Value {
    Value::leaf(Bytes::from_static(bytes), None)
}

/// Returns a payload too large for the head, which has a row of its own.
fn large(home: Home) -> (Value, Row) {
    let body: Vec<u8> = (0..=255).collect();
    let key = row_of(&home);
    (Value::leaf(body.clone().into(), Some(home)), Row { key, body })
}

fn running(attempt: u32, issued: u64, since: Option<Timestamp>, crashes: u32) -> Phase {
    Phase::Task { attempt, issued, stage: Stage::Running { since }, crashes }
}

pub(super) fn snapshot(seq: u64) -> Snapshot {
    Snapshot {
        instance: instance(),
        run: RunId::from_bytes([1, 0x8b, 0xcf, 0xe5, 0x68, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        seq,
        stamp: STAMP,
        definition: definition().hash(),
        era: 0,
        codec: 1,
        started_at: NOW,
        deadline: None,
        traceparent: None,
        frames: Frames::default(),
        next_frame: ROOT + 1,
        unread_frames: 0,
        unread_from: ROOT,
        shown: None,
        results: InlineResults::default(),
        signals: Signals::default(),
        pause: None,
        end: None,
        ended_at: None,
    }
}

fn at(seq: u64, node: u32, value: Value, phase: Phase) -> Snapshot {
    // In a chain the op's position is the node's index.
    let frame = Frame { node, phase, ..Frame::new(Lineage::default(), node, value) };
    let mut frames = Frames::default();
    frames.restore(ROOT, frame);
    Snapshot { frames, ..snapshot(seq) }
}

fn ended(seq: u64, end: End) -> Snapshot {
    Snapshot { end: Some(end), ..snapshot(seq) }
}

fn alone(name: &'static str, snapshot: Snapshot) -> Fixture {
    Fixture { name, snapshot, rows: Vec::new() }
}

pub(super) fn fixtures() -> Vec<Fixture> {
    let mut fixtures = fixtures_of_format_1();
    fixtures.push(behind_many(at(5_000, APPROVAL, small(b"\x02"), Phase::Fork { live: 3 })));
    fixtures
}

/// Returns the fixtures that are as old as format 1 of the envelope.
pub(super) fn fixtures_of_format_1() -> Vec<Fixture> {
    let request = || Some(Request { reason: "lunch".into(), by: "ana".into() });
    let (large_input, input_row) = large(Home::Input);
    let (large_output, output_row) = large(result_of(SHIP));
    let waiting = |until| Phase::Signal { signal: "approve".into(), until, since: 0 };
    vec![
        alone("start", at(1, RESERVE, small(b"\x2a"), running(1, 1, None, 0))),
        Fixture {
            name: "large_input",
            snapshot: at(1, RESERVE, large_input, running(1, 1, None, 0)),
            rows: vec![input_row],
        },
        alone("running_after_deaths", at(300, CHARGE, small(b""), running(2, 256, Some(later(1)), 3))),
        alone(
            "paused_before_task",
            Snapshot {
                pause: request(),
                ..at(9, CHARGE, small(b"\xff"), Phase::Task { attempt: 1, issued: 8, stage: Stage::Ready, crashes: 1 })
            },
        ),
        alone(
            "backoff",
            at(
                70_000,
                CHARGE,
                small(b"\x01"),
                Phase::Task { attempt: 70_001, issued: 69_999, stage: Stage::Backoff { until: later(30) }, crashes: 0 },
            ),
        ),
        alone("waiting", at(3, APPROVAL, small(b"\x02"), waiting(None))),
        waiting_with_signals(at(6, APPROVAL, small(b"\x02"), waiting(Some(later(60))))),
        waiting_behind_a_signal(at(7, APPROVAL, small(b"\x02"), waiting(Some(later(60))))),
        alone(
            "delayed_with_deadline",
            Snapshot {
                deadline: Some(later(86_400)),
                traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
                codec: 128,
                ..at(5, REST, small(b"{}"), Phase::Delay { until: later(3_600) })
            },
        ),
        alone(
            "kept_and_received",
            at(8, SHIP, Value::pair(small(b"\x05"), small(b"\x06").behind(Token::Received)), running(1, 8, None, 0)),
        ),
        kept_and_timed_out(),
        alone("completed", ended(11, End::Completed { output: small(b"\x07") })),
        Fixture {
            name: "completed_large",
            snapshot: ended(11, End::Completed { output: large_output }),
            rows: vec![output_row],
        },
        alone(
            "failed",
            Snapshot {
                end: Some(End::TaskFailed {
                    node: CHARGE,
                    attempt: 5,
                    kind: FailureKind::TimedOut,
                    message: "too slow ✗".into(),
                }),
                ..at(12, CHARGE, small(b"\x01"), running(5, 11, None, 0))
            },
        ),
        alone(
            "deadline_exceeded",
            Snapshot { end: Some(End::DeadlineExceeded), ..at(4, APPROVAL, small(b"\x01"), waiting(None)) },
        ),
        alone(
            "cancelled",
            Snapshot {
                end: Some(End::Cancelled { reason: "changed my mind".into(), by: "".into() }),
                pause: request(),
                ..at(4, RESERVE, small(b"\x01"), running(1, 1, None, 0))
            },
        ),
        alone(
            "completed_at",
            Snapshot { ended_at: Some(later(7)), ..ended(11, End::Completed { output: small(b"\x07") }) },
        ),
        alone("with_results", with_results(at(3, APPROVAL, small(b"\x02"), waiting(None)))),
    ]
}

/// Adds three signals: the first was consumed and is only remembered, the others are buffered
/// because of the pause.
fn waiting_with_signals(mut snapshot: Snapshot) -> Fixture {
    let payloads = [None, Some(&b"\x0a"[..]), Some(&b""[..])];
    let mut rows = Vec::new();
    for (number, payload) in (0..).zip(payloads) {
        let id: Arc<str> = format!("signal-{number}").into();
        let payload = payload.map(Bytes::from_static);
        let body = encode_signal(&id, payload.as_ref().map(|payload| ("approve", payload)));
        rows.push(Row { key: RowKey::Signal(number), body });
        snapshot.signals.accepted += 1;
        snapshot.signals.numbers.insert(Arc::clone(&id), number);
        snapshot.signals.remembered.insert(number, Arc::clone(&id));
        match payload {
            Some(payload) => snapshot.push_signal(&"approve".into(), Buffered { number, id, payload, accepted_in: 0 }),
            None => snapshot.signals.add_bare(number),
        }
    }
    snapshot.pause = Some(Request { reason: "".into(), by: "✓".into() });
    Fixture { name: "waiting_with_signals", snapshot, rows }
}

/// Consumes many signals and ends many branches; the head has the keys at which the remaining rows
/// begin.
fn behind_many(mut snapshot: Snapshot) -> Fixture {
    (snapshot.unread_frames, snapshot.unread_from, snapshot.next_frame) = (3, 70_000, 70_100);
    let (id, payload): (Arc<str>, _) = ("signal-900".into(), Bytes::from_static(b"\x0b"));
    let body = encode_signal(&id, Some(("approve", &payload)));
    (snapshot.signals.accepted, snapshot.signals.from) = (901, 890);
    snapshot.signals.know(900, &id);
    snapshot.push_signal(&"approve".into(), Buffered { number: 900, id, payload, accepted_in: 0 });
    Fixture { name: "behind_many", snapshot, rows: vec![Row { key: RowKey::Signal(900), body }] }
}

/// Adds a signal that was consumed, and looked up.
fn waiting_behind_a_signal(mut snapshot: Snapshot) -> Fixture {
    let id: Arc<str> = "signal-0".into();
    snapshot.signals.accepted = 1;
    snapshot.signals.know(0, &id);
    let rows = vec![
        Row { key: RowKey::SignalId(0), body: encode_signal(&id, None) },
        Row { key: RowKey::SignalNumber(id), body: encode_signal_number(0) },
    ];
    Fixture { name: "waiting_behind_a_signal", snapshot, rows }
}

/// Adds two small results, which have no rows; the second is of a loop.
fn with_results(mut snapshot: Snapshot) -> Snapshot {
    snapshot.results.put(RESERVE, Shape::Plain, &Bytes::from_static(b"\x2a"));
    snapshot.results.put(CHARGE, Shape::Done, &Bytes::from_static(b"\x2b"));
    snapshot
}

/// Returns a wait that timed out, beside a result too large for the head.
fn kept_and_timed_out() -> Fixture {
    let (kept, row) = large(result_of(CHARGE));
    let value = Value::pair(kept, Value::timed_out());
    Fixture {
        name: "kept_and_timed_out",
        snapshot: at(8, REST, value, Phase::Delay { until: later(1) }),
        rows: vec![row],
    }
}
