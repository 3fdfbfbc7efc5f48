//! Finished definitions.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::draft::NodeDraft;
use super::handler::ErasedTask;
use super::program::NodeNames;
use super::{
    Builder, Deps, Manifest, ManifestNode, MissingDep, NodeKind, Program, Renames, UpgradeFrom, WorkflowBuilder,
};
use crate::codec::{Codec, CodecError, Decode, Value};
use crate::id::{DefinitionHash, NodePath};

/// Name and description of a workflow, as set by its author.
#[derive(Clone, Debug)]
pub struct WorkflowInfo {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) description: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
}

impl WorkflowInfo {
    /// Returns the workflow's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the workflow's version; `"1"` by default. Part of the definition hash.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns the text for people.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Returns the key-value pairs for the author's own use.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

/// Error of a signal that does not match its workflow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// No node waits for a signal of this name.
    #[error("workflow `{workflow}` has no wait for signal `{signal}`, only for: {}", .known.join(", "))]
    UnknownSignal {
        /// The name of the workflow.
        workflow: String,
        /// The name of the signal.
        signal: String,
        /// The signal names that the workflow waits for.
        known: Vec<String>,
    },
    /// The payload has another type than the workflow declares.
    #[error("signal `{signal}` carries `{expected}`, found `{found}`: send a `{expected}`")]
    PayloadType {
        /// The name of the signal.
        signal: String,
        /// The type declared in the workflow.
        expected: &'static str,
        /// The type of the payload that was passed.
        found: &'static str,
    },
}

/// Type of a signal's payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignalType {
    pub(super) type_id: TypeId,
    pub(super) type_name: &'static str,
    /// Reads the payload; `None` for a type that is only sent.
    read: Option<ReadSignal>,
}

type ReadSignal = fn(&Codec, &[u8]) -> Result<Box<dyn Any>, CodecError>;

/// A definition without its types: the program, and the user code of its tasks.
pub struct Definition {
    pub(super) info: Arc<WorkflowInfo>,
    pub(super) program: Program,
    pub(super) tasks: Vec<ErasedTask>,
    pub(super) signals: HashMap<Arc<str>, SignalType>,
    pub(super) manifest: Manifest,
    /// The nodes as they were added, for workflows that use this one as a child.
    pub(super) drafts: Arc<[NodeDraft]>,
    pub(super) upgrades_from: Vec<UpgradeFrom>,
    /// Paths of the tasks that have stubs.
    #[cfg(feature = "testing")]
    pub(crate) stubs: std::collections::BTreeSet<String>,
}

impl SignalType {
    pub(crate) fn of<T: 'static>() -> Self {
        Self { type_id: TypeId::of::<T>(), type_name: std::any::type_name::<T>(), read: None }
    }

    /// Creates the type of a signal as a wait declares it.
    pub(super) fn declared<T: DeserializeOwned + 'static>() -> Self {
        let read: ReadSignal = |codec, bytes| Ok(Box::new(codec.decode::<T>(bytes)?));
        Self { read: Some(read), ..Self::of::<T>() }
    }
}

impl Definition {
    /// Returns name, version, description and metadata.
    pub fn info(&self) -> &Arc<WorkflowInfo> {
        &self.info
    }

    /// Returns the hash that identifies the definition.
    pub fn hash(&self) -> DefinitionHash {
        self.program.hash
    }

