//! The database's format of a batch in its journal, as far as it is needed to tell a torn batch
//! from a whole one.
//!
//! ```text
//! batch  01  items u32  seqno u64 | items.. | 03  checksum u64  'F' 'J' 'L' 03
//! item   02  kind u8  compression u8  keyspace u64
//!            key bytes u16  value bytes u32  stored bytes u32 | key | value
//! clear  04  keyspace u64
//! ```
//!
//! Little-endian. The checksum is xxh3 over the items. A batch's seqno is greater than those of all
//! batches before it, in older journals too. After the last batch a journal may hold zeros: the
//! file is allocated long before it is written.

use std::io::{self, Read};

use xxhash_rust::xxh3::Xxh3;

use super::milestone::Milestone;
use crate::store::keys;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: [u8; 4] = *b"FJL\x03";
const START_BYTES: u64 = 13;
const END_BYTES: u64 = 13;
/// Bytes of a batch beside its items.
pub(in crate::store) const BATCH_BYTES: u64 = START_BYTES + END_BYTES;
/// Bytes of an item beside its key and value.
pub(in crate::store) const ITEM_BYTES: u64 = 21;
/// The database's kinds of item: a value, two kinds of deletion, a reference.
const KINDS: [u8; 4] = [0, 1, 2, 4];
const COMPRESSION_MAX: u8 = 1;
const CHUNK_BYTES: usize = 64 << 10;

/// The bytes found where a batch could begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A batch whose checksum holds.
    Whole { seqno: u64, bytes: u64, milestone: Option<Milestone> },
    /// A batch from its start to its trailer, whose checksum does not hold.
    Mangled { bytes: u64 },
    /// No batch, or only the beginning of one.
    Nothing,
}

/// Reads the next batch. Afterwards the reader is after the batch, or anywhere if there was none.
pub(super) fn next(reader: &mut impl Read) -> io::Result<Found> {
    match read_batch(reader) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Found::Nothing),
        found => found,
    }
}

fn read_batch(reader: &mut impl Read) -> io::Result<Found> {
    let mut chunk = Vec::new();
    let [START] = array(reader)? else { return Ok(Found::Nothing) };
    let items = u32::from_le_bytes(array(reader)?);
    let seqno = u64::from_le_bytes(array(reader)?);
    let (mut checksum, mut bytes, mut milestone) = (Xxh3::new(), START_BYTES, None);
    for _ in 0..items {
        let Some((item_bytes, found)) = read_item(reader, &mut checksum, &mut chunk)? else {
            return Ok(Found::Nothing);
        };
        bytes += item_bytes;
        milestone = found.or(milestone);
    }
    let [END] = array(reader)? else { return Ok(Found::Nothing) };
    let expected = u64::from_le_bytes(array(reader)?);
    if array(reader)? != TRAILER {
        return Ok(Found::Nothing);
    }
    bytes += END_BYTES;
    let holds = checksum.digest() == expected;
    Ok(if holds { Found::Whole { seqno, bytes, milestone } } else { Found::Mangled { bytes } })
}

/// Reads one item; returns its length and the milestone that it sets, or none if it is no item.
fn read_item(
    reader: &mut impl Read,
    checksum: &mut Xxh3,
    chunk: &mut Vec<u8>,
) -> io::Result<Option<(u64, Option<Milestone>)>> {
    let tag @ [kind_of_entry] = array(reader)?;
    checksum.update(&tag);
    match kind_of_entry {
        CLEAR => {
            checksum.update(&array::<8>(reader)?);
            Ok(Some((9, None)))
        }
        ITEM => {
            let head: [u8; 20] = array(reader)?;
            checksum.update(&head);
            let [kind, compression, .., k0, k1, _, _, _, _, v0, v1, v2, v3] = head;
            if !KINDS.contains(&kind) || compression > COMPRESSION_MAX {
                return Ok(None);
            }
            let content = u64::from(u16::from_le_bytes([k0, k1])) + u64::from(u32::from_le_bytes([v0, v1, v2, v3]));
            // In chunks, so that a damaged length does not allocate memory.
            let mut left = content;
            while left > 0 {
                chunk.resize(usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES)), 0);
                reader.read_exact(chunk)?;
                checksum.update(chunk);
                left -= chunk.len() as u64;
            }
            let key_bytes = usize::from(u16::from_le_bytes([k0, k1]));
            let may_be_milestone = kind == 0 && compression == 0 && key_bytes == keys::MILESTONE.len();
            let milestone = if may_be_milestone { Milestone::of_item(chunk) } else { None };
            Ok(Some((ITEM_BYTES + content, milestone)))
        }
        _ => Ok(None),
    }
}

fn array<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Returns the position in `bytes` of the first whole batch that is newer than `seqno`. Space that
/// was written over may hold older batches.
pub(super) fn find_newer(bytes: &[u8], seqno: Option<u64>) -> io::Result<Option<usize>> {
    let mut from = 0;
    // A batch that is complete but for its checksum is skipped whole: a value may hold the image of
    // a batch. Where the frame itself is broken no length is trusted, since a damaged length would
    // hide the batches after it.
    if let Found::Mangled { bytes: mangled } = next(&mut &*bytes)? {
        from = usize::try_from(mangled).unwrap_or(usize::MAX);
    }
    while let Some(rest) = bytes.get(from..) {
        let Some(at) = rest.iter().position(|byte| *byte == START) else { return Ok(None) };
        from += at;
        let mut candidate = bytes.get(from..).unwrap_or_default();
        if let Found::Whole { seqno: found, .. } = next(&mut candidate)?
            && Some(found) > seqno
        {
            return Ok(Some(from));
        }
        from += 1;
    }
    Ok(None)
}
