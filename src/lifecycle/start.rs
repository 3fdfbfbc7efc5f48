//! Starts an instance, with one conditional write for every policy.

use crate::codec::Value;
use crate::definition::{Definition, Manifest, NoNames, NodeNames};
use crate::id::{DefinitionHash, IdError, InstanceId, RunId, Stamp};
use crate::lifecycle::step::write;
use crate::lifecycle::{CommitError, Committer, Found, LoadError, Stored, fill_values, has_moved};
use crate::limits::LimitReached;
use crate::machine::{Context, Damaged, Effect, NewRun, Snapshot, Transition, start};
use crate::status::Status;
use crate::store::{Condition, Conflict, Loaded, Store, StoreError, Version, Write};

/// The behaviour of a start when the instance id is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// The start fails.
    #[default]
    Fail,
    /// The start returns the existing instance, with its status and, if it has completed, its
    /// output. Nothing runs.
    UseExisting,
    /// A new run replaces the old one, in one write. Late writes of the old run are refused, its
    /// running tasks are cancelled, its buffered signals and pending requests are dropped, and
    /// callers that wait for its result are notified.
    TerminateExisting,
}

/// The reason why an instance was not started. Nothing was written, except where a variant says
/// that the outcome may be unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The instance id or the traceparent is not valid: use another one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The input does not encode or is too large, or the output of the existing instance does not
    /// decode: see the error.
    #[error(transparent)]
    Input(#[from] crate::codec::CodecError),
    /// The id is taken, and the policy is [`ConflictPolicy::Fail`]: use another id or policy.
    #[error("instance `{instance}` already exists ({status}): use another id or another conflict policy")]
    InstanceAlreadyExists {
        /// The id.
        instance: InstanceId,
        /// The status of the existing instance.
        status: Status,
    },
    /// The id is taken by an instance of another definition, which is not replaced under this
    /// policy: use another id, or [`ConflictPolicy::TerminateExisting`].
    #[error(
        "instance `{instance}` runs on definition {found}, not {expected}: use another id, or ConflictPolicy::TerminateExisting"
    )]
    DefinitionMismatch {
        /// The id.
        instance: InstanceId,
        /// The definition to be started.
        expected: DefinitionHash,
        /// The definition that the existing instance runs on.
        found: DefinitionHash,
    },
    /// A limit is reached: [`Limits::writes_queued_max`](crate::Limits::writes_queued_max), or one
    /// of the instance to be replaced, and this start does not wait
    /// ([`WhenBusy::Refuse`](crate::WhenBusy::Refuse)). Nothing was done: repeat the start.
    #[error("busy, nothing was started, try again later: {0}")]
    Busy(LimitReached),
    /// The workflow is not registered: pass it to
    /// [`RuntimeBuilder::register`](crate::RuntimeBuilder::register).
    #[error("workflow `{workflow}` is not registered with this runtime: pass it to RuntimeBuilder::register")]
    NotRegistered {
        /// The workflow.
        workflow: String,
    },
    /// The workflow has other stubs than the registered one, which is the one that would run:
    /// register this one.
    #[cfg(feature = "testing")]
    #[error(
        "workflow `{workflow}` is registered with stubs for {registered:?}, but this one has stubs for {given:?}: register \
         this one"
    )]
    OtherStubs {
        /// The workflow.
        workflow: String,
        /// The tasks with stubs in the registered workflow.
        registered: Vec<String>,
        /// The tasks with stubs in this workflow.
        given: Vec<String>,
    },
    /// The existing instance has an output in a codec that is not registered: add it with
    /// [`RuntimeBuilder::add_codec`](crate::RuntimeBuilder::add_codec).
    #[error("the existing instance's codec {0} is not registered: add it with RuntimeBuilder::add_codec")]
    UnknownCodec(u8),
    /// The runtime is shutting down. An earlier try of the same call may have started the instance:
    /// start it again after the restart, with [`ConflictPolicy::UseExisting`].
    #[error("the runtime is shutting down: start the instance again after the restart")]
    ShuttingDown,
    /// The existing instance cannot be read, and stays unchanged. One that is damaged can be
    /// replaced with [`ConflictPolicy::TerminateExisting`]; one written by a newer version of this
    /// crate cannot.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The store could not be read, so nothing was started: repeat the start.
    #[error("nothing was started, the store could not be read: {0}")]
    Unreadable(StoreError),
    /// The store failed; the outcome is unknown. Start the instance again: with
    /// [`ConflictPolicy::UseExisting`] a second start does no harm.
    #[error("the outcome of the start is unknown, repeat it with UseExisting: {0}")]
    OutcomeUnknown(StoreError),
}