    /// Returns the program that the machine interprets.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Returns the manifest: names, kinds and edges.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn task(&self, index: u32) -> Option<&ErasedTask> {
        self.tasks.get(index as usize)
    }

    /// Returns the services that tasks need and `deps` lacks.
    pub fn missing_deps(&self, deps: &Deps) -> Vec<MissingDep> {
        let mut missing = Vec::new();
        for op in &self.program.ops {
            let Some(op) = op.code() else { continue };
            let requirements = self.task(op.task).map_or(&[][..], |task| &task.requirements);
            let node = self.program.path(op.node).map_or("", |path| path.as_str());
            missing.extend(deps.missing(requirements).map(|type_name| MissingDep {
                type_name,
                asked_by: format!("task `{node}` of workflow `{}`", self.info.name),
            }));
        }
        missing
    }

    /// Returns the older definitions that this one upgrades.
    pub fn upgrades_from(&self) -> &[UpgradeFrom] {
        &self.upgrades_from
    }

    /// Returns true if instances of the definition `found` go on with this one.
    pub(crate) fn accepts(&self, found: DefinitionHash) -> bool {
        self.hash() == found || self.upgrades_from.iter().any(|older| older.from == found)
    }

    /// Returns the number of maps around the task at this path, if there is such a task.
    pub(crate) fn maps_around_task(&self, path: &str) -> Option<usize> {
        let is_task = |node: &ManifestNode| node.kind == NodeKind::Task && node.path.as_str() == path;
        let task = u32::try_from(self.manifest.nodes.iter().position(is_task)?).ok()?;
        Some(self.manifest.around(task).filter(|node| node.kind == NodeKind::Map).count())
    }

    /// Returns the path that the node at this path has in definition `of`, given the manifest of
    /// that definition; `None` if it does not exist there.
    pub(crate) fn path_before(&self, path: &str, of: DefinitionHash, manifest: &Manifest) -> Option<String> {
        match self.upgrades_from.iter().find(|older| older.from == of) {
            Some(older) => Renames::new(older, manifest, &self.manifest).before(path),
            None => Some(path.to_owned()),
        }
    }

    /// Returns the paths that the node at this path had in the definitions that this one upgrades,
    /// except paths that another node has now.
    pub(crate) fn former_paths(&self, path: &str) -> Vec<String> {
        let is_free = |path: &String| self.manifest.nodes.iter().all(|node| node.path.as_str() != path);
        self.upgrades_from.iter().filter_map(|older| older.old_path(path)).filter(is_free).collect()
    }

    /// Checks that a signal of this name carries this type.
    pub(crate) fn check_signal(&self, signal: &str, found: SignalType) -> Result<(), SignalError> {
        let declared = self.signals.get(signal).ok_or_else(|| self.unknown_signal(signal))?;
        if declared.type_id == found.type_id {
            return Ok(());
        }
        Err(SignalError::PayloadType {
            signal: signal.to_owned(),
            expected: declared.type_name,
            found: found.type_name,
        })
    }

    /// Encodes a signal's payload, and checks that its wait can read it. A signal that no wait
    /// declares is refused later, by the instance.
    pub(crate) fn encode_signal<T: Serialize + 'static>(
        &self,
        signal: &str,
        payload: &T,
        codec: &Codec,
        bytes_max: usize,
    ) -> Result<Bytes, CodecError> {
        let declared = self.signals.get(signal).filter(|declared| declared.type_id == TypeId::of::<T>());
        let Some((declared, read)) = declared.and_then(|declared| Some((declared, declared.read?))) else {
            return codec.encode(payload, bytes_max);
        };
        codec.encode_readable(payload, Some(declared.type_id), bytes_max, |bytes| {
            match read(codec, bytes)?.downcast::<T>() {
                Ok(payload) => Ok(*payload),
                Err(_) => Err(CodecError::Structure { type_name: std::any::type_name::<T>() }),
            }
        })
    }

    pub(crate) fn unknown_signal(&self, signal: &str) -> SignalError {
        let mut known: Vec<_> = self.signals.keys().map(ToString::to_string).collect();
        known.sort_unstable();
        SignalError::UnknownSignal { workflow: self.info.name.clone(), signal: signal.to_owned(), known }
    }
}

impl NodeNames for Definition {
    fn path(&self, node: u32) -> Option<&NodePath> {
        self.program.path(node)
    }
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Definition({} version {}, {:?})", self.info.name, self.info.version, self.program.hash)
    }
}

