//! Payloads: typed values to bytes and back.
//!
//! * [`Codec`]: MessagePack by default, JSON by choice, or a user's own by [`CustomCodec`].
//! * [`Value`]: the data that flows from node to node: a codec's bytes, or tokens of the crate
//!   around them (received or timed out, pair, again or done, list). The machine builds and takes
//!   apart the tokens without a codec.
//! * [`Output`]: the types that a task may return; [`LoopResult`] is one of them.
//! * [`Decode`]: the typed side; made by the builder, which knows the shape that reaches a node.
//!
//! Payloads may come from outside and are not trusted: the nesting depth of MessagePack is checked
//! before it is decoded (`nesting`), and `serde_json` limits that of JSON itself. An accepted
//! payload can be read back: known mismatches between writing and reading with serde are noticed
//! (`probe`), and the reading is tried (`read_back`).
//!
//! No error here repeats a payload, and no `Debug` of the crate shows one: messages name the type,
//! the codec and the size only.

mod custom;
mod decode;
mod hidden;
mod nesting;
mod output;
mod probe;
mod read_back;
mod value;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use custom::{CustomCodec, DeserializeFn};
pub use decode::SignalOutcome;
pub(crate) use decode::{Decode, Reader};
pub(crate) use hidden::Hidden;
pub use output::{LoopResult, Output};
pub use value::{Block, Home, Leaf, Place, Token, Value};

use nesting::Nesting;

use crate::limits::PAYLOAD_DEPTH_MAX;

/// A codec: turns payloads into bytes and back. Its id is stored with each instance, which keeps
/// its codec.
///
/// A payload that would not read back unchanged is refused where it enters, with
/// [`CodecError::NotReadable`]: a start's input and a signal's payload by the call, a result as the
/// failure of its task ([`FailureKind::Codec`](crate::FailureKind)). Serde cannot carry these
/// values:
/// * With every codec: `Some(())` and `Some(None)`, which are written like `None`; and `u128` and
///   `i128` within types that are flattened, untagged or internally tagged.
/// * With [`Codec::MessagePack`]: types with two forms (IP addresses, UUIDs of some crates) within
///   types that are flattened, untagged or internally tagged. Tag the enum externally, which is
///   serde's default, or serialize the value as text.
/// * With [`Codec::Json`]: also numbers that are NaN or infinite, `Some` of a unit struct, and map
///   keys that are not text within types that are flattened, untagged or internally tagged.
/// * Fields that are left out when written (`skip_serializing_if`) and have no `default`.
///
/// Values that are written alike are not noticed, such as two variants of an untagged enum with the
/// same fields: the first one is read.
///
/// `Vec<u8>` is written as a list of numbers: with MessagePack about 1.5 times its bytes, with JSON
/// nearly 4 times. With MessagePack, [`bytes::Bytes`](https://docs.rs/bytes) (with its feature
/// `serde`) and `serde_bytes::ByteBuf` are written unchanged.
#[derive(Clone, Default)]
pub enum Codec {
    /// MessagePack with field names, so that fields with defaults can be added to types. Id 1.
    #[default]
    MessagePack,
    /// JSON: larger and slower, readable by people and other tools. Id 2.
    Json,
    /// A user's own codec, with an id from 128.
    Custom(Arc<dyn CustomCodec>),
}

/// The lowest id that a [`CustomCodec`] may have.
pub const CUSTOM_CODEC_ID_MIN: u8 = 128;

/// The reason why a payload could not be encoded or decoded. Never holds any of the payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The value's `Serialize` or the codec refused.
    #[error("a value of type `{type_name}` does not encode as {codec}: check its Serialize, see `Codec`")]
    Encode {
        /// The Rust type.
        type_name: &'static str,
        /// The codec's name.
        codec: &'static str,
    },
    /// The value would not read back unchanged. See [`Codec`] for values that cannot be carried.
    #[error("a value of type `{type_name}` does not read back from {codec} unchanged: change the type, see `Codec`")]
    NotReadable {
        /// The Rust type.
        type_name: &'static str,
        /// The codec's name.
        codec: &'static str,
    },
    /// The bytes are not a value of the type: give new fields a default, or keep the type.
    #[error("{bytes} bytes of {codec} do not decode as `{type_name}`: was the type changed without a default?")]
    Decode {
        /// The Rust type.
        type_name: &'static str,
        /// The codec's name.
        codec: &'static str,
        /// The number of bytes.
        bytes: usize,
    },
    /// The value has another structure than the node expects.
    #[error("the value has another structure than `{type_name}`: was the workflow or the type changed?")]
    Structure {
        /// The Rust type.
        type_name: &'static str,
    },
    /// The encoded value is over the payload limit: raise the limit, or pass a reference to data
    /// stored elsewhere.
    #[error(
        "a value of type `{type_name}` encodes to {bytes} bytes: the limit is {bytes_max} (Limits::payload_bytes_max); use `bytes::Bytes` for raw bytes"
    )]
    TooLarge {
        /// The Rust type.
        type_name: &'static str,
        /// Its encoded size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The value nests lists, maps, structs or enums deeper than is allowed.
    #[error(
        "a value of type `{type_name}` nests deeper than {depth_max} in {codec} (limits::PAYLOAD_DEPTH_MAX): flatten it"
    )]
    TooDeep {
        /// The Rust type.
        type_name: &'static str,
        /// The codec's name.
        codec: &'static str,
        /// The limit.
        depth_max: usize,
    },
    /// A list for a map is over one of its limits.
    #[error(
        "the list has {items} items and {bytes} bytes: at most {items_max} (Limits::list_items_max) and {bytes_max} (Limits::list_bytes_max) are allowed"
    )]
    ListTooLarge {
        /// The number of its items.
        items: usize,
        /// The encoded bytes of its items.
        bytes: usize,
        /// The limit on items.
        items_max: usize,
        /// The limit on bytes.
        bytes_max: usize,
    },
}

