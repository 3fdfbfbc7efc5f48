//! The flat program that the machine interprets.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Priority, RetryPolicy};
use crate::id::{DefinitionHash, NodePath};

/// A definition as a table of ops. The ops of a chain are in order; the op after the last one says
/// where to continue, so that neither being nested nor being last needs a special case.
///
/// ```text
/// chain    op  op  ..  End
/// fork     Fork  [ branch..  BranchEnd ]*     next
/// route    Route  [ arm..  Jump(next) ]*      next
/// loop     Loop  body..  LoopEnd              next
/// map      Map  body..  BranchEnd             next
/// child    its ops, in place
/// ```
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

/// Names of nodes by index: of a registered definition, or of the manifest of one that is not
/// registered.
pub trait NodeNames: Send + Sync {
    /// Returns a node's path.
    fn path(&self, node: u32) -> Option<&NodePath>;
}

/// The names of a definition that is neither registered nor has a manifest in the store: none.
pub(crate) struct NoNames;

impl NodeNames for NoNames {
    fn path(&self, _node: u32) -> Option<&NodePath> {
        None
    }
}

impl NodeNames for Program {
    fn path(&self, node: u32) -> Option<&NodePath> {
        self.nodes.get(node as usize).map(|node| &node.path)
    }
}

/// One step of the program.
#[derive(Debug)]
pub enum Op {
    /// A task, followed by the next op.
    Task(TaskOp),
    /// A pause of a set duration, followed by the next op.
    Delay {
        /// The node's index.
        node: u32,
        /// The duration.
        duration: Duration,
    },
    /// A wait for a signal, followed by the next op.
    Wait(WaitOp),
    /// Branches side by side, each as a frame of its own. The run continues after them with their
    /// results.
    Fork(ForkOp),
    /// A branch for each item of a list. The run continues after them with their results.
    Map(MapOp),
    /// The end of a branch of a fork or map.
    BranchEnd {
        /// The node of the fork or map.
        node: u32,
    },
    /// A choice of an arm by a key.
    Route(RouteOp),
    /// A jump to another op.
    Jump {
        /// The index of the op.
        to: u32,
    },
    /// The start of a loop, followed by its body.
    Loop(LoopOp),
    /// The end of a loop's body.
    LoopEnd {
        /// The index of the loop's op.
        start: u32,
        /// The loop's node.
        node: u32,
    },
    /// The end of the workflow: the value is its output.
    End,
}

/// An op that runs user code.
#[derive(Debug)]
pub struct TaskOp {
    pub(crate) node: u32,
    /// The task's index in the definition.
    pub(crate) task: u32,
    pub(crate) retry: RetryPolicy,
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: Priority,
    pub(crate) tags: Arc<[String]>,
    /// True if the next op may start before the result of this one is durable.
    pub(crate) deferred: bool,
}

/// An op that waits for a signal.
#[derive(Debug)]
pub struct WaitOp {
    pub(crate) node: u32,
    pub(crate) signal: Arc<str>,
    pub(crate) timeout: Option<Duration>,
    /// True if the input is passed on together with the payload.
    pub(crate) keeps_input: bool,
}

/// An op that runs branches.
#[derive(Debug)]
pub struct ForkOp {
    pub(crate) node: u32,
    pub(crate) branches: Vec<Target>,
    /// The op after the branches.
    pub(crate) next: u32,
}

/// An op that runs a branch for each item of a list.
#[derive(Debug)]
pub struct MapOp {
    /// The code that splits the list, and the node.
    pub(crate) split: TaskOp,
    /// Most items in progress at once.
    pub(crate) concurrency: Option<u32>,
    /// True if a failed item counts as a result.
    pub(crate) collects: bool,
    /// The op after the body.
    pub(crate) next: u32,
}

/// An op that chooses an arm.
#[derive(Debug)]
pub struct RouteOp {
    /// The code that returns the key, and the node.
    pub(crate) decide: TaskOp,
    pub(crate) arms: Vec<Target>,
    /// The op for a key that has no arm.
    pub(crate) otherwise: Option<u32>,
}

/// A named chain within a node.
#[derive(Debug)]
pub struct Target {
    pub(crate) name: Arc<str>,
    /// The index of its first op.
    pub(crate) start: u32,
}

/// An op that repeats its body.
#[derive(Debug)]
pub struct LoopOp {
    pub(crate) node: u32,
    /// Most iterations.
    pub(crate) limit: Option<u64>,
    /// True if the last value is the output when the limit is reached; otherwise the loop fails
    /// then.
    pub(crate) exits: bool,
    /// The signal of which none may be left in the buffer when the loop ends.
    pub(crate) drains: Option<Arc<str>>,
}

impl Program {
    /// Returns the hash that identifies the definition.
    pub fn hash(&self) -> DefinitionHash {
        self.hash
    }

    /// Returns the op at a position.
    pub fn op(&self, position: u32) -> Option<&Op> {
        self.ops.get(position as usize)
    }

    /// Returns the declared signal of this name.
    pub fn signal_named(&self, name: &str) -> Option<&Arc<str>> {
        self.signals.get(name)
    }
}

impl Op {
    /// Returns the node that this op belongs to.
    pub fn node(&self) -> Option<u32> {
        match self {
            Self::Task(op) => Some(op.node),
            Self::Delay { node, .. } | Self::BranchEnd { node } | Self::LoopEnd { node, .. } => Some(*node),
            Self::Wait(op) => Some(op.node),
            Self::Fork(op) => Some(op.node),
            Self::Map(op) => Some(op.split.node),
            Self::Route(op) => Some(op.decide.node),
            Self::Loop(op) => Some(op.node),
            Self::Jump { .. } | Self::End => None,
        }
    }

    /// Returns the user code that this op runs, if any.
    pub fn code(&self) -> Option<&TaskOp> {
        match self {
            Self::Task(op) => Some(op),
            Self::Map(op) => Some(&op.split),
            Self::Route(op) => Some(&op.decide),
            _ => None,
        }
    }
}

impl RouteOp {
    /// Returns the op that a key leads to.
    pub(crate) fn arm(&self, key: &str) -> Option<u32> {
        self.arms.iter().find(|arm| &*arm.name == key).map(|arm| arm.start).or(self.otherwise)
    }
}
