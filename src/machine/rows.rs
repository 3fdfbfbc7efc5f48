//! Rows beside the head: a snapshot is completed from them; signals and quarantine records are
//! encoded.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::RowKey;
use super::envelope::{Damaged, Envelope, Kind, Shape};
use super::frame::{Frame, FrameId, Lineage, Phase, ROOT};
use super::frame_record::decode_frame;
use super::record::{UNKNOWN, decode, encode};
use super::snapshot::{Buffered, End, Snapshot};
use super::value_record::{decode_items, decode_value};
use crate::codec::{Home, Token, Value};
use crate::definition::{Op, Program};
use crate::id::{InstanceId, RunId, Stamp};
use crate::limits::SIGNAL_IDS_REMEMBERED;

/// A signal's row: with name and payload while it is buffered; with its id alone once it is
/// consumed, so that it is not accepted twice.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignalRecord<'a> {
    id: &'a str,
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    name: Option<&'a str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<Bytes>,
}

/// The number of a consumed signal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignalNumberRecord {
    number: u64,
}

/// Encodes the row that gives a signal's number for its id.
pub(super) fn encode_signal_number(number: u64) -> Vec<u8> {
    encode(&SignalNumberRecord { number }, Vec::new())
}

/// Encodes a signal's row: with name and payload while it is buffered, with its id alone
/// afterwards.
pub(super) fn encode_signal(id: &str, buffered: Option<(&str, &Bytes)>) -> Vec<u8> {
    let record = SignalRecord {
        id,
        name: buffered.map(|(name, _)| name),
        payload: buffered.map(|(_, payload)| payload.clone()),
    };
    encode(&record, Vec::new())
}

impl Snapshot {
    /// Returns the rows whose payloads are not read yet.
    pub fn unread(&self) -> Vec<Home> {
        let output = self.output().into_iter();
        let values = self.frames.iter().map(|(_, frame)| &frame.value).chain(output);
        values.flat_map(Value::unread).collect()
    }

    /// Returns the items of lists that are not read yet; many may stand in one row.
    pub fn unread_items(&self) -> Vec<Home> {
        let unread = self.frames.iter().flat_map(|(_, frame)| frame.value.unread());
        unread.filter(|home| matches!(home, Home::Item(..))).collect()
    }

    /// Replaces unread parts by the tokens that were read.
    pub fn fill(&mut self, read: &HashMap<Home, Vec<Token>>) {
        let lookup = |home: &Home| read.get(home).cloned();
        self.frames.values_mut().for_each(|value| value.fill(&lookup));
        if let Some(End::Completed { output }) = &mut self.end {
            output.fill(&lookup);
        }
    }

    /// Takes the rows of all branches, in the order of their numbers.
    ///
    /// # Errors
    /// [`Damaged`], also if rows are missing.
    pub fn take_frame_rows(&mut self, rows: Vec<(FrameId, Bytes)>) -> Result<(), Damaged> {
        let damaged = |what| Damaged::new(&self.instance, "frame", what);
        if rows.len() != self.unread_frames as usize {
            return Err(damaged("their number differs from the one in the head"));
        }
        for (id, row) in rows {
            let body = self.open_row(&RowKey::Frame(id), &row)?.1;
            let mut frame = decode_frame(&body).ok_or_else(|| Damaged::newer(&self.instance, "frame", UNKNOWN))?;
            let parent = frame.lineage.origin.filter(|origin| origin.parent < id);
            let parent = parent.and_then(|origin| Some((origin, self.frames.get(origin.parent)?)));
            let (origin, parent) = parent.ok_or_else(|| damaged("its parent frame is missing"))?;
            let lineage = match parent.phase {
                Phase::Fork { .. } => parent.lineage.branch(origin.parent, origin.index),
                Phase::Map { .. } => parent.lineage.item(origin.parent, origin.index),
                _ => return Err(damaged("its parent frame is not a fork or map")),
            };
            frame.lineage = Lineage { loops: std::mem::take(&mut frame.lineage.loops), ..lineage };
            self.frames.restore(id, frame);
        }
        (self.unread_frames, self.unread_from, self.shown) = (0, ROOT, None);
        Ok(())
    }

