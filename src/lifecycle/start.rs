//! Starting an instance: one insert-only write behind every policy.

use crate::codec::Value;
use crate::definition::{Definition, Manifest, Names};
use crate::id::{DefinitionHash, IdError, InstanceId, RunId, Stamp};
use crate::lifecycle::step::write;
use crate::lifecycle::{CommitError, Found, LoadError, Port, Stored, fill_values, has_moved};
use crate::limits::Bound;
use crate::machine::{Damaged, Effect, NewRun, Setting, Snapshot, Transition, start};
use crate::status::Status;
use crate::store::{Condition, Conflict, Loaded, Store, StoreError, Version, Write};

/// What a start does when the instance id is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// It is refused.
    #[default]
    Fail,
    /// The instance that is there is given, with its status and, if it has completed, its output. Nothing runs.
    UseExisting,
    /// The old run ends and a new one takes its place, in one write. Late writes of the old run are refused, its running
    /// tasks are cancelled, its buffered signals and requests go, and whoever waits for its result is told.
    TerminateExisting,
}

/// Why an instance was not started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The instance id is not valid.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The input does not encode, or is too large.
    #[error(transparent)]
    Input(#[from] crate::codec::CodecError),
    /// The id is taken, and the policy is [`ConflictPolicy::Fail`].
    #[error("instance `{instance}` exists already ({status}): use another id or another conflict policy")]
    InstanceAlreadyExists {
        /// The id.
        instance: InstanceId,
        /// Where it stands.
        status: Status,
    },
    /// The id is taken by an instance of another definition.
    #[error(
        "instance `{instance}` runs on another definition ({found}, not {expected}): use another id, or TerminateExisting"
    )]
    DefinitionMismatch {
        /// The id.
        instance: InstanceId,
        /// The definition that was to be started.
        expected: DefinitionHash,
        /// The definition it runs on.
        found: DefinitionHash,
    },
    /// Too many starts are under way ([`Limits::writes_queued_max`](crate::Limits::writes_queued_max)), or an instance that is
    /// to be replaced has a bound of its own reached, and this start does not wait
    /// ([`WhenBusy::Refuse`](crate::WhenBusy::Refuse)). Nothing was done: it may be repeated.
    #[error("busy, nothing was done: {0}")]
    Busy(Bound),
    /// The workflow was not given to [`RuntimeBuilder::register`](crate::RuntimeBuilder::register).
    #[error("workflow `{workflow}` is not registered with this runtime: pass it to RuntimeBuilder::register")]
    NotRegistered {
        /// The workflow.
        workflow: String,
    },
    /// The workflow has other stubs than the one that is registered, which is what would run.
    #[cfg(feature = "testing")]
    #[error(
        "workflow `{workflow}` is registered with stubs for {registered:?}, and this one has stubs for {given:?}: register \
         this one, or its real tasks would run"
    )]
    OtherStubs {
        /// The workflow.
        workflow: String,
        /// The tasks that have stubs where it was registered.
        registered: Vec<String>,
        /// Those that have stubs here.
        given: Vec<String>,
    },
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    ShuttingDown,
    /// The instance that is there cannot be read. One of a newer version is not replaced either.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The store could not be read, so nothing was started.
    #[error("nothing was started, since the store could not be read: {0}")]
    Unreadable(StoreError),
    /// The store failed; whether the instance was started is unknown. Start it again: a second start of the same run does
    /// no harm with [`ConflictPolicy::UseExisting`].
    #[error("whether the instance was started is unknown: {0}")]
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

/// What stands where an instance is to be started.
#[derive(Clone, Debug)]
pub enum Existing {
    /// Nothing: the id is free.
    Free,
    /// An instance to be used as it is.
    Use(ExistingInstance<Value>),
    /// An instance whose run is to be ended by the new one.
    Terminate(Version),
}

/// An instance that was there already.
#[derive(Clone, Debug)]
pub struct ExistingInstance<O> {
    /// Its run.
    pub run: RunId,
    /// The id of its codec.
    pub codec: u8,
    /// Where it stands.
    pub status: Status,
    /// Its output, if it has completed.
    pub output: Option<O>,
}

/// What came of a start.
#[derive(Clone, Debug)]
pub enum PrepareRunOutcome {
    /// A new run is durable.
    Fresh {
        /// Its first snapshot.
        snapshot: Box<Snapshot>,
        /// What to do now. Empty if an earlier try of this very start had gone through although its answer was lost: take
        /// the instance up as after a crash then, since it may have moved on, or may even be gone.
        effects: Vec<Effect>,
    },
    /// The instance was there, and the policy is to use it.
    ExistingStatus(ExistingInstance<Value>),
}

