//! Values of the naive interpreter: a tree.

use everstep::bytes::Bytes;
use everstep::{Codec, Leaf, SignalOutcome, TaskFailure, Token, Value};
use serde::Serialize;

use crate::plan::Reads;

/// A value. `Text` and `Carried` are one payload each, the others structures of the machine's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Val {
    Text(String),
    /// A typed structure as one payload: the result of a task, or the input of a child flow.
    Carried(Box<Val>),
    Received(Box<Val>),
    TimedOut,
    Pair(Box<Val>, Box<Val>),
    Again(Box<Val>),
    Done(Box<Val>),
    List(Vec<Val>),
    Good(Box<Val>),
    Bad(TaskFailure),
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    Codec::MessagePack.encode(value, usize::MAX).unwrap()
}

impl Val {
    pub(crate) fn carried(self) -> Self {
        match self {
            Self::Carried(_) => self,
            plain => Self::Carried(Box::new(plain)),
        }
    }

    /// Returns the text that decides a route.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Carried(inner) | Self::Received(inner) | Self::Pair(inner, _) => inner.text(),
            Self::List(items) => items.first().map_or("", Val::text),
            _ => "",
        }
    }

    /// Returns the items of a list, in whatever form it came.
    pub(crate) fn items(&self) -> Vec<Val> {
        match self {
            Self::Carried(list) => list.items(),
            Self::List(items) => items.clone(),
            other => unreachable!("{other:?} is no list"),
        }
    }

    fn payload(&self) -> Bytes {
        match self {
            Self::Text(text) => encode(text),
            Self::Received(inner) => encode(&SignalOutcome::Received(inner.text())),
            Self::TimedOut => encode(&SignalOutcome::<String>::TimedOut),
            Self::Pair(kept, outcome) => match &**outcome {
                Self::TimedOut => encode(&(kept.text(), SignalOutcome::<String>::TimedOut)),
                outcome => encode(&(kept.text(), SignalOutcome::Received(outcome.text()))),
            },
            Self::List(items) => encode(&items.iter().map(Val::text).collect::<Vec<_>>()),
            other => unreachable!("{other:?} is never one payload"),
        }
    }

    fn put(&self, tokens: &mut Vec<Token>) {
        let leaf = |bytes| Token::Leaf(Leaf { bytes, home: None });
        match self {
            Self::Text(_) => tokens.push(leaf(self.payload())),
            Self::Carried(inner) => tokens.push(leaf(inner.payload())),
            Self::TimedOut => tokens.push(Token::TimedOut),
            Self::Bad(failure) => tokens.push(Token::Failed(encode(failure))),
            Self::Received(inner) | Self::Again(inner) | Self::Done(inner) | Self::Good(inner) => {
                tokens.push(match self {
                    Self::Received(_) => Token::Received,
                    Self::Again(_) => Token::Again,
                    Self::Done(_) => Token::Done,
                    _ => Token::Succeeded,
                });
                inner.put(tokens);
            }
            Self::Pair(left, right) => {
                tokens.push(Token::Pair);
                left.put(tokens);
                right.put(tokens);
            }
            Self::List(items) => {
                tokens.push(Token::List(u32::try_from(items.len()).unwrap()));
                for item in items {
                    item.put(tokens);
                }
            }
        }
    }

    /// Returns the value's tokens in the machine, with every payload read.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        let mut tokens = Vec::new();
        self.put(&mut tokens);
        tokens
    }

    pub(crate) fn bytes(&self) -> usize {
        let size = |token: &Token| match token {
            Token::Leaf(leaf) => leaf.bytes.len(),
            Token::Failed(failure) => failure.len(),
            _ => 0,
        };
        self.tokens().iter().map(size).sum()
    }

    /// Returns the debug text of user code's input.
    pub(crate) fn shown(&self, reads: &Reads) -> String {
        match (self, reads) {
            (Self::List(branches), Reads::Named(names)) => {
                let each = names.iter().zip(branches).map(|(name, gave)| format!("{name:?}: {}", gave.show()));
                format!("{{{}}}", each.collect::<Vec<_>>().join(", "))
            }
            (Self::List(branches), Reads::Tuple) => {
                format!("({})", branches.iter().map(Val::show).collect::<Vec<_>>().join(", "))
            }
            _ => self.show(),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Carried(inner) => inner.show(),
            Self::Received(inner) => format!("Received({})", inner.show()),
            Self::TimedOut => "TimedOut".into(),
            Self::Pair(left, right) => format!("({}, {})", left.show(), right.show()),
            Self::List(items) => format!("[{}]", items.iter().map(Val::show).collect::<Vec<_>>().join(", ")),
            Self::Good(inner) => format!("Ok({})", inner.show()),
            Self::Bad(failure) => format!("Err({failure:?})"),
            Self::Again(_) | Self::Done(_) => unreachable!("no task reads a loop's result"),
        }
    }
}

/// Returns the tokens of a machine's value, wherever they are stored.
pub(crate) fn tokens(value: &Value) -> Vec<Token> {
    fn put(tokens: &[Token], flat: &mut Vec<Token>) {
        for token in tokens {
            match token {
                Token::Block(block) => put(&block.tokens, flat),
                Token::Leaf(leaf) => flat.push(Token::Leaf(Leaf { bytes: leaf.bytes.clone(), home: None })),
                other => flat.push(other.clone()),
            }
        }
    }
    let mut flat = Vec::new();
    put(value.tokens(), &mut flat);
    flat
}
