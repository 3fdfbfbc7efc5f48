//! Replaces the code of tasks, for tests of the workflow around them.

use std::any::{Any, TypeId, type_name};
use std::sync::Arc;

use super::compile::compile;
use super::draft::{About, ChainDraft, NodeDraft, NodeDraftKind};
use super::handler::ErasedTask;
use super::{Definition, Handler, NodeKind, Workflow};
use crate::codec::{Decode, Output};

/// Error of a task that cannot have this stub.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StubError {
    /// The workflow has no task at this path.
    #[error("workflow `{workflow}` has no task `{path}`, only: {}", .known.join(", "))]
    NoSuchTask {
        /// The workflow.
        workflow: String,
        /// The path given.
        path: String,
        /// The paths of its tasks.
        known: Vec<String>,
    },
    /// The input type of the stub is not that of the task.
    #[error("the stub of task `{path}` takes `{found}`: it must take `{expected}`")]
    Takes {
        /// The task.
        path: String,
        /// The input type of the task.
        expected: &'static str,
        /// The input type of the stub.
        found: &'static str,
    },
    /// The output type of the stub is not that of the task.
    #[error("the stub of task `{path}` returns `{found}`: it must return `{expected}`")]
    Gives {
        /// The task.
        path: String,
        /// The output type of the task.
        expected: &'static str,
        /// The output type of the stub.
        found: &'static str,
    },
}

/// The input type of a task with the code that reads it, and the output type.
pub(super) struct TaskTypes {
    decode: Box<dyn Any + Send + Sync>,
    takes: &'static str,
    gives: (TypeId, &'static str),
}

impl TaskTypes {
    pub(super) fn of<I: 'static, O: 'static>(decode: Decode<I>) -> Self {
        let gives = (TypeId::of::<O>(), type_name::<O>());
        Self { decode: Box::new(decode), takes: type_name::<I>(), gives }
    }

    fn stub<M, I, H>(&self, path: &str, stub: H) -> Result<ErasedTask, StubError>
    where
        H: Handler<M, I, Output: Output>,
        I: Send + 'static,
    {
        let path = || path.to_owned();
        let Some(decode) = self.decode.downcast_ref::<Decode<I>>() else {
            return Err(StubError::Takes { path: path(), expected: self.takes, found: type_name::<I>() });
        };
        if self.gives.0 != TypeId::of::<H::Output>() {
            return Err(StubError::Gives { path: path(), expected: self.gives.1, found: type_name::<H::Output>() });
        }
        Ok(ErasedTask::new(stub, decode.clone()))
    }
}

impl<I, O: 'static> Workflow<I, O> {
    /// Returns this workflow with `stub` run in place of the task at `path`, in tests: an async
    /// function like any task, or a [`Stub`](crate::testing::Stub). The definition, its hash and
    /// the task's options (retries, timeout) stay unchanged; only the stub's services are needed.
    /// The registered workflow is the one that runs: register the workflow with its stubs, or a
    /// start of it is refused.
    ///
    /// The path is that of [`TaskContext::node`](crate::TaskContext::node): ids from the outside
    /// in, with the names of branches and arms, as in `"pay/charge"`. All items of a map have the
    /// same path.
    ///
    /// # Errors
    /// [`StubError`] if there is no such task, or its types differ.
    pub fn with_stub<M, T, H>(&self, path: &str, stub: H) -> Result<Self, StubError>
    where
        H: Handler<M, T, Output: Output>,
        T: Send + 'static,
    {
        let definition = &self.definition;
        let mut drafts = definition.drafts.to_vec();
        let found = find(&mut drafts, path).and_then(|task| Some((task.types.clone()?, task)));
        let Some((types, task)) = found else {
            let tasks = definition.manifest.nodes.iter().filter(|node| node.kind == NodeKind::Task);
            let known = tasks.map(|node| node.path.to_string()).collect();
            return Err(StubError::NoSuchTask { workflow: definition.info.name.clone(), path: path.to_owned(), known });
        };
        *task = task.replaced_by(types.stub(path, stub)?);
        let about = About {
            info: (*definition.info).clone(),
            deadline: definition.program.deadline,
            upgrades_from: definition.upgrades_from.clone(),
        };
        let mut stubs = definition.stubs.clone();
        stubs.insert(path.to_owned());
        match compile(about, drafts) {
            Ok(definition) => {
                let definition = Arc::new(Definition { stubs, ..definition });
                Ok(Self { definition, ..self.clone() })
            }
            Err(errors) => unreachable!("the same nodes were compiled before: {errors}"),
        }
    }
}

/// Finds the task at a path below these nodes. Recursion is limited by the nesting limit.
fn find<'a>(drafts: &'a mut [NodeDraft], path: &str) -> Option<&'a mut ErasedTask> {
    drafts.iter_mut().find_map(|draft| {
        let below = path.strip_prefix(draft.id.as_str())?;
        match &mut draft.kind {
            NodeDraftKind::Task(task) if below.is_empty() => Some(task),
            NodeDraftKind::Loop { body, .. } | NodeDraftKind::Map { body, .. } => find(body, below.strip_prefix('/')?),
            NodeDraftKind::Child { nodes, .. } => find(Arc::make_mut(nodes), below.strip_prefix('/')?),
            NodeDraftKind::Fork { branches } => find_within(branches, below.strip_prefix('/')?),
            NodeDraftKind::Route { arms, otherwise, .. } => {
                find_within(arms.iter_mut().chain(otherwise), below.strip_prefix('/')?)
            }
            _ => None,
        }
    })
}

fn find_within<'a>(chains: impl IntoIterator<Item = &'a mut ChainDraft>, path: &str) -> Option<&'a mut ErasedTask> {
    chains.into_iter().find_map(|chain| {
        let below = path.strip_prefix(chain.name.as_str())?.strip_prefix('/')?;
        find(&mut chain.nodes, below)
    })
}
