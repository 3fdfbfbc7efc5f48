//! Format 1 of the envelope, the format of records written before format 2; read for ever, never
//! written.
//!
//! ```text
//! offset  bytes
//!      0      4  magic "EVST"
//!      4      1  format, 1
//!      5      1  kind of record
//!      6      1  codec id of the payloads within
//!      7      1  shape of a result
//!      8     16  run id
//!     24      8  seq
//!     32      2  n, length of the instance id
//!     34      4  m, length of the body
//!     38      n  instance id
//!   38+n      m  body
//! 38+n+m      8  XXH3-64 of all the bytes before and then the row key, which a head has none of
//! ```

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::envelope::{CHECKSUM_BYTES, Envelope, Fields, Kind, Shape};
use crate::id::{InstanceId, RunId, Stamp};

const MAGIC: &[u8; 4] = b"EVST";
const FORMAT: u8 = 1;

/// Returns true if a record claims to be of this format. In later formats a number, lower than the
/// letter `S`, follows the letters `EV`.
pub(super) fn is_one(content: &[u8]) -> bool {
    content.starts_with(MAGIC)
}

pub(super) fn checksum(content: &[u8], row: &[u8]) -> [u8; CHECKSUM_BYTES] {
    if row.is_empty() {
        return xxh3_64(content).to_be_bytes();
    }
    let mut hasher = Xxh3Default::new();
    hasher.update(content);
    hasher.update(row);
    hasher.digest().to_be_bytes()
}

/// Opens a record whose checksum holds; an error says what is wrong with it.
pub(super) fn open(instance: &InstanceId, kind: Kind, bytes: &Bytes) -> Result<(Envelope, Bytes), &'static str> {
    let checked = bytes.len().saturating_sub(CHECKSUM_BYTES);
    let mut fields = Fields(bytes.get(..checked).unwrap_or_default());
    let parsed = parse(&mut fields).ok_or("its envelope is malformed")?;
    if parsed.format != FORMAT {
        return Err("its format is not known to this version");
    }
    if parsed.kind != Some(kind) {
        return Err("it is a record of another kind");
    }
    if parsed.instance != instance.as_str().as_bytes() {
        return Err("it belongs to another instance");
    }
    let shape = parsed.shape.ok_or("its shape is not known to this version")?;
    let body = bytes.slice(checked - parsed.body_bytes..checked);
    let Parsed { codec, run, seq, .. } = parsed;
    Ok((Envelope { kind, codec, instance: instance.clone(), run, seq, shape, stamp: Stamp::NONE }, body))
}

struct Parsed<'a> {
    format: u8,
    kind: Option<Kind>,
    codec: u8,
    shape: Option<Shape>,
    run: RunId,
    seq: u64,
    instance: &'a [u8],
    body_bytes: usize,
}

fn parse<'a>(fields: &mut Fields<'a>) -> Option<Parsed<'a>> {
    let _magic: [u8; 4] = fields.take()?;
    let [format, kind, codec, shape] = fields.take()?;
    let run = RunId::from_bytes(fields.take()?);
    let seq = u64::from_be_bytes(fields.take()?);
    let id_bytes = usize::from(u16::from_be_bytes(fields.take()?));
    let body_bytes = usize::try_from(u32::from_be_bytes(fields.take()?)).ok()?;
    let (instance, body) = fields.0.split_at_checked(id_bytes)?;
    let (kind, shape) = (Kind::from_u8(kind), Shape::from_u8(shape));
    (body.len() == body_bytes).then_some(Parsed { format, kind, codec, shape, run, seq, instance, body_bytes })
}
