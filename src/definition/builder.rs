//! Putting a workflow together, node by node.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::compile::{BuildErrors, NodeDraft, NodeDraftKind, compile};
use super::handler::{ErasedTask, Handler};
use super::workflow::SignalType;
use super::{Workflow, WorkflowInfo};
use crate::codec::{Decode, SignalOutcome};

/// A workflow without nodes yet; its first task decides the input. Version, texts, metadata and deadline are set here,
/// before the first node.
#[derive(Debug)]
pub struct EmptyBuilder {
    info: WorkflowInfo,
    deadline: Option<Duration>,
}

impl EmptyBuilder {
    pub(super) fn new(name: String) -> Self {
        let info =
            WorkflowInfo { name, version: "1".into(), description: None, metadata: std::collections::BTreeMap::new() };
        Self { info, deadline: None }
    }

    /// The version, `"1"` by default: part of the definition hash, so instances of another version keep to theirs.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.info.version = version.into();
        self
    }

    /// A text for people.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.info.description = Some(text.into());
        self
    }

    /// A free key-value pair, which tasks find in [`TaskContext::workflow`](crate::TaskContext::workflow).
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.info.metadata.insert(key.into(), value.into());
        self
    }

    /// How long an instance may take as a whole, from its start; past that it fails. Durable, by the wall clock.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Adds the first task.
    pub fn then<M, I, H>(self, id: impl Into<String>, task: H) -> Builder<I, H::Output>
    where
        H: Handler<M, I>,
        H::Output: DeserializeOwned,
        I: DeserializeOwned + Send + 'static,
    {
        self.taking::<I>().then(id, task)
    }

    /// Sets the input: needed where the first node is a delay or a wait, which leaves it open.
    pub fn taking<I: DeserializeOwned + Send + 'static>(self) -> Builder<I, I> {
        Builder {
            info: self.info,
            deadline: self.deadline,
            nodes: Vec::new(),
            decode: Decode::payload(),
            input: PhantomData,
        }
    }
}

/// A workflow in the making, from an `I` to an `O` so far. Nodes are erased as they are added, so that compile time is
/// linear and a workflow can be built in a loop.
pub struct Builder<I, O> {
    info: WorkflowInfo,
    deadline: Option<Duration>,
    nodes: Vec<NodeDraft>,
    /// How the next node reads what flows to it.
    decode: Decode<O>,
    input: PhantomData<fn(I)>,
}

impl<I, O: Send + 'static> Builder<I, O> {
    /// Adds a task: an async function from `O`, or one with options made by [`task`](crate::task).
    pub fn then<M, H>(mut self, id: impl Into<String>, task: H) -> Builder<I, H::Output>
    where
        H: Handler<M, O>,
        H::Output: DeserializeOwned,
    {
        let task = ErasedTask::new(task, self.decode.clone());
        self.add(id, NodeDraftKind::Task(task));
        self.flowing(Decode::payload())
    }

    /// Adds a delay, which parks the instance and passes the value on. It never ends early and survives restarts; a
    /// parked instance costs no memory.
    pub fn delay(mut self, id: impl Into<String>, duration: Duration) -> Self {
        self.add(id, NodeDraftKind::Delay(duration));
        self
    }

    /// Adds a wait for a signal, whose payload flows on in place of what flowed in.
    pub fn wait_for_signal<T>(mut self, id: impl Into<String>, signal: impl Into<String>) -> Builder<I, T>
    where
        T: DeserializeOwned + Send + 'static,
    {
        self.add_wait::<T>(id, signal, None, false);
        self.flowing(Decode::payload())
    }

    /// Adds a wait that gives up after `timeout`: [`SignalOutcome`] says which it was.
    pub fn wait_for_signal_timeout<T>(
        mut self,
        id: impl Into<String>,
        signal: impl Into<String>,
        timeout: Duration,
    ) -> Builder<I, SignalOutcome<T>>
    where
        T: DeserializeOwned + Send + 'static,
    {
        self.add_wait::<T>(id, signal, Some(timeout), false);
        self.flowing(Decode::payload().outcome())
    }

    /// Adds a wait for a signal that keeps what flowed in beside the payload.
    pub fn wait_for_signal_keeping<T>(mut self, id: impl Into<String>, signal: impl Into<String>) -> Builder<I, (O, T)>
    where
        T: DeserializeOwned + Send + 'static,
    {
        self.add_wait::<T>(id, signal, None, true);
        let both = self.decode.clone().with(Decode::payload());
        self.flowing(both)
    }

    /// Adds a wait that gives up after `timeout` and keeps what flowed in.
    pub fn wait_for_signal_keeping_timeout<T>(
        mut self,
        id: impl Into<String>,
        signal: impl Into<String>,
        timeout: Duration,
    ) -> Builder<I, (O, SignalOutcome<T>)>
    where
        T: DeserializeOwned + Send + 'static,
    {
        self.add_wait::<T>(id, signal, Some(timeout), true);
        let both = self.decode.clone().with(Decode::payload().outcome());
        self.flowing(both)
    }

    /// Checks the definition and compiles it.
    ///
    /// # Errors
    /// [`BuildErrors`]: everything that is wrong, at once.
    pub fn build(self) -> Result<Workflow<I, O>, BuildErrors> {
        let definition = compile(self.info, self.deadline, self.nodes)?;
        Ok(Workflow { definition: Arc::new(definition), output: self.decode, input: PhantomData })
    }

    fn add(&mut self, id: impl Into<String>, kind: NodeDraftKind) {
        self.nodes.push(NodeDraft { id: id.into(), kind });
    }

    fn add_wait<T: 'static>(
        &mut self,
        id: impl Into<String>,
        signal: impl Into<String>,
        timeout: Option<Duration>,
        keeps_input: bool,
    ) {
        let payload = SignalType::of::<T>();
        self.add(id, NodeDraftKind::Wait { signal: signal.into(), payload, timeout, keeps_input });
    }

    fn flowing<T>(self, decode: Decode<T>) -> Builder<I, T> {
        Builder { info: self.info, deadline: self.deadline, nodes: self.nodes, decode, input: PhantomData }
    }
}

impl<I, O> std::fmt::Debug for Builder<I, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Builder({}, {} nodes)", self.info.name, self.nodes.len())
    }
}
