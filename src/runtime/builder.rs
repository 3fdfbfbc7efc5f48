//! Builds and starts a runtime.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use super::Runtime;
use super::report::{StartReport, find_unregistered};
use crate::actors::{Actors, Retention, SharedParts, UpgradePaths};
use crate::cause::Cause;
use crate::clock::{Clock, SystemClock};
use crate::codec::{CUSTOM_CODEC_ID_MIN, Codec};
use crate::definition::{Definition, Deps, MissingDep, Workflow};
use crate::id::DefinitionHash;
use crate::limits::{Limits, WhenBusy};
use crate::store::{Guarded, Store, StoreError};

/// Error of a runtime's start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// Tasks need services that were not provided; all of them are listed.
    #[error("services are missing, pass them to RuntimeBuilder::provide: {}", crate::definition::list(.0))]
    MissingDeps(Vec<MissingDep>),
    /// Two codecs have the same id, or one has an id below 128.
    #[error("codec id {0} is reserved or already registered: use a unique id from {CUSTOM_CODEC_ID_MIN} to 255")]
    CodecId(u8),
    /// Two workflows have the same name, version and structure.
    #[error("two workflows `{workflow}` have the same definition hash: change the name or version of one")]
    RegisteredTwice {
        /// Their name.
        workflow: String,
    },
    /// Two workflows upgrade the same older definition.
    #[error("two workflows upgrade definition {older}: remove the upgrade from one of them")]
    UpgradedTwice {
        /// The older definition.
        older: DefinitionHash,
    },
    /// The tokio runtime has no time driver, without which no delay, timeout or retry becomes due.
    #[error("the tokio runtime has no time driver: build it with enable_time() or enable_all()")]
    NoTimeDriver,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The actors could not be started.
    #[error("the actors could not be started: {0}")]
    Actors(#[source] Cause),
}

/// A builder of a [`Runtime`].
pub struct RuntimeBuilder {
    store: Arc<dyn Store>,
    definitions: HashMap<DefinitionHash, Arc<Definition>>,
    /// A workflow with the hash of another registered one.
    registered_twice: Option<Arc<Definition>>,
    deps: Deps,
    limits: Limits,
    when_busy: WhenBusy,
    retention: Retention,
    codec: Codec,
    more_codecs: Vec<Codec>,
    clock: Arc<dyn Clock>,
}

impl RuntimeBuilder {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store: Arc::new(Guarded::new(store)),
            definitions: HashMap::new(),
            registered_twice: None,
            deps: Deps::new(),
            limits: Limits::default(),
            when_busy: WhenBusy::default(),
            retention: Retention::new(),
            codec: Codec::MessagePack,
            more_codecs: Vec::new(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Registers a workflow: its instances can be started, and stored ones go on. Several versions
    /// may be registered side by side; each instance runs on its own.
    pub fn register<I, O: 'static>(mut self, workflow: &Workflow<I, O>) -> Self {
        let definition = workflow.definition();
        let registered = self.definitions.entry(workflow.hash()).or_insert_with(|| Arc::clone(definition));
        if !Arc::ptr_eq(registered, definition) {
            self.registered_twice = Some(Arc::clone(definition));
        }
        self
    }

