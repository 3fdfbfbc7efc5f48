//! The envelope of every stored record.
//!
//! All numbers are big-endian. The checksum covers all bytes before it and the record's row key, so
//! a damaged, truncated or misplaced record is noticed before any of its body is decoded.
//!
//! ```text
//! offset  bytes
//!      0      2  magic "EV"
//!      2      1  format, 2
//!      3      1  kind of record: 1 head, 2 input, 3 result, 4 signal, 5 quarantine, 6 frame,
//!                7 branch, 8 list, 9 era
//!      4      1  codec id of the payloads within
//!      5      1  shape of a result: 0 the payload alone, 1 after `Again`, 2 after `Done`; else 0
//!      6     16  run id
//!     22   s<11  seq: the transition that wrote the record, in groups of seven bits, the lowest
//!                first (LEB128)
//!   22+s      8  stamp of the write; heads and quarantine records only
//!             m  body
//!    end      8  XXH3-64 of all the bytes before, seeded with that of the row key; head and
//!                quarantine records have no row key: seeded with that of the instance id
//! ```
//!
//! Magic, the place of the format and the checksum stay in every later format, so that its records
//! are told from damaged ones. Format 1 is read ([`super::envelope_v1`]), and no longer written.
//!
//! A head's body starts with the part that stores index and compare without decoding the rest:
//!
//! ```text
//!      0      1  status code
//!      1     32  definition hash
//!     33      8  due; or when the run ended, if the status is that of an ended run: microseconds
//!                since the Unix epoch, or all ones for none
//!     41    ...  MessagePack, see `record`
//! ```

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Snapshot;
use super::envelope_v1;
use crate::codec::{Token, Value};
use crate::id::{DefinitionHash, InstanceId, RunId, Stamp};
use crate::status::StatusCode;
use crate::time::Timestamp;

const MAGIC: &[u8; 2] = b"EV";
/// The format that is written, and the newest that is read.
pub const FORMAT: u8 = 2;
/// Upper bound on the bytes of a record without its body.
const ENVELOPE_BYTES_MAX: usize = 22 + SEQ_BYTES_MAX + 8 + CHECKSUM_BYTES;
const SEQ_BYTES_MAX: usize = 10;
pub(super) const CHECKSUM_BYTES: usize = 8;

/// Bytes at the start of a head's body that stores index.
pub const HEAD_INDEX_BYTES: usize = 41;

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The head of an instance.
    Head = 1,
    /// An input too large for the head.
    Input = 2,
    /// A node's result.
    Result = 3,
    /// A signal.
    Signal = 4,
    /// The reason why an instance is quarantined.
    Quarantine = 5,
    /// The state of a branch.
    Frame = 6,
    /// The result of a branch.
    Branch = 7,
    /// A part of the list that a map was given.
    List = 8,
    /// The definition that the run had before an upgrade.
    Era = 9,
}

/// The loop token before the payload of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Shape {
    /// No loop token.
    #[default]
    Plain = 0,
    /// [`Token::Again`].
    Again = 1,
    /// [`Token::Done`].
    Done = 2,
}

/// A record that cannot be read: damaged, misplaced, written by a newer version of this crate, or
/// in need of a manifest that is missing. The bytes are left unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {record} record of instance `{instance}` {cause}: {what}")]
pub struct Damaged {
    /// The instance that the record belongs to.
    pub instance: String,
    /// The kind of record, in words.
    pub record: &'static str,
    /// The fault that was found.
    pub what: &'static str,
    /// The cause. Only a damaged record quarantines its instance.
    pub cause: DamageCause,
}

/// The cause for which a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DamageCause {
    /// The record is not as it was written, stands in the wrong place, or is missing.
    #[error("is damaged")]
    Damaged,
    /// The record's checksum holds, but it has something that this version does not know: a newer
    /// version wrote it, and can read it. The instance is left alone, as if its definition were not
    /// registered: neither written nor quarantined.
    #[error("was written by a newer version of this crate, which must continue it")]
    Newer,
    /// The record is sound, but the store has lost the manifest of this definition, which the run
    /// had before an upgrade. The instance is left alone. A runtime that registers the definition
    /// writes the manifest again; one such start is enough.
    #[error("needs the manifest of definition {0} (register that definition once to restore it)")]
    NoManifest(Box<DefinitionHash>),
}

