//! From nodes as they were added to a checked, flat program.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::handler::ErasedTask;
use super::hash::hash;
use super::program::{Node, Op, Program, TaskOp, WaitOp};
use super::workflow::{Definition, SignalType};
use super::{Manifest, WorkflowInfo};
use crate::id::{IdError, NodePath, check_name};
use crate::limits::NODES_MAX;

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
    /// Two nodes of one scope have the same id.
    #[error("node id `{id}` is used twice: ids are unique in their scope")]
    DuplicateNode {
        /// The id.
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
    /// There are too many nodes.
    #[error("{nodes} nodes: at most {NODES_MAX} are allowed in one workflow")]
    TooManyNodes {
        /// How many there are.
        nodes: usize,
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

/// A node as it was added.
pub(super) struct NodeDraft {
    pub(super) id: String,
    pub(super) kind: NodeDraftKind,
}

pub(super) enum NodeDraftKind {
    Task(ErasedTask),
    Delay(Duration),
    Wait { signal: String, payload: SignalType, timeout: Option<Duration>, keeps_input: bool },
}

pub(super) fn compile(
    info: WorkflowInfo,
    deadline: Option<Duration>,
    drafts: Vec<NodeDraft>,
) -> Result<Definition, BuildErrors> {
    let mut compiler = Compiler::default();
    compiler.check_name("workflow name", &info.name);
    if drafts.is_empty() {
        compiler.errors.push(BuildError::Empty { workflow: info.name.clone() });
    }
    compiler.chain(drafts);
    compiler.ops.push(Op::End);
    if compiler.nodes.len() > NODES_MAX {
        compiler.errors.push(BuildError::TooManyNodes { nodes: compiler.nodes.len() });
    }
    compiler.finish(info, deadline)
}

#[derive(Default)]
struct Compiler {
    ops: Vec<Op>,
    nodes: Vec<Node>,
    tasks: Vec<ErasedTask>,
    signals: HashMap<Arc<str>, SignalType>,
    errors: Vec<BuildError>,
}

impl Compiler {
    fn chain(&mut self, drafts: Vec<NodeDraft>) {
        let mut seen = HashSet::with_capacity(drafts.len());
        for draft in drafts {
            self.check_name("node id", &draft.id);
            let node = index(self.nodes.len());
            self.nodes.push(Node { path: NodePath::new(&draft.id) });
            self.op(node, draft.kind);
            if let Some(id) = seen.replace(draft.id) {
                self.errors.push(BuildError::DuplicateNode { id });
            }
        }
    }

    fn op(&mut self, node: u32, kind: NodeDraftKind) {
        let op = match kind {
            NodeDraftKind::Task(erased) => {
                let options = Arc::clone(&erased.options);
                let task = index(self.tasks.len());
                self.tasks.push(erased);
                Op::Task(TaskOp {
                    node,
                    task,
                    retry: options.retry.clone(),
                    timeout: options.timeout,
                    priority: options.priority,
                    tags: options.tags.as_slice().into(),
                })
            }
            NodeDraftKind::Delay(duration) => Op::Delay { node, duration },
            NodeDraftKind::Wait { signal, payload, timeout, keeps_input } => {
                self.check_name("signal name", &signal);
                let signal: Arc<str> = signal.into();
                self.declare(&signal, payload);
                Op::Wait(WaitOp { node, signal, timeout, keeps_input })
            }
        };
        self.ops.push(op);
    }

    fn declare(&mut self, signal: &Arc<str>, payload: SignalType) {
        let first = *self.signals.entry(Arc::clone(signal)).or_insert(payload);
        if first.type_id != payload.type_id {
            self.errors.push(BuildError::SignalTypes {
                signal: signal.to_string(),
                first: first.type_name,
                second: payload.type_name,
            });
        }
    }

    fn check_name(&mut self, what: &'static str, name: &str) {
        if let Err(error) = check_name(what, name) {
            self.errors.push(BuildError::BadName { name: name.to_owned(), error });
        }
    }

    fn finish(self, info: WorkflowInfo, deadline: Option<Duration>) -> Result<Definition, BuildErrors> {
        if !self.errors.is_empty() {
            return Err(BuildErrors(self.errors));
        }
        let options = |task: u32| self.tasks.get(task as usize).map(|task| &*task.options);
        let hash = hash(&info, &self.ops, &self.nodes, options);
        let manifest = Manifest::new(&info, &self.ops, &self.nodes);
        let signals = self.signals.keys().cloned().collect();
        let program = Program { hash, ops: self.ops, nodes: self.nodes, signals, deadline };
        Ok(Definition { info: Arc::new(info), program, tasks: self.tasks, signals: self.signals, manifest })
    }
}

/// An index into a table of at most [`NODES_MAX`] entries; past that the build fails anyway.
fn index(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::{Workflow, task};

    async fn double(n: u32) -> Result<u32, Infallible> {
        Ok(2 * n)
    }

    #[test]
    fn every_error_is_reported_at_once() {
        let errors = Workflow::builder("a/b")
            .then("x", double)
            .then("x", double)
            .then("", double)
            .wait_for_signal::<u32>("w1", "go")
            .wait_for_signal::<String>("w2", "go")
            .build()
            .unwrap_err()
            .0;
        assert_eq!(errors.len(), 4, "{errors:?}");
        assert!(matches!(&errors[0], BuildError::BadName { name, .. } if name == "a/b"));
        assert!(matches!(&errors[1], BuildError::DuplicateNode { id } if id == "x"));
        assert!(matches!(&errors[2], BuildError::BadName { name, .. } if name.is_empty()));
        assert!(matches!(&errors[3], BuildError::SignalTypes { signal, .. } if signal == "go"));
    }

    #[test]
    fn an_empty_workflow_is_refused() {
        let errors = Workflow::builder_for::<u32>("nothing").build().unwrap_err();
        assert_eq!(errors.0, [BuildError::Empty { workflow: "nothing".into() }]);
    }

    #[test]
    fn ten_thousand_nodes_can_be_added_in_a_loop() {
        let chain = (0..10_000).fold(Workflow::builder_for::<u32>("long"), |b, n| b.then(format!("n{n}"), double));
        assert_eq!(chain.build().unwrap().definition().program().ops.len(), 10_001);
    }

    /// Tuning must not strand instances; structure and versions must be noticed.
    #[test]
    fn the_hash_follows_structure_and_not_tuning() {
        let base =
            || Workflow::builder("w").then("a", double).delay("d", Duration::from_secs(1)).build().unwrap().hash();
        let tuned = Workflow::builder("w")
            .description("text")
            .then("a", task(double).timeout(Duration::from_secs(1)).tag("t"))
            .delay("d", Duration::from_secs(9));
        assert_eq!(tuned.build().unwrap().hash(), base());
        let versioned = Workflow::builder("w").then("a", task(double).version("2")).delay("d", Duration::from_secs(1));
        assert_ne!(versioned.build().unwrap().hash(), base());
        let renamed = Workflow::builder("w").then("b", double).delay("d", Duration::from_secs(1));
        assert_ne!(renamed.build().unwrap().hash(), base());
        let newer = Workflow::builder("w").version("2").then("a", double).delay("d", Duration::from_secs(1));
        assert_ne!(newer.build().unwrap().hash(), base());
    }
}
