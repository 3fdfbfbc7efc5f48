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
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowKey {
    /// The instance's input, if it is too large for the head.
    Input,
    /// The result of a node, at these indices of the maps around it.
    Result(NodePath, Arc<[u32]>),
    /// A signal that is buffered. Earlier versions kept the ids of consumed ones here too.
    Signal(u64),
    /// The id of a signal that was consumed and is remembered, by its number: so that the oldest can be forgotten.
    SignalId(u64),
    /// The number of the same, by its id: so that a repeated signal is known without reading all others.
    SignalNumber(Arc<str>),
    /// Where a branch stands that has not ended.
    Frame(FrameId),
    /// What a branch of a fork or map gave that has ended.
    Branch(NodePath, Arc<[u32]>, u32),
    /// A piece of the list that a map was given, so that one item can be read without all others.
    List(NodePath, Arc<[u32]>, u32),
}

impl RowKey {
    /// What every buffered signal's key starts with.
    pub const SIGNALS: &'static [u8] = &[3];
    /// What every frame row's key starts with.
    pub const FRAMES: &'static [u8] = &[4];

    /// The result of a node that is within no map.
    pub fn result(path: NodePath) -> Self {
        Self::Result(path, [].into())
    }

    /// What the rows of every branch of a fork or map start with.
    pub fn branches(path: &NodePath, indices: &[u32]) -> Vec<u8> {
        placed(5, path, indices)
    }

    /// What the rows of the whole list of a map start with.
    pub fn lists(path: &NodePath, indices: &[u32]) -> Vec<u8> {
        placed(6, path, indices)
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
        }
    }

    /// The kind of record that stands under a key of these bytes; none if no version knows of such rows.
    pub fn kind_of(key: &[u8]) -> Option<Kind> {
        match key.first()? {
            1 => Some(Kind::Input),
            2 => Some(Kind::Result),
            3 | 7 | 8 => Some(Kind::Signal),
            4 => Some(Kind::Frame),
            5 => Some(Kind::Branch),
            6 => Some(Kind::List),
            _ => None,
        }
    }

    /// The key's bytes, to be prefixed with the run's.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Input => vec![1],
            Self::Result(path, indices) => placed(2, path, indices),
            Self::Signal(number) => numbered(Self::SIGNALS, *number),
            Self::SignalId(number) => numbered(&[7], *number),
            Self::SignalNumber(id) => [&[8], id.as_bytes()].concat(),
            Self::Frame(number) => numbered(Self::FRAMES, *number),
            Self::Branch(path, indices, index) => within(placed(5, path, indices), *index),
            Self::List(path, indices, number) => within(placed(6, path, indices), *number),
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

fn placed(tag: u8, path: &NodePath, indices: &[u32]) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + path.as_str().len() + 4 * indices.len() + 4);
    key.push(tag);
    key.extend_from_slice(path.as_str().as_bytes());
    key.push(0);
    for index in indices {
        key.extend_from_slice(&index.to_be_bytes());
    }
    key
}