impl Damaged {
    pub(crate) fn new(instance: &InstanceId, record: &'static str, what: &'static str) -> Self {
        Self { instance: instance.to_string(), record, what, cause: DamageCause::Damaged }
    }

    /// Returns the error for a record whose checksum holds, so that its bytes are as they were
    /// written.
    pub(crate) fn newer(instance: &InstanceId, record: &'static str, what: &'static str) -> Self {
        Self { cause: DamageCause::Newer, ..Self::new(instance, record, what) }
    }

    /// Returns the error for a sound record that cannot be read without this definition's manifest.
    pub(crate) fn no_manifest(instance: &InstanceId, record: &'static str, definition: DefinitionHash) -> Self {
        let what = "the manifest is missing, or cannot be read";
        Self { cause: DamageCause::NoManifest(Box::new(definition)), ..Self::new(instance, record, what) }
    }

    /// Returns true if another version or another start of the service can read the record: its
    /// instance is left alone, neither written nor quarantined.
    pub fn is_readable_elsewhere(&self) -> bool {
        self.cause != DamageCause::Damaged
    }
}

/// The fields of an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The kind of record.
    pub kind: Kind,
    /// The codec of its payloads.
    pub codec: u8,
    /// The instance.
    pub instance: InstanceId,
    /// The run.
    pub run: RunId,
    /// The transition that wrote it.
    pub seq: u64,
    /// The shape of a result.
    pub shape: Shape,
    /// The stamp of the write, in head and quarantine records; other records have none.
    pub stamp: Stamp,
}

/// The part of a head that stores index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadIndex {
    /// The run.
    pub run: RunId,
    /// The last transition.
    pub seq: u64,
    /// The stamp of the write of this head.
    pub stamp: Stamp,
    /// The status.
    pub status: StatusCode,
    /// The definition.
    pub definition: DefinitionHash,
    /// The time when the instance is due.
    pub due: Option<Timestamp>,
    /// The time when the run ended; `None` while it has not, and for a run that ended before this
    /// was recorded.
    pub ended: Option<Timestamp>,
}

impl Kind {
    pub(super) fn from_u8(number: u8) -> Option<Self> {
        use Kind::{Branch, Era, Frame, Head, Input, List, Quarantine, Result, Signal};
        let all = [Head, Input, Result, Signal, Quarantine, Frame, Branch, List, Era];
        all.into_iter().find(|kind| *kind as u8 == number)
    }

    fn has_stamp(self) -> bool {
        matches!(self, Self::Head | Self::Quarantine)
    }

    /// Returns the kind's name in errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Input => "input",
            Self::Result => "result",
            Self::Signal => "signal",
            Self::Quarantine => "quarantine",
            Self::Frame => "frame",
            Self::Branch => "branch",
            Self::List => "list",
            Self::Era => "era",
        }
    }
}

impl Shape {
    pub(super) fn from_u8(number: u8) -> Option<Self> {
        [Self::Plain, Self::Again, Self::Done].into_iter().find(|shape| *shape as u8 == number)
    }

    /// Returns the shape of a task's result.
    pub(super) fn of(result: &Value) -> Self {
        match result.tokens().first() {
            Some(Token::Again) => Self::Again,
            Some(Token::Done) => Self::Done,
            _ => Self::Plain,
        }
    }

    /// Returns the result with this payload.
    pub fn value(self, payload: Bytes) -> Value {
        let payload = Value::leaf(payload, None);
        match self {
            Self::Plain => payload,
            Self::Again => payload.behind(Token::Again),
            Self::Done => payload.behind(Token::Done),
        }
    }
}

