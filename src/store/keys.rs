//! The key layout that the memory store and the file store share. Numbers are big-endian, so that
//! the order of keys is the order of numbers.
//!
//! ```text
//! 'b'  run id 16  row key              a row of a run, see `RowKey`
//! 'h'  instance id                     head, in its envelope
//! 'j'                                  milestone of the journals (`journal_repair`), file store only
//! 'm'  definition 32                   manifest
//! 'q'  instance id                     quarantine record, in its envelope
//! 'r'  instance id                     run id of a quarantined instance with an unreadable head
//! 's'  definition 32  status 1  id     status index: run id 16, then the time if it is due or has
//!                                      ended; earlier versions left it empty
//! 't'  due 8  instance id              due index, empty
//! 'v'                                  the layout's version, and the formats of records that a
//!                                      version must know to read and to write: "everstep 1 2 2";
//!                                      without them both are 1
//! 'x'  run id 16                       a superseded run, to be swept: the stamp of the write that
//!                                      ended it, or empty
//! 'z'  status 1  ended 8  instance id  index of the runs that have ended, empty
//! ```
//!
//! A batch is applied in the order of its keys, and a reader may see it half applied. So rows come
//! before heads, which refer to them, and heads before the indexes, which lead to them.

use bytes::Bytes;

use crate::id::{DefinitionHash, InstanceId, RunId};
use crate::machine::{HeadIndex, RowKey};
use crate::status::StatusCode;
use crate::time::Timestamp;

pub(super) const VERSION: &[u8] = b"v";
const LAYOUT: u32 = 1;
pub(super) const HEADS: &[u8] = b"h";
#[cfg(feature = "file-store")]
pub(super) const MILESTONE: &[u8] = b"j";
pub(super) const QUARANTINES: &[u8] = b"q";
#[cfg(feature = "file-store")]
pub(super) const RUNS: &[u8] = b"r";
#[cfg(feature = "file-store")]
pub(super) const ROWS: &[u8] = b"b";
pub(super) const STATUSES: &[u8] = b"s";
/// Bytes of a status entry before its instance id.
#[cfg(feature = "file-store")]
pub(super) const STATUS_PREFIX_BYTES: usize = 34;
pub(super) const DUES: &[u8] = b"t";
pub(super) const SUPERSEDED: &[u8] = b"x";
pub(super) const ENDS: &[u8] = b"z";

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

pub(super) fn head(id: &InstanceId) -> Vec<u8> {
    join(&[b"h", id.as_str().as_bytes()])
}

pub(super) fn quarantine(id: &InstanceId) -> Vec<u8> {
    join(&[QUARANTINES, id.as_str().as_bytes()])
}

pub(super) fn rows(run: RunId) -> Vec<u8> {
    join(&[b"b", &run.to_bytes()])
}

pub(super) fn row(run: RunId, key: &RowKey) -> Vec<u8> {
    join(&[b"b", &run.to_bytes(), &key.to_bytes()])
}

pub(super) fn status_prefix(definition: &DefinitionHash, status: StatusCode) -> Vec<u8> {
    join(&[STATUSES, definition.as_bytes(), &[status as u8]])
}

pub(super) fn superseded(run: RunId) -> Vec<u8> {
    join(&[SUPERSEDED, &run.to_bytes()])
}

pub(super) fn manifest(definition: &DefinitionHash) -> Vec<u8> {
    join(&[b"m", definition.as_bytes()])
}

pub(super) fn due(at: Timestamp, id: &InstanceId) -> Vec<u8> {
    join(&[DUES, &at.as_micros().to_be_bytes(), id.as_str().as_bytes()])
}

pub(super) fn ended_prefix(status: StatusCode) -> Vec<u8> {
    join(&[ENDS, &[status as u8]])
}

pub(super) fn ended(status: StatusCode, at: Timestamp, id: &InstanceId) -> Vec<u8> {
    join(&[&ended_prefix(status), &at.as_micros().to_be_bytes(), id.as_str().as_bytes()])
}

pub(super) fn status(definition: &DefinitionHash, status: StatusCode, id: &InstanceId) -> Vec<u8> {
    join(&[STATUSES, definition.as_bytes(), &[status as u8], id.as_str().as_bytes()])
}

pub(super) fn run_of(id: &InstanceId) -> Vec<u8> {
    join(&[b"r", id.as_str().as_bytes()])
}

/// Returns a key after all runs that ended in a status before this time.
pub(super) fn ended_before(status: StatusCode, at: Timestamp) -> Vec<u8> {
    join(&[&ended_prefix(status), &at.as_micros().to_be_bytes()])
}

/// Returns the index entries of a head. The status entry holds the run and the time of the others,
/// for when the head cannot be read.
pub(super) fn index_entries(id: &InstanceId, index: &HeadIndex) -> impl Iterator<Item = (Vec<u8>, Bytes)> {
    let time = index.due.or(index.ended).map(|at| at.as_micros().to_be_bytes());
    let says = join(&[&index.run.to_bytes(), time.as_ref().map_or(&[], |time| &time[..])]);
    let status = (status(&index.definition, index.status, id), says.into());
    let due = index.due.map(|at| due(at, id));
    let ended = index.ended.map(|at| ended(index.status, at, id));
    std::iter::once(status).chain(due.into_iter().chain(ended).map(|key| (key, Bytes::new())))
}