/// Applies the policy to what is stored under the id. The input is not needed for this.
///
/// # Errors
/// [`StartError`].
pub async fn check_existing_instance(
    port: &dyn Port,
    definition: &Definition,
    instance: &InstanceId,
    policy: ConflictPolicy,
) -> Result<Existing, StartError> {
    loop {
        let Some(loaded) = port.store().load(instance).await.map_err(LoadError::from)? else {
            return Ok(Existing::Free);
        };
        // Large as a future, and most ids are free.
        if let Some(existing) = Box::pin(apply_policy(port, definition, instance, policy, loaded)).await? {
            return Ok(existing);
        }
    }
}

/// Applies the policy to an instance that is there. None if it was deleted or replaced while it was read.
async fn apply_policy(
    port: &dyn Port,
    definition: &Definition,
    instance: &InstanceId,
    policy: ConflictPolicy,
    loaded: Loaded,
) -> Result<Option<Existing>, StartError> {
    let Found { version, quarantine, snapshot } = Found::of(instance, loaded);
    let is_newer = snapshot.as_ref().is_err_and(|unreadable| unreadable.newer);
    if policy == ConflictPolicy::TerminateExisting && !is_newer {
        return Ok(Some(Existing::Terminate(version)));
    }
    let stored = Stored { snapshot: snapshot?, quarantine, version };
    let (expected, found) = (definition.hash(), stored.snapshot.definition());
    if !definition.accepts(found) {
        return Err(StartError::DefinitionMismatch { instance: instance.clone(), expected, found });
    }
    if policy == ConflictPolicy::Fail {
        let older = older_manifest(port.store(), definition, found).await?;
        let status = stored.status(names(definition, older.as_ref()));
        return Err(StartError::InstanceAlreadyExists { instance: instance.clone(), status });
    }
    let read = stored.snapshot.clone();
    match existing_instance(port, definition, stored).await {
        // Head and rows are read one by one.
        Err(StartError::Damaged(_)) if matches!(has_moved(port.store(), &read).await, Ok(true)) => Ok(None),
        existing => Ok(Some(Existing::Use(existing?))),
    }
}

async fn existing_instance(
    port: &dyn Port,
    definition: &Definition,
    mut stored: Stored,
) -> Result<ExistingInstance<Value>, StartError> {
    let older = older_manifest(port.store(), definition, stored.snapshot.definition()).await?;
    let names = names(definition, older.as_ref());
    let status = stored.status(names);
    if status == Status::Completed {
        fill_values(port.store(), names, &mut stored.snapshot).await?;
    }
    let snapshot = stored.snapshot;
    let output = if status == Status::Completed { snapshot.output().cloned() } else { None };
    Ok(ExistingInstance { run: snapshot.run(), codec: snapshot.codec(), status, output })
}

/// The manifest of an instance's definition, if that is one that this definition takes over.
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

fn names<'a>(definition: &'a Definition, older: Option<&'a Manifest>) -> &'a dyn Names {
    match older {
        Some(older) => older,
        None => definition.program(),
    }
}

/// Starts a run in one write, or gives the instance that is there, as `existing` and the policy say. When the write loses
/// a race the policy is applied again.
///
/// # Errors
/// [`StartError`].
pub async fn prepare_run(
    port: &dyn Port,
    setting: &Setting<'_>,
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
        let (write, snapshot, effects) = first_write(setting, new.clone(), old);
        if old.and_then(|old| old.run()) == Some(new.run) {
            // Found by the policy after an answer was lost: it must not end itself.
            return Ok(PrepareRunOutcome::Fresh { snapshot, effects: Vec::new() });
        }
        match port.commit(write).await {
            Ok(()) => return Ok(PrepareRunOutcome::Fresh { snapshot, effects }),
            Err(CommitError::Store(error)) => return Err(StartError::OutcomeUnknown(error)),
            // An earlier try went through: its run is there, or has come and gone.
            Err(CommitError::Conflict(Conflict { found, is_over }))
                if is_over || found.is_some_and(|(run, _)| run == new.run) =>
            {
                return Ok(PrepareRunOutcome::Fresh { snapshot, effects: Vec::new() });
            }
            Err(CommitError::Conflict(_)) => {
                existing = check_existing_instance(port, definition, &new.instance, policy).await?;
            }
        }
    }
}

/// The one write that starts a run, ending the one that is there, if any.
fn first_write(setting: &Setting<'_>, new: NewRun, old: Option<Version>) -> (Write, Box<Snapshot>, Vec<Effect>) {
    // One that is repeated is told by its run: it is not the same write, since time has passed.
    let (condition, stamp) = (old.map_or(Condition::Absent, Condition::Seen), Stamp::generate());
    let (mut snapshot, Transition { rows, effects, .. }) = start(setting, new);
    let write = write(setting.program, &mut snapshot, rows, condition, stamp);
    let superseded = old.and_then(|old| old.run());
    (Write { superseded, ..write }, Box::new(snapshot), effects)
}
