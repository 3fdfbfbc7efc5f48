//! What can be wrong with a definition.

use std::fmt;

use crate::id::IdError;
use crate::limits::{NESTING_MAX, NODES_MAX};

/// One thing that is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A workflow needs at least one node.
    #[error("workflow `{workflow}` has no nodes: add at least one")]
    Empty {
        /// The workflow.
        workflow: String,
    },
    /// A fork without branches, or a route without arms.
    #[error("`{node}` has no branches or arms: add at least one")]
    NoBranches {
        /// The node's path.
        node: String,
    },
    /// A branch of a fork, or the body of a loop or map, without nodes.
    #[error("`{chain}` has no nodes: add at least one")]
    EmptyChain {
        /// The path of the branch, or of the loop or map.
        chain: String,
    },
    /// Two nodes of one scope have the same id, or two branches or arms of one node.
    #[error("id `{id}` is used twice: ids are unique in their scope")]
    DuplicateNode {
        /// The path of the second one.
        id: String,
    },
    /// A name is not allowed.
    #[error("`{name}`: {error}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        error: IdError,
    },
    /// One signal name is used with two payload types.
    #[error("signal `{signal}` carries `{first}` at one node and `{second}` at another: one payload type per name")]
    SignalTypes {
        /// The signal's name.
        signal: String,
        /// The type it was first used with.
        first: &'static str,
        /// The other type.
        second: &'static str,
    },
    /// A route has no arm for some of its keys, and no default arm.
    #[error("route `{route}` has no arm for {}: add them, or a default arm with `otherwise`", .keys.join(", "))]
    MissingArms {
        /// The route's path.
        route: String,
        /// The keys without an arm.
        keys: Vec<String>,
    },
    /// An arm's key is none of the route's.
    #[error(
        "route `{route}` has an arm for `{key}`, which is none of its keys: remove it, or list it in `RouteKey::all`"
    )]
    OrphanArm {
        /// The route's path.
        route: String,
        /// The arm's key.
        key: String,
    },
    /// A loop that may not run at all.
    #[error("loop `{node}` has a limit of zero iterations: allow at least one")]
    ZeroIterations {
        /// The loop's path.
        node: String,
    },
    /// A loop that drains a signal that its body does not wait for.
    #[error("loop `{node}` drains signal `{signal}`, which nothing in its body waits for: wait for it there")]
    NothingDrains {
        /// The loop's path.
        node: String,
        /// The signal's name.
        signal: String,
    },
    /// A map none of whose items may run.
    #[error("map `{node}` has a concurrency of zero: allow at least one item")]
    ZeroConcurrency {
        /// The map's path.
        node: String,
    },
    /// Nodes are nested too deep.
    #[error("`{node}` is nested deeper than {NESTING_MAX} levels: flatten the workflow")]
    TooDeep {
        /// The first node that is too deep.
        node: String,
    },
    /// There are too many nodes.
    #[error("{nodes} nodes: at most {NODES_MAX} are allowed in one workflow")]
    TooManyNodes {
        /// How many there are.
        nodes: usize,
    },
    /// A node that another one was renamed to is not there.
    #[error("`{path}`, the new name of `{renamed}` in a take-over, is no node of this workflow")]
    UnknownNewName {
        /// The old path.
        renamed: String,
        /// The new path.
        path: String,
    },
}

/// Everything that is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildErrors(pub Vec<BuildError>);

impl fmt::Display for BuildErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for BuildErrors {}
