//! The envelope every stored record is in.
//!
//! All numbers are big-endian. The checksum covers everything before it and the key of the row, so a damaged, truncated or
//! misplaced record is noticed before anything of its body is decoded; no length in it is trusted before that.
//!
//! ```text
//! offset  bytes
//!      0      4  magic "EVST"
//!      4      1  format, 1
//!      5      1  kind of record: 1 head, 2 input, 3 result, 4 signal, 5 quarantine, 6 frame, 7 branch, 8 list
//!      6      1  codec id of the payloads within
//!      7      1  shape of a result: 0 the payload alone, 1 behind `Again`, 2 behind `Done`; else 0
//!      8     16  run id
//!     24      8  seq: the transition that wrote the record
//!     32      2  n, length of the instance id
//!     34      4  m, length of the body
//!     38      n  instance id
//!   38+n      m  body
//! 38+n+m      8  XXH3-64 of all the bytes before and then the row key, which a head has none of
//! ```
//!
//! A head's body starts with what stores index and compare, so that they need not decode the rest:
//!
//! ```text
//!      0      1  status code
//!      1     32  definition hash
//!     33      8  due, or with the status of a run that has ended, when it ended: microseconds since the Unix epoch, or
//!                all ones for none
//!     41    ...  MessagePack, see `record`
//! ```

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::Snapshot;
use crate::codec::{Token, Value};
use crate::id::{DefinitionHash, InstanceId, RunId};
use crate::status::StatusCode;
use crate::time::Timestamp;

const MAGIC: &[u8; 4] = b"EVST";
const FORMAT: u8 = 1;
const FIXED_BYTES: usize = 38;
const CHECKSUM_BYTES: usize = 8;

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
    /// Why an instance is quarantined.
    Quarantine = 5,
    /// Where a branch stands.
    Frame = 6,
    /// What a branch gave.
    Branch = 7,
    /// The list that a map was given.
    List = 8,
}

/// Which loop token stands before the payload of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Shape {
    /// None.
    #[default]
    Plain = 0,
    /// [`Token::Again`].
    Again = 1,
    /// [`Token::Done`].
    Done = 2,
}

/// A record that is not what it should be. The bytes are left as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {record} record of instance `{instance}` is damaged: {what}")]
pub struct Damaged {
    /// The instance it belongs to.
    pub instance: String,
    /// Which record.
    pub record: &'static str,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Damaged {
    pub(crate) fn new(instance: &InstanceId, record: &'static str, what: &'static str) -> Self {
        Self { instance: instance.to_string(), record, what }
    }
}

/// What an envelope says of the record within.
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
}

/// The part of a head that stores index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadIndex {
    /// The run.
    pub run: RunId,
    /// The last transition.
    pub seq: u64,
    /// The status.
    pub status: StatusCode,
    /// The definition.
    pub definition: DefinitionHash,
    /// When the instance is due.
    pub due: Option<Timestamp>,
    /// When the run ended; none while it has not, and for one that ended before this was recorded.
    pub ended: Option<Timestamp>,
}

impl Kind {
    fn from_u8(number: u8) -> Option<Self> {
        use Kind::{Branch, Frame, Head, Input, List, Quarantine, Result, Signal};
        let all = [Head, Input, Result, Signal, Quarantine, Frame, Branch, List];
        all.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Its name in errors.
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
        }
    }
}

impl Shape {
    pub(super) fn from_u8(number: u8) -> Option<Self> {
        [Self::Plain, Self::Again, Self::Done].into_iter().find(|shape| *shape as u8 == number)
    }

    /// That of a task's result.
    pub(super) fn of(result: &Value) -> Self {
        match result.tokens().first() {
            Some(Token::Again) => Self::Again,
            Some(Token::Done) => Self::Done,
            _ => Self::Plain,
        }
    }

