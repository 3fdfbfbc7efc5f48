//! Starts of instances.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinError;

use super::Runtime;
use crate::actors::{Command, PayloadShare, Replacement, SendError, Shared, StartKind, StartPlace};
use crate::cause::Cause;
use crate::codec::Value;
use crate::definition::{Definition, Workflow};
use crate::handle::InstanceHandle;
use crate::id::{InstanceId, check_traceparent};
use crate::lifecycle::{
    ConflictPolicy, Existing, ExistingInstance, PrepareRunOutcome, StartError, check_existing_instance, prepare_run,
};
use crate::limits::WhenBusy;
use crate::machine::{Context, NewRun};
use crate::store::StoreError;

/// Times that a start with an unknown outcome is repeated. Repeating the same run id is harmless.
const REPEATS: u32 = 5;

/// Options of a start, besides its id and input.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    policy: ConflictPolicy,
    traceparent: Option<Arc<str>>,
    when_busy: Option<WhenBusy>,
}

impl StartOptions {
    /// Creates the default options: [`ConflictPolicy::Fail`], no traceparent, and the runtime's own
    /// policy for reached limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the policy for an id that is taken.
    pub fn policy(mut self, policy: ConflictPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets what this start does when a limit is reached: wait, or fail with [`StartError::Busy`].
    /// Applies to the start alone; its handle follows the
    /// [runtime](crate::RuntimeBuilder::when_busy).
    pub fn when_busy(mut self, when_busy: WhenBusy) -> Self {
        self.when_busy = Some(when_busy);
        self
    }

    /// Sets the W3C traceparent of the caller, stored with the instance for tools that read the
    /// store: 1 to 256 bytes of printable UTF-8. Otherwise the start is refused with
    /// [`StartError::Id`].
    pub fn traceparent(mut self, traceparent: impl Into<Arc<str>>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }
}

/// Outcome of a start.
#[derive(Debug)]
pub struct StartOutcome<O> {
    /// The instance.
    pub handle: InstanceHandle<O>,
    /// The instance that existed already, with [`ConflictPolicy::UseExisting`]. `None` if a new run
    /// was started, also if it replaced an old one.
    pub existing: Option<ExistingInstance<O>>,
}

impl Runtime {
    /// Starts an instance. Returns once the start is durable.
    ///
    /// # Errors
    /// [`StartError`], also if the id is taken.
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

    /// Starts an instance with options. Returns once the outcome is durable. Of 100 concurrent
    /// starts of one id, exactly one creates a run.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_with<I, O>(
        &self,
        workflow: &Workflow<I, O>,
        instance: impl AsRef<str>,
        input: I,
        options: StartOptions,
    ) -> Result<StartOutcome<O>, StartError>
    where
        I: Serialize,
        O: 'static,
    {
        let instance = InstanceId::new(instance.as_ref())?;
        options.traceparent.as_deref().map_or(Ok(()), check_traceparent)?;
        let shared = self.inner.actors.shared();
        check_registered(shared, workflow.definition())?;
        if shared.is_closing() {
            return Err(StartError::ShuttingDown);
        }
        let definition = workflow.definition();
        let existing = check_existing_instance(shared.persistence(), definition, &instance, options.policy).await?;
        if let Existing::Use(found) = existing {
            return self.existing(workflow, instance, found);
        }
        let codec = &self.inner.codec;
        let new = NewRun {
            instance: instance.clone(),
            run: shared.new_run(),
            codec: codec.id(),
            input: workflow.encode_input(&input, codec, shared.limits.payload_bytes_max)?,
            traceparent: options.traceparent,
        };
        let when_busy = options.when_busy.unwrap_or(shared.when_busy);
        // Before the task below: a caller that gives up while waiting leaves nothing to undo.
        let kind = kind_of(&existing);
        let place = shared.persistence().admit(kind, when_busy).await.map_err(StartError::Busy)?;
        let share = match kind {
            StartKind::Replacement => None,
            StartKind::New => Some(share_of(shared, &new, when_busy).await?),
        };
        let starting = Starting {
            shared: Arc::clone(shared),
            definition: Arc::clone(definition),
            new,
            policy: options.policy,
            when_busy,
            place: Some(place),
            share,
        };
        let (run, codec) = (starting.new.run, starting.new.codec);
        // In a task of its own: a caller that gives up must not keep a durable run from being
        // activated.
        let outcome = shared.tokio.spawn(starting.run(existing)).await;
        let lost = |error: JoinError| Err(StartError::OutcomeUnknown(StoreError::Transient(Cause::of(error))));
        if let Some(found) = outcome.unwrap_or_else(lost)? {
            return self.existing(workflow, instance, found);
        }
        let handle = InstanceHandle::new(&self.inner.actors, workflow, instance, run, codec);
        Ok(StartOutcome { handle, existing: None })
    }

