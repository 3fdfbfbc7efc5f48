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
    /// A buffered signal. Earlier versions kept the ids of consumed signals here, too.
    Signal(u64),
    /// The id of a consumed signal that is remembered, by its number, so that the oldest can be
    /// forgotten.
    SignalId(u64),
    /// The number of a consumed signal that is remembered, by its id, so that a repeated signal is
    /// recognized without reading all others.
    SignalNumber(Arc<str>),
    /// The state of a branch that has not ended.
    Frame(FrameId),
    /// The result of a branch of a fork or map that has ended.
    Branch(RowPlace, u32),
    /// A piece of the list that a map was given, so that one item can be read without all others.
    List(RowPlace, u32),
    /// The definition that the run had in an era that an upgrade ended, and how names changed then.
    Era(u32),
}

/// The row address of a node, with the index in each enclosing map, outermost first. After an
/// upgrade, a node that has the path of a former node is in a later era, so that the two never
/// share rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowPlace {
    /// The era of the run: how many times it had been upgraded before.
    pub era: u32,
    /// The node's path in the definition of that era.
    pub path: NodePath,
    /// The map indices.
    pub indices: Arc<[u32]>,
}

impl RowPlace {
    /// Returns a place in the first era of a run.
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
/// The prefix of row keys in eras after the first.
const LATER: u8 = 10;

impl RowKey {
    /// The prefix of the keys of buffered signals.
    pub const SIGNALS: &'static [u8] = &[3];
    /// The prefix of the keys of frames.
    pub const FRAMES: &'static [u8] = &[4];

    /// Returns the key for the result of a node that is within no map, in the first era of its run.
    pub fn result(path: NodePath) -> Self {
        Self::Result(RowPlace::new(path, []))
    }

    /// Returns the key prefix of the rows of all branches of a fork or map.
    pub fn branches(place: &RowPlace) -> Vec<u8> {
        place.key(BRANCH)
    }

    /// Returns the key prefix of the rows of a map's whole list.
    pub fn lists(place: &RowPlace) -> Vec<u8> {
        place.key(LIST)
    }

    /// Returns the kind of record that the row holds.
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

    /// Returns the kind of record under a key of these bytes; `None` if no version knows such rows.
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

    /// Returns the key's bytes, without the prefix of the run.
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

    /// Method: one key of each kind, in the first era and in a later one.
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