impl Envelope {
    /// Returns the envelope with this shape of the result.
    pub(super) fn shaped(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// Puts a body into this envelope, for the row of this key; pass an empty key for a head or
    /// quarantine record.
    pub fn seal(&self, body: &[u8], row: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(ENVELOPE_BYTES_MAX + body.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[FORMAT, self.kind as u8, self.codec, self.shape as u8]);
        out.extend_from_slice(&self.run.to_bytes());
        put_number(&mut out, self.seq);
        if self.kind.has_stamp() {
            out.extend_from_slice(&self.stamp.to_bytes());
        }
        out.extend_from_slice(body);
        let checksum = checksum(&out, &self.instance, row);
        out.extend_from_slice(&checksum);
        out.into()
    }

    /// Opens a record that must be of this kind, instance and row.
    ///
    /// # Errors
    /// [`Damaged`] if any byte differs from what was written, or the record belongs elsewhere.
    pub fn open(instance: &InstanceId, kind: Kind, row: &[u8], bytes: &Bytes) -> Result<(Self, Bytes), Damaged> {
        let damaged = |what| Damaged::new(instance, kind.name(), what);
        let checked = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or_else(|| damaged("it is too short"))?;
        let (content, found) = bytes.split_at(checked);
        let is_v1 = envelope_v1::is_one(content);
        let is_sound =
            if is_v1 { envelope_v1::checksum(content, row) } else { checksum(content, instance, row) } == found;
        if !is_sound {
            return Err(damaged("its checksum does not match"));
        }
        let newer = |what| Damaged::newer(instance, kind.name(), what);
        match content.split_first_chunk() {
            Some(([b'E', b'V', FORMAT], _)) => {}
            Some(([b'E', b'V', _], _)) if is_v1 => {
                return envelope_v1::open(instance, kind, bytes).map_err(damaged);
            }
            Some(([b'E', b'V', _], _)) => return Err(newer("its format is unknown to this version")),
            _ => return Err(damaged("its envelope is malformed")),
        }
        let mut fields = Fields(content);
        let parsed = fields.envelope().ok_or_else(|| newer("its envelope is malformed"))?;
        if parsed.kind != Some(kind) {
            return Err(damaged("it is a record of another kind"));
        }
        let shape = parsed.shape.ok_or_else(|| newer("its shape is unknown to this version"))?;
        let body = bytes.slice(checked - fields.0.len()..checked);
        let Parsed { codec, run, seq, stamp, .. } = parsed;
        Ok((Self { kind, codec, instance: instance.clone(), run, seq, shape, stamp }, body))
    }
}

fn checksum(content: &[u8], instance: &InstanceId, row: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let place = if row.is_empty() { instance.as_str().as_bytes() } else { row };
    xxh3_64_with_seed(content, xxh3_64(place)).to_be_bytes()
}

/// Returns the lowest seven bits.
fn low_bits(number: u64) -> u8 {
    u8::try_from(number & 0x7f).unwrap_or_default()
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(low_bits(number) | 0x80);
        number >>= 7;
    }
    out.push(low_bits(number));
}

struct Parsed {
    kind: Option<Kind>,
    codec: u8,
    shape: Option<Shape>,
    run: RunId,
    seq: u64,
    stamp: Stamp,
}

/// Takes fields off the front, each checked.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..).step_by(7).take(SEQ_BYTES_MAX) {
            let [byte] = self.take()?;
            let bits = u64::from(byte & 0x7f);
            number |= bits << shift;
            if number >> shift != bits {
                return None;
            }
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn envelope(&mut self) -> Option<Parsed> {
        let magic: [u8; 2] = self.take()?;
        let [format, kind, codec, shape] = self.take()?;
        let (kind, shape) = (Kind::from_u8(kind), Shape::from_u8(shape));
        let run = RunId::from_bytes(self.take()?);
        let seq = self.number()?;
        let stamp = if kind?.has_stamp() { Stamp::from_bytes(self.take()?) } else { Stamp::NONE };
        (magic == *MAGIC && format == FORMAT).then_some(Parsed { kind, codec, shape, run, seq, stamp })
    }

    fn head_index(&mut self, envelope: &Envelope) -> Option<HeadIndex> {
        let [status] = self.take()?;
        let definition = DefinitionHash(self.take()?);
        let time = u64::from_be_bytes(self.take()?);
        let status = StatusCode::from_u8(status)?;
        let time = (time != u64::MAX).then(|| Timestamp::from_micros(time));
        let (due, ended) = if status.is_terminal() { (None, time) } else { (time, None) };
        let Envelope { run, seq, stamp, .. } = *envelope;
        Some(HeadIndex { run, seq, stamp, status, definition, due, ended })
    }
}

impl HeadIndex {
    /// Returns true if both have the same index entries, which contain the run.
    pub(crate) fn is_listed_as(&self, other: &Self) -> bool {
        let entries = |index: &Self| (index.run, index.status, index.definition, index.due, index.ended);
        entries(self) == entries(other)
    }