/// Parses a status entry: the run, and the time when it is due or has ended.
pub(super) fn parse_status_entry(entry: &[u8]) -> Option<(RunId, Option<Timestamp>)> {
    let (run, time) = entry.split_first_chunk()?;
    let time = if time.is_empty() { None } else { Some(u64::from_be_bytes(time.try_into().ok()?)) };
    Some((RunId::from_bytes(*run), time.map(Timestamp::from_micros)))
}

pub(super) fn parse_run(value: &[u8]) -> Option<RunId> {
    Some(RunId::from_bytes(value.try_into().ok()?))
}

/// The formats of records that a version must know to use a store. Raised by the first record
/// written in a newer format that older versions would damage; a format that older versions can
/// safely ignore raises neither number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) min_reader: u32,
    pub(super) min_writer: u32,
}

impl Needs {
    /// The needs of a store that this version has written to. Versions that know only format 1 take
    /// every other format for damage.
    pub(super) const WRITTEN: Self = Self { min_reader: 2, min_writer: 2 };

    pub(super) fn marker(self) -> Bytes {
        format!("everstep {LAYOUT} {} {}", self.min_reader, self.min_writer).into()
    }

    #[cfg(feature = "file-store")]
    /// Parses the marker of a store; none if it is no marker of this layout.
    pub(super) fn parse(marker: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(marker).ok()?.split(' ');
        let is_ours = words.next() == Some("everstep") && words.next()?.parse() == Ok(LAYOUT);
        let needs: Vec<u32> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        match needs[..] {
            _ if !is_ours => None,
            [] => Some(Self { min_reader: 1, min_writer: 1 }),
            // Further words, which a later version may add, are ignored.
            [min_reader, min_writer, ..] => Some(Self { min_reader, min_writer }),
            [_] => None,
        }
    }

    #[cfg(feature = "file-store")]
    /// Returns true if this version may use such a store. Both numbers count, since it always
    /// writes.
    pub(super) fn are_met(self) -> bool {
        let known = u32::from(crate::machine::FORMAT);
        self.min_reader <= known && self.min_writer <= known
    }
}

/// Returns the instance id at the end of a key.
pub(super) fn instance(key: &[u8], prefix_bytes: usize) -> Option<InstanceId> {
    let text = std::str::from_utf8(key.get(prefix_bytes..)?).ok()?;
    InstanceId::stored(text).ok()
}

/// Returns the time and the instance in a due key.
pub(super) fn parse_due(key: &[u8]) -> Option<(Timestamp, InstanceId)> {
    parse_time(key, 1)
}

/// Returns the time and the instance in a key of the index of ends.
pub(super) fn parse_ended(key: &[u8]) -> Option<(Timestamp, InstanceId)> {
    parse_time(key, 2)
}

fn parse_time(key: &[u8], prefix_bytes: usize) -> Option<(Timestamp, InstanceId)> {
    let micros = key.get(prefix_bytes..)?.first_chunk()?;
    Some((Timestamp::from_micros(u64::from_be_bytes(*micros)), instance(key, prefix_bytes + 8)?))
}

/// Returns true if an entry of an index by time lists this instance.
pub(super) fn is_at(key: &[u8], prefix_bytes: usize, id: &InstanceId) -> bool {
    key.get(prefix_bytes + 8..) == Some(id.as_str().as_bytes())
}

/// Returns the definition in a status key.
pub(super) fn parse_definition(key: &[u8]) -> Option<DefinitionHash> {
    Some(DefinitionHash(key.get(1..33)?.try_into().ok()?))
}

/// Returns the run of a row, and the row's key within the run.
#[cfg(feature = "file-store")]
pub(super) fn parse_row(key: &[u8]) -> Option<(RunId, &[u8])> {
    let (run, row) = key.strip_prefix(ROWS)?.split_first_chunk()?;
    Some((RunId::from_bytes(*run), row))
}

/// Returns the name of the index that an entry belongs to.
#[cfg(feature = "file-store")]
pub(super) fn index_name(entry: &[u8]) -> &'static str {
    match entry.first() {
        Some(b's') => "status",
        Some(b't') => "due",
        _ => "end",
    }
}

/// Returns the run in a superseded key.
pub(super) fn parse_superseded(key: &[u8]) -> Option<RunId> {
    Some(RunId::from_bytes(key.get(1..17)?.try_into().ok()?))
}

/// Returns the least key after all keys with this prefix. All prefixes here begin with a letter, so
/// that there is one.
pub(super) fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// Returns the part of a key that names its group: an index, as far as its readers name it. Groups
/// are consumed from the front, in order. The rows of a run are no group: its head says where they
/// begin.
pub(super) fn group(key: &[u8]) -> Option<&[u8]> {
    match key.first()? {
        b's' => key.get(..34),
        b't' | b'x' => key.get(..1),
        b'z' => key.get(..2),
        _ => None,
    }
}
