//! Builds a workflow, node by node.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::compile::compile;
use super::draft::{About, NodeDraft, NodeDraftKind};
use super::handler::{ErasedTask, Handler};
use super::workflow::SignalType;
use super::{BuildErrors, UpgradeFrom, Workflow, WorkflowInfo};
use crate::codec::{Decode, Output, SignalOutcome};

/// A workflow without nodes yet; its first task determines the input. Version, texts, metadata and
/// deadline are set here, before the first node.
#[derive(Debug)]
pub struct WorkflowBuilder {
    about: About,
}

impl WorkflowBuilder {
    pub(super) fn new(name: String) -> Self {
        let info =
            WorkflowInfo { name, version: "1".into(), description: None, metadata: std::collections::BTreeMap::new() };
        Self { about: About { info, deadline: None, upgrades_from: Vec::new() } }
    }

    /// Sets the version, `"1"` by default. Part of the definition hash, so instances of another
    /// version keep theirs.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.about.info.version = version.into();
        self
    }

    /// Sets a text for people.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.about.info.description = Some(text.into());
        self
    }

    /// Adds a key-value pair, which tasks read with
    /// [`TaskContext::workflow`](crate::TaskContext::workflow).
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.about.info.metadata.insert(key.into(), value.into());
        self
    }

    /// Sets the longest time that an instance may take, from its start; after that it fails. The
    /// deadline is durable, by the wall clock.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.about.deadline = Some(deadline);
        self
    }

    /// Upgrades instances of an older definition to this one: see [`UpgradeFrom`].
    pub fn upgrades_from(mut self, older: impl Into<UpgradeFrom>) -> Self {
        self.about.upgrades_from.push(older.into());
        self
    }

    /// Adds the first task.
    pub fn then<M, I, H>(self, id: impl Into<String>, task: H) -> Builder<I, H::Output>
    where
        H: Handler<M, I, Output: Output>,
        I: DeserializeOwned + Send + 'static,
    {
        self.taking::<I>().then(id, task)
    }

    /// Sets the input type: needed if the first node is a delay or a wait, which does not determine
    /// it.
    pub fn taking<I: DeserializeOwned + Send + 'static>(self) -> Builder<I, I> {
        Builder::within(&Arc::new(self.about), Decode::payload())
    }
}

/// A workflow being built, from an `I` to an `O` so far. Types of nodes are erased as they are
/// added, so compile time is linear and a workflow can be built in a loop.
///
/// Branches, arms, loop bodies and items are chains of the same kind: a closure gets a builder and
/// returns it with nodes added. So a function from builder to builder is a reusable part of a
/// workflow.
pub struct Builder<I, O> {
    pub(super) about: Arc<About>,
    pub(super) nodes: Vec<NodeDraft>,
    /// Reads the value that flows to the next node.
    pub(super) decode: Decode<O>,
    /// Reads the input.
    input: Decode<I>,
}

impl<T> Builder<T, T> {
    /// Begins a chain without nodes, of the workflow itself or within one of its nodes.
    pub(super) fn within(about: &Arc<About>, decode: Decode<T>) -> Self {
        let input = decode.clone();
        Self { about: Arc::clone(about), nodes: Vec::new(), decode, input }
    }
}

impl<I, O: Send + 'static> Builder<I, O> {
    /// Adds a task: an async function from `O`, or one with options made by [`task`](crate::task).
    pub fn then<M, H>(mut self, id: impl Into<String>, task: H) -> Builder<I, H::Output>
    where
        H: Handler<M, O, Output: Output>,
    {
        let task = ErasedTask::new(task, self.decode.clone());
        self.add(id, NodeDraftKind::Task(task));
        self.flowing(H::Output::decoder().0)
    }

    /// Adds a delay, which parks the instance and passes the value on. The delay never ends early
    /// and survives restarts; a parked instance uses no memory.
    pub fn delay(mut self, id: impl Into<String>, duration: Duration) -> Self {
        self.add(id, NodeDraftKind::Delay(duration));
        self
    }

    /// Adds a wait for a signal, whose payload replaces the value that flowed in.
    pub fn wait_for_signal<T>(mut self, id: impl Into<String>, signal: impl Into<String>) -> Builder<I, T>
    where
        T: DeserializeOwned + Send + 'static,
    {
        self.add_wait::<T>(id, signal, None, false);
        self.flowing(Decode::payload())
    }

    /// Adds a wait that ends after `timeout`. [`SignalOutcome`] tells whether the signal came in
    /// time.
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

    /// Adds a wait for a signal that keeps the value that flowed in, beside the payload.
    pub fn wait_for_signal_keeping<T>(mut self, id: impl Into<String>, signal: impl Into<String>) -> Builder<I, (O, T)>
    where
        T: DeserializeOwned + Send + 'static,
    {
        self.add_wait::<T>(id, signal, None, true);
        let both = self.decode.clone().with(Decode::payload());
        self.flowing(both)
    }

    /// Adds a wait that ends after `timeout` and keeps the value that flowed in.
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
    /// [`BuildErrors`]: all errors of the definition at once.
    pub fn build(self) -> Result<Workflow<I, O>, BuildErrors> {
        let about = Arc::unwrap_or_clone(self.about);
        let definition = compile(about, self.nodes)?;
        Ok(Workflow { definition: Arc::new(definition), output: self.decode, input: self.input })
    }

    fn add_wait<T: DeserializeOwned + 'static>(
        &mut self,
        id: impl Into<String>,
        signal: impl Into<String>,
        timeout: Option<Duration>,
        keeps_input: bool,
    ) {
        let payload = SignalType::declared::<T>();
        self.add(id, NodeDraftKind::Wait { signal: signal.into(), payload, timeout, keeps_input });
    }
}

impl<I, O> Builder<I, O> {
    pub(super) fn add(&mut self, id: impl Into<String>, kind: NodeDraftKind) {
        self.nodes.push(NodeDraft { id: id.into(), kind });
    }

    pub(super) fn flowing<T>(self, decode: Decode<T>) -> Builder<I, T> {
        Builder { about: self.about, nodes: self.nodes, decode, input: self.input }
    }
}

impl<I, O> std::fmt::Debug for Builder<I, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Builder({}, {} nodes)", self.about.info.name, self.nodes.len())
    }
}
