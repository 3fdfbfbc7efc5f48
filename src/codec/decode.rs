//! The typed side of a value: decoders composed by the builder.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Codec, CodecError, Leaf, LoopResult, Token, Value};

/// The result of a wait with a timeout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalOutcome<T> {
    /// The signal came in time.
    Received(T),
    /// The timeout passed first.
    TimedOut,
}

/// Reads the tokens of a value from the front. The tokens of a block are read in the block's place.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    here: std::slice::Iter<'a, Token>,
    /// Tokens that follow the blocks being read.
    behind: Vec<std::slice::Iter<'a, Token>>,
    codec: &'a Codec,
}

impl<'a> Reader<'a> {
    fn token(&mut self) -> Option<&'a Token> {
        loop {
            match self.here.next() {
                Some(Token::Block(block)) => {
                    let behind = std::mem::replace(&mut self.here, block.tokens.iter());
                    self.behind.push(behind);
                }
                Some(token) => return Some(token),
                None => self.here = self.behind.pop()?,
            }
        }
    }

    fn next<T>(&mut self) -> Result<&'a Token, CodecError> {
        self.token().ok_or_else(structure::<T>)
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

/// A decoder of `T` at one place of a workflow. The builder knows the shapes that arrive there: a
/// tuple may be one payload or a pair of tokens, which the type alone does not tell. After a route
/// there may be several shapes, one for each arm.
pub(crate) struct Decode<T> {
    shapes: Arc<[Shape<T>]>,
}

struct Shape<T> {
    read: Arc<Read<T>>,
    /// The type, if the shape is one payload.
    payload: Option<TypeId>,
}

impl<T> Clone for Decode<T> {
    fn clone(&self) -> Self {
        Self { shapes: Arc::clone(&self.shapes) }
    }
}

impl<T> Clone for Shape<T> {
    fn clone(&self) -> Self {
        Self { read: Arc::clone(&self.read), payload: self.payload }
    }
}

impl<T: 'static> Decode<T> {
    fn new(read: impl Fn(&mut Reader<'_>) -> Result<T, CodecError> + Send + Sync + 'static) -> Self {
        Self { shapes: [Shape { read: Arc::new(read), payload: None }].into() }
    }

    /// Decodes one payload.
    pub(crate) fn payload() -> Self
    where
        T: DeserializeOwned,
    {
        let read = |reader: &mut Reader<'_>| {
            let leaf = reader.leaf::<T>()?;
            reader.codec.decode(&leaf.bytes)
        };
        Self { shapes: [Shape { read: Arc::new(read), payload: Some(TypeId::of::<T>()) }].into() }
    }

    /// Returns a decoder for a place that no value reaches.
    pub(crate) fn nothing() -> Self {
        Self { shapes: [].into() }
    }

    /// Returns true if every shape is one payload.
    pub(crate) fn is_payload(&self) -> bool {
        self.shapes.iter().all(|shape| shape.payload.is_some())
    }

    /// Decodes either of two shapes of the same type.
    pub(crate) fn or(self, other: &Self) -> Self {
        let known = |new: &Shape<T>| {
            self.shapes
                .iter()
                .any(|old| (old.payload.is_some() && new.payload.is_some()) || Arc::ptr_eq(&old.read, &new.read))
        };
        let more: Vec<_> = other.shapes.iter().filter(|shape| !known(shape)).cloned().collect();
        if more.is_empty() {
            return self;
        }
        Self { shapes: self.shapes.iter().cloned().chain(more).collect() }
    }

    /// Decodes the result of a loop's body.
    pub(crate) fn turn<U: 'static>(self, done: Decode<U>) -> Decode<LoopResult<T, U>> {
        Decode::new(move |reader| match reader.next::<LoopResult<T, U>>()? {
            Token::Again => self.read(reader).map(LoopResult::Again),
            Token::Done => done.read(reader).map(LoopResult::Done),
            _ => Err(structure::<LoopResult<T, U>>()),
        })
    }

    /// Decodes the result of a wait with a timeout.
    pub(crate) fn outcome(self) -> Decode<SignalOutcome<T>> {
        Decode::new(move |reader| match reader.next::<SignalOutcome<T>>()? {
            Token::Received => self.read(reader).map(SignalOutcome::Received),
            Token::TimedOut => Ok(SignalOutcome::TimedOut),
            _ => Err(structure::<SignalOutcome<T>>()),
        })
    }

    /// Decodes the value that flowed in, and the result of the wait.
    pub(crate) fn with<U: 'static>(self, right: Decode<U>) -> Decode<(T, U)> {
        Decode::new(move |reader| match reader.next::<(T, U)>()? {
            Token::Pair => Ok((self.read(reader)?, right.read(reader)?)),
            _ => Err(structure::<(T, U)>()),
        })
    }

    /// Decodes the result of an item of a map that collects failures; `failure` decodes a failure.
    pub(crate) fn collected<E: 'static>(self, failure: fn(&[u8]) -> Option<E>) -> Decode<Result<T, E>> {
        Decode::new(move |reader| match reader.next::<Result<T, E>>()? {
            Token::Succeeded => self.read(reader).map(Ok),
            Token::Failed(bytes) => failure(bytes).map(Err).ok_or_else(structure::<E>),
            _ => Err(structure::<Result<T, E>>()),
        })
    }

    /// Decodes a list of these.
    pub(crate) fn list(self) -> Decode<Vec<T>> {
        Decode::new(move |reader| {
            let items = list_of::<Vec<T>>(reader)?;
            (0..items).map(|_| self.read(reader)).collect()
        })
    }

    /// Decodes the results of branches, by the branches' names.
    pub(crate) fn named(branches: Vec<(String, Self)>) -> Decode<BTreeMap<String, T>> {
        Decode::new(move |reader| {
            expect_list::<BTreeMap<String, T>>(reader, branches.len())?;
            branches.iter().map(|(name, decode)| Ok((name.clone(), decode.read(reader)?))).collect()
        })
    }

    /// Decodes the results of branches: `read` puts them together, and reads each with
    /// [`Decode::read`].
    pub(crate) fn branches(
        count: usize,
        read: impl Fn(&mut Reader<'_>) -> Result<T, CodecError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(move |reader| {
            expect_list::<T>(reader, count)?;
            read(reader)
        })
    }
}

