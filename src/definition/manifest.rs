//! What the store keeps of a definition, so that tools can name and draw instances without the user's code.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::WorkflowInfo;
use super::program::{Names, Node, Op};
use crate::id::NodePath;

/// The kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NodeKind {
    /// User code.
    Task,
    /// A pause of a set length.
    Delay,
    /// A wait for a signal.
    Signal,
}

/// A node as the manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestNode {
    /// Its place.
    pub path: NodePath,
    /// Its kind.
    pub kind: NodeKind,
    /// The signal it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// Names, kinds and edges of a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The workflow's name.
    pub name: String,
    /// The workflow's version.
    pub version: String,
    /// Its nodes, in program order.
    pub nodes: Vec<ManifestNode>,
    /// Which node follows which, by index.
    pub edges: Vec<(u32, u32)>,
}

impl Names for Manifest {
    fn path(&self, node: u32) -> Option<&NodePath> {
        self.nodes.get(node as usize).map(|node| &node.path)
    }
}

impl Manifest {
    /// The manifest as stored: MessagePack with field names.
    pub(crate) fn encode(&self) -> Bytes {
        match rmp_serde::to_vec_named(self) {
            Ok(bytes) => bytes.into(),
            Err(error) => panic!("a manifest of ours does not encode: {error}"),
        }
    }

    /// Reads a stored manifest; one that cannot be read names nothing.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok()
    }

    pub(super) fn new(info: &WorkflowInfo, ops: &[Op], nodes: &[Node]) -> Self {
        let path = |node: u32| nodes.get(node as usize).map_or_else(|| NodePath::new(""), |node| node.path.clone());
        let describe = |op: &Op| match op {
            Op::Task(op) => Some(ManifestNode { path: path(op.node), kind: NodeKind::Task, signal: None }),
            Op::Delay { node, .. } => Some(ManifestNode { path: path(*node), kind: NodeKind::Delay, signal: None }),
            Op::Wait(op) => {
                Some(ManifestNode { path: path(op.node), kind: NodeKind::Signal, signal: Some(op.signal.to_string()) })
            }
            Op::End => None,
        };
        let edges = ops.windows(2).filter_map(|pair| match pair {
            [from, to] => Some((from.node()?, to.node()?)),
            _ => None,
        });
        Self {
            name: info.name().to_owned(),
            version: info.version().to_owned(),
            nodes: ops.iter().filter_map(describe).collect(),
            edges: edges.collect(),
        }
    }
}
