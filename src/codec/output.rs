//! What a task gives, as bytes.

use std::any::TypeId;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecError, Decode, Token, Value};

/// What the body of a loop says at its end: whether to go on, and with what.
///
/// The machine must tell the two apart without the codec, so this is not encoded as a whole: `Again` and `Done` are tokens
/// of ours around one payload. So it is what a task returns, and not a part of something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoopResult<T, U> {
    /// The body runs once more, with this value.
    Again(T),
    /// The loop is over, and this is its output.
    Done(U),
}

/// What a task may give: any type that serde can write and read, or a [`LoopResult`] of such.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be what a task gives",
    label = "this task gives `{Self}`, which serde cannot both write and read",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it: each result is stored before the next task runs"
)]
pub trait Output: Sized + Send + 'static {
    /// As a value.
    ///
    /// # Errors
    /// [`CodecError`] if it does not encode, is over `bytes_max`, or would not read back.
    fn encode(&self, codec: &Codec, bytes_max: usize) -> Result<Value, CodecError>;

    /// From the value of a task's recorded result.
    ///
    /// # Errors
    /// [`CodecError`] if it is something else.
    fn decode(value: &Value, codec: &Codec) -> Result<Self, CodecError> {
        Self::decoder().0.decode(value, codec)
    }

    #[doc(hidden)]
    fn decoder() -> Decoder<Self>;
}

/// How the next node reads it.
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