impl<T> Decode<T> {
    /// Reads the next value, in whichever shape it has.
    pub(crate) fn read(&self, reader: &mut Reader<'_>) -> Result<T, CodecError> {
        let [first, others @ ..] = &*self.shapes else { return Err(structure::<T>()) };
        if others.is_empty() {
            return (first.read)(reader);
        }
        let start = reader.clone();
        for shape in &*self.shapes {
            match (shape.read)(reader) {
                Err(CodecError::Structure { .. }) => *reader = start.clone(),
                read => return read,
            }
        }
        Err(structure::<T>())
    }

    /// Encodes a value that arrives as one payload, and checks that it reads back.
    pub(crate) fn encode(&self, value: &T, codec: &Codec, bytes_max: usize) -> Result<Bytes, CodecError>
    where
        T: Serialize,
    {
        let payload = self.shapes.iter().find_map(|shape| shape.payload);
        let read = |bytes: &Bytes| self.decode(&Value::leaf(bytes.clone(), None), codec);
        codec.encode_readable(value, payload, bytes_max, read)
    }

    /// Decodes a whole value.
    pub(crate) fn decode(&self, value: &Value, codec: &Codec) -> Result<T, CodecError> {
        let mut reader = Reader { here: value.tokens().iter(), behind: Vec::new(), codec };
        let decoded = self.read(&mut reader)?;
        match reader.token() {
            None => Ok(decoded),
            Some(_) => Err(structure::<T>()),
        }
    }
}

fn list_of<T>(reader: &mut Reader<'_>) -> Result<usize, CodecError> {
    match reader.next::<T>()? {
        Token::List(items) => Ok(*items as usize),
        _ => Err(structure::<T>()),
    }
}

fn expect_list<T>(reader: &mut Reader<'_>, items: usize) -> Result<(), CodecError> {
    if list_of::<T>(reader)? == items { Ok(()) } else { Err(structure::<T>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Block, Home};

    fn leaf(number: u32) -> Value {
        Value::leaf(Codec::Json.encode(&number, 100).unwrap(), None)
    }

    fn list(items: impl IntoIterator<Item = Value>) -> Value {
        let items: Vec<_> = items.into_iter().collect();
        let tokens = items.iter().flat_map(|item| item.tokens().to_vec());
        let count = u32::try_from(items.len()).unwrap();
        Value::from_tokens(std::iter::once(Token::List(count)).chain(tokens).collect())
    }

    #[test]
    fn a_kept_value_and_an_outcome_are_read_where_the_builder_said() {
        let decode = Decode::<u32>::payload().with(Decode::<u32>::payload().outcome());
        let received = Value::pair(leaf(1), leaf(2).behind(Token::Received));
        assert_eq!(decode.decode(&received, &Codec::Json), Ok((1, SignalOutcome::Received(2))));
        let timed_out = Value::pair(leaf(1), Value::timed_out());
        assert_eq!(decode.decode(&timed_out, &Codec::Json), Ok((1, SignalOutcome::TimedOut)));
    }

    #[test]
    fn a_value_of_another_shape_is_a_typed_error() {
        let decode = Decode::<u32>::payload().with(Decode::<u32>::payload());
        for wrong in [leaf(1), Value::timed_out(), Value::default(), leaf(1).behind(Token::Received)] {
            assert!(matches!(decode.decode(&wrong, &Codec::Json), Err(CodecError::Structure { .. })), "{wrong:?}");
        }
        let too_much = Value::pair(leaf(1), Value::pair(leaf(2), leaf(3)));
        assert!(Decode::<u32>::payload().decode(&too_much, &Codec::Json).is_err());
    }

    /// After a route the same type may be one payload or a structure of tokens, at any depth.
    #[test]
    fn of_several_shapes_the_one_that_fits_is_read() {
        let pair = || Decode::<u32>::payload().with(Decode::payload());
        let decode = pair().or(&Decode::payload()).or(&pair()).list();
        let payload = Value::leaf(Codec::Json.encode(&(1_u32, 2_u32), 100).unwrap(), None);
        let mixed = list([payload.clone(), Value::pair(leaf(3), leaf(4)), payload]);
        assert_eq!(decode.decode(&mixed, &Codec::Json), Ok(vec![(1, 2), (3, 4), (1, 2)]));
        assert!(pair().or(&Decode::payload()).decode(&leaf(1), &Codec::Json).is_err());
    }

    #[test]
    fn blocks_are_read_in_their_places() {
        let home = || Home::Branches(crate::codec::Place { era: 0, node: 0, indices: [].into() }, 2);
        let block = |value: Value| Token::Block(Block { home: home(), tokens: value.into_tokens().into() });
        let inner = Value::from_tokens(vec![Token::List(2), block(leaf(1)), block(leaf(2))]);
        let value = Value::pair(Value::from_tokens(vec![block(inner)]), leaf(3));
        let decode = Decode::<u32>::payload().list().with(Decode::<u32>::payload());
        assert_eq!(decode.decode(&value, &Codec::Json), Ok((vec![1, 2], 3)));
    }
}