    /// Provides a service for tasks that take a [`Dep<T>`](crate::Dep) of exactly this type. For a
    /// trait object, use [`provide_arc`](Self::provide_arc).
    pub fn provide<T: Send + Sync + 'static>(self, service: T) -> Self {
        self.provide_arc(Arc::new(service))
    }

    /// Provides a service that is already shared, or a trait object: `provide_arc::<dyn
    /// Mailer>(mailer)`.
    pub fn provide_arc<T: ?Sized + Send + Sync + 'static>(mut self, service: Arc<T>) -> Self {
        self.deps.provide(service);
        self
    }

    /// Sets the limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets what starts and messages do when a limit is reached, unless set for a single start
    /// ([`StartOptions::when_busy`](crate::StartOptions::when_busy)) or handle
    /// ([`InstanceHandle::when_busy`](crate::InstanceHandle::when_busy)). The default is to wait.
    pub fn when_busy(mut self, when_busy: WhenBusy) -> Self {
        self.when_busy = when_busy;
        self
    }

    /// Sets how long instances are kept after they have ended. The default is forever.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Sets the codec of instances started from now on. Existing ones keep theirs.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Adds a codec of instances started earlier. MessagePack and JSON are always registered.
    pub fn add_codec(mut self, codec: Codec) -> Self {
        self.more_codecs.push(codec);
        self
    }

    /// Sets the clock: [`ManualClock`](crate::ManualClock) for tests.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Starts the runtime. Instances that a crash interrupted go on by themselves, in the
    /// background.
    ///
    /// # Errors
    /// [`RuntimeError`]; then nothing runs.
    pub async fn start(self) -> Result<Runtime, RuntimeError> {
        if !has_time_driver() {
            return Err(RuntimeError::NoTimeDriver);
        }
        let missing: Vec<_> = self.definitions.values().flat_map(|one| one.missing_deps(&self.deps)).collect();
        if !missing.is_empty() {
            return Err(RuntimeError::MissingDeps(missing));
        }
        if let Some(twice) = self.registered_twice {
            return Err(RuntimeError::RegisteredTwice { workflow: twice.info().name().to_owned() });
        }
        let codecs = codecs(&self.codec, self.more_codecs)?;
        let upgrade_paths = upgrade_paths(&self.definitions)?;
        for (hash, definition) in &self.definitions {
            self.store.save_manifest(hash, definition.manifest().encode()).await?;
        }
        let unregistered = find_unregistered(&*self.store, |hash| {
            self.definitions.contains_key(hash) || upgrade_paths.contains_key(hash)
        });
        let unregistered = unregistered.await?;
        for one in &unregistered {
            let (workflow, count) = (one.workflow.as_deref().unwrap_or("?"), one.instances.len());
            tracing::warn!(definition = %one.definition, workflow, count, more = one.more,
                "instances of an unregistered workflow stay unchanged: register the workflow to continue them");
        }
        let parts = SharedParts {
            limits: self.limits.clamped(),
            when_busy: self.when_busy,
            clock: self.clock,
            store: self.store,
            definitions: self.definitions,
            upgrade_paths,
            deps: Arc::new(self.deps),
            codecs,
        };
        let actors = Actors::start(parts, self.retention).await.map_err(RuntimeError::Actors)?;
        Ok(Runtime::new(actors, self.codec, StartReport { unregistered }))
    }
}

/// Returns true if the current tokio runtime has a time driver. Tokio says so only by a panic.
fn has_time_driver() -> bool {
    std::panic::catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_ok()
}

/// Maps each older definition to the one that upgrades it. A definition that is registered itself
/// is not upgraded.
fn upgrade_paths(definitions: &HashMap<DefinitionHash, Arc<Definition>>) -> Result<UpgradePaths, RuntimeError> {
    let mut upgrade_paths = UpgradePaths::new();
    for newer in definitions.values() {
        for upgrade_from in
            newer.upgrades_from().iter().filter(|upgrade_from| !definitions.contains_key(&upgrade_from.from))
        {
            let older = upgrade_from.from;
            if upgrade_paths.insert(older, (Arc::clone(newer), upgrade_from.clone())).is_some() {
                return Err(RuntimeError::UpgradedTwice { older });
            }
        }
    }
    Ok(upgrade_paths)
}

fn codecs(default: &Codec, more: Vec<Codec>) -> Result<HashMap<u8, Codec>, RuntimeError> {
    let mut codecs = HashMap::from([(1, Codec::MessagePack), (2, Codec::Json)]);
    let given = std::iter::once(default.clone()).chain(more);
    for codec in given.filter(|codec| matches!(codec, Codec::Custom(_))) {
        let id = codec.id();
        match codecs.entry(id) {
            Entry::Vacant(entry) if id >= CUSTOM_CODEC_ID_MIN => entry.insert(codec),
            _ => return Err(RuntimeError::CodecId(id)),
        };
    }
    Ok(codecs)
}

impl std::fmt::Debug for RuntimeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RuntimeBuilder({} workflows)", self.definitions.len())
    }
}
