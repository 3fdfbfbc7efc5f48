//! The state that all actors share, and the calls that reach instances through it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::backlog::{Backlog, Unreadable};
use super::command::{Command, CommandError, Place, Reply};
use super::instance::Activation;
use super::payloads::{PayloadBytes, PayloadShare};
use super::persistence::PersistenceHandle;
use super::read_epoch::ReadEpoch;
use super::registry::{Registry, Unsent};
use super::room::Resident;
use super::timers::TimerMessage;
use super::upgrades::{UpgradePaths, Upgrades};
use super::waiters::{Subscription, Waiters};
use crate::clock::Clock;
use crate::codec::Codec;
use crate::definition::{Definition, Deps, Manifest, NoNames, NodeNames};
use crate::executor::{AttemptKey, Executor, Serial, Sink, Stalled};
use crate::id::{DefinitionHash, InstanceId, RunId, Starter};
use crate::lifecycle::{LoadError, Stored, load};
use crate::limits::{INLINE_BYTES_MAX, LimitReached, Limits, WhenBusy};
use crate::machine::{Effect, Outcome, Snapshot, Wake};
use crate::status::Status;
use crate::store::{Store, StoreError, Version};
use crate::time::Timestamp;

/// The state of the runtime: whether it can make anything durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// The store works.
    Healthy,
    /// The store fails; the runtime keeps trying to reopen it, and continues by itself after it
    /// succeeds. Or an actor of the runtime has ended: the reason then says to restart the service,
    /// and the state stays `Unhealthy`.
    Unhealthy {
        /// The last error of the store, or the actor that has ended.
        reason: String,
    },
}

/// The parts that a [`Shared`] is made of.
pub(crate) struct SharedParts {
    pub(crate) limits: Limits,
    pub(crate) when_busy: WhenBusy,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) definitions: HashMap<DefinitionHash, Arc<Definition>>,
    pub(crate) upgrade_paths: UpgradePaths,
    pub(crate) deps: Arc<Deps>,
    pub(crate) codecs: HashMap<u8, Codec>,
}

/// The state that all actors share.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    /// The behaviour of callers that do not choose one.
    pub(crate) when_busy: WhenBusy,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) definitions: HashMap<DefinitionHash, Arc<Definition>>,
    pub(crate) upgrades: Upgrades,
    pub(crate) deps: Arc<Deps>,
    pub(crate) codecs: HashMap<u8, Codec>,
    pub(super) registry: Registry,
    pub(super) waiters: Waiters,
    payloads: PayloadBytes,
    /// Instances to be activated that are known by id.
    pub(super) backlog: Backlog,
    /// Notified when all instances in progress are to be listed and activated.
    pub(super) list: Notify,
    /// Notified when the store has failed for all instances.
    pub(super) failed: Notify,
    /// The state of the store, as its last commit or reopen left it.
    health: Mutex<Health>,
    /// The reason why the runtime cannot continue, even if the store works: set once, for good.
    broken: OnceLock<String>,
    /// Cancelled when the runtime shuts down.
    closing: CancellationToken,
    /// True after the first failure of the store.
    has_failed: AtomicBool,
    /// The mark in the ids of the runs that this runtime starts.
    starter: Starter,
    /// The tokio runtime that actors and tasks are spawned on. A caller may be on another one, or
    /// on none.
    pub(crate) tokio: tokio::runtime::Handle,
    /// Set once by the root, before anything is sent.
    pub(super) parts: OnceLock<Running>,
}

/// The actors that the others send to, and the executor.
pub(super) struct Running {
    pub(super) executor: Arc<Executor>,
    pub(super) persistence: PersistenceHandle,
    pub(super) timers: ActorRef<TimerMessage>,
}

/// The reason why a caller's command was not sent. Nothing was done.
pub(crate) enum SendError {
    Busy(LimitReached),
    /// The runtime is shutting down.
    Closing,
}

/// An instance as read from the store, with its status by node names.
pub(crate) struct Read {
    pub(crate) stored: Stored,
    pub(crate) status: Status,
}

