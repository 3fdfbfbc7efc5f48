//! Starting instances.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinError;

use super::Runtime;
use crate::actors::{Hub, Mail, PayloadShare, Replacement, StartKind, StartPlace, Undelivered};
use crate::cause::Cause;
use crate::codec::{CodecError, Value};
use crate::definition::{Definition, Workflow};
use crate::handle::InstanceHandle;
use crate::id::{InstanceId, check_traceparent};
use crate::lifecycle::{
    ConflictPolicy, Existing, ExistingInstance, PrepareRunOutcome, StartError, check_existing_instance, prepare_run,
};
use crate::limits::WhenBusy;
use crate::machine::{NewRun, Setting};
use crate::store::StoreError;

/// How often a start whose outcome is unknown is repeated with the same run id, which makes that harmless.
const REPEATS: u32 = 5;

/// How to start an instance, besides its id and input.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    policy: ConflictPolicy,
    traceparent: Option<Arc<str>>,
    when_busy: Option<WhenBusy>,
}

impl StartOptions {
    /// The defaults: [`ConflictPolicy::Fail`], no traceparent, and what the runtime was told to do when it is busy.
    pub fn new() -> Self {
        Self::default()
    }

    /// What to do when the id is taken.
    pub fn policy(mut self, policy: ConflictPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// What to do when too much is under way: wait, or end with [`StartError::Busy`]. Of the start alone: its handle does what
    /// the [runtime](crate::RuntimeBuilder::when_busy) was told.
    pub fn when_busy(mut self, when_busy: WhenBusy) -> Self {
        self.when_busy = Some(when_busy);
        self
    }

    /// The W3C traceparent of whoever starts the instance, stored with it for tools that read the store: 1 to 256 bytes of
    /// printable UTF-8, or the start is refused with [`StartError::Id`].
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
    /// What was there already, with [`ConflictPolicy::UseExisting`]; none if a new run was started, also in place of an
    /// old one.
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
        options.traceparent.as_deref().map_or(Ok(()), check_traceparent)?;
        let hub = self.inner.actors.hub();
        check_registered(hub, workflow.definition())?;
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
            run: hub.new_run(),
            codec: codec.id(),
            input: workflow.encode_input(&input, codec, hub.limits.payload_bytes_max)?,
            traceparent: options.traceparent,
        };
        let when_busy = options.when_busy.unwrap_or(hub.when_busy);
        // Before the task below: who gives up while waiting leaves nothing behind.
        let kind = kind_of(&existing);
        let place = hub.persistence().admit(kind, when_busy).await.map_err(StartError::Busy)?;
        let share = match kind {
            StartKind::Replacement => None,
            StartKind::New => Some(share_of(hub, &new, when_busy).await?),
        };
        let starting = Starting {
            hub: Arc::clone(hub),
            definition: Arc::clone(definition),
            new,
            policy: options.policy,
            when_busy,
            place: Some(place),
            share,
        };
        let (run, codec) = (starting.new.run, starting.new.codec);
        // In a task of its own: a caller who gives up does not keep a run that is durable from beginning.
        let outcome = hub.tokio.spawn(starting.run(existing)).await;
        let lost = |error: JoinError| Err(StartError::OutcomeUnknown(StoreError::Transient(Cause::of(error))));
        if let Some(found) = outcome.unwrap_or_else(lost)? {
            return self.existing(workflow, instance, found);
        }
        let handle = InstanceHandle::new(&self.inner.actors, workflow, instance, run, codec);
        Ok(Started { handle, existing: None })
    }

    fn existing<I, O: 'static>(
        &self,
        workflow: &Workflow<I, O>,
        instance: InstanceId,
        found: ExistingInstance<Value>,
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

fn check_registered(hub: &Hub, given: &Definition) -> Result<(), StartError> {
    let workflow = || given.info().name().to_owned();
    match hub.definitions.get(&given.hash()) {
        None => Err(StartError::NotRegistered { workflow: workflow() }),
        #[cfg(feature = "testing")]
        Some(registered) if registered.stubs != given.stubs => {
            let paths = |definition: &Definition| definition.stubs.iter().cloned().collect();
            Err(StartError::OtherStubs { workflow: workflow(), registered: paths(registered), given: paths(given) })
        }
        Some(_) => Ok(()),
    }
}

fn unknown_codec<O>() -> StartError {
    StartError::Input(CodecError::Decode {
        type_name: std::any::type_name::<O>(),
        codec: "a codec that is not registered",
        bytes: 0,
    })
}

impl From<Undelivered> for StartError {
    fn from(undelivered: Undelivered) -> Self {
        match undelivered {
            Undelivered::Busy(bound) => Self::Busy(bound),
            Undelivered::Closing => Self::ShuttingDown,
        }
    }
}

/// A start under way.
struct Starting {
    hub: Arc<Hub>,
    definition: Arc<Definition>,
    new: NewRun,
    policy: ConflictPolicy,
    when_busy: WhenBusy,
    /// Its place among the starts under way. None only while it changes its kind.
    place: Option<StartPlace>,
    /// Its share of the payload bytes under way, for the first insert.
    share: Option<PayloadShare>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.hub.persistence().settle_start(self.new.run);
    }
}