    /// Reads the index part of a head.
    ///
    /// # Errors
    /// [`Damaged`], as [`Envelope::open`].
    pub fn of_head(instance: &InstanceId, head: &Bytes) -> Result<Self, Damaged> {
        let (envelope, body) = Envelope::open(instance, Kind::Head, &[], head)?;
        let index = Fields(&body).head_index(&envelope);
        index.ok_or_else(|| Damaged::newer(instance, "head", "its index part is unknown to this version"))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.status as u8);
        out.extend_from_slice(self.definition.as_bytes());
        out.extend_from_slice(&self.due.or(self.ended).map_or(u64::MAX, Timestamp::as_micros).to_be_bytes());
    }
}

impl Snapshot {
    pub(super) fn envelope(&self, kind: Kind, seq: u64) -> Envelope {
        Envelope {
            kind,
            codec: self.codec,
            instance: self.instance.clone(),
            run: self.run,
            seq,
            shape: Shape::Plain,
            stamp: self.stamp,
        }
    }

    pub(super) fn head_index(&self) -> HeadIndex {
        HeadIndex {
            run: self.run,
            seq: self.seq,
            stamp: self.stamp,
            status: self.status_code(),
            definition: self.definition,
            due: self.due(),
            ended: self.ended_at(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> (InstanceId, Bytes) {
        let instance = InstanceId::new("order-1").unwrap();
        let run = RunId::from_bytes([7; 16]);
        let shape = Shape::Done;
        let envelope = Envelope {
            kind: Kind::Result,
            codec: 1,
            instance: instance.clone(),
            run,
            seq: 3,
            shape,
            stamp: Stamp::NONE,
        };
        (instance, envelope.seal(b"body", b"row"))
    }

    #[test]
    fn what_is_sealed_opens_to_the_same() {
        let (instance, bytes) = sealed();
        let (envelope, body) = Envelope::open(&instance, Kind::Result, b"row", &bytes).unwrap();
        assert_eq!((envelope.codec, envelope.seq, envelope.shape, &body[..]), (1, 3, Shape::Done, &b"body"[..]));
        assert_eq!(bytes.len(), 22 + 1 + 4 + 8);
    }

    /// Method: flip every single bit, and cut at every length; each time an error, never a panic.
    #[test]
    fn every_bit_flip_and_truncation_is_refused() {
        let (instance, bytes) = sealed();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Envelope::open(&instance, Kind::Result, b"row", &flipped.into()).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(
                Envelope::open(&instance, Kind::Result, b"row", &bytes.slice(..length)).is_err(),
                "length {length}"
            );
        }
    }

    #[test]
    fn a_misplaced_record_is_refused() {
        let (instance, bytes) = sealed();
        assert_eq!(
            Envelope::open(&instance, Kind::Head, b"row", &bytes).unwrap_err().what,
            "it is a record of another kind"
        );
        assert_eq!(
            Envelope::open(&instance, Kind::Result, b"other", &bytes).unwrap_err().what,
            "its checksum does not match"
        );
        let head = Envelope { kind: Kind::Head, ..Envelope::open(&instance, Kind::Result, b"row", &bytes).unwrap().0 };
        let (head, other) = (head.seal(b"body", &[]), InstanceId::new("order-2").unwrap());
        assert!(Envelope::open(&instance, Kind::Head, &[], &head).is_ok());
        assert_eq!(Envelope::open(&other, Kind::Head, &[], &head).unwrap_err().what, "its checksum does not match");
    }

    /// Method: numbers with as many bits as possible, and with too many.
    #[test]
    fn numbers_in_groups_of_bits_read_back() {
        for number in (0..64).map(|bits| u64::MAX >> bits).chain([0, 127, 128, 1 << 32]) {
            let mut bytes = Vec::new();
            put_number(&mut bytes, number);
            assert_eq!(Fields(&bytes).number(), Some(number));
            assert_eq!(Fields(&bytes[..bytes.len() - 1]).number(), None, "cut");
        }
        assert_eq!(Fields(&[0xff; 11]).number(), None, "without an end");
        assert_eq!(Fields(&[&[0xff; 9][..], &[2]].concat()).number(), None, "over 64 bits");
    }
}
