//! The flat program that the machine interprets.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Priority, RetryPolicy};
use crate::id::{DefinitionHash, NodePath};

/// A definition as a table of ops. A chain's ops stand in order; the op after a chain's last says where to go next, so
/// that nothing about "inside" or "last" is special.
#[derive(Debug)]
pub struct Program {
    pub(crate) hash: DefinitionHash,
    pub(crate) ops: Vec<Op>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) signals: HashSet<Arc<str>>,
    pub(crate) deadline: Option<Duration>,
}

/// A place in the definition.
#[derive(Debug)]
pub struct Node {
    pub(crate) path: NodePath,
}

/// Names of nodes by index: of a registered definition, or of the manifest of one that is not.
pub trait Names {
    /// A node's path.
    fn path(&self, node: u32) -> Option<&NodePath>;
}

impl Names for Program {
    fn path(&self, node: u32) -> Option<&NodePath> {
        self.nodes.get(node as usize).map(|node| &node.path)
    }
}

/// One step of the program.
#[derive(Debug)]
pub enum Op {
    /// Run a task, then go on with the next op.
    Task(TaskOp),
    /// Park for a while, then go on with the next op.
    Delay {
        /// The node's index.
        node: u32,
        /// How long.
        duration: Duration,
    },
    /// Park until a signal comes, then go on with the next op.
    Wait(WaitOp),
    /// The workflow's end: the value is its output.
    End,
}

/// Runs a task.
#[derive(Debug)]
pub struct TaskOp {
    pub(crate) node: u32,
    /// The task's index in the definition.
    pub(crate) task: u32,
    pub(crate) retry: RetryPolicy,
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: Priority,
    pub(crate) tags: Arc<[String]>,
}

/// Waits for a signal.
#[derive(Debug)]
pub struct WaitOp {
    pub(crate) node: u32,
    pub(crate) signal: Arc<str>,
    pub(crate) timeout: Option<Duration>,
    /// Whether what flowed in goes on beside the payload.
    pub(crate) keeps_input: bool,
}

impl Program {
    /// What the definition is recognised by.
    pub fn hash(&self) -> DefinitionHash {
        self.hash
    }

    /// The op at a position.
    pub fn op(&self, position: u32) -> Option<&Op> {
        self.ops.get(position as usize)
    }

    /// The declared signal of this name.
    pub fn signal_named(&self, name: &str) -> Option<&Arc<str>> {
        self.signals.get(name)
    }
}

impl Op {
    /// The node this op belongs to.
    pub fn node(&self) -> Option<u32> {
        match self {
            Self::Task(op) => Some(op.node),
            Self::Delay { node, .. } => Some(*node),
            Self::Wait(op) => Some(op.node),
            Self::End => None,
        }
    }
}
