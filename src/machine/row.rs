//! The rows of a run beside its head.

use super::Kind;
use crate::id::NodePath;

/// A row of a run.
///
/// ```text
/// Input      0x01
/// Result     0x02  node path bytes  0x00  map indices, 8 bytes each, big-endian
/// Signal     0x03  number, 8 bytes, big-endian
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowKey {
    /// The instance's input, if it is too large for the head.
    Input,
    /// The result of a node.
    Result(NodePath),
    /// A signal that was accepted: buffered, or only remembered by its id.
    Signal(u64),
}

impl RowKey {
    /// What every signal row's key starts with.
    pub const SIGNALS: &'static [u8] = &[3];

    /// The kind of record the row holds.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Input => Kind::Input,
            Self::Result(_) => Kind::Result,
            Self::Signal(_) => Kind::Signal,
        }
    }

    /// The key's bytes, to be prefixed with the run's.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Input => vec![1],
            Self::Result(path) => {
                let mut key = Vec::with_capacity(2 + path.as_str().len());
                key.push(2);
                key.extend_from_slice(path.as_str().as_bytes());
                key.push(0);
                key
            }
            Self::Signal(number) => {
                let mut key = Vec::with_capacity(9);
                key.push(3);
                key.extend_from_slice(&number.to_be_bytes());
                key
            }
        }
    }
}
