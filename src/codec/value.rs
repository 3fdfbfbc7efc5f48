//! What flows from node to node, without its types.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::hidden::Hidden;

/// A value in the form the machine handles it: tokens in prefix order.
///
/// ```text
/// task output, input, payload      [Leaf]
/// wait with timeout, received      [Received, Leaf]
/// wait with timeout, timed out     [TimedOut]
/// wait that keeps what flowed in   [Pair, ..what flowed in.., ..what the wait gave..]
/// what a loop's body gives         [Again, Leaf] or [Done, Leaf]
/// what a fork or a map gives       [List(n), ..branch 0.., ..branch 1.., and so on]
/// an item of a map that collects   [Succeeded, ..output..] or [Failed]
/// ```
///
/// A part that stands in a row of its own is one token: [`Token::Stored`] until it is read, [`Token::Block`] then. Nothing
/// that is decoded is recursive; tokens of one value are bounded by the shape of the definition and the length of lists.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Value {
    tokens: Vec<Token>,
}

/// One piece of a [`Value`]. Its `Debug` shows no payload.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// A codec's bytes.
    Leaf(Leaf),
    /// A part that was not read from its row yet.
    Stored(Home),
    /// A part that stands in a row of its own, as read from there.
    Block(Block),
    /// A signal came in time; its payload follows.
    Received,
    /// No signal came in time; nothing follows.
    TimedOut,
    /// Two values follow.
    Pair,
    /// The loop goes on; the carried value follows.
    Again,
    /// The loop is over; its output follows.
    Done,
    /// So many values follow.
    List(u32),
    /// An item of a map went well; its output follows.
    Succeeded,
    /// An item of a map failed: the failure, as MessagePack of ours.
    Failed(Bytes),
}

/// A codec's bytes, and the row they also stand in, if any: what is stored there need not be written again. Its `Debug` shows
/// how many bytes there are.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The encoded payload.
    pub bytes: Bytes,
    /// The row that holds the same bytes.
    pub home: Option<Home>,
}

/// Tokens that stand in a row, or in several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where.
    pub home: Home,
    /// What was read there.
    pub tokens: Arc<[Token]>,
}

/// A node, and the index in each map around it, outermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The era of the run in whose definition the node is: how many times the run had been taken over before.
    pub era: u32,
    /// The node's index.
    pub node: u32,
    /// The map indices.
    pub indices: Arc<[u32]>,
}

/// A row of the run that holds a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Home {
    /// The instance's input.
    Input,
    /// The result at a place: a task's output, or a large signal payload.
    Result(Place),
    /// The list that a map was given: so many items.
    List(Place, u32),
    /// One item of that list: in which row, and the how manieth there.
    Item(Place, u32, u32),
    /// What one branch of a fork or map gave.
    Branch(Place, u32),
    /// What all of them gave: so many rows.
    Branches(Place, u32),
}

impl Value {
    /// A value of one payload that stands in `home`.
    pub fn leaf(bytes: Bytes, home: Option<Home>) -> Self {
        Self { tokens: vec![Token::Leaf(Leaf { bytes, home })] }
    }

    /// A value that is still to be read.
    pub(crate) fn stored(home: Home) -> Self {
        Self { tokens: vec![Token::Stored(home)] }
    }

    /// What a wait that timed out gives.
    pub(crate) fn timed_out() -> Self {
        Self { tokens: vec![Token::TimedOut] }
    }

    /// The same with one more token in front: what it is part of.
    pub(crate) fn behind(mut self, token: Token) -> Self {
        self.tokens.insert(0, token);
        self
    }

    /// Two values in one.
    pub(crate) fn pair(left: Self, right: Self) -> Self {
        let mut tokens = Vec::with_capacity(1 + left.tokens.len() + right.tokens.len());
        tokens.push(Token::Pair);
        tokens.extend(left.tokens);
        tokens.extend(right.tokens);
        Self { tokens }
    }

    /// From tokens.
    pub fn from_tokens(tokens: Vec<Token>) -> Self {
        Self { tokens }
    }

    /// The tokens in prefix order.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The tokens in prefix order.
    pub(crate) fn into_tokens(self) -> Vec<Token> {
        self.tokens
    }

    /// The one payload of a task's result, whichever loop token is in front.
    pub(crate) fn payload(&self) -> Option<&Bytes> {
        match self.tokens.as_slice() {
            [Token::Leaf(leaf)] | [Token::Again | Token::Done, Token::Leaf(leaf)] => Some(&leaf.bytes),
            _ => None,
        }
    }