impl From<LoadError> for StartError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Damaged(damaged) => Self::Damaged(damaged),
            LoadError::Store(store) => Self::Unreadable(store),
        }
    }
}

/// The state of the id that is to be started.
#[derive(Clone, Debug)]
pub enum Existing {
    /// The id is free.
    Free,
    /// The id is taken, and the existing instance is returned.
    Use(ExistingInstance<Value>),
    /// The id is taken, and the new run replaces the existing one.
    Terminate(Version),
}

/// An instance that existed before the start.
#[derive(Clone, Debug)]
pub struct ExistingInstance<O> {
    /// Its run.
    pub run: RunId,
    /// The id of its codec.
    pub codec: u8,
    /// Its status.
    pub status: Status,
    /// Its output, if it has completed.
    pub output: Option<O>,
}

/// The result of a start.
#[derive(Clone, Debug)]
pub enum PrepareRunOutcome {
    /// A new run is durable.
    Fresh {
        /// Its first snapshot.
        snapshot: Box<Snapshot>,
        /// The effects to perform now. Empty if an earlier try of the same start was committed and
        /// its answer lost: load the instance as after a crash then, since it may have moved on or
        /// may be deleted.
        effects: Vec<Effect>,
    },
    /// The instance exists, and the policy is to use it.
    ExistingStatus(ExistingInstance<Value>),
}

/// Applies the policy to the instance that is stored under the id, if any. Does not need the input.
///
/// # Errors
/// [`StartError`].
pub async fn check_existing_instance(
    committer: &dyn Committer,
    definition: &Definition,
    instance: &InstanceId,
    policy: ConflictPolicy,
) -> Result<Existing, StartError> {
    loop {
        let Some(loaded) = committer.store().load(instance).await.map_err(LoadError::from)? else {
            return Ok(Existing::Free);
        };
        // Boxed: the future is large, and most ids are free.
        if let Some(existing) = Box::pin(apply_policy(committer, definition, instance, policy, loaded)).await? {
            return Ok(existing);
        }
    }
}

/// Applies the policy to a stored instance. Returns `None` if it was deleted or replaced during the
/// read.
async fn apply_policy(
    committer: &dyn Committer,
    definition: &Definition,
    instance: &InstanceId,
    policy: ConflictPolicy,
    loaded: Loaded,
) -> Result<Option<Existing>, StartError> {
    let Found { version, quarantine, snapshot } = Found::of(instance, loaded);
    let is_newer = snapshot.as_ref().is_err_and(Damaged::is_readable_elsewhere);
    if policy == ConflictPolicy::TerminateExisting && !is_newer {
        return Ok(Some(Existing::Terminate(version)));
    }
    let stored = Stored { snapshot: snapshot?, quarantine, version };
    let (expected, found) = (definition.hash(), stored.snapshot.definition());
    if !definition.accepts(found) {
        return Err(StartError::DefinitionMismatch { instance: instance.clone(), expected, found });
    }
    if policy == ConflictPolicy::Fail {
        let older = older_manifest(committer.store(), definition, found).await?;
        let status = stored.status(names(definition, found, older.as_ref()).unwrap_or(&NoNames));
        return Err(StartError::InstanceAlreadyExists { instance: instance.clone(), status });
    }
    let read = stored.snapshot.clone();
    match existing_instance(committer, definition, stored).await {
        // Head and rows are read one after the other, so the instance may have changed between.
        Err(StartError::Damaged(_)) if matches!(has_moved(committer.store(), &read).await, Ok(true)) => Ok(None),
        existing => Ok(Some(Existing::Use(existing?))),
    }
}

