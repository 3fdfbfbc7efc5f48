//! Starting instances.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;

use super::Runtime;
use crate::actors::{Hub, Mail, Replacement};
use crate::codec::CodecError;
use crate::definition::Workflow;
use crate::handle::InstanceHandle;
use crate::id::{InstanceId, RunId};
use crate::lifecycle::{
    ConflictPolicy, Existing, ExistingInstance, PrepareRunOutcome, StartError, check_existing_instance, prepare_run,
};
use crate::machine::{NewRun, Setting};

/// How often a start whose outcome is unknown is repeated with the same run id, which makes that harmless.
const REPEATS: u32 = 5;

/// How to start an instance, besides its id and input.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    policy: ConflictPolicy,
    traceparent: Option<Arc<str>>,
}

impl StartOptions {
    /// The defaults: [`ConflictPolicy::Fail`], no traceparent.
    pub fn new() -> Self {
        Self::default()
    }

    /// What to do when the id is taken.
    pub fn policy(mut self, policy: ConflictPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The W3C traceparent of whoever starts the instance, kept with it.
    pub fn traceparent(mut self, traceparent: impl Into<Arc<str>>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }
}

/// What came of a start.
#[derive(Debug)]
pub struct Started<O> {
    /// The instance.
    pub handle: InstanceHandle<O>,
    /// What was there already, with [`ConflictPolicy::UseExisting`]; none if a new run was started.
    pub existing: Option<ExistingInstance<O>>,
}

impl Runtime {
    /// Starts an instance; returns once that is durable.
    ///
    /// # Errors
    /// [`StartError`]; the id being taken is one.
    pub async fn start<I, O>(
        &self,
        workflow: &Workflow<I, O>,
        instance: impl AsRef<str>,
        input: I,
    ) -> Result<InstanceHandle<O>, StartError>
    where
        I: Serialize,
        O: 'static,
    {
        Ok(self.start_with(workflow, instance, input, StartOptions::new()).await?.handle)
    }

    /// Starts an instance with options; returns once what it answers is durable. 100 concurrent starts of one id give one
    /// run.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_with<I, O>(
        &self,
        workflow: &Workflow<I, O>,
        instance: impl AsRef<str>,
        input: I,
        options: StartOptions,
    ) -> Result<Started<O>, StartError>
    where
        I: Serialize,
        O: 'static,
    {
        let instance = InstanceId::new(instance.as_ref())?;
        let hub = self.inner.actors.hub();
        if !hub.definitions.contains_key(&workflow.hash()) {
            return Err(StartError::NotRegistered { workflow: workflow.definition().info().name().to_owned() });
        }
        if hub.is_closing() {
            return Err(StartError::ShuttingDown);
        }
        let definition = workflow.definition();
        let existing = check_existing_instance(hub.persistence(), definition, &instance, options.policy).await?;
        if let Existing::Use(found) = existing {
            return self.existing(workflow, instance, found);
        }
        let codec = &self.inner.codec;
        let new = NewRun {
            instance: instance.clone(),
            run: RunId::generate(hub.clock.now()),
            codec: codec.id(),
            input: codec.encode(&input, hub.limits.payload_bytes_max)?,
            traceparent: options.traceparent,
        };
        match self.run(workflow, new, options.policy, existing).await? {
            PrepareRunOutcome::ExistingStatus(found) => self.existing(workflow, instance, found),
            PrepareRunOutcome::Fresh { snapshot, effects } => {
                let (run, codec) = (snapshot.run(), snapshot.codec());
                hub.activate_fresh(snapshot, effects);
                let handle = InstanceHandle::new(&self.inner.actors, workflow, instance, run, codec);
                Ok(Started { handle, existing: None })
            }
        }
    }

    async fn run<I, O: 'static>(
        &self,
        workflow: &Workflow<I, O>,
        new: NewRun,
        policy: ConflictPolicy,
        mut existing: Existing,
    ) -> Result<PrepareRunOutcome, StartError> {
        let hub = self.inner.actors.hub();
        let definition = workflow.definition();
        let mut repeats = 0;
        loop {
            let outcome = match existing {
                // The instance's actor is the one that writes to it.
                Existing::Terminate(_) => self.replace(workflow, &new, policy).await,
                existing => {
                    let setting = Setting { program: definition.program(), limits: &hub.limits, now: hub.clock.now() };
                    prepare_run(hub.persistence(), &setting, definition, new.clone(), policy, existing).await
                }
            };
            match outcome {
                Err(StartError::OutcomeUnknown(error)) if repeats < REPEATS && !hub.is_closing() => {
                    tracing::warn!(instance = %new.instance, %error, "a start is repeated: its outcome is unknown");
                    repeats += 1;
                    hub.clock.sleep(Duration::from_millis(50) * repeats).await;
                    existing = self.found(workflow, &new, policy).await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// What is there after a start with an unknown outcome. Its own run counts as free: the insert then finds it.
    async fn found<I, O: 'static>(
        &self,
        workflow: &Workflow<I, O>,
        new: &NewRun,
        policy: ConflictPolicy,
    ) -> Result<Existing, StartError> {
        let hub = self.inner.actors.hub();
        match hub.read(&new.instance).await {
            Ok(Some(read)) if read.stored.snapshot.run() == new.run => Ok(Existing::Free),
            _ => check_existing_instance(hub.persistence(), workflow.definition(), &new.instance, policy).await,
        }
    }

    async fn replace<I, O: 'static>(
        &self,
        workflow: &Workflow<I, O>,
        new: &NewRun,
        policy: ConflictPolicy,
    ) -> Result<PrepareRunOutcome, StartError> {
        let hub: &Arc<Hub> = self.inner.actors.hub();
        let (reply, answer) = oneshot::channel();
        let definition = Arc::clone(workflow.definition());
        let replacement = Replacement { definition, new: new.clone(), policy, reply };
        hub.send(&new.instance, Mail::Replace(Box::new(replacement))).await;
        answer.await.unwrap_or_else(|_| {
            let lost = crate::store::StoreError::Transient("the answer was lost with an actor".into());
            Err(StartError::OutcomeUnknown(lost))
        })
    }

    fn existing<I, O: 'static>(
        &self,
        workflow: &Workflow<I, O>,
        instance: InstanceId,
        found: ExistingInstance<crate::codec::Value>,
    ) -> Result<Started<O>, StartError> {
        let hub = self.inner.actors.hub();
        let output = match (&found.output, hub.codecs.get(&found.codec)) {
            (Some(value), Some(codec)) => Some(workflow.decode_output(value, codec)?),
            (Some(_), None) => return Err(unknown_codec::<O>()),
            (None, _) => None,
        };
        let handle = InstanceHandle::new(&self.inner.actors, workflow, instance, found.run, found.codec);
        let existing = ExistingInstance { run: found.run, codec: found.codec, status: found.status, output };
        Ok(Started { handle, existing: Some(existing) })
    }
}

fn unknown_codec<O>() -> StartError {
    StartError::Input(CodecError::Decode {
        type_name: std::any::type_name::<O>(),
        codec: "a codec that is not registered",
        bytes: 0,
    })
}