    /// The result with this payload.
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
    /// The same around a result of this shape.
    pub(super) fn shaped(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// Puts a body into this envelope, for the row of this key; a head and a quarantine record have none.
    pub fn seal(&self, body: &[u8], row: &[u8]) -> Bytes {
        let id = self.instance.as_str().as_bytes();
        let mut out = Vec::with_capacity(FIXED_BYTES + id.len() + body.len() + CHECKSUM_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[FORMAT, self.kind as u8, self.codec, self.shape as u8]);
        out.extend_from_slice(&self.run.to_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        // Ids are at most 256 bytes; a body of 4 GiB is refused by every limit before it gets here.
        out.extend_from_slice(&u16::try_from(id.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(id);
        out.extend_from_slice(body);
        let checksum = checksum(&out, row);
        out.extend_from_slice(&checksum);
        out.into()
    }

    /// Opens a record that must be of this kind, instance and row.
    ///
    /// # Errors
    /// [`Damaged`] if any byte is not as it was written, or the record belongs elsewhere.
    pub fn open(instance: &InstanceId, kind: Kind, row: &[u8], bytes: &Bytes) -> Result<(Self, Bytes), Damaged> {
        let damaged = |what| Damaged::new(instance, kind.name(), what);
        let checked = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or_else(|| damaged("it is too short"))?;
        let (content, found) = bytes.split_at(checked);
        if checksum(content, row) != found {
            return Err(damaged("its checksum does not match"));
        }
        let mut fields = Fields(content);
        let parsed = fields.envelope().ok_or_else(|| damaged("its envelope is malformed"))?;
        if parsed.format != FORMAT {
            return Err(damaged("its format is not known to this version"));
        }
        if parsed.kind != Some(kind) {
            return Err(damaged("it is a record of another kind"));
        }
        if parsed.instance != instance.as_str().as_bytes() {
            return Err(damaged("it belongs to another instance"));
        }
        let shape = parsed.shape.ok_or_else(|| damaged("its shape is not known to this version"))?;
        let body = bytes.slice(checked - parsed.body_bytes..checked);
        let Parsed { codec, run, seq, .. } = parsed;
        let envelope = Self { kind, codec, instance: instance.clone(), run, seq, shape };
        Ok((envelope, body))
    }
}

fn checksum(content: &[u8], row: &[u8]) -> [u8; CHECKSUM_BYTES] {
    if row.is_empty() {
        // The same, without the large state of a hasher that takes its input in parts.
        return xxh3_64(content).to_be_bytes();
    }
    let mut hasher = Xxh3Default::new();
    hasher.update(content);
    hasher.update(row);
    hasher.digest().to_be_bytes()
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

/// Takes fields off the front, each checked.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn envelope(&mut self) -> Option<Parsed<'a>> {
        let magic: [u8; 4] = self.take()?;
        let [format, kind, codec, shape] = self.take()?;
        let run = RunId::from_bytes(self.take()?);
        let seq = u64::from_be_bytes(self.take()?);
        let id_bytes = usize::from(u16::from_be_bytes(self.take()?));
        let body_bytes = usize::try_from(u32::from_be_bytes(self.take()?)).ok()?;
        let (instance, body) = self.0.split_at_checked(id_bytes)?;
        let well_formed = magic == *MAGIC && body.len() == body_bytes;
        let (kind, shape) = (Kind::from_u8(kind), Shape::from_u8(shape));
        well_formed.then_some(Parsed { format, kind, codec, shape, run, seq, instance, body_bytes })
    }

    fn head_index(&mut self, run: RunId, seq: u64) -> Option<HeadIndex> {
        let [status] = self.take()?;
        let definition = DefinitionHash(self.take()?);
        let time = u64::from_be_bytes(self.take()?);
        let status = StatusCode::from_u8(status)?;
        let time = (time != u64::MAX).then(|| Timestamp::from_micros(time));
        let (due, ended) = if status.is_terminal() { (None, time) } else { (time, None) };
        Some(HeadIndex { run, seq, status, definition, due, ended })
    }
}

impl HeadIndex {
    /// Whether both have the same index entries.
    pub(crate) fn is_listed_as(&self, other: &Self) -> bool {
        let entries = |index: &Self| (index.status, index.definition, index.due, index.ended);
        entries(self) == entries(other)
    }

    /// Reads the index part of a head.
    ///
    /// # Errors
    /// [`Damaged`], as [`Envelope::open`].
    pub fn of_head(instance: &InstanceId, head: &Bytes) -> Result<Self, Damaged> {
        let (envelope, body) = Envelope::open(instance, Kind::Head, &[], head)?;
        let index = Fields(&body).head_index(envelope.run, envelope.seq);
        index.ok_or_else(|| Damaged::new(instance, "head", "its index part is malformed"))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.status as u8);
        out.extend_from_slice(self.definition.as_bytes());
        out.extend_from_slice(&self.due.or(self.ended).map_or(u64::MAX, Timestamp::as_micros).to_be_bytes());
    }
}

impl Snapshot {
    pub(super) fn envelope(&self, kind: Kind, seq: u64) -> Envelope {
        Envelope { kind, codec: self.codec, instance: self.instance.clone(), run: self.run, seq, shape: Shape::Plain }
    }

    pub(super) fn head_index(&self) -> HeadIndex {
        HeadIndex {
            run: self.run,
            seq: self.seq,
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
        let envelope = Envelope { kind: Kind::Result, codec: 1, instance: instance.clone(), run, seq: 3, shape };
        (instance, envelope.seal(b"body", b"row"))
    }

    #[test]
    fn what_is_sealed_opens_to_the_same() {
        let (instance, bytes) = sealed();
        let (envelope, body) = Envelope::open(&instance, Kind::Result, b"row", &bytes).unwrap();
        assert_eq!((envelope.codec, envelope.seq, envelope.shape, &body[..]), (1, 3, Shape::Done, &b"body"[..]));
        assert_eq!(bytes.len(), 38 + 7 + 4 + 8);
    }

    /// Every single bit and every length: an error each time, never a panic.
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
        let other = InstanceId::new("order-2").unwrap();
        assert_eq!(
            Envelope::open(&other, Kind::Result, b"row", &bytes).unwrap_err().what,
            "it belongs to another instance"
        );
        assert_eq!(
            Envelope::open(&instance, Kind::Head, b"row", &bytes).unwrap_err().what,
            "it is a record of another kind"
        );
        assert_eq!(
            Envelope::open(&instance, Kind::Result, b"other", &bytes).unwrap_err().what,
            "its checksum does not match"
        );
    }
}
