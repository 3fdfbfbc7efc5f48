//! The flat program that the machine interprets.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Priority, RetryPolicy};
use crate::id::{DefinitionHash, NodePath};

/// A definition as a table of ops. A chain's ops stand in order; the op behind a chain's last says where to go next, so
/// that nothing about "inside" or "last" is special.
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

/// Names of nodes by index: of a registered definition, or of the manifest of one that is not.
pub trait Names: Send + Sync {
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
    /// Run branches side by side, each as a frame of its own, then go on behind them with what they gave.
    Fork(ForkOp),
    /// Run a branch for each item of a list, then go on behind them with what they gave.
    Map(MapOp),
    /// A branch of a fork or map ends here.
    BranchEnd {
        /// The node of the fork or map.
        node: u32,
    },
    /// Choose an arm by a key.
    Route(RouteOp),
    /// Go on elsewhere.
    Jump {
        /// The index of the op.
        to: u32,
    },
    /// A loop's body begins with the next op.
    Loop(LoopOp),
    /// A loop's body ends here.
    LoopEnd {
        /// The index of the loop's op.
        start: u32,
        /// The loop's node.
        node: u32,
    },
    /// The workflow's end: the value is its output.
    End,
}

/// Runs user code.
#[derive(Debug)]
pub struct TaskOp {
    pub(crate) node: u32,
    /// The task's index in the definition.
    pub(crate) task: u32,
    pub(crate) retry: RetryPolicy,
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: Priority,
    pub(crate) tags: Arc<[String]>,
    /// Whether what is behind it may start before its result is durable.
    pub(crate) deferred: bool,
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

/// Runs branches.
#[derive(Debug)]
pub struct ForkOp {
    pub(crate) node: u32,
    pub(crate) branches: Vec<Target>,
    /// The op behind the branches.
    pub(crate) next: u32,
}

/// Runs a branch for each item of a list.
#[derive(Debug)]
pub struct MapOp {
    /// The code that splits the list, and the node.
    pub(crate) split: TaskOp,
    /// Items from start to end at once.
    pub(crate) concurrency: Option<u32>,
    /// Whether a failed item is a result like any other.
    pub(crate) collects: bool,
    /// The op behind the body.
    pub(crate) next: u32,
}

/// Chooses an arm.
#[derive(Debug)]
pub struct RouteOp {
    /// The code that gives the key, and the node.
    pub(crate) decide: TaskOp,
    pub(crate) arms: Vec<Target>,
    /// Where to go with a key that has no arm.
    pub(crate) otherwise: Option<u32>,
}

/// A named chain within a node.
#[derive(Debug)]
pub struct Target {
    pub(crate) name: Arc<str>,
    /// The index of its first op.
    pub(crate) start: u32,
}

/// Repeats its body.
#[derive(Debug)]
pub struct LoopOp {
    pub(crate) node: u32,
    /// Most iterations.
    pub(crate) limit: Option<u64>,
    /// Whether the last value is the output when the limit is reached; else that is a failure.
    pub(crate) exits: bool,
    /// The signal of which none may be left buffered when the loop ends.
    pub(crate) drains: Option<Arc<str>>,
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
            Self::Delay { node, .. } | Self::BranchEnd { node } | Self::LoopEnd { node, .. } => Some(*node),
            Self::Wait(op) => Some(op.node),
            Self::Fork(op) => Some(op.node),
            Self::Map(op) => Some(op.split.node),
            Self::Route(op) => Some(op.decide.node),
            Self::Loop(op) => Some(op.node),
            Self::Jump { .. } | Self::End => None,
        }
    }

    /// The user code that runs here, if any.
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
    /// Where a key leads.
    pub(crate) fn arm(&self, key: &str) -> Option<u32> {
        self.arms.iter().find(|arm| &*arm.name == key).map(|arm| arm.start).or(self.otherwise)
    }
}