async fn existing_instance(
    committer: &dyn Committer,
    definition: &Definition,
    mut stored: Stored,
) -> Result<ExistingInstance<Value>, StartError> {
    let found = stored.snapshot.definition();
    let older = older_manifest(committer.store(), definition, found).await?;
    let names = names(definition, found, older.as_ref());
    let status = stored.status(names.unwrap_or(&NoNames));
    if status == Status::Completed {
        let names = names.ok_or_else(|| Damaged::no_manifest(stored.snapshot.instance(), "head", found))?;
        fill_values(committer.store(), names, &mut stored.snapshot).await?;
    }
    let snapshot = stored.snapshot;
    let output = if status == Status::Completed { snapshot.output().cloned() } else { None };
    Ok(ExistingInstance { run: snapshot.run(), codec: snapshot.codec(), status, output })
}

/// Returns the manifest of the instance's definition, if that is an older one than `definition`.
async fn older_manifest(
    store: &dyn Store,
    definition: &Definition,
    found: DefinitionHash,
) -> Result<Option<Manifest>, LoadError> {
    if definition.hash() == found {
        return Ok(None);
    }
    Ok(store.manifest(&found).await?.and_then(|bytes| Manifest::decode(&bytes)))
}

/// Returns the node names of the instance's definition; none if it is an older one whose manifest
/// is missing.
fn names<'a>(
    definition: &'a Definition,
    found: DefinitionHash,
    older: Option<&'a Manifest>,
) -> Option<&'a dyn NodeNames> {
    if definition.hash() == found { Some(definition.program()) } else { older.map(|older| older as &dyn NodeNames) }
}

/// Starts a run in one write, or returns the existing instance, as `existing` and the policy say.
/// Applies the policy again when the write conflicts.
///
/// # Errors
/// [`StartError`].
pub async fn prepare_run(
    committer: &dyn Committer,
    context: &Context<'_>,
    definition: &Definition,
    new: NewRun,
    policy: ConflictPolicy,
    mut existing: Existing,
) -> Result<PrepareRunOutcome, StartError> {
    loop {
        let old = match existing {
            Existing::Free => None,
            Existing::Use(found) => return Ok(PrepareRunOutcome::ExistingStatus(found)),
            Existing::Terminate(version) => Some(version),
        };
        let (write, snapshot, effects) = first_write(context, new.clone(), old);
        if old.and_then(|old| old.run()) == Some(new.run) {
            // The existing run is this one: an earlier commit had lost its answer. It must not
            // replace itself.
            return Ok(PrepareRunOutcome::Fresh { snapshot, effects: Vec::new() });
        }
        match committer.commit(write).await {
            Ok(()) => return Ok(PrepareRunOutcome::Fresh { snapshot, effects }),
            Err(CommitError::Store(error)) => return Err(StartError::OutcomeUnknown(error)),
            // An earlier try was committed: its run is there, or was replaced or deleted since.
            Err(CommitError::Conflict(Conflict { found, is_over }))
                if is_over || found.is_some_and(|(run, _)| run == new.run) =>
            {
                return Ok(PrepareRunOutcome::Fresh { snapshot, effects: Vec::new() });
            }
            Err(CommitError::Conflict(_)) => {
                existing = check_existing_instance(committer, definition, &new.instance, policy).await?;
            }
        }
    }
}

/// Returns the one write that starts a run, and replaces the existing one, if any.
fn first_write(context: &Context<'_>, new: NewRun, old: Option<Version>) -> (Write, Box<Snapshot>, Vec<Effect>) {
    // A repeated start is recognized by its run id, not its stamp: its head differs, since time has
    // passed.
    let (condition, stamp) = (old.map_or(Condition::Absent, Condition::Seen), Stamp::generate());
    let (mut snapshot, Transition { rows, effects, .. }) = start(context, new);
    let write = write(context.program, &mut snapshot, rows, condition, stamp);
    let superseded = old.and_then(|old| old.run());
    (Write { superseded, ..write }, Box::new(snapshot), effects)
}