    fn existing<I, O: 'static>(
        &self,
        workflow: &Workflow<I, O>,
        instance: InstanceId,
        found: ExistingInstance<Value>,
    ) -> Result<StartOutcome<O>, StartError> {
        let shared = self.inner.actors.shared();
        let output = match (&found.output, shared.codecs.get(&found.codec)) {
            (Some(value), Some(codec)) => Some(workflow.decode_output(value, codec)?),
            (Some(_), None) => return Err(StartError::UnknownCodec(found.codec)),
            (None, _) => None,
        };
        let handle = InstanceHandle::new(&self.inner.actors, workflow, instance, found.run, found.codec);
        let existing = ExistingInstance { run: found.run, codec: found.codec, status: found.status, output };
        Ok(StartOutcome { handle, existing: Some(existing) })
    }
}

fn check_registered(shared: &Shared, given: &Definition) -> Result<(), StartError> {
    let workflow = || given.info().name().to_owned();
    match shared.definitions.get(&given.hash()) {
        None => Err(StartError::NotRegistered { workflow: workflow() }),
        #[cfg(feature = "testing")]
        Some(registered) if registered.stubs != given.stubs => {
            let paths = |definition: &Definition| definition.stubs.iter().cloned().collect();
            Err(StartError::OtherStubs { workflow: workflow(), registered: paths(registered), given: paths(given) })
        }
        Some(_) => Ok(()),
    }
}

impl From<SendError> for StartError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Busy(limit) => Self::Busy(limit),
            SendError::Closing => Self::ShuttingDown,
        }
    }
}

/// A start in progress.
struct Starting {
    shared: Arc<Shared>,
    definition: Arc<Definition>,
    new: NewRun,
    policy: ConflictPolicy,
    when_busy: WhenBusy,
    /// The place among the starts in progress. `None` only while the start changes its kind.
    place: Option<StartPlace>,
    /// The share of the payload bytes in progress, for the first insert.
    share: Option<PayloadShare>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.shared.persistence().settle_start(self.new.run);
    }
}

fn kind_of(existing: &Existing) -> StartKind {
    if matches!(existing, Existing::Terminate(_)) { StartKind::Replacement } else { StartKind::New }
}

async fn share_of(shared: &Shared, new: &NewRun, when_busy: WhenBusy) -> Result<PayloadShare, StartError> {
    Ok(shared.payload_share(new.input.len(), when_busy).await?)
}

impl Starting {
    /// Starts the run, and repeats that while its outcome is unknown. Returns the existing instance
    /// instead, if the policy says to use it.
    async fn run(mut self, mut existing: Existing) -> Result<Option<ExistingInstance<Value>>, StartError> {
        let (mut repeats, mut is_unknown) = (0, false);
        loop {
            let outcome = self.attempt(existing).await;
            is_unknown |= matches!(outcome, Err(StartError::OutcomeUnknown(_)));
            match outcome {
                Err(StartError::OutcomeUnknown(error) | StartError::Unreadable(error))
                    if repeats < REPEATS && !self.shared.is_closing() =>
                {
                    tracing::warn!(instance = %self.new.instance, %error, is_unknown, "the start of an instance failed; repeating it");
                    repeats += 1;
                    self.shared.persistence().note_start(self.new.run);
                    // The start may have been committed already: too late to refuse it.
                    self.when_busy = WhenBusy::Wait;
                    self.shared.sleep(Duration::from_millis(50) * repeats).await;
                    // If it was committed, the insert finds its run, or that the run existed and is
                    // gone.
                    existing = Existing::Free;
                }
                // This attempt could not read, but an earlier one may have written.
                Err(StartError::Unreadable(error)) if is_unknown => return Err(StartError::OutcomeUnknown(error)),
                outcome => return outcome,
            }
        }
    }

