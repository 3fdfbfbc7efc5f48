//! Task results as bytes.

use std::any::TypeId;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecError, Decode, Token, Value};

/// The result of a loop's body: go on or stop, and the value to do so with.
///
/// The machine must tell `Again` from `Done` without the codec, so this type is not encoded as a
/// whole: each is a token of the crate before one payload. A task must therefore return it
/// directly, not as a part of another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoopResult<T, U> {
    /// Run the body once more, with this value.
    Again(T),
    /// End the loop, with this output.
    Done(U),
}

/// A type that a task may return: any that serde can write and read, or a [`LoopResult`] of such
/// types.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of a task",
    label = "this task returns `{Self}`, which serde cannot both write and read",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it: each result is stored before the next task runs"
)]
pub trait Output: Sized + Send + 'static {
    /// Encodes a result as a value.
    ///
    /// # Errors
    /// [`CodecError`] if the result does not encode, is over `bytes_max`, or would not read back.
    fn encode(&self, codec: &Codec, bytes_max: usize) -> Result<Value, CodecError>;

    /// Decodes the value of a task's recorded result.
    ///
    /// # Errors
    /// [`CodecError`] if the value is something else.
    fn decode(value: &Value, codec: &Codec) -> Result<Self, CodecError> {
        Self::decoder().0.decode(value, codec)
    }

    #[doc(hidden)]
    fn decoder() -> Decoder<Self>;
}

/// The decoder with which the next node reads a result.
#[doc(hidden)]
pub struct Decoder<T>(pub(crate) Decode<T>);

impl<T: Serialize + DeserializeOwned + Send + 'static> Output for T {
    fn encode(&self, codec: &Codec, bytes_max: usize) -> Result<Value, CodecError> {
        let bytes = codec.encode_readable(self, Some(TypeId::of::<Self>()), bytes_max, |bytes| codec.decode(bytes))?;
        Ok(Value::leaf(bytes, None))
    }

    fn decoder() -> Decoder<Self> {
        Decoder(Decode::payload())
    }
}

impl<T, U> Output for LoopResult<T, U>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    U: Serialize + DeserializeOwned + Send + 'static,
{
    fn encode(&self, codec: &Codec, bytes_max: usize) -> Result<Value, CodecError> {
        Ok(match self {
            Self::Again(carried) => carried.encode(codec, bytes_max)?.behind(Token::Again),
            Self::Done(output) => output.encode(codec, bytes_max)?.behind(Token::Done),
        })
    }

    fn decoder() -> Decoder<Self> {
        Decoder(Decode::payload().turn(Decode::payload()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_result_reads_back_and_stays_apart_from_plain_outputs() {
        for result in [LoopResult::Again(7_u32), LoopResult::Done("seven".to_owned())] {
            let value = result.encode(&Codec::MessagePack, 100).unwrap();
            assert_eq!(LoopResult::<u32, String>::decode(&value, &Codec::MessagePack), Ok(result));
            assert!(u32::decode(&value, &Codec::MessagePack).is_err());
        }
    }
}
