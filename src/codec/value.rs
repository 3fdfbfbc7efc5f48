//! What flows from node to node, without its types.

use bytes::Bytes;

/// A value in the form the machine handles it: tokens in prefix order.
///
/// ```text
/// task output, input, payload      [Leaf]
/// wait with timeout, received      [Received, Leaf]
/// wait with timeout, timed out     [TimedOut]
/// wait that keeps what flowed in   [Pair, ..what flowed in.., ..what the wait gave..]
/// ```
///
/// Flat, so that nothing that is decoded is recursive; tokens of one value are bounded by the shape of the definition.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Value {
    tokens: Vec<Token>,
}

/// One piece of a [`Value`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A codec's bytes.
    Leaf(Leaf),
    /// A payload that was not read from its row yet.
    Stored(Home),
    /// A signal came in time; its payload follows.
    Received,
    /// No signal came in time; nothing follows.
    TimedOut,
    /// Two values follow.
    Pair,
}

/// A codec's bytes, and the row they also stand in, if any: what is stored there need not be written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The encoded payload.
    pub bytes: Bytes,
    /// The row that holds the same bytes.
    pub home: Option<Home>,
}

/// A row of the run that holds a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Home {
    /// The instance's input.
    Input,
    /// The result of the node with this index: a task's output, or a large signal payload.
    Node(u32),
}

impl Value {
    /// A value of one payload that stands in `home`.
    pub fn leaf(bytes: Bytes, home: Option<Home>) -> Self {
        Self { tokens: vec![Token::Leaf(Leaf { bytes, home })] }
    }

    /// What a wait that timed out gives.
    pub(crate) fn timed_out() -> Self {
        Self { tokens: vec![Token::TimedOut] }
    }

    /// What a wait with a timeout gives when the signal came.
    pub(crate) fn received(mut payload: Self) -> Self {
        payload.tokens.insert(0, Token::Received);
        payload
    }

    /// Two values in one.
    pub(crate) fn pair(left: Self, right: Self) -> Self {
        let mut tokens = Vec::with_capacity(1 + left.tokens.len() + right.tokens.len());
        tokens.push(Token::Pair);
        tokens.extend(left.tokens);
        tokens.extend(right.tokens);
        Self { tokens }
    }

    /// From tokens as they were stored.
    pub(crate) fn from_tokens(tokens: Vec<Token>) -> Self {
        Self { tokens }
    }

    /// The rows whose payloads were not read yet.
    pub(crate) fn unread(&self) -> impl Iterator<Item = Home> {
        self.tokens.iter().filter_map(|token| match token {
            Token::Stored(home) => Some(*home),
            _ => None,
        })
    }

    /// Puts payloads that were read in their places.
    pub(crate) fn fill(&mut self, read: impl Fn(Home) -> Option<Bytes>) {
        for token in &mut self.tokens {
            if let Token::Stored(home) = *token
                && let Some(bytes) = read(home)
            {
                *token = Token::Leaf(Leaf { bytes, home: Some(home) });
            }
        }
    }

    /// The tokens in prefix order.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }
}
