//! The typed side of a value: decoders put together by the builder.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Codec, CodecError, Leaf, Token, Value};

/// What a wait with a timeout hands to the next task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalOutcome<T> {
    /// The signal came in time.
    Received(T),
    /// The timeout passed first.
    TimedOut,
}

/// Reads the tokens of a value from the front.
pub(crate) struct Reader<'a> {
    tokens: std::slice::Iter<'a, Token>,
    codec: &'a Codec,
}

impl<'a> Reader<'a> {
    fn next<T>(&mut self) -> Result<&'a Token, CodecError> {
        self.tokens.next().ok_or_else(structure::<T>)
    }

    fn leaf<T>(&mut self) -> Result<&'a Leaf, CodecError> {
        match self.next::<T>()? {
            Token::Leaf(leaf) => Ok(leaf),
            _ => Err(structure::<T>()),
        }
    }
}

fn structure<T>() -> CodecError {
    CodecError::Structure { type_name: std::any::type_name::<T>() }
}

type Read<T> = dyn Fn(&mut Reader<'_>) -> Result<T, CodecError> + Send + Sync;

/// How a `T` is read at one place of a workflow. The builder knows the shape that arrives there: a tuple may be one
/// payload or a pair of ours, which the type alone does not tell.
pub(crate) struct Decode<T> {
    read: Arc<Read<T>>,
}

impl<T> Clone for Decode<T> {
    fn clone(&self) -> Self {
        Self { read: Arc::clone(&self.read) }
    }
}

impl<T: 'static> Decode<T> {
    fn new(read: impl Fn(&mut Reader<'_>) -> Result<T, CodecError> + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read) }
    }

    /// One payload.
    pub(crate) fn payload() -> Self
    where
        T: DeserializeOwned,
    {
        Self::new(|reader| {
            let leaf = reader.leaf::<T>()?;
            reader.codec.decode(&leaf.bytes)
        })
    }

    /// What a wait with a timeout gives.
    pub(crate) fn outcome(self) -> Decode<SignalOutcome<T>> {
        Decode::new(move |reader| match reader.next::<SignalOutcome<T>>()? {
            Token::Received => (self.read)(reader).map(SignalOutcome::Received),
            Token::TimedOut => Ok(SignalOutcome::TimedOut),
            _ => Err(structure::<SignalOutcome<T>>()),
        })
    }

    /// What flowed in, and what the wait gave.
    pub(crate) fn with<U: 'static>(self, right: Decode<U>) -> Decode<(T, U)> {
        Decode::new(move |reader| match reader.next::<(T, U)>()? {
            Token::Pair => Ok(((self.read)(reader)?, (right.read)(reader)?)),
            _ => Err(structure::<(T, U)>()),
        })
    }

    /// Reads a whole value.
    pub(crate) fn decode(&self, value: &Value, codec: &Codec) -> Result<T, CodecError> {
        let mut reader = Reader { tokens: value.tokens().iter(), codec };
        let decoded = (self.read)(&mut reader)?;
        match reader.tokens.next() {
            None => Ok(decoded),
            Some(_) => Err(structure::<T>()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(number: u32) -> Value {
        Value::leaf(Codec::Json.encode(&number, 100).unwrap(), None)
    }

    #[test]
    fn a_kept_value_and_an_outcome_are_read_where_the_builder_said() {
        let decode = Decode::<u32>::payload().with(Decode::<u32>::payload().outcome());
        let received = Value::pair(leaf(1), Value::received(leaf(2)));
        assert_eq!(decode.decode(&received, &Codec::Json), Ok((1, SignalOutcome::Received(2))));
        let timed_out = Value::pair(leaf(1), Value::timed_out());
        assert_eq!(decode.decode(&timed_out, &Codec::Json), Ok((1, SignalOutcome::TimedOut)));
    }

    #[test]
    fn a_value_of_another_shape_is_a_typed_error() {
        let decode = Decode::<u32>::payload().with(Decode::<u32>::payload());
        for wrong in [leaf(1), Value::timed_out(), Value::default(), Value::received(leaf(1))] {
            assert!(matches!(decode.decode(&wrong, &Codec::Json), Err(CodecError::Structure { .. })), "{wrong:?}");
        }
        let too_much = Value::pair(leaf(1), Value::pair(leaf(2), leaf(3)));
        assert!(Decode::<u32>::payload().decode(&too_much, &Codec::Json).is_err());
    }
}
