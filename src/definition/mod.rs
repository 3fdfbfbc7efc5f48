//! WHAT to run: a workflow as its author writes it, compiled to a flat program.
//!
//! * [`builder`]: nodes are added one by one, types checked at compile time, then compiled ([`compile`]).
//! * [`handler`], [`deps`], [`context`]: how an async function becomes a task and gets what it asks for.
//! * [`options`], [`retry`], [`failure`]: how a task is run, and how it can fail.
//! * [`program`]: the table of ops the machine interprets; [`hash`] and [`manifest`] are made of it.
//!
//! Knows nothing of snapshots, stores or actors.

mod builder;
mod compile;
mod context;
mod deps;
mod failure;
mod handler;
mod hash;
mod manifest;
mod options;
mod program;
mod retry;
mod workflow;

pub use builder::{Builder, EmptyBuilder};
pub use compile::{BuildError, BuildErrors};
pub use context::TaskContext;
pub use deps::{Dep, Deps, MissingDep};
pub use failure::{AttemptFailure, BoxError, FailureKind, Permanent, RetryAfter};
pub use handler::{Extract, Handler, TaskScope};
pub use manifest::{Manifest, ManifestNode, NodeKind};
pub use options::{Priority, Task, TaskOptions, task};
pub use program::{Names, Node, Op, Program, TaskOp, WaitOp};
pub use retry::RetryPolicy;
pub use workflow::{Definition, SignalError, Workflow, WorkflowInfo};

pub(crate) use context::ContextParts;
pub(crate) use deps::list;
pub(crate) use workflow::SignalType;
