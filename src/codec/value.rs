//! The data that flows from node to node, without its types.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::hidden::Hidden;

/// A value in the form that the machine handles: tokens in prefix order.
///
/// ```text
/// task output, input, payload        [Leaf]
/// wait with timeout, received        [Received, Leaf]
/// wait with timeout, timed out       [TimedOut]
/// wait that keeps its input          [Pair, ..input.., ..result of the wait..]
/// result of a loop's body            [Again, Leaf] or [Done, Leaf]
/// result of a fork or map            [List(n), ..branch 0.., ..branch 1.., and so on]
/// item of a map that collects        [Succeeded, ..output..] or [Failed]
/// ```
///
/// A part in a row of its own is one token: [`Token::Stored`] until it is read, [`Token::Block`]
/// afterwards. Nothing that is decoded is recursive; the number of tokens is bounded by the shape
/// of the definition and the length of lists.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Value {
    tokens: Vec<Token>,
}

/// One piece of a [`Value`]. Its `Debug` shows no payload.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// A codec's bytes.
    Leaf(Leaf),
    /// A part in a row of its own, not read yet.
    Stored(Home),
    /// A part in a row of its own, as read from there.
    Block(Block),
    /// A signal came in time; its payload follows.
    Received,
    /// No signal came in time; nothing follows.
    TimedOut,
    /// A pair; two values follow.
    Pair,
    /// The loop goes on; the carried value follows.
    Again,
    /// The loop is over; its output follows.
    Done,
    /// A list; as many values follow as this number.
    List(u32),
    /// An item of a map succeeded; its output follows.
    Succeeded,
    /// An item of a map failed: the failure, as MessagePack of the crate's own.
    Failed(Bytes),
}

/// A codec's bytes, and the row that also holds them, if any: bytes stored there need not be
/// written again. Its `Debug` shows only how many bytes there are.
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
    /// The row or rows.
    pub home: Home,
    /// The tokens read there.
    pub tokens: Arc<[Token]>,
}

/// A node, and the index in each enclosing map, outermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The era of the run in whose definition the node is: how many times the run had been upgraded
    /// before.
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
    /// The list that a map was given, with its number of items.
    List(Place, u32),
    /// One item of that list: the number of its row, and its index within the row.
    Item(Place, u32, u32),
    /// The result of one branch of a fork or map.
    Branch(Place, u32),
    /// The results of all branches, with their number.
    Branches(Place, u32),
}

impl Value {
    /// Returns a value of one payload that stands in `home`.
    pub fn leaf(bytes: Bytes, home: Option<Home>) -> Self {
        Self { tokens: vec![Token::Leaf(Leaf { bytes, home })] }
    }

    /// Returns a value that is not read yet.
    pub(crate) fn stored(home: Home) -> Self {
        Self { tokens: vec![Token::Stored(home)] }
    }

    /// Returns the result of a wait that timed out.
    pub(crate) fn timed_out() -> Self {
        Self { tokens: vec![Token::TimedOut] }
    }

    /// Returns the value with one more token in front, of which it is a part.
    pub(crate) fn behind(mut self, token: Token) -> Self {
        self.tokens.insert(0, token);
        self
    }

    /// Returns two values in one.
    pub(crate) fn pair(left: Self, right: Self) -> Self {
        let mut tokens = Vec::with_capacity(1 + left.tokens.len() + right.tokens.len());
        tokens.push(Token::Pair);
        tokens.extend(left.tokens);
        tokens.extend(right.tokens);
        Self { tokens }
    }

    /// Returns a value of these tokens.
    pub fn from_tokens(tokens: Vec<Token>) -> Self {
        Self { tokens }
    }

    /// Returns the tokens in prefix order.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Returns the tokens in prefix order.
    pub(crate) fn into_tokens(self) -> Vec<Token> {
        self.tokens
    }

    /// Returns the one payload of a task's result, whichever loop token is in front.
    pub(crate) fn payload(&self) -> Option<&Bytes> {
        match self.tokens.as_slice() {
            [Token::Leaf(leaf)] | [Token::Again | Token::Done, Token::Leaf(leaf)] => Some(&leaf.bytes),
            _ => None,
        }
    }

    /// Notes the row that holds the one payload of a task's result.
    pub(crate) fn at_home(mut self, home: Home) -> Self {
        if let Some(Token::Leaf(leaf)) = self.tokens.last_mut() {
            leaf.home = Some(home);
        }
        self
    }

    /// Returns how many payload bytes were read into the value, at any depth.
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

    /// Returns approximately how many bytes of memory the value takes. A part shared by several
    /// values is counted in each.
    pub(crate) fn memory_bytes(&self) -> usize {
        fn tokens(of: &[Token]) -> usize {
            let within = of.iter().map(|token| if let Token::Block(block) = token { tokens(&block.tokens) } else { 0 });
            of.len() + within.sum::<usize>()
        }
        self.bytes() + tokens(&self.tokens) * size_of::<Token>()
    }

    /// Returns the rows that are not read yet.
    pub fn unread(&self) -> Vec<Home> {
        let mut found = Vec::new();
        unread(&self.tokens, &mut found);
        found
    }

    /// Replaces unread parts by the tokens that were read.
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
    /// Makes a value of one payload.
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

/// Returns the tokens with unread parts replaced, or `None` if nothing was replaced. Recurses as
/// deep as blocks nest, which is as deep as the definition does.
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

/// Returns the tokens read from a row as one token. A payload alone keeps its home, so that it is
/// not written again.
fn part(home: Home, mut tokens: Vec<Token>) -> Token {
    match (&home, tokens.as_mut_slice()) {
        (Home::Input | Home::Result(_) | Home::Item(..), [Token::Leaf(leaf)]) => {
            Token::Leaf(Leaf { bytes: std::mem::take(&mut leaf.bytes), home: Some(home) })
        }
        _ => Token::Block(Block { home, tokens: tokens.into() }),
    }
}
