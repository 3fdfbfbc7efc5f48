//! Frames as records: the main chain's in the head, each branch's in a row of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::frame::{Began, Frame, FrameId, Lineage, Origin, Phase, Stage};
use super::record::{decode, encode, is_zero, is_zero_u32};
use super::value_record::{TokenRecord, inline_bytes, into_value, token_records};
use crate::definition::{Op, Priority, Program};
use crate::time::Timestamp;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FrameRecord {
    pos: u32,
    node: u32,
    val: Vec<TokenRecord>,
    #[serde(rename = "do")]
    phase: PhaseRecord,
    /// Priority and tags of a ready task, for tools that pick work without the definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prio: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tags: Option<Arc<[String]>>,
    /// The parent frame, and the index of this branch there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<(FrameId, u32)>,
    /// Bytes of the value that stand in rows of their own.
    #[serde(default, skip_serializing_if = "is_zero")]
    away: u64,
    /// Era and node in which the frame began to wait for its branches, if that was an earlier era.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    began: Option<(u32, u32)>,
    /// Iterations of the loops that the frame is in.
    #[serde(rename = "turns", default, skip_serializing_if = "Vec::is_empty")]
    loops: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum PhaseRecord {
    Ready {
        attempt: u32,
        issued: u64,
        #[serde(rename = "deaths", default, skip_serializing_if = "is_zero_u32")]
        crashes: u32,
    },
    Run {
        attempt: u32,
        issued: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Timestamp>,
        #[serde(rename = "deaths", default, skip_serializing_if = "is_zero_u32")]
        crashes: u32,
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
        #[serde(default, skip_serializing_if = "is_zero")]
        at: u64,
    },
    Fork {
        live: u32,
    },
    Map {
        total: u32,
        started: u32,
        live: u32,
        #[serde(default, skip_serializing_if = "is_zero")]
        bytes: u64,
        per_row: u32,
    },
    Failed,
}

/// Encodes the record of a branch.
pub(super) fn encode_frame(program: &Program, frame: &Frame) -> Vec<u8> {
    encode(&frame_record(program, frame), Vec::with_capacity(128))
}

/// Decodes the record of a branch.
pub(super) fn decode_frame(bytes: &[u8]) -> Option<Frame> {
    decode::<FrameRecord>(bytes).map(FrameRecord::into_frame)
}

pub(super) fn frame_record(program: &Program, frame: &Frame) -> FrameRecord {
    let (prio, tags) = match program.op(frame.position) {
        Some(Op::Task(op)) => (
            (op.priority != Priority::default()).then_some(op.priority as u8),
            (!op.tags.is_empty()).then(|| Arc::clone(&op.tags)),
        ),
        _ => (None, None),
    };
    FrameRecord {
        pos: frame.position,
        node: frame.node,
        val: token_records(&frame.value),
        phase: PhaseRecord::of(&frame.phase),
        prio,
        tags,
        away: away(frame),
        began: frame.began.map(|began| (began.era, began.node)),
        from: frame.lineage.origin.map(|origin| (origin.parent, origin.index)),
        loops: frame.lineage.loops.clone(),
    }
}

/// Returns the bytes of the value that stand in rows of their own. Counted only where they are
/// needed: in a branch, unless it holds a list and waits for the items.
fn away(frame: &Frame) -> u64 {
    let counts = frame.lineage.origin.is_some() && !matches!(frame.phase, Phase::Map { .. });
    if counts { frame.value_bytes().saturating_sub(inline_bytes(&frame.value)) } else { 0 }
}

impl FrameRecord {
    pub(super) fn into_frame(self) -> Frame {
        let origin = self.from.map(|(parent, index)| Origin { parent, index });
        Frame {
            position: self.pos,
            node: self.node,
            value: into_value(self.val),
            phase: self.phase.into_phase(),
            lineage: Lineage { origin, loops: self.loops, ..Lineage::default() },
            unread_bytes: self.away,
            began: self.began.map(|(era, node)| Began { era, node }),
            branch_results: BTreeMap::new(),
        }
    }
}

impl PhaseRecord {
    pub(super) fn of(phase: &Phase) -> Self {
        match phase {
            Phase::Task { attempt, issued, stage, crashes } => {
                let (attempt, issued, crashes) = (*attempt, *issued, *crashes);
                match stage {
                    Stage::Ready => Self::Ready { attempt, issued, crashes },
                    Stage::Running { since } => Self::Run { attempt, issued, since: *since, crashes },
                    Stage::Backoff { until } => Self::Backoff { attempt, issued, until: *until },
                }
            }
            Phase::Delay { until } => Self::Delay { until: *until },
            Phase::Signal { signal, until, since } => Self::Signal { name: signal.clone(), until: *until, at: *since },
            Phase::Fork { live } => Self::Fork { live: *live },
            Phase::Map { total, started, live, bytes, per_row } => {
                Self::Map { total: *total, started: *started, live: *live, bytes: *bytes, per_row: *per_row }
            }
            Phase::Failed => Self::Failed,
        }
    }

    pub(super) fn into_phase(self) -> Phase {
        let task = |attempt, issued, stage, crashes| Phase::Task { attempt, issued, stage, crashes };
        match self {
            Self::Ready { attempt, issued, crashes } => task(attempt, issued, Stage::Ready, crashes),
            Self::Run { attempt, issued, since, crashes } => task(attempt, issued, Stage::Running { since }, crashes),
            Self::Backoff { attempt, issued, until } => task(attempt, issued, Stage::Backoff { until }, 0),
            Self::Delay { until } => Phase::Delay { until },
            Self::Signal { name, until, at } => Phase::Signal { signal: name, until, since: at },
            Self::Fork { live } => Phase::Fork { live },
            Self::Map { total, started, live, bytes, per_row } => Phase::Map { total, started, live, bytes, per_row },
            Self::Failed => Phase::Failed,
        }
    }
}