fn kind_of(existing: &Existing) -> StartKind {
    if matches!(existing, Existing::Terminate(_)) { StartKind::Replacement } else { StartKind::New }
}

async fn share_of(hub: &Hub, new: &NewRun, when_busy: WhenBusy) -> Result<PayloadShare, StartError> {
    Ok(hub.payload_share(new.input.len(), when_busy).await?)
}

impl Starting {
    /// Starts the run, repeating it while its outcome is unknown; gives what was there instead, if that is to be used.
    async fn run(mut self, mut existing: Existing) -> Result<Option<ExistingInstance<Value>>, StartError> {
        let (mut repeats, mut is_unknown) = (0, false);
        loop {
            let outcome = self.attempt(existing).await;
            is_unknown |= matches!(outcome, Err(StartError::OutcomeUnknown(_)));
            match outcome {
                Err(StartError::OutcomeUnknown(error) | StartError::Unreadable(error))
                    if repeats < REPEATS && !self.hub.is_closing() =>
                {
                    tracing::warn!(instance = %self.new.instance, %error, is_unknown, "a start that has failed is repeated");
                    repeats += 1;
                    self.hub.persistence().note_start(self.new.run);
                    // It may have been done: too late to be refused.
                    self.when_busy = WhenBusy::Wait;
                    self.hub.sleep(Duration::from_millis(50) * repeats).await;
                    // If it was done, the insert finds its run, or that it has been and is gone.
                    existing = Existing::Free;
                }
                // It was this try that could not read. An earlier one may have written.
                Err(StartError::Unreadable(error)) if is_unknown => return Err(StartError::OutcomeUnknown(error)),
                outcome => return outcome,
            }
        }
    }

    async fn attempt(&mut self, mut existing: Existing) -> Result<Option<ExistingInstance<Value>>, StartError> {
        loop {
            self.take_place(kind_of(&existing)).await?;
            if let Existing::Terminate(_) = existing {
                // It waits for a place, which nobody does who holds a share.
                self.share = None;
                // The actor of the instance is the one that writes to it.
                return self.replace().await.map(|()| None);
            }
            match self.insert(existing).await {
                // Somebody else was first: that one is to be terminated.
                Err(StartError::InstanceAlreadyExists { .. } | StartError::DefinitionMismatch { .. })
                    if self.policy == ConflictPolicy::TerminateExisting =>
                {
                    existing = self.check().await?;
                }
                // What is damaged is replaced as well; what a newer version wrote is not.
                Err(StartError::Damaged(ref damaged))
                    if !damaged.newer && self.policy == ConflictPolicy::TerminateExisting =>
                {
                    existing = self.check().await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Changes places, if the start turns out to be of another kind. It holds none meanwhile, so that nobody waits in a circle.
    async fn take_place(&mut self, kind: StartKind) -> Result<(), StartError> {
        if self.place.as_ref().is_none_or(|place| place.kind != kind) {
            self.place = None;
            let place = self.hub.persistence().admit(kind, self.when_busy).await;
            self.place = Some(place.map_err(StartError::Busy)?);
        }
        Ok(())
    }

    async fn insert(&mut self, existing: Existing) -> Result<Option<ExistingInstance<Value>>, StartError> {
        let _share = match self.share.take() {
            Some(share) => share,
            None => share_of(&self.hub, &self.new, self.when_busy).await?,
        };
        let Self { hub, definition, new, policy, .. } = self;
        let setting = Setting { program: definition.program(), limits: &hub.limits, now: hub.clock.now() };
        // What is there is never overwritten from here, past its actor.
        let policy = if *policy == ConflictPolicy::TerminateExisting { ConflictPolicy::Fail } else { *policy };
        let loads = hub.loads(&new.instance);
        match prepare_run(hub.persistence(), &setting, definition, new.clone(), policy, existing).await? {
            PrepareRunOutcome::ExistingStatus(found) => Ok(Some(found)),
            PrepareRunOutcome::Fresh { snapshot, effects } => {
                hub.begin(snapshot, effects, loads);
                Ok(None)
            }
        }
    }

    async fn replace(&self) -> Result<(), StartError> {
        let (reply, answer) = oneshot::channel();
        let (definition, new) = (Arc::clone(&self.definition), self.new.clone());
        let mail = |place| Mail::Replace(Box::new(Replacement { definition, new, reply, _place: place }));
        let bytes = self.new.input.len();
        // Its actor may die behind the commit. Noted again then, since it may have waited long for room.
        self.hub.persistence().note_start(self.new.run);
        self.hub.deliver(&self.new.instance, bytes, self.when_busy, mail).await?;
        self.hub.persistence().note_start(self.new.run);
        answer.await.unwrap_or_else(|_| {
            let lost = StoreError::Transient("the answer was lost with an actor".into());
            Err(StartError::OutcomeUnknown(lost))
        })
    }

    async fn check(&self) -> Result<Existing, StartError> {
        check_existing_instance(self.hub.persistence(), &self.definition, &self.new.instance, self.policy).await
    }
}
