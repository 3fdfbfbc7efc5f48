//! Snapshots as bytes: MessagePack with field names, so that fields can be added. No record is
//! recursive.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::envelope::{Damaged, Envelope, HEAD_INDEX_BYTES, HeadIndex, Kind};
use super::frame::{FrameId, Phase, ROOT};
use super::frame_record::{FrameRecord, PhaseRecord, frame_record};
use super::frames::Frames;
use super::inline_results::{InlineResult, InlineResults};
use super::snapshot::{End, Request, Shown, Signals, Snapshot};
use super::value_record::{TokenRecord, into_value, token_records};
pub(super) use crate::codec::decode_record as decode;
use crate::definition::{FailureKind, Program};
use crate::id::InstanceId;
use crate::limits::ROWS_PASSED_BY_MAX;
use crate::time::Timestamp;

/// The error text for a record that does not decode although its checksum holds.
pub(super) const UNKNOWN: &str = "it has a field or value that is unknown to this version";

/// A head without its index part.
///
/// An unknown field makes a record one of a newer version, as in every record here: if the field
/// were skipped, it would be lost with its meaning when the record is next written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadRecord<'a> {
    start: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<Arc<str>>,
    /// The main chain's frame; `None` once the run has completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<FrameRecord>,
    /// How many branches have not ended. Their records are read only if there are any.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    branches: u32,
    /// The lowest number of a branch, once it is worth its bytes: a scan from the start would pass
    /// all deleted rows.
    #[serde(default, skip_serializing_if = "is_zero")]
    first: FrameId,
    /// The number of the next branch, if there ever was one.
    #[serde(default, skip_serializing_if = "is_zero")]
    next: FrameId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shown: Option<ShownRecord>,
    /// How many times the run was upgraded.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    era: u32,
    /// How many signals were accepted. Their rows are read only if there are any.
    #[serde(default, skip_serializing_if = "is_zero")]
    signals: u64,
    /// The number from which on rows of buffered signals may exist, once it is worth its bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    oldest: u64,
    /// Results that have no rows.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    results: Cow<'a, [InlineResult]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pause: Option<RequestRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<EndRecord>,
}

/// The node and phase that the instance waits at, where a branch decides that: stored here, so that
/// showing it needs no reading of all branches.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShownRecord {
    node: u32,
    #[serde(rename = "do")]
    phase: PhaseRecord,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestRecord {
    reason: Arc<str>,
    by: Arc<str>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum EndRecord {
    Completed { output: Vec<TokenRecord> },
    TaskFailed { node: u32, attempt: u32, kind: FailureKind, message: String },
    DeadlineExceeded,
    Cancelled { reason: Arc<str>, by: Arc<str> },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
pub(super) fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
pub(super) fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}

/// Encodes a record of the crate's own. Cannot fail: such records hold no maps with odd keys and no
/// user types.
pub(super) fn encode<T: Serialize>(record: &T, mut out: Vec<u8>) -> Vec<u8> {
    if let Err(error) = rmp_serde::encode::write_named(&mut out, record) {
        panic!("a record of this crate does not encode: {error}");
    }
    out
}

/// Encodes a snapshot's head in its envelope, with the snapshot's stamp.
pub fn encode_head(program: &Program, snapshot: &Snapshot) -> Bytes {
    let record = HeadRecord {
        start: snapshot.started_at,
        deadline: snapshot.deadline,
        trace: snapshot.traceparent.clone(),
        root: snapshot.frames.get(ROOT).map(|frame| frame_record(program, frame)),
        branches: branches(snapshot),
        first: first_branch(snapshot),
        next: if snapshot.next_frame > ROOT + 1 { snapshot.next_frame } else { 0 },
        shown: shown(snapshot),
        era: snapshot.era,
        signals: snapshot.signals.accepted,
        oldest: snapshot.signals.from,
        results: snapshot.results.record(),
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

fn branches(snapshot: &Snapshot) -> u32 {
    if snapshot.unread_frames > 0 {
        return snapshot.unread_frames;
    }
    let roots = usize::from(snapshot.frames.get(ROOT).is_some());
    u32::try_from(snapshot.frames.len() - roots).unwrap_or(u32::MAX)
}

/// Returns the lowest branch number if it is worth storing: passing a few deleted rows is cheaper
/// than writing and reading a number.
fn first_branch(snapshot: &Snapshot) -> FrameId {
    let first = if snapshot.unread_frames > 0 { snapshot.unread_from } else { snapshot.frames.first_branch() };
    if first < ROWS_PASSED_BY_MAX { 0 } else { first }
}

fn shown(snapshot: &Snapshot) -> Option<ShownRecord> {
    if branches(snapshot) == 0 {
        return None;
    }
    let (node, phase) = snapshot.deciding()?;
    let waits = matches!(phase, Phase::Delay { .. } | Phase::Signal { .. });
    waits.then(|| ShownRecord { node, phase: PhaseRecord::of(phase) })
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

/// Decodes a head. Branches remain to be read ([`Snapshot::unread_frames`]), and so do payloads in
/// rows of their own ([`Snapshot::unread`], [`Snapshot::fill`]) and signals
/// ([`Snapshot::has_signals`]).
///
/// # Errors
/// [`Damaged`].
pub fn decode_head(instance: &InstanceId, head: &Bytes) -> Result<Snapshot, Damaged> {
    let index = HeadIndex::of_head(instance, head)?;
    let (envelope, body) = Envelope::open(instance, Kind::Head, &[], head)?;
    let body = body.get(HEAD_INDEX_BYTES..).unwrap_or_default();
    let record: HeadRecord<'_> = decode(body).ok_or_else(|| Damaged::newer(instance, "head", UNKNOWN))?;
    let mut frames = Frames::default();
    if let Some(root) = record.root {
        frames.restore(ROOT, root.into_frame());
    }
    let results = InlineResults::new(record.results);
    let results =
        results.ok_or_else(|| Damaged::newer(instance, "head", "a result's shape is unknown to this version"))?;
    let shown = record.shown.map(|shown| Shown { node: shown.node, phase: shown.phase.into_phase() });
    Ok(Snapshot {
        instance: instance.clone(),
        run: index.run,
        seq: index.seq,
        stamp: index.stamp,
        definition: index.definition,
        era: record.era,
        codec: envelope.codec,
        started_at: record.start,
        deadline: record.deadline,
        traceparent: record.trace,
        frames,
        next_frame: record.next.max(ROOT + 1),
        unread_frames: record.branches,
        unread_from: record.first,
        shown,
        results,
        signals: Signals { accepted: record.signals, from: record.oldest, ..Signals::default() },
        pause: record.pause.map(|pause| Request { reason: pause.reason, by: pause.by }),
        end: record.end.map(EndRecord::into_end),
        ended_at: index.ended,
    })
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
