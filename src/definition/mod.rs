//! Definitions: a workflow as its author writes it, compiled to a flat program.
//!
//! * [`builder`] adds nodes one by one, with types checked at compile time. [`fork`], [`route`],
//!   [`repeat`], [`map`] and [`child`] add nodes that contain chains. Nodes are kept as [`draft`]s,
//!   then compiled ([`compile`], [`build_error`]).
//! * [`handler`], [`deps`], [`context`] turn an async function into a task, and pass it its
//!   parameters.
//! * [`options`], [`retry`], [`failure`] define how a task runs, and how it can fail.
//! * [`upgrade`] names the older definitions that a newer one upgrades.
//! * `stub` (feature `testing`) replaces the code of a task.
//! * [`program`] is the table of ops that the machine interprets; [`hash`] and [`manifest`] are
//!   made from it, and [`mermaid`] draws the manifest.
//!
//! This module knows nothing of snapshots, stores or actors.

mod build_error;
mod builder;
mod child;
mod compile;
mod context;
mod deps;
mod draft;
mod failure;
mod fork;
mod handler;
mod hash;
mod manifest;
mod map;
mod mermaid;
mod options;
mod program;
mod repeat;
mod retry;
mod route;
#[cfg(feature = "testing")]
mod stub;
mod upgrade;
mod workflow;

pub use build_error::{BuildError, BuildErrors};
pub use builder::{Builder, WorkflowBuilder};
pub use context::TaskContext;
pub use deps::{Dep, Deps, MissingDep};
pub use failure::{AttemptFailure, BoxError, FailureKind, Permanent, RetryAfter, TaskFailure};
pub use fork::{Fork, Join, NamedFork};
pub use handler::{Extract, Handler, TaskScope};
pub use manifest::{Manifest, ManifestNode, NodeKind};
pub use map::Concurrency;
pub use options::{Checkpoint, Priority, Task, TaskOptions, task};
pub(crate) use program::NoNames;
pub use program::{ForkOp, LoopOp, MapOp, Node, NodeNames, Op, Program, RouteOp, Target, TaskOp, WaitOp};
pub use repeat::LoopLimit;
pub use retry::RetryPolicy;
pub use route::{Route, RouteKey};
#[cfg(feature = "testing")]
pub use stub::StubError;
pub(crate) use upgrade::Renames;
pub use upgrade::UpgradeFrom;
pub use workflow::{Definition, SignalError, Workflow, WorkflowInfo};

pub(crate) use context::ContextParts;
pub(crate) use deps::list;
pub(crate) use workflow::SignalType;