    /// Checks that every frame is at an op where its program allows it, with as many branches as it
    /// waits for.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn check(&self, program: &Program) -> Result<(), Damaged> {
        let fits = |id, frame: &Frame| {
            let op = program.op(frame.position)?;
            let fits = match (op, &frame.phase) {
                (Op::Task(_) | Op::Map(_) | Op::Route(_), Phase::Task { .. })
                | (Op::Delay { .. }, Phase::Delay { .. })
                | (Op::Wait(_), Phase::Signal { .. })
                | (_, Phase::Failed) => true,
                (Op::Fork(_), Phase::Fork { live }) | (Op::Map(_), Phase::Map { live, .. }) => {
                    self.frames.branches_of(id).count() == *live as usize
                }
                _ => false,
            };
            (fits && op.node() == Some(frame.node)).then_some(())
        };
        if self.frames.iter().all(|(id, frame)| fits(id, frame).is_some()) {
            return Ok(());
        }
        Err(Damaged::new(&self.instance, "head", "its position is not in its definition"))
    }

    /// Returns true if signal rows may exist, which must then be read.
    pub fn has_signals(&self) -> bool {
        self.signals.accepted > 0
    }

    /// Takes a signal row that was read; rows come in the order of their numbers.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn take_signal_row(&mut self, number: u64, row: &Bytes) -> Result<(), Damaged> {
        let body = self.open_row(&RowKey::Signal(number), row)?.1;
        let damaged = || Damaged::newer(&self.instance, "signal", UNKNOWN);
        let record: SignalRecord<'_> = decode(&body).ok_or_else(damaged)?;
        let id: Arc<str> = record.id.into();
        self.signals.know(number, &id);
        match (record.name, record.payload) {
            (Some(name), Some(payload)) => {
                self.push_signal(&name.into(), Buffered { number, id, payload, accepted_in: 0 });
            }
            _ => self.signals.add_bare(number),
        }
        Ok(())
    }

    /// Returns the rows to read before a signal with this id is applied: they tell whether the
    /// signal is a repeated one, and which id it replaces among the remembered ones.
    pub fn unread_signal_rows(&self, id: &Arc<str>) -> Vec<RowKey> {
        if self.signals.knows(id) {
            return Vec::new();
        }
        let oldest = self.signals.oldest();
        let is_known = self.signals.accepted < SIGNAL_IDS_REMEMBERED || self.signals.remembered.contains_key(&oldest);
        let oldest = (!is_known).then_some(RowKey::SignalId(oldest));
        std::iter::once(RowKey::SignalNumber(Arc::clone(id))).chain(oldest).collect()
    }

    /// Takes one of the rows of [`unread_signal_rows`](Self::unread_signal_rows), or its absence.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn take_remembered(&mut self, key: &RowKey, row: Option<&Bytes>) -> Result<(), Damaged> {
        let damaged = Damaged::newer(&self.instance, "signal", UNKNOWN);
        let body = row.map(|row| Ok(self.open_row(key, row)?.1)).transpose()?;
        match (key, body) {
            (RowKey::SignalNumber(id), Some(body)) => {
                let SignalNumberRecord { number } = decode(&body).ok_or(damaged)?;
                self.signals.know(number, id);
                self.signals.absent = (!self.signals.numbers.contains_key(id)).then(|| Arc::clone(id));
            }
            (RowKey::SignalNumber(id), None) => self.signals.absent = Some(Arc::clone(id)),
            (RowKey::SignalId(number), Some(body)) => {
                let record: SignalRecord<'_> = decode(&body).ok_or(damaged)?;
                self.signals.know(*number, &record.id.into());
            }
            _ => {}
        }
        Ok(())
    }

    /// Opens a row of this run.
    ///
    /// # Errors
    /// [`Damaged`], also if the row belongs to another run.
    pub fn open_row(&self, key: &RowKey, row: &Bytes) -> Result<(Shape, Bytes), Damaged> {
        let (envelope, body) = Envelope::open(&self.instance, key.kind(), &key.to_bytes(), row)?;
        if envelope.run != self.run {
            return Err(Damaged::new(&self.instance, key.kind().name(), "it belongs to another run"));
        }
        Ok((envelope.shape, body))
    }

    /// Opens a row of this run that holds a value: a payload, or several tokens.
    ///
    /// # Errors
    /// [`Damaged`], also if the row belongs to another run.
    pub fn open_value(&self, key: &RowKey, row: &Bytes) -> Result<Value, Damaged> {
        let body = self.open_row(key, row)?.1;
        let unknown = || Damaged::newer(&self.instance, key.kind().name(), UNKNOWN);
        match key {
            RowKey::Branch(..) => decode_value(&body).ok_or_else(unknown),
            RowKey::List(..) => Ok(decode_items(&body).ok_or_else(unknown)?.0),
            _ => Ok(Value::leaf(body, None)),
        }
    }

    /// Returns how many items a list has, from its first row; `None` if the list is not in a loop,
    /// or an earlier version wrote it.
    ///
    /// # Errors
    /// [`Damaged`].
    pub(crate) fn open_total(&self, key: &RowKey, first: &Bytes) -> Result<Option<u32>, Damaged> {
        let body = self.open_row(key, first)?.1;
        let (_, total) = decode_items(&body).ok_or_else(|| Damaged::newer(&self.instance, "list", UNKNOWN))?;
        Ok(total)
    }
}

/// Encodes the reason why an instance is quarantined, with the stamp of that write.
pub fn encode_quarantine(instance: &InstanceId, reason: &str, stamp: Stamp) -> Bytes {
    let (run, shape) = (RunId::from_bytes([0; 16]), Shape::Plain);
    let envelope = Envelope { kind: Kind::Quarantine, codec: 0, instance: instance.clone(), run, seq: 0, shape, stamp };
    envelope.seal(&encode(&QuarantineRecord { reason: reason.into() }, Vec::new()), &[])
}

/// Decodes the reason why an instance is quarantined. The instance stays quarantined even if the
/// record cannot be read.
pub fn decode_quarantine(instance: &InstanceId, record: &Bytes) -> Arc<str> {
    let opened = Envelope::open(instance, Kind::Quarantine, &[], record);
    let body = opened.ok().and_then(|(_, body)| decode::<QuarantineRecord>(&body));
    body.map_or_else(|| "the quarantine record is damaged".into(), |record| record.reason)
}

/// Returns the stamp of the write that quarantined an instance; `Stamp::NONE` if the record
/// cannot be read.
pub fn quarantine_stamp(instance: &InstanceId, record: &Bytes) -> Stamp {
    let opened = Envelope::open(instance, Kind::Quarantine, &[], record);
    opened.map_or(Stamp::NONE, |(envelope, _)| envelope.stamp)
}

#[derive(Serialize, Deserialize)]
struct QuarantineRecord {
    reason: Arc<str>,
}