    async fn attempt(&mut self, mut existing: Existing) -> Result<Option<ExistingInstance<Value>>, StartError> {
        loop {
            self.take_place(kind_of(&existing)).await?;
            if let Existing::Terminate(_) = existing {
                // Replacing waits for a place, and a start that waits for a place must hold no
                // share.
                self.share = None;
                // Only the actor of the instance writes to it.
                return self.replace().await.map(|()| None);
            }
            match self.insert(existing).await {
                // Another start was first: terminate its run.
                Err(StartError::InstanceAlreadyExists { .. } | StartError::DefinitionMismatch { .. })
                    if self.policy == ConflictPolicy::TerminateExisting =>
                {
                    existing = self.check().await?;
                }
                // A damaged instance is replaced too; one written by a newer version is not.
                Err(StartError::Damaged(ref damaged))
                    if !damaged.is_readable_elsewhere() && self.policy == ConflictPolicy::TerminateExisting =>
                {
                    existing = self.check().await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Changes places if the start turns out to be of the other kind. No place is held in between,
    /// so that starts never wait in a circle.
    async fn take_place(&mut self, kind: StartKind) -> Result<(), StartError> {
        if self.place.as_ref().is_none_or(|place| place.kind != kind) {
            self.place = None;
            let place = self.shared.persistence().admit(kind, self.when_busy).await;
            self.place = Some(place.map_err(StartError::Busy)?);
        }
        Ok(())
    }

    async fn insert(&mut self, existing: Existing) -> Result<Option<ExistingInstance<Value>>, StartError> {
        let _share = match self.share.take() {
            Some(share) => share,
            None => share_of(&self.shared, &self.new, self.when_busy).await?,
        };
        let Self { shared, definition, new, policy, .. } = self;
        let context = Context { program: definition.program(), limits: &shared.limits, now: shared.clock.now() };
        // An existing instance is never overwritten from here: only its actor does that.
        let policy = if *policy == ConflictPolicy::TerminateExisting { ConflictPolicy::Fail } else { *policy };
        let read_epoch = shared.read_epoch(&new.instance);
        match prepare_run(shared.persistence(), &context, definition, new.clone(), policy, existing).await? {
            PrepareRunOutcome::ExistingStatus(found) => Ok(Some(found)),
            PrepareRunOutcome::Fresh { snapshot, effects } => {
                shared.begin(snapshot, effects, read_epoch);
                Ok(None)
            }
        }
    }

    async fn replace(&self) -> Result<(), StartError> {
        let (reply, answer) = oneshot::channel();
        let (definition, new) = (Arc::clone(&self.definition), self.new.clone());
        let command = |place| Command::Replace(Box::new(Replacement { definition, new, reply, _place: place }));
        let bytes = self.new.input.len();
        // Its actor may fail after the commit. Noted again below, since delivery may wait long for
        // room.
        self.shared.persistence().note_start(self.new.run);
        self.shared.deliver(&self.new.instance, bytes, self.when_busy, command).await?;
        self.shared.persistence().note_start(self.new.run);
        answer.await.unwrap_or_else(|_| {
            let lost = StoreError::Transient("the answer was lost with an actor".into());
            Err(StartError::OutcomeUnknown(lost))
        })
    }

    async fn check(&self) -> Result<Existing, StartError> {
        check_existing_instance(self.shared.persistence(), &self.definition, &self.new.instance, self.policy).await
    }
}