    /// Names the row that the one payload of a task's result stands in.
    pub(crate) fn at_home(mut self, home: Home) -> Self {
        if let Some(Token::Leaf(leaf)) = self.tokens.last_mut() {
            leaf.home = Some(home);
        }
        self
    }

    /// The payload bytes in it that were read, however deep.
    pub(crate) fn bytes(&self) -> usize {
        fn bytes(tokens: &[Token]) -> usize {
            let bytes = tokens.iter().map(|token| match token {
                Token::Leaf(leaf) => leaf.bytes.len(),
                Token::Failed(failure) => failure.len(),
                Token::Block(block) => bytes(&block.tokens),
                _ => 0,
            });
            bytes.sum()
        }
        bytes(&self.tokens)
    }

    /// Returns about how many bytes of memory it takes. What is in several values is counted in each.
    pub(crate) fn memory_bytes(&self) -> usize {
        fn tokens(of: &[Token]) -> usize {
            let within = of.iter().map(|token| if let Token::Block(block) = token { tokens(&block.tokens) } else { 0 });
            of.len() + within.sum::<usize>()
        }
        self.bytes() + tokens(&self.tokens) * size_of::<Token>()
    }

    /// The rows that were not read yet.
    pub fn unread(&self) -> Vec<Home> {
        let mut found = Vec::new();
        unread(&self.tokens, &mut found);
        found
    }

    /// Puts what was read in its place.
    pub(crate) fn fill(&mut self, read: &impl Fn(&Home) -> Option<Vec<Token>>) {
        if let Some(filled) = fill(&self.tokens, read) {
            self.tokens = filled;
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf(leaf) => leaf.fmt(f),
            Self::Stored(home) => f.debug_tuple("Stored").field(home).finish(),
            Self::Block(block) => block.fmt(f),
            Self::Received => f.write_str("Received"),
            Self::TimedOut => f.write_str("TimedOut"),
            Self::Pair => f.write_str("Pair"),
            Self::Again => f.write_str("Again"),
            Self::Done => f.write_str("Done"),
            Self::List(items) => f.debug_tuple("List").field(items).finish(),
            Self::Succeeded => f.write_str("Succeeded"),
            Self::Failed(failure) => f.debug_tuple("Failed").field(&Hidden(failure)).finish(),
        }
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("bytes", &Hidden(&self.bytes)).field("home", &self.home).finish()
    }
}

impl From<Bytes> for Value {
    /// One payload.
    fn from(payload: Bytes) -> Self {
        Self::leaf(payload, None)
    }
}

fn unread(tokens: &[Token], found: &mut Vec<Home>) {
    for token in tokens {
        match token {
            Token::Stored(home) => found.push(home.clone()),
            Token::Block(block) => unread(&block.tokens, found),
            _ => {}
        }
    }
}

/// The tokens with what was read in its place, if there was anything to read. As deep as blocks nest, which is as deep as a
/// definition does.
fn fill(tokens: &[Token], read: &impl Fn(&Home) -> Option<Vec<Token>>) -> Option<Vec<Token>> {
    let mut filled: Option<Vec<Token>> = None;
    for (at, token) in tokens.iter().enumerate() {
        let found = match token {
            Token::Stored(home) => read(home).map(|tokens| part(home.clone(), tokens)),
            Token::Block(block) => {
                let tokens = fill(&block.tokens, read);
                tokens.map(|tokens| Token::Block(Block { home: block.home.clone(), tokens: tokens.into() }))
            }
            _ => None,
        };
        if let Some(found) = found
            && let Some(place) = filled.get_or_insert_with(|| tokens.to_vec()).get_mut(at)
        {
            *place = found;
        }
    }
    filled
}

/// What was read as one token: a payload alone keeps the home that says where it need not be written again.
fn part(home: Home, mut tokens: Vec<Token>) -> Token {
    match (&home, tokens.as_mut_slice()) {
        (Home::Input | Home::Result(_) | Home::Item(..), [Token::Leaf(leaf)]) => {
            Token::Leaf(Leaf { bytes: std::mem::take(&mut leaf.bytes), home: Some(home) })
        }
        _ => Token::Block(Block { home, tokens: tokens.into() }),
    }
}