impl Codec {
    /// Returns the id that is stored with each instance.
    pub fn id(&self) -> u8 {
        match self {
            Self::MessagePack => 1,
            Self::Json => 2,
            Self::Custom(codec) => codec.id(),
        }
    }

    /// Returns the name used in errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MessagePack => "MessagePack",
            Self::Json => "JSON",
            Self::Custom(codec) => codec.name(),
        }
    }

    /// Encodes a value. Does not check that it reads back: that is done where a payload enters a
    /// workflow.
    ///
    /// # Errors
    /// [`CodecError::Encode`], [`CodecError::TooLarge`] over `bytes_max`, or
    /// [`CodecError::TooDeep`].
    pub fn encode<T: Serialize>(&self, value: &T, bytes_max: usize) -> Result<Bytes, CodecError> {
        self.encode_as(value, std::any::type_name::<T>(), bytes_max)
    }

    fn encode_as<T: Serialize>(
        &self,
        value: &T,
        type_name: &'static str,
        bytes_max: usize,
    ) -> Result<Bytes, CodecError> {
        let encoded = match self {
            Self::MessagePack => rmp_serde::to_vec_named(value).ok(),
            Self::Json => serde_json::to_vec(value).ok(),
            Self::Custom(codec) => codec.encode(value).ok(),
        };
        let bytes = encoded.ok_or(CodecError::Encode { type_name, codec: self.name() })?;
        if bytes.len() > bytes_max {
            return Err(CodecError::TooLarge { type_name, bytes: bytes.len(), bytes_max });
        }
        // A payload nested too deep could not be decoded.
        let nesting = match self {
            Self::MessagePack => nesting::of_message_pack(&bytes),
            Self::Json => nesting::of_json(&bytes),
            Self::Custom(_) => Nesting::Fits,
        };
        match nesting {
            Nesting::Fits => Ok(bytes.into()),
            Nesting::TooDeep => Err(self.too_deep(type_name)),
            Nesting::Malformed => Err(CodecError::Encode { type_name, codec: self.name() }),
        }
    }

    /// Decodes a value; bytes left over are an error. Allocates nothing for data that is not there,
    /// and uses no more stack than [`PAYLOAD_DEPTH_MAX`](crate::limits::PAYLOAD_DEPTH_MAX) levels
    /// of the type need; a [`CustomCodec`] must ensure both itself.
    ///
    /// # Errors
    /// [`CodecError::Decode`], or [`CodecError::TooDeep`] (MessagePack only).
    pub fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CodecError> {
        let decoded = match self {
            Self::MessagePack => match nesting::of_message_pack(bytes) {
                Nesting::Fits => decode_message_pack(bytes),
                Nesting::TooDeep => return Err(self.too_deep(std::any::type_name::<T>())),
                Nesting::Malformed => None,
            },
            Self::Json => serde_json::from_slice(bytes).ok(),
            Self::Custom(codec) => custom::decode(codec.as_ref(), bytes),
        };
        decoded.ok_or(CodecError::Decode {
            type_name: std::any::type_name::<T>(),
            codec: self.name(),
            bytes: bytes.len(),
        })
    }

    fn too_deep(&self, type_name: &'static str) -> CodecError {
        CodecError::TooDeep { type_name, codec: self.name(), depth_max: PAYLOAD_DEPTH_MAX }
    }
}

/// The deepest nesting in a record of the crate's own.
const RECORD_DEPTH_MAX: usize = 32;

/// Decodes a record of the crate's own: MessagePack with field names, never recursive. Bytes left
/// over do no harm.
pub(crate) fn decode_record<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(RECORD_DEPTH_MAX);
    T::deserialize(&mut deserializer).ok()
}

/// Decodes MessagePack. Refuses trailing bytes, which rmp-serde accepts.
fn decode_message_pack<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let mut deserializer = rmp_serde::Deserializer::new(bytes);
    let value = T::deserialize(&mut deserializer).ok()?;
    deserializer.get_ref().is_empty().then_some(value)
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codecs() -> [Codec; 3] {
        [Codec::MessagePack, Codec::Json, Codec::Custom(Arc::new(custom::tests::Reversed))]
    }

    #[test]
    fn a_value_decodes_to_itself_with_every_codec() {
        for codec in codecs() {
            let value = (7_u32, "seven".to_owned(), Some(vec![1_u8, 2]));
            let bytes = codec.encode(&value, 1_000).unwrap();
            assert_eq!(codec.decode::<(u32, String, Option<Vec<u8>>)>(&bytes), Ok(value), "{codec:?}");
        }
    }

    #[test]
    fn bytes_left_over_are_refused_by_every_codec() {
        for codec in [Codec::MessagePack, Codec::Json] {
            let mut bytes = codec.encode(&7_u32, 1_000).unwrap().to_vec();
            bytes.push(b'1');
            bytes.push(b' ');
            bytes.push(b'2');
            assert!(codec.decode::<u32>(&bytes).is_err(), "{codec:?}");
        }
    }

    #[test]
    fn an_error_never_repeats_the_payload() {
        for codec in codecs() {
            let bytes = codec.encode(&"a secret", 1_000).unwrap();
            let error = codec.decode::<u32>(&bytes).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn a_payload_over_its_limit_is_refused() {
        let error = Codec::MessagePack.encode(&vec![0_u8; 100], 50).unwrap_err();
        assert!(matches!(error, CodecError::TooLarge { bytes_max: 50, .. }), "{error:?}");
    }
}
