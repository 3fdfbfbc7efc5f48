//! The rows of a run beside its head.

use std::sync::Arc;

use super::Kind;
use super::frame::FrameId;
use crate::id::NodePath;

/// A row of a run. Numbers are big-endian, so that rows of a kind come in their order.
///
/// ```text
/// Input      0x01
/// Result     0x02  node path bytes  0x00  map indices, 4 bytes each
/// Signal     0x03  number, 8 bytes
/// Frame      0x04  number, 8 bytes
/// Branch     0x05  node path bytes  0x00  map indices, 4 bytes each  index of the branch, 4 bytes
/// List       0x06  node path bytes  0x00  map indices, 4 bytes each  number of the row, 4 bytes
/// Id         0x07  number, 8 bytes
/// Number     0x08  signal id bytes
/// Era        0x09  number, 4 bytes
/// later      0x0a  era, 4 bytes, from 1  a Result, Branch or List as above
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowKey {
    /// The instance's input, if it is too large for the head.
    Input,
    /// The result of a node.
    Result(RowPlace),
    /// A signal that is buffered. Earlier versions kept the ids of consumed ones here too.
    Signal(u64),
    /// The id of a signal that was consumed and is remembered, by its number: so that the oldest can be forgotten.
    SignalId(u64),
    /// The number of the same, by its id: so that a repeated signal is known without reading all others.
    SignalNumber(Arc<str>),
    /// Where a branch stands that has not ended.
    Frame(FrameId),
    /// What a branch of a fork or map gave that has ended.
    Branch(RowPlace, u32),
    /// A piece of the list that a map was given, so that one item can be read without all others.
    List(RowPlace, u32),
    /// Which definition the run had in an era that a take-over ended, and how names changed then.
    Era(u32),
}

/// A node and the index in each map around it, outermost first, as rows are found by them. A node that took the path of
/// another one at a take-over is in a later era, so that the rows of each stay its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowPlace {
    /// The era of the run: how many times it had been taken over before.
    pub era: u32,
    /// The node's path in the definition of that era.
    pub path: NodePath,
    /// The map indices.
    pub indices: Arc<[u32]>,
}

impl RowPlace {
    /// A place in the first era of a run.
    pub fn new(path: NodePath, indices: impl Into<Arc<[u32]>>) -> Self {
        Self { era: 0, path, indices: indices.into() }
    }

    fn key(&self, tag: u8) -> Vec<u8> {
        let mut key = Vec::with_capacity(7 + self.path.as_str().len() + 4 * self.indices.len() + 4);
        if self.era > 0 {
            key.push(LATER);
            key.extend_from_slice(&self.era.to_be_bytes());
        }
        key.push(tag);
        key.extend_from_slice(self.path.as_str().as_bytes());
        key.push(0);
        for index in &*self.indices {
            key.extend_from_slice(&index.to_be_bytes());
        }
        key
    }
}

const RESULT: u8 = 2;
const BRANCH: u8 = 5;
const LIST: u8 = 6;
/// What stands before the key of a row of a later era than the first.
const LATER: u8 = 10;

impl RowKey {
    /// What every buffered signal's key starts with.
    pub const SIGNALS: &'static [u8] = &[3];
    /// What every frame row's key starts with.
    pub const FRAMES: &'static [u8] = &[4];

    /// The result of a node that is within no map, in the first era of its run.
    pub fn result(path: NodePath) -> Self {
        Self::Result(RowPlace::new(path, []))
    }

    /// What the rows of every branch of a fork or map start with.
    pub fn branches(place: &RowPlace) -> Vec<u8> {
        place.key(BRANCH)
    }

    /// What the rows of the whole list of a map start with.
    pub fn lists(place: &RowPlace) -> Vec<u8> {
        place.key(LIST)
    }

    /// The kind of record the row holds.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Input => Kind::Input,
            Self::Result(..) => Kind::Result,
            Self::Signal(_) | Self::SignalId(_) | Self::SignalNumber(_) => Kind::Signal,
            Self::Frame(_) => Kind::Frame,
            Self::Branch(..) => Kind::Branch,
            Self::List(..) => Kind::List,
            Self::Era(_) => Kind::Era,
        }
    }

    /// The kind of record that stands under a key of these bytes; none if no version knows of such rows.
    pub fn kind_of(key: &[u8]) -> Option<Kind> {
        let tag = *key.first()?;
        match if tag == LATER { *key.get(5)? } else { tag } {
            RESULT => Some(Kind::Result),
            BRANCH => Some(Kind::Branch),
            LIST => Some(Kind::List),
            _ if tag == LATER => None,
            1 => Some(Kind::Input),
            3 | 7 | 8 => Some(Kind::Signal),
            4 => Some(Kind::Frame),
            9 => Some(Kind::Era),
            _ => None,
        }
    }

    /// The key's bytes, to be prefixed with the run's.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Input => vec![1],
            Self::Result(place) => place.key(RESULT),
            Self::Signal(number) => numbered(Self::SIGNALS, *number),
            Self::SignalId(number) => numbered(&[7], *number),
            Self::SignalNumber(id) => [&[8], id.as_bytes()].concat(),
            Self::Frame(number) => numbered(Self::FRAMES, *number),
            Self::Branch(place, index) => within(place.key(BRANCH), *index),
            Self::List(place, number) => within(place.key(LIST), *number),
            Self::Era(number) => within(vec![9], *number),
        }
    }
}

fn numbered(prefix: &[u8], number: u64) -> Vec<u8> {
    [prefix, &number.to_be_bytes()].concat()
}

fn within(mut key: Vec<u8>, index: u32) -> Vec<u8> {
    key.extend_from_slice(&index.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Method: one of each, in the first era and a later one.
    #[test]
    fn the_kind_of_a_row_is_told_by_its_key() {
        let eras = [0, 1].map(|era| RowPlace { era, ..RowPlace::new(NodePath::new("a/b"), [3, 2]) });
        let placed = eras.into_iter().flat_map(|place| {
            let (branch, list) = (RowKey::Branch(place.clone(), 7), RowKey::List(place.clone(), 7));
            [RowKey::Result(place), branch, list]
        });
        let signals = [RowKey::Signal(1), RowKey::SignalId(1), RowKey::SignalNumber("one".into())];
        let others = [RowKey::Input, RowKey::Frame(1), RowKey::Era(1)];
        let keys: Vec<_> = placed.chain(signals).chain(others).collect();
        for key in &keys {
            assert_eq!(RowKey::kind_of(&key.to_bytes()), Some(key.kind()), "{key:?}");
        }
        let bytes: std::collections::HashSet<_> = keys.iter().map(RowKey::to_bytes).collect();
        assert_eq!(bytes.len(), keys.len());
        for unknown in
            [&[][..], &[11], &[10], &[10, 0, 0, 0, 1], &[10, 0, 0, 0, 1, 4], &[10, 0, 0, 0, 1, 10, 0, 0, 0, 1, 2]]
        {
            assert_eq!(RowKey::kind_of(unknown), None, "{unknown:?}");
        }
    }
}
