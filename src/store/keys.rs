//! The key layout that the memory store and the file store share. Numbers are big-endian, so that order is meaning.
//!
//! ```text
//! 'b'  run id 16  row key                  a row of a run, see `RowKey`
//! 'h'  instance id                         head, in its envelope
//! 'm'  definition 32                       manifest
//! 'q'  instance id                         quarantine record, in its envelope
//! 's'  definition 32  status 1  id         status index, empty
//! 't'  due 8  instance id                  due index, empty
//! 'v'                                      the layout's version
//! 'x'  run id 16                           a superseded run, to be swept: the stamp of the write that ended it, or empty
//! 'z'  status 1  ended 8  instance id      index of the runs that have ended, empty
//! ```
//!
//! A batch is applied in the order of its keys, and a reader may see it half applied. So rows come before heads, which
//! refer to them, and heads before the indexes, which lead to them.

use crate::id::{DefinitionHash, InstanceId, RunId};
use crate::machine::{HeadIndex, RowKey};
use crate::status::StatusCode;
use crate::time::Timestamp;

#[cfg(feature = "file-store")]
pub(super) const VERSION: &[u8] = b"v";
#[cfg(feature = "file-store")]
pub(super) const LAYOUT: &[u8] = b"everstep 1";
pub(super) const QUARANTINES: &[u8] = b"q";
pub(super) const STATUSES: &[u8] = b"s";
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

/// The index entries of a head.
pub(super) fn index_entries(id: &InstanceId, index: &HeadIndex) -> impl Iterator<Item = Vec<u8>> {
    let status = join(&[&status_prefix(&index.definition, index.status), id.as_str().as_bytes()]);
    let due = index.due.map(|at| due(at, id));
    let ended = index.ended.map(|at| ended(index.status, at, id));
    std::iter::once(status).chain(due).chain(ended)
}

/// The instance id at the end of a key.
pub(super) fn instance(key: &[u8], prefix_bytes: usize) -> Option<InstanceId> {
    let text = std::str::from_utf8(key.get(prefix_bytes..)?).ok()?;
    InstanceId::new(text).ok()
}

/// The parts of a due key.
pub(super) fn parse_due(key: &[u8]) -> Option<(Timestamp, InstanceId)> {
    parse_time(key, 1)
}

/// The time and the instance in a key of the index of ends.
pub(super) fn parse_ended(key: &[u8]) -> Option<(Timestamp, InstanceId)> {
    parse_time(key, 2)
}

fn parse_time(key: &[u8], prefix_bytes: usize) -> Option<(Timestamp, InstanceId)> {
    let micros = key.get(prefix_bytes..)?.first_chunk()?;
    Some((Timestamp::from_micros(u64::from_be_bytes(*micros)), instance(key, prefix_bytes + 8)?))
}

/// Whether an index entry lists this instance.
pub(super) fn is_of(key: &[u8], id: &InstanceId) -> bool {
    let prefix_bytes = match key {
        key if key.starts_with(DUES) => 9,
        key if key.starts_with(ENDS) => 10,
        _ => 34,
    };
    key.get(prefix_bytes..) == Some(id.as_str().as_bytes())
}

/// The definition in a status key.
pub(super) fn parse_definition(key: &[u8]) -> Option<DefinitionHash> {
    Some(DefinitionHash(key.get(1..33)?.try_into().ok()?))
}

/// The run in a superseded key.
pub(super) fn parse_superseded(key: &[u8]) -> Option<RunId> {
    Some(RunId::from_bytes(key.get(1..17)?.try_into().ok()?))
}

/// The least key greater than every key with this prefix; none if there is no such key.
pub(super) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}