impl Shared {
    pub(super) fn new(parts: SharedParts) -> Arc<Self> {
        let payloads = PayloadBytes::new(parts.limits.payload_bytes_under_way_max);
        let registry = Registry::new(&parts.limits);
        Arc::new(Self {
            limits: parts.limits,
            when_busy: parts.when_busy,
            clock: parts.clock,
            store: parts.store,
            definitions: parts.definitions,
            upgrades: Upgrades::new(parts.upgrade_paths),
            deps: parts.deps,
            codecs: parts.codecs,
            registry,
            waiters: Waiters::default(),
            payloads,
            backlog: Backlog::default(),
            list: Notify::new(),
            failed: Notify::new(),
            health: Mutex::new(Health::Healthy),
            broken: OnceLock::new(),
            closing: CancellationToken::new(),
            has_failed: AtomicBool::new(false),
            starter: Starter::generate(),
            tokio: tokio::runtime::Handle::current(),
            parts: OnceLock::new(),
        })
    }

    pub(super) fn running(&self) -> &Running {
        match self.parts.get() {
            Some(running) => running,
            None => unreachable!("the root sets the running parts before it starts any actor"),
        }
    }

    pub(crate) fn persistence(&self) -> &PersistenceHandle {
        &self.running().persistence
    }

    pub(crate) fn health(&self) -> Health {
        match self.broken.get() {
            Some(reason) => Health::Unhealthy { reason: reason.clone() },
            None => self.health.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    pub(super) fn set_health(&self, health: Health) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }

    /// Records that an actor which all others need has ended: only a restart helps.
    pub(super) fn break_down(&self, reason: String) {
        // The first reason is kept: later ones follow from it.
        let _ = self.broken.set(reason);
    }

    pub(crate) fn stalled(&self) -> Vec<Stalled> {
        self.running().executor.stalled()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    pub(super) fn set_closing(&self) {
        self.closing.cancel();
    }

    pub(super) fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Returns a guard that closes the runtime when it is dropped.
    pub(super) fn closing_guard(&self) -> DropGuard {
        self.closing.clone().drop_guard()
    }

    /// Resolves when the runtime shuts down.
    pub(crate) async fn closed(&self) {
        self.closing.cancelled().await;
    }

    /// Sleeps on Everstep's tokio runtime, since a caller's may have no time driver; returns early
    /// when the runtime shuts down. Measures elapsed time, not the runtime's clock.
    pub(crate) async fn sleep(&self, time: Duration) {
        let sleep = {
            let _entered = self.tokio.enter();
            tokio::time::sleep(time)
        };
        tokio::select! {
            // First, since a sleep panics when it is polled after its tokio runtime has ended.
            biased;
            () = self.closed() => {}
            () = sleep => {}
        }
    }

    pub(crate) fn subscribe(&self, instance: &InstanceId) -> Subscription {
        self.waiters.subscribe(instance)
    }

    /// Starts a recovery after the store has failed for all instances: wake-ups, writes and
    /// notifications in flight may be lost.
    pub(super) fn recover_after_failure(&self) {
        self.has_failed.store(true, Ordering::Release);
        self.failed.notify_one();
    }

    /// Schedules a retry of an instance that could not be read or written, with a backoff of its
    /// own. Its attempts give up the slots in which they wait to go ahead and, from the second
    /// failure, the turn to run alone.
    pub(super) fn recover_instance(&self, instance: &InstanceId, error: &StoreError) {
        let executor = &self.running().executor;
        executor.stop_at_gates(instance);
        match self.backlog.failed(instance, error) {
            // The first failure may be a short one of the store: then the result is recorded before
            // another attempt gets the turn to run alone.
            Some(1) => {}
            Some(_) => executor.yield_turn(instance),
            None => self.recover_after_failure(),
        }
    }

    pub(crate) fn unreadable(&self) -> Vec<Unreadable> {
        self.backlog.unreadable()
    }

    /// Stops all attempts of an instance, of any run, and forgets their results. Called whenever an
    /// instance is activated, replaced, deleted or quarantined, except for attempts that the new
    /// actor adopts.
    pub(super) fn stop_attempts(&self, instance: &InstanceId) {
        self.running().executor.stop_instance(instance);
    }

    /// Generates the id of a new run.
    pub(crate) fn new_run(&self) -> RunId {
        RunId::generate_by(self.starter, self.clock.now())
    }

    /// Returns true if an attempt that the executor does not know counts as a process crash. False
    /// after a store failure in this process, and for runs this runtime started (they may only be
    /// waiting for room). The 16-bit mark of another runtime is the same once in 65,536; such a
    /// crash is then counted at the next start.
    pub(super) fn counts_as_crash(&self, run: RunId) -> bool {
        !self.has_failed.load(Ordering::Acquire) && !self.starter.may_have_started(run)
    }

    /// Returns the current read epoch of this id; `None` if an actor for it is already active,
    /// which may read the store at any time. Call before committing a start, and pass the result to
    /// [`begin`](Self::begin).
    pub(crate) fn read_epoch(&self, instance: &InstanceId) -> Option<ReadEpoch> {
        let read_epoch = self.registry.read_epoch(instance);
        (!self.registry.is_in_memory(instance)).then_some(read_epoch)
    }

    /// Activates a run that was just committed, or arms its wake-up. Without room the run stays in
    /// the store until there is room.
    pub(crate) fn begin(
        self: &Arc<Self>,
        snapshot: Box<Snapshot>,
        effects: Vec<Effect>,
        read_epoch: Option<ReadEpoch>,
    ) {
        let id = snapshot.instance().clone();
        let parked = !snapshot.is_running() && !effects.is_empty();
        if parked && !self.registry.is_in_memory(&id) {
            // A parked run needs no actor, only its wake-up.
            let message = TimerMessage::ArmFresh { instance: id, wake: snapshot.wake() };
            // Refused only while the runtime shuts down.
            let _ = self.running().timers.cast(message);
            return;
        }
        let fresh = !effects.is_empty();
        // A run under a free id has no earlier wake-up to be cleared.
        let is_needed = |effect: &Effect| !matches!(effect, Effect::WakeAt(Wake { at: None, .. }));
        let effects: Vec<_> = effects.into_iter().filter(is_needed).collect();
        // Without effects, an earlier try of the same start was committed, and its run may have
        // moved on.
        let activation = || {
            let is_current = read_epoch == Some(self.registry.read_epoch(&id));
            if fresh { Activation::Fresh { snapshot, effects, is_current } } else { Activation::Load }
        };
        if self.registry.send_with(self, &id, Command::Activate, None, activation).is_err() {
            self.backlog.push(id);
        }
    }

    pub(super) fn reset_timers(&self) {
        // Refused only while the runtime shuts down.
        let _ = self.running().timers.cast(TimerMessage::Reset);
    }

    pub(super) fn arm(&self, instance: &InstanceId, wake: Wake) {
        let message = TimerMessage::Arm { instance: instance.clone(), wake };
        // Refused only while the runtime shuts down; the row in the store is what counts.
        let _ = self.running().timers.cast(message);
    }

    /// Sends a command of the runtime itself to an instance, waiting for room if the instance is
    /// parked.
    pub(crate) async fn send(self: &Arc<Self>, instance: &InstanceId, command: Command) {
        if let Err(Unsent(command)) = self.registry.send(self, instance, command) {
            let resident = self.room().await;
            // With a permit in hand there is room, unless the runtime is shutting down.
            let _ = self.registry.send_with(self, instance, command, resident, || Activation::Load);
        }
    }

    /// Waits in the runtime's line for room for one more actor; `None` if the runtime shuts down
    /// first, after which no room may ever come free.
    pub(super) async fn room(&self) -> Option<Resident> {
        tokio::select! {
            resident = self.registry.resident() => resident,
            () = self.closed() => None,
        }
    }

    /// Waits for a caller's share of the payload bytes in flight, or fails at once if `when_busy`
    /// says so.
    pub(crate) async fn payload_share(
        &self,
        payload_bytes: usize,
        when_busy: WhenBusy,
    ) -> Result<PayloadShare, SendError> {
        if payload_bytes <= INLINE_BYTES_MAX {
            return Ok(PayloadShare::default());
        }
        // Boxed: the future would be a large part of every caller's, and few callers have to wait.
        let share = Box::pin(async {
            tokio::select! {
                biased;
                share = self.payloads.share(payload_bytes, when_busy) => share.map_err(SendError::Busy),
                () = self.closed() => Err(SendError::Closing),
            }
        });
        share.await
    }

    /// Sends a caller's command to an instance, after taking a place in its queue, room for an
    /// actor if it is parked, and a share for the payload. Nothing is sent without all of them, so
    /// a caller that gives up while waiting leaves nothing to be done.
    pub(crate) async fn deliver(
        self: &Arc<Self>,
        instance: &InstanceId,
        payload_bytes: usize,
        when_busy: WhenBusy,
        mut command: impl FnOnce(Place) -> Command,
    ) -> Result<(), SendError> {
        loop {
            let admitted = tokio::select! {
                admitted = self.registry.admit(instance, when_busy) => admitted.map_err(SendError::Busy)?,
                () = self.closed() => return Err(SendError::Closing),
            };
            let payload = self.payload_share(payload_bytes, when_busy).await?;
            match self.registry.deliver(self, instance, admitted, payload, command) {
                Ok(()) => return Ok(()),
                Err(_) if self.is_closing() => return Err(SendError::Closing),
                Err(again) => command = again,
            }
        }
    }

    /// Sends a request to an instance and waits for the answer. `None` means that the answer was
    /// lost with an actor: the outcome is unknown.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        instance: &InstanceId,
        payload_bytes: usize,
        when_busy: WhenBusy,
        command: impl FnOnce(Reply) -> Command,
    ) -> Option<Result<(), CommandError>> {
        let (sender, answer) = tokio::sync::oneshot::channel();
        let command = |place| command(Reply { sender, _place: place });
        match self.deliver(instance, payload_bytes, when_busy, command).await {
            Ok(()) => answer.await.ok(),
            Err(SendError::Busy(limit)) => Some(Err(CommandError::Busy(limit))),
            Err(SendError::Closing) => Some(Err(CommandError::Closing)),
        }
    }

    /// Reads an instance from the store.
    pub(crate) async fn read(&self, instance: &InstanceId) -> Result<Option<Read>, LoadError> {
        let Some(stored) = load(&*self.store, instance).await? else { return Ok(None) };
        let status = self.status_of(&stored).await?;
        Ok(Some(Read { stored, status }))
    }

    /// Returns what [`read`](Self::read) would return for this durable end of a run.
    pub(crate) async fn read_end(&self, end: Arc<Snapshot>) -> Result<Read, StoreError> {
        let (version, snapshot) = (Version::from(&*end), Arc::unwrap_or_clone(end));
        let stored = Stored { snapshot, quarantine: None, version };
        let status = self.status_of(&stored).await?;
        Ok(Read { stored, status })
    }

    /// Returns true if an actor has this run active, and so will notify current subscribers.
    pub(crate) fn works_on(&self, instance: &InstanceId, run: RunId) -> bool {
        self.registry.works_on(instance, run)
    }

    /// Returns the status by the node names of the instance's definition, registered or not.
    pub(super) async fn status_of(&self, stored: &Stored) -> Result<Status, StoreError> {
        Ok(stored.status(&*self.names(&stored.snapshot.definition()).await?))
    }

    /// Returns the node names of a definition, as [`known_names`](Self::known_names); no names if
    /// they are not known.
    pub(crate) async fn names(&self, hash: &DefinitionHash) -> Result<Arc<dyn NodeNames>, StoreError> {
        Ok(self.known_names(hash).await?.unwrap_or_else(|| Arc::new(NoNames)))
    }

    /// Returns the node names of a definition: from its program, or from its manifest if it is not
    /// registered. Returns `None` if the store has no manifest of it that can be read.
    pub(crate) async fn known_names(&self, hash: &DefinitionHash) -> Result<Option<Arc<dyn NodeNames>>, StoreError> {
        if let Some(definition) = self.definitions.get(hash) {
            return Ok(Some(Arc::clone(definition) as Arc<dyn NodeNames>));
        }
        let manifest = self.store.manifest(hash).await?.and_then(|bytes| Manifest::decode(&bytes));
        Ok(manifest.map(|manifest| Arc::new(manifest) as Arc<dyn NodeNames>))
    }
}

/// The executor's reports to instances, sent by id, so that a successor actor gets the results of
/// attempts that its predecessor started.
pub(super) struct ToInstances(pub(super) std::sync::Weak<Shared>);

impl ToInstances {
    fn send(&self, key: &AttemptKey, command: Command) {
        let Some(shared) = self.0.upgrade() else { return };
        if let Err(Unsent(command)) = shared.registry.send(&shared, &key.instance, command) {
            // The actor ended while its task ran, and there is no room: wait in line.
            let instance = key.instance.clone();
            shared.tokio.clone().spawn(async move { shared.send(&instance, command).await });
        }
    }
}

impl Sink for ToInstances {
    fn started(&self, key: &AttemptKey, serial: Serial, at: Timestamp) {
        self.send(key, Command::Started { run: key.run, attempt_id: key.attempt_id, serial, at });
    }

    fn withdrawn(&self, key: &AttemptKey) {
        self.send(key, Command::Withdrawn { run: key.run, attempt_id: key.attempt_id });
    }

    fn finished(&self, key: &AttemptKey, serial: Serial, outcome: Outcome) {
        self.send(key, Command::Finished { run: key.run, attempt_id: key.attempt_id, serial, outcome });
    }
}
