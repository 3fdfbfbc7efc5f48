//! Values as records: one entry per token, in prefix order.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::record::{decode, encode};
use crate::codec::{Home, Leaf, Place, Token, Value};
use crate::limits::INLINE_BYTES_MAX;

/// A token as stored. A part that stands in a row of its own is referred to; a small payload is
/// repeated.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TokenRecord {
    #[serde(rename = "b")]
    Bytes(Bytes),
    Input,
    /// The result of a node that is within no map, in the first era.
    Node(u32),
    Received,
    TimedOut,
    Pair,
    Again,
    Done,
    List(u32),
    Ok,
    Err(Bytes),
    At(PlaceRecord),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlaceRecord {
    #[serde(rename = "is")]
    kind: PlaceKind,
    /// The era in whose definition the node is.
    #[serde(default, skip_serializing_if = "super::record::is_zero_u32")]
    era: u32,
    node: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    of: Vec<u32>,
    /// The index of a branch, or of an item in its row; or the number of branches or items.
    #[serde(default, skip_serializing_if = "super::record::is_zero_u32")]
    n: u32,
    /// The row of the item.
    #[serde(default, skip_serializing_if = "super::record::is_zero_u32")]
    row: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PlaceKind {
    Result,
    List,
    Item,
    Branch,
    Branches,
}

/// The first row of a list in a loop, where a later iteration may write a shorter list: tells the
/// rows of this list from leftovers of a longer one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstRowRecord {
    /// How many items the whole list has.
    total: u32,
    items: Vec<TokenRecord>,
}

/// Encodes items of a list; the first row also takes the total number of items.
pub(super) fn encode_items(items: &[Token], total: Option<u32>) -> Vec<u8> {
    let items = items.iter().map(token_record).collect();
    match total {
        Some(total) => encode(&FirstRowRecord { total, items }, Vec::new()),
        None => encode(&items, Vec::new()),
    }
}

/// Decodes a row of a list: its items, and the total number of items, if the row has it.
pub(super) fn decode_items(bytes: &[u8]) -> Option<(Value, Option<u32>)> {
    if let Some(items) = decode_value(bytes) {
        return Some((items, None));
    }
    let FirstRowRecord { total, items } = decode(bytes)?;
    Some((into_value(items), Some(total)))
}

/// Encodes a value for a row of its own.
pub(super) fn encode_value(value: &Value) -> Vec<u8> {
    encode(&token_records(value), Vec::new())
}

/// Decodes a value from a row of its own.
pub(super) fn decode_value(bytes: &[u8]) -> Option<Value> {
    decode::<Vec<TokenRecord>>(bytes).map(into_value)
}

pub(super) fn token_records(value: &Value) -> Vec<TokenRecord> {
    value.tokens().iter().map(token_record).collect()
}

/// Returns the bytes of a value that its record repeats.
pub(super) fn inline_bytes(value: &Value) -> u64 {
    let inline = value.tokens().iter().map(|token| match token {
        Token::Leaf(Leaf { bytes, home }) if home.is_none() || bytes.len() <= INLINE_BYTES_MAX => bytes.len() as u64,
        Token::Failed(failure) => failure.len() as u64,
        _ => 0,
    });
    inline.sum()
}

fn token_record(token: &Token) -> TokenRecord {
    match token {
        Token::Leaf(Leaf { bytes, home: Some(home) }) if bytes.len() > INLINE_BYTES_MAX => stored(home),
        Token::Leaf(leaf) => TokenRecord::Bytes(leaf.bytes.clone()),
        Token::Stored(home) => stored(home),
        Token::Block(block) => stored(&block.home),
        Token::Received => TokenRecord::Received,
        Token::TimedOut => TokenRecord::TimedOut,
        Token::Pair => TokenRecord::Pair,
        Token::Again => TokenRecord::Again,
        Token::Done => TokenRecord::Done,
        Token::List(items) => TokenRecord::List(*items),
        Token::Succeeded => TokenRecord::Ok,
        Token::Failed(failure) => TokenRecord::Err(failure.clone()),
    }
}

fn stored(home: &Home) -> TokenRecord {
    let (kind, place, n, row) = match home {
        Home::Input => return TokenRecord::Input,
        Home::Result(Place { era: 0, node, indices }) if indices.is_empty() => return TokenRecord::Node(*node),
        Home::Result(place) => (PlaceKind::Result, place, 0, 0),
        Home::List(place, count) => (PlaceKind::List, place, *count, 0),
        Home::Item(place, row, index) => (PlaceKind::Item, place, *index, *row),
        Home::Branch(place, index) => (PlaceKind::Branch, place, *index, 0),
        Home::Branches(place, count) => (PlaceKind::Branches, place, *count, 0),
    };
    TokenRecord::At(PlaceRecord { kind, era: place.era, node: place.node, of: place.indices.to_vec(), n, row })
}

impl PlaceRecord {
    fn into_home(self) -> Home {
        let place = Place { era: self.era, node: self.node, indices: self.of.into() };
        match self.kind {
            PlaceKind::Result => Home::Result(place),
            PlaceKind::List => Home::List(place, self.n),
            PlaceKind::Item => Home::Item(place, self.row, self.n),
            PlaceKind::Branch => Home::Branch(place, self.n),
            PlaceKind::Branches => Home::Branches(place, self.n),
        }
    }
}

pub(super) fn into_value(records: Vec<TokenRecord>) -> Value {
    let token = |record| match record {
        TokenRecord::Bytes(bytes) => Token::Leaf(Leaf { bytes, home: None }),
        TokenRecord::Input => Token::Stored(Home::Input),
        TokenRecord::Node(node) => Token::Stored(Home::Result(Place { era: 0, node, indices: [].into() })),
        TokenRecord::Received => Token::Received,
        TokenRecord::TimedOut => Token::TimedOut,
        TokenRecord::Pair => Token::Pair,
        TokenRecord::Again => Token::Again,
        TokenRecord::Done => Token::Done,
        TokenRecord::List(items) => Token::List(items),
        TokenRecord::Ok => Token::Succeeded,
        TokenRecord::Err(failure) => Token::Failed(failure),
        TokenRecord::At(place) => Token::Stored(place.into_home()),
    };
    Value::from_tokens(records.into_iter().map(token).collect())
}