/// A workflow from an `I` to an `O`, built by [`Builder::build`]. Cheap to clone.
pub struct Workflow<I, O> {
    pub(super) definition: Arc<Definition>,
    pub(super) output: Decode<O>,
    pub(super) input: Decode<I>,
}

impl Workflow<(), ()> {
    /// Begins a workflow whose input is that of its first task.
    pub fn builder(name: impl Into<String>) -> WorkflowBuilder {
        WorkflowBuilder::new(name.into())
    }

    /// Begins a workflow whose input is an `I`: needed if the first node is a delay or a wait,
    /// which does not determine the input. Short for `Workflow::builder(name).taking::<I>()`.
    pub fn builder_for<I>(name: impl Into<String>) -> Builder<I, I>
    where
        I: serde::de::DeserializeOwned + Send + 'static,
    {
        WorkflowBuilder::new(name.into()).taking()
    }
}

impl<I, O: 'static> Workflow<I, O> {
    /// Returns the definition without its types.
    pub fn definition(&self) -> &Arc<Definition> {
        &self.definition
    }

    /// Returns the hash that identifies the definition.
    pub fn hash(&self) -> DefinitionHash {
        self.definition.hash()
    }

    /// Draws the workflow as a flowchart in the language of [Mermaid](https://mermaid.js.org), for
    /// documents and reviews: paste it into a Markdown file between ` ```mermaid ` and ` ``` `.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// use everstep::Workflow;
    ///
    /// # async fn price(item: u32) -> Result<u32, Infallible> { Ok(item) }
    /// # async fn ship(item: u32) -> Result<u32, Infallible> { Ok(item) }
    /// let order = Workflow::builder("order")
    ///     .then("price", price)
    ///     .route("large", |cents: &u32| *cents > 10_000, |route| {
    ///         route
    ///             .arm(true, |arm| arm.wait_for_signal::<u32>("approval", "approved"))
    ///             .arm(false, |arm| arm)
    ///     })
    ///     .then("ship", ship)
    ///     .build()?;
    /// assert_eq!(order.to_mermaid(), r#"flowchart TD
    ///     start(["order, version 1"])
    ///     n0["price"]
    ///     subgraph s1["large"]
    ///         n1{"route"}
    ///         n2{{"approval<br/>signal approved"}}
    ///     end
    ///     n3["ship"]
    ///     finish(["end"])
    ///     start --> n0
    ///     n0 --> n1
    ///     n1 -->|"true"| n2
    ///     n2 --> n3
    ///     n1 -->|"false"| n3
    ///     n3 --> finish
    /// "#);
    /// # Ok::<(), everstep::BuildErrors>(())
    /// ```
    ///
    /// Only the [`Manifest`] is drawn: see [`Manifest::to_mermaid`].
    pub fn to_mermaid(&self) -> String {
        self.definition.manifest.to_mermaid()
    }

    /// Returns the workflow without its input type, for handles.
    pub(crate) fn without_input(&self) -> Workflow<(), O> {
        Workflow { definition: Arc::clone(&self.definition), output: self.output.clone(), input: Decode::nothing() }
    }

    /// Decodes an output.
    ///
    /// # Errors
    /// [`CodecError`] if the value is not this workflow's output.
    pub fn decode_output(&self, value: &Value, codec: &Codec) -> Result<O, CodecError> {
        self.output.decode(value, codec)
    }
}

impl<I: Serialize, O> Workflow<I, O> {
    /// Encodes an input, and checks that the first node can read it.
    pub(crate) fn encode_input(&self, input: &I, codec: &Codec, bytes_max: usize) -> Result<Bytes, CodecError> {
        self.input.encode(input, codec, bytes_max)
    }
}

impl<I, O> Clone for Workflow<I, O> {
    fn clone(&self) -> Self {
        Self { definition: Arc::clone(&self.definition), output: self.output.clone(), input: self.input.clone() }
    }
}

impl<I, O> fmt::Debug for Workflow<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.definition.fmt(f)
    }
}
