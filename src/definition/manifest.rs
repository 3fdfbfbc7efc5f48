//! The record that the store keeps of a definition, so that tools can name and draw instances
//! without the user's code.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::program::NodeNames;
use crate::codec::decode_record;
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
    /// Branches side by side.
    Fork,
    /// One arm of several.
    Route,
    /// A body that is repeated.
    Loop,
    /// A branch for each item of a list.
    Map,
    /// Another workflow.
    Child,
}

/// A node as the manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestNode {
    /// The node's path.
    pub path: NodePath,
    /// The node's kind.
    pub kind: NodeKind,
    /// The signal it waits for, or that a loop drains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Options that change the stored form: whether a wait keeps its input or has a timeout, or a
    /// map collects failures.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub form: String,
    /// The index of the node that contains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<u32>,
    /// The branch or arm of the containing node that it is in, if that node has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The node's own branches or arms, in order, the default arm last. An arm may have no nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<String>,
}

/// Names, kinds and edges of a definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The workflow's name.
    pub name: String,
    /// The workflow's version.
    pub version: String,
    /// Its nodes, in program order.
    pub nodes: Vec<ManifestNode>,
    /// Pairs of node indices: a node and the next one in its chain, or a node and the first one of
    /// a chain within it.
    pub edges: Vec<(u32, u32)>,
}

impl NodeNames for Manifest {
    fn path(&self, node: u32) -> Option<&NodePath> {
        self.nodes.get(node as usize).map(|node| &node.path)
    }
}

impl Manifest {
    /// Returns a node and the nodes around it, innermost first.
    pub(crate) fn around(&self, node: u32) -> impl Iterator<Item = &ManifestNode> {
        let first = self.nodes.get(node as usize);
        // A stored manifest may be damaged, so the walk is limited by the number of nodes.
        let outer = |node: &&ManifestNode| {
            let within = node.within? as usize;
            self.nodes.get(within).filter(|outer| outer.path != node.path)
        };
        std::iter::successors(first, outer).take(self.nodes.len())
    }

    /// Returns the maps around a node that are within loops, whose lists are therefore written
    /// again and again. Each comes with the number of maps around it, outermost first.
    pub(crate) fn lists_around(&self, path: &str) -> Vec<(usize, String)> {
        let Some(node) = self.nodes.iter().position(|node| node.path.as_str() == path) else { return Vec::new() };
        let around: Vec<_> = self.around(u32::try_from(node).unwrap_or(u32::MAX)).skip(1).collect();
        let (mut maps, mut is_in_loop, mut lists) = (0, false, Vec::new());
        for node in around.into_iter().rev() {
            is_in_loop |= node.kind == NodeKind::Loop;
            if node.kind == NodeKind::Map {
                if is_in_loop {
                    lists.push((maps, node.path.to_string()));
                }
                maps += 1;
            }
        }
        lists
    }

    /// Encodes the manifest for [`Store::save_manifest`](crate::Store::save_manifest): MessagePack
    /// with field names.
    #[expect(clippy::missing_panics_doc, reason = "names, numbers and lists always encode")]
    pub fn encode(&self) -> Bytes {
        match rmp_serde::to_vec_named(self) {
            Ok(bytes) => bytes.into(),
            Err(error) => panic!("a manifest does not encode: {error}"),
        }
    }

    /// Decodes a manifest from [`Store::manifest`](crate::Store::manifest); none if it cannot be
    /// read.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        decode_record(bytes)
    }
}
