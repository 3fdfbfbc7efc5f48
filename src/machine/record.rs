//! Snapshots as bytes: MessagePack with field names, so that fields can be added. Nothing in it is recursive.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::envelope::{Damaged, Envelope, HEAD_INDEX_BYTES, HeadIndex, Kind};
use super::snapshot::{End, Frame, Phase, ROOT, Request, Signals, Snapshot, Stage};
use crate::codec::{Home, Leaf, Token, Value};
use crate::definition::{FailureKind, Op, Priority, Program};
use crate::id::InstanceId;
use crate::limits::INLINE_BYTES_MAX;
use crate::time::Timestamp;

/// A head behind its index part.
#[derive(Serialize, Deserialize)]
struct HeadRecord {
    start: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<Arc<str>>,
    /// The main chain's frame; gone when the run has completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<FrameRecord>,
    /// How many signals were accepted: their rows are read only if there are any.
    #[serde(default, skip_serializing_if = "is_zero")]
    signals: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pause: Option<RequestRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<EndRecord>,
}

#[derive(Serialize, Deserialize)]
struct FrameRecord {
    pos: u32,
    node: u32,
    val: Vec<TokenRecord>,
    #[serde(rename = "do")]
    phase: PhaseRecord,
    /// Priority and tags of a task that is ready, for whoever picks work without the definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prio: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tags: Option<Arc<[String]>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TokenRecord {
    #[serde(rename = "b")]
    Bytes(Bytes),
    Input,
    Node(u32),
    Received,
    TimedOut,
    Pair,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhaseRecord {
    Ready {
        attempt: u32,
        issued: u64,
        #[serde(default, skip_serializing_if = "is_zero_u32")]
        deaths: u32,
    },
    Run {
        attempt: u32,
        issued: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Timestamp>,
        #[serde(default, skip_serializing_if = "is_zero_u32")]
        deaths: u32,
    },
    Backoff {
        attempt: u32,
        issued: u64,
        until: Timestamp,
    },
    Delay {
        until: Timestamp,
    },
    Signal {
        name: Arc<str>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
}

#[derive(Serialize, Deserialize)]
struct RequestRecord {
    reason: Arc<str>,
    by: Arc<str>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EndRecord {
    Completed { output: Vec<TokenRecord> },
    TaskFailed { node: u32, attempt: u32, kind: FailureKind, message: String },
    DeadlineExceeded,
    Cancelled { reason: Arc<str>, by: Arc<str> },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}

/// Our own records always encode: they hold no maps with odd keys and no user types.
pub(super) fn encode<T: Serialize>(record: &T, mut out: Vec<u8>) -> Vec<u8> {
    if let Err(error) = rmp_serde::encode::write_named(&mut out, record) {
        panic!("a record of ours does not encode: {error}");
    }
    out
}

/// Depth.
const DEPTH_MAX: usize = 32;

pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(DEPTH_MAX);
    T::deserialize(&mut deserializer).ok()
}

/// Encodes a snapshot's head in its envelope.
pub fn encode_head(program: &Program, snapshot: &Snapshot) -> Bytes {
    let record = HeadRecord {
        start: snapshot.started_at,
        deadline: snapshot.deadline,
        trace: snapshot.traceparent.clone(),
        root: snapshot.frames.get(&ROOT).map(|frame| frame_record(program, frame)),
        signals: snapshot.signals.accepted,
        pause: snapshot
            .pause
            .as_ref()
            .map(|pause| RequestRecord { reason: pause.reason.clone(), by: pause.by.clone() }),
        end: snapshot.end.as_ref().map(end_record),
    };
    let mut body = Vec::with_capacity(HEAD_INDEX_BYTES + 160);
    snapshot.head_index().write(&mut body);
    snapshot.envelope(Kind::Head, snapshot.seq).seal(&encode(&record, body), &[])
}

fn frame_record(program: &Program, frame: &Frame) -> FrameRecord {
    let phase = match &frame.phase {
        Phase::Task { attempt, issued, stage, deaths } => {
            let (attempt, issued, deaths) = (*attempt, *issued, *deaths);
            match stage {
                Stage::Ready => PhaseRecord::Ready { attempt, issued, deaths },
                Stage::Running { since } => PhaseRecord::Run { attempt, issued, since: *since, deaths },
                Stage::Backoff { until } => PhaseRecord::Backoff { attempt, issued, until: *until },
            }
        }
        Phase::Delay { until } => PhaseRecord::Delay { until: *until },
        Phase::Signal { signal, until } => PhaseRecord::Signal { name: signal.clone(), until: *until },
    };
    let (prio, tags) = match program.op(frame.position) {
        Some(Op::Task(op)) => (
            (op.priority != Priority::default()).then_some(op.priority as u8),
            (!op.tags.is_empty()).then(|| Arc::clone(&op.tags)),
        ),
        _ => (None, None),
    };
    FrameRecord { pos: frame.position, node: frame.node, val: token_records(&frame.value), phase, prio, tags }
}

fn token_records(value: &Value) -> Vec<TokenRecord> {
    let stored = |home: &Home| match home {
        Home::Input => TokenRecord::Input,
        Home::Node(node) => TokenRecord::Node(*node),
    };
    let record = |token: &Token| match token {
        Token::Leaf(Leaf { bytes, home: Some(home) }) if bytes.len() > INLINE_BYTES_MAX => stored(home),
        Token::Leaf(leaf) => TokenRecord::Bytes(leaf.bytes.clone()),
        Token::Stored(home) => stored(home),
        Token::Received => TokenRecord::Received,
        Token::TimedOut => TokenRecord::TimedOut,
        Token::Pair => TokenRecord::Pair,
    };
    value.tokens().iter().map(record).collect()
}

fn end_record(end: &End) -> EndRecord {
    match end {
        End::Completed { output } => EndRecord::Completed { output: token_records(output) },
        End::TaskFailed { node, attempt, kind, message } => {
            EndRecord::TaskFailed { node: *node, attempt: *attempt, kind: *kind, message: message.clone() }
        }
        End::DeadlineExceeded => EndRecord::DeadlineExceeded,
        End::Cancelled { reason, by } => EndRecord::Cancelled { reason: reason.clone(), by: by.clone() },
    }
}

/// Decodes a head. Payloads that stand in rows of their own are still to be read
/// ([`Snapshot::unread`], [`Snapshot::fill`]), and so are the signals ([`Snapshot::has_signals`]).
///
/// # Errors
/// [`Damaged`].
pub fn decode_head(instance: &InstanceId, head: &Bytes) -> Result<Snapshot, Damaged> {
    let index = HeadIndex::of_head(instance, head)?;
    let (envelope, body) = Envelope::open(instance, Kind::Head, &[], head)?;
    let body = body.get(HEAD_INDEX_BYTES..).unwrap_or_default();
    let record: HeadRecord = decode(body).ok_or_else(|| Damaged::new(instance, "head", "its body does not decode"))?;
    let mut frames = BTreeMap::new();
    if let Some(root) = record.root {
        frames.insert(ROOT, root.into_frame());
    }
    Ok(Snapshot {
        instance: instance.clone(),
        run: index.run,
        seq: index.seq,
        definition: index.definition,
        codec: envelope.codec,
        started_at: record.start,
        deadline: record.deadline,
        traceparent: record.trace,
        frames,
        signals: Signals { accepted: record.signals, ..Signals::default() },
        pause: record.pause.map(|pause| Request { reason: pause.reason, by: pause.by }),
        end: record.end.map(EndRecord::into_end),
        ended_at: index.ended,
    })
}

impl FrameRecord {
    fn into_frame(self) -> Frame {
        let task = |attempt, issued, stage, deaths| Phase::Task { attempt, issued, stage, deaths };
        let phase = match self.phase {
            PhaseRecord::Ready { attempt, issued, deaths } => task(attempt, issued, Stage::Ready, deaths),
            PhaseRecord::Run { attempt, issued, since, deaths } => {
                task(attempt, issued, Stage::Running { since }, deaths)
            }
            PhaseRecord::Backoff { attempt, issued, until } => task(attempt, issued, Stage::Backoff { until }, 0),
            PhaseRecord::Delay { until } => Phase::Delay { until },
            PhaseRecord::Signal { name, until } => Phase::Signal { signal: name, until },
        };
        Frame { position: self.pos, node: self.node, value: into_value(self.val), phase }
    }
}

impl EndRecord {
    fn into_end(self) -> End {
        match self {
            Self::Completed { output } => End::Completed { output: into_value(output) },
            Self::TaskFailed { node, attempt, kind, message } => End::TaskFailed { node, attempt, kind, message },
            Self::DeadlineExceeded => End::DeadlineExceeded,
            Self::Cancelled { reason, by } => End::Cancelled { reason, by },
        }
    }
}

fn into_value(records: Vec<TokenRecord>) -> Value {
    let token = |record| match record {
        TokenRecord::Bytes(bytes) => Token::Leaf(Leaf { bytes, home: None }),
        TokenRecord::Input => Token::Stored(Home::Input),
        TokenRecord::Node(node) => Token::Stored(Home::Node(node)),
        TokenRecord::Received => Token::Received,
        TokenRecord::TimedOut => Token::TimedOut,
        TokenRecord::Pair => Token::Pair,
    };
    Value::from_tokens(records.into_iter().map(token).collect())
}
