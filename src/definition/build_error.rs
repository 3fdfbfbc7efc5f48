//! Errors of a definition.

use std::fmt;

use crate::id::IdError;
use crate::limits::{NESTING_MAX, NODES_MAX};

/// One error of a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The workflow has no nodes.
    #[error("workflow `{workflow}` has no nodes: add at least one")]
    Empty {
        /// The workflow.
        workflow: String,
    },
    /// A fork has no branches, or a route no arms.
    #[error("`{node}` has no branches or arms: add at least one")]
    NoBranches {
        /// The node's path.
        node: String,
    },
    /// A branch of a fork, or the body of a loop or map, has no nodes.
    #[error("`{chain}` has no nodes: add at least one")]
    EmptyChain {
        /// The path of the branch, or of the loop or map.
        chain: String,
    },
    /// Two nodes of one scope, or two branches or arms of one node, have the same id.
    #[error("id `{id}` is used twice: use ids that are unique in their scope")]
    DuplicateNode {
        /// The path of the second one.
        id: String,
    },
    /// A name is not allowed.
    #[error("`{name}`: {error}")]
    BadName {
        /// The name.
        name: String,
        /// The rule that the name breaks.
        error: IdError,
    },
    /// One signal name is used with two payload types.
    #[error("signal `{signal}` carries `{first}` at one node and `{second}` at another: use one payload type per name")]
    SignalTypes {
        /// The signal's name.
        signal: String,
        /// The type at its first use.
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
    /// An arm's key is not one of the route's keys.
    #[error("route `{route}` has an arm for `{key}`, which is not a key: remove it, or list it in `RouteKey::all`")]
    OrphanArm {
        /// The route's path.
        route: String,
        /// The arm's key.
        key: String,
    },
    /// A loop may not run at all.
    #[error("loop `{node}` has a limit of zero iterations: allow at least one")]
    ZeroIterations {
        /// The loop's path.
        node: String,
    },
    /// A loop drains a signal for which its body does not wait.
    #[error("loop `{node}` drains signal `{signal}`, but no node in its body waits for it: add a wait there")]
    NothingDrains {
        /// The loop's path.
        node: String,
        /// The signal's name.
        signal: String,
    },
    /// A map may not run any of its items.
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
    #[error("the workflow has {nodes} nodes: at most {NODES_MAX} are allowed")]
    TooManyNodes {
        /// The number of nodes found.
        nodes: usize,
    },
    /// The new path of a renamed node does not exist.
    #[error("an upgrade renames `{renamed}` to `{path}`, but the workflow has no such node: check the path")]
    UnknownNewName {
        /// The old path.
        renamed: String,
        /// The new path.
        path: String,
    },
}

/// All errors of a definition.
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
