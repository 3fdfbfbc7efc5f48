//! The check that an accepted payload can be read: it is read back where it enters, if there is any
//! doubt.
//!
//! Payloads are not read back always, since that would cost as much again as the task's own
//! encoding and decoding. A value of plain serde derives reads back; the exceptions are known (see
//! [`Doubt`]). Beyond them, the first value of each type is read back, which finds types that
//! cannot read what they write.
//!
//! Values are compared as MessagePack, whatever the codec: a codec that encrypts writes other bytes
//! each time. Values that serde writes alike, such as two variants of an untagged enum, are equal
//! here.

use std::any::TypeId;
use std::sync::LazyLock;

use bytes::Bytes;
use dashmap::DashSet;
use foldhash::fast::RandomState;
use serde::Serialize;

use super::probe::{Doubt, Trace};
use super::{Codec, CodecError};

/// The types of which a value was read back, by codec. At most as many as the program has types,
/// for each codec.
static PROVEN: LazyLock<DashSet<(TypeId, u8), RandomState>> = LazyLock::new(DashSet::default);

impl Codec {
    /// Encodes a value that `read` must be able to decode again; `type_id` is the value's type, if
    /// known.
    ///
    /// # Errors
    /// As [`Codec::encode`], and [`CodecError::NotReadable`].
    pub(crate) fn encode_readable<T: Serialize>(
        &self,
        value: &T,
        type_id: Option<TypeId>,
        bytes_max: usize,
        read: impl FnOnce(&Bytes) -> Result<T, CodecError>,
    ) -> Result<Bytes, CodecError> {
        let type_name = std::any::type_name::<T>();
        let trace = if matches!(self, Self::MessagePack) { Trace::rich() } else { Trace::poor() };
        let bytes = self.encode_as(&trace.probe(value), type_name, bytes_max)?;
        let id = type_id.map(|type_id| (type_id, self.id()));
        let doubt = trace.doubt();
        if doubt == Doubt::None && id.is_some_and(|id| PROVEN.contains(&id)) {
            return Ok(bytes);
        }
        let not_readable = || CodecError::NotReadable { type_name, codec: self.name() };
        let found = read(&bytes).map_err(|_| not_readable())?;
        if doubt == Doubt::Changed && !is_same(value, &found) {
            return Err(not_readable());
        }
        if let (Doubt::None, Some(id)) = (doubt, id) {
            PROVEN.insert(id);
        }
        Ok(bytes)
    }
}

/// Returns true if two values of a type are written alike. The order of the bytes does not count: a
/// hash map has another order each time.
fn is_same<T: Serialize>(given: &T, found: &T) -> bool {
    let written = |value: &T| {
        let trace = Trace::rich();
        rmp_serde::to_vec_named(&trace.probe(value)).ok().map(|bytes| (bytes, trace.somes()))
    };
    match (written(given), written(found)) {
        (Some((given, somes)), Some((found, found_somes))) => {
            somes == found_somes
                && given.len() == found.len()
                && (given == found || byte_counts(&given) == byte_counts(&found))
        }
        // A type that MessagePack cannot write, for other codecs only.
        _ => true,
    }
}

fn byte_counts(bytes: &[u8]) -> [usize; 256] {
    let mut counts = [0; 256];
    for byte in bytes {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    counts
}
