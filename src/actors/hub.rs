//! What the actors share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::backlog::{Backlog, Unreadable};
use super::instance::Activation;
use super::loads::LoadsSoFar;
use super::mail::{Mail, MailError, Place, Reply};
use super::payloads::{PayloadBytes, PayloadShare};
use super::persistence::PersistenceHandle;
use super::registry::{Full, Registry};
use super::room::Resident;
use super::timers::TimerMessage;
use super::upgrades::{TakeOvers, Upgrades};
use super::waiters::{Subscription, Waiters};
use crate::clock::Clock;
use crate::codec::Codec;
use crate::definition::{Definition, Deps, Names};
use crate::executor::{AttemptKey, Executor, Serial, Sink, Stalled};
use crate::id::{DefinitionHash, InstanceId, RunId, Starter};
use crate::lifecycle::{LoadError, Stored, load};
use crate::limits::{Bound, INLINE_BYTES_MAX, Limits, WhenBusy};
use crate::machine::{Effect, Outcome, Snapshot, Wake};
use crate::status::Status;
use crate::store::{Store, StoreError, Version};
use crate::time::Timestamp;

/// Whether the runtime can make anything durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// All is well.
    Healthy,
    /// The store fails; the runtime keeps trying to reopen it, and goes on by itself once it can. Or the runtime cannot go on,
    /// and the reason says that the service is to be restarted; then it stays so.
    Unhealthy {
        /// What the store said last, or what has ended.
        reason: String,
    },
}

/// What the actors are made with.
pub(crate) struct HubParts {
    pub(crate) limits: Limits,
    pub(crate) when_busy: WhenBusy,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) definitions: HashMap<DefinitionHash, Arc<Definition>>,
    pub(crate) takeovers: TakeOvers,
    pub(crate) deps: Arc<Deps>,
    pub(crate) codecs: HashMap<u8, Codec>,
}

pub(crate) struct Hub {
    pub(crate) limits: Limits,
    /// What callers do who do not say.
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
    /// What is to be taken up by id.
    pub(super) backlog: Backlog,
    /// Told when everything in progress is to be listed and taken up.
    pub(super) list: Notify,
    /// Told when the store has failed for everyone.
    pub(super) failed: Notify,
    /// What the store said last.
    health: Mutex<Health>,
    /// Why the runtime cannot go on, whatever the store says: set once, for good.
    broken: OnceLock<String>,
    /// Cancelled when the runtime shuts down.
    closing: CancellationToken,
    /// Whether the store has ever failed.
    has_failed: AtomicBool,
    /// The mark of the runs that this runtime has started.
    starter: Starter,
    /// Where actors and tasks are spawned, whoever calls: a caller may be on another tokio runtime, or on none.
    pub(crate) tokio: tokio::runtime::Handle,
    /// Set once by the root, before anything is sent.
    pub(super) parts: OnceLock<Running>,
}

/// What exists once the actors do.
pub(super) struct Running {
    pub(super) executor: Arc<Executor>,
    pub(super) persistence: PersistenceHandle,
    pub(super) timers: ActorRef<TimerMessage>,
}

/// Why a caller's mail was not sent. Nothing was done.
pub(crate) enum Undelivered {
    Busy(Bound),
    /// The runtime is shutting down.
    Closing,
}

/// An instance as read from the store, with its status in names.
pub(crate) struct Read {
    pub(crate) stored: Stored,
    pub(crate) status: Status,
}

impl Hub {
    pub(super) fn new(parts: HubParts) -> Arc<Self> {
        let payloads = PayloadBytes::new(parts.limits.payload_bytes_under_way_max);
        let registry = Registry::new(parts.limits.resident_max, parts.limits.instance_messages_max);
        Arc::new(Self {
            limits: parts.limits,
            when_busy: parts.when_busy,
            clock: parts.clock,
            store: parts.store,
            definitions: parts.definitions,
            upgrades: Upgrades::new(parts.takeovers),
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
            None => unreachable!("the root sets this before it starts anything"),
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

    /// An actor that everything needs has ended: only a restart helps.
    pub(super) fn break_down(&self, reason: String) {
        // The first reason is kept: others follow from it.
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

    /// Closes the runtime when this is dropped.
    pub(super) fn closing_guard(&self) -> DropGuard {
        self.closing.clone().drop_guard()
    }

    /// Resolves when the runtime shuts down.
    pub(crate) async fn closed(&self) {
        self.closing.cancelled().await;
    }

    /// Sleeps on the tokio runtime that Everstep runs on, since a caller's may have no time driver; at most until the runtime
    /// shuts down. Elapsed time, whatever clock the runtime has.
    pub(crate) async fn sleep(&self, time: Duration) {
        let sleep = {
            let _entered = self.tokio.enter();
            tokio::time::sleep(time)
        };
        tokio::select! {
            // First, since a sleep of a tokio runtime that has ended panics when it is polled.
            biased;
            () = self.closed() => {}
            () = sleep => {}
        }
    }

    pub(crate) fn subscribe(&self, instance: &InstanceId) -> Subscription {
        self.waiters.subscribe(instance)
    }

    /// The store has failed for everyone: what was on its way may be lost, and is looked for.
    pub(super) fn recover_after_failure(&self) {
        self.has_failed.store(true, Ordering::Release);
        self.failed.notify_one();
    }

    /// Tries an instance again by itself that could not be read or written, with a backoff of its own. Its attempts keep nothing
    /// from others meanwhile.
    pub(super) fn recover_instance(&self, instance: &InstanceId, error: &StoreError) {
        let executor = &self.running().executor;
        executor.stop_at_gates(instance);
        match self.backlog.failed(instance, error) {
            // The first failure may be the store's, and over at once: then the outcome is recorded before anything else runs alone.
            Some(1) => {}
            Some(_) => executor.yield_turn(instance),
            None => self.recover_after_failure(),
        }
    }

    pub(crate) fn unreadable(&self) -> Vec<Unreadable> {
        self.backlog.unreadable()
    }

    /// Stops all attempts of an instance, of whatever run, and forgets what came of them. Whatever takes up, replaces, deletes or
    /// sets aside an instance does that, except for the attempts that it adopts.
    pub(super) fn stop_attempts(&self, instance: &InstanceId) {
        self.running().executor.stop_instance(instance);
    }

    /// The id of a run that is started now.
    pub(crate) fn new_run(&self) -> RunId {
        RunId::generate_by(self.starter, self.clock.now())
    }

    /// Whether a task that was handed out and is not known here was handed out by a process that died: as against this one
    /// before its store failed, or which found no room for a run it has started. A process that is mistaken for this one is
    /// not blamed; the next one will not be mistaken again.
    pub(super) fn blames_process(&self, run: RunId) -> bool {
        !self.has_failed.load(Ordering::Acquire) && !self.starter.may_have_started(run)
    }

    /// To be asked before a start is committed, and given to [`begin`](Self::begin). None if an actor is there that may read it
    /// whenever it likes.
    pub(crate) fn loads(&self, instance: &InstanceId) -> Option<LoadsSoFar> {
        let loads = self.registry.loads(instance);
        (!self.registry.is_awake(instance)).then_some(loads)
    }

    /// Lets a run that was just committed begin. Without room it stays in the store until there is.
    pub(crate) fn begin(self: &Arc<Self>, snapshot: Box<Snapshot>, effects: Vec<Effect>, loads: Option<LoadsSoFar>) {
        let id = snapshot.instance().clone();
        let parked = !snapshot.is_running() && !effects.is_empty();
        if parked && !self.registry.is_awake(&id) {
            // It needs no actor, only its wake-up.
            let message = TimerMessage::ArmFresh { instance: id, wake: snapshot.wake() };
            // Refused only while the runtime goes down.
            let _ = self.running().timers.cast(message);
            return;
        }
        let fresh = !effects.is_empty();
        // A run under a free id has nothing to be woken for before it asks.
        let is_needed = |effect: &Effect| !matches!(effect, Effect::WakeAt(Wake { at: None, .. }));
        let effects: Vec<_> = effects.into_iter().filter(is_needed).collect();
        // No effects: an earlier try of the same start had gone through, and it may have moved on.
        let activation = || {
            let is_current = loads == Some(self.registry.loads(&id));
            if fresh { Activation::Fresh { snapshot, effects, is_current } } else { Activation::Load }
        };
        if self.registry.send_with(self, &id, Mail::TakeUp, None, activation).is_err() {
            self.backlog.push(id);
        }
    }

    pub(super) fn reset_timers(&self) {
        // Refused only while the runtime goes down.
        let _ = self.running().timers.cast(TimerMessage::Reset);
    }

    pub(super) fn arm(&self, instance: &InstanceId, wake: Wake) {
        let message = TimerMessage::Arm { instance: instance.clone(), wake };
        // Refused only while the runtime goes down; the row in the store is what counts.
        let _ = self.running().timers.cast(message);
    }

    /// Takes mail of the runtime itself to an instance, waiting for room to wake it.
    pub(crate) async fn send(self: &Arc<Self>, instance: &InstanceId, mail: Mail) {
        if let Err(Full(mail)) = self.registry.send(self, instance, mail) {
            let resident = self.room().await;
            // With a place in hand there is room, unless the runtime is shutting down.
            let _ = self.registry.send_with(self, instance, mail, resident, || Activation::Load);
        }
    }

    /// Room for one more actor, in the runtime's own line; none if the runtime shuts down meanwhile, after which there may never
    /// be any.
    pub(super) async fn room(&self) -> Option<Resident> {
        tokio::select! {
            resident = self.registry.resident() => resident,
            () = self.closed() => None,
        }
    }

    /// Waits for a caller's share of the payload bytes that may be under way, or is refused.
    pub(crate) async fn payload_share(
        &self,
        payload_bytes: usize,
        when_busy: WhenBusy,
    ) -> Result<PayloadShare, Undelivered> {
        if payload_bytes <= INLINE_BYTES_MAX {
            return Ok(PayloadShare::default());
        }
        // Boxed: it would be a large part of every caller's future, and few have to wait.
        let share = Box::pin(async {
            tokio::select! {
                biased;
                share = self.payloads.share(payload_bytes, when_busy) => share.map_err(Undelivered::Busy),
                () = self.closed() => Err(Undelivered::Closing),
            }
        });
        share.await
    }

    /// Takes a caller's mail to an instance: with a place in its queue, room to wake it if it is asleep, and a share for its
    /// payload. Nothing is sent without all of them, so a caller that gives up while it waits leaves nothing to be done.
    pub(crate) async fn deliver(
        self: &Arc<Self>,
        instance: &InstanceId,
        payload_bytes: usize,
        when_busy: WhenBusy,
        mut mail: impl FnOnce(Place) -> Mail,
    ) -> Result<(), Undelivered> {
        loop {
            let admitted = tokio::select! {
                admitted = self.registry.admit(instance, when_busy) => admitted.map_err(Undelivered::Busy)?,
                () = self.closed() => return Err(Undelivered::Closing),
            };
            let payload = self.payload_share(payload_bytes, when_busy).await?;
            match self.registry.deliver(self, instance, admitted, payload, mail) {
                Ok(()) => return Ok(()),
                Err(_) if self.is_closing() => return Err(Undelivered::Closing),
                Err(again) => mail = again,
            }
        }
    }

    /// Asks an instance something, and waits for the answer. `None` means that it was lost with an actor: an unknown outcome.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        instance: &InstanceId,
        payload_bytes: usize,
        when_busy: WhenBusy,
        mail: impl FnOnce(Reply) -> Mail,
    ) -> Option<Result<(), MailError>> {
        let (sender, answer) = tokio::sync::oneshot::channel();
        let mail = |place| mail(Reply { sender, _place: place });
        match self.deliver(instance, payload_bytes, when_busy, mail).await {
            Ok(()) => answer.await.ok(),
            Err(Undelivered::Busy(bound)) => Some(Err(MailError::Busy(bound))),
            Err(Undelivered::Closing) => Some(Err(MailError::Closing)),
        }
    }

    /// Reads an instance from the store.
    pub(crate) async fn read(&self, instance: &InstanceId) -> Result<Option<Read>, LoadError> {
        let Some(stored) = load(&*self.store, instance).await? else { return Ok(None) };
        let status = self.status_of(&stored).await?;
        Ok(Some(Read { stored, status }))
    }

    /// What [`read`](Self::read) would give for the end of a run.
    pub(crate) async fn read_end(&self, end: Arc<Snapshot>) -> Result<Read, StoreError> {
        let (version, snapshot) = (Version::from(&*end), Arc::unwrap_or_clone(end));
        let stored = Stored { snapshot, quarantine: None, version };
        let status = self.status_of(&stored).await?;
        Ok(Read { stored, status })
    }

    /// Whether an actor has this run at work, and so will tell those who listen already.
    pub(crate) fn works_on(&self, instance: &InstanceId, run: RunId) -> bool {
        self.registry.works_on(instance, run)
    }

    /// The status in the names of the instance's definition, registered or not.
    pub(super) async fn status_of(&self, stored: &Stored) -> Result<Status, StoreError> {
        Ok(stored.status(&*self.names(&stored.snapshot.definition()).await?))
    }

    /// The names of a definition's nodes: its program's, or those of its manifest if it is not registered.
    pub(crate) async fn names(&self, hash: &DefinitionHash) -> Result<Arc<dyn Names>, StoreError> {
        if let Some(definition) = self.definitions.get(hash) {
            return Ok(Arc::clone(definition) as Arc<dyn Names>);
        }
        let manifest = self.store.manifest(hash).await?;
        let manifest = manifest.and_then(|bytes| crate::definition::Manifest::decode(&bytes));
        Ok(manifest.map_or_else(|| Arc::new(NoNames) as Arc<dyn Names>, |manifest| Arc::new(manifest)))
    }
}

/// For a definition that left no manifest.
struct NoNames;

impl Names for NoNames {
    fn path(&self, _node: u32) -> Option<&crate::id::NodePath> {
        None
    }
}

/// The executor reports to instances by id, so that a successor gets what its predecessor started.
pub(super) struct ToInstances(pub(super) std::sync::Weak<Hub>);

impl ToInstances {
    fn send(&self, key: &AttemptKey, mail: Mail) {
        let Some(hub) = self.0.upgrade() else { return };
        if let Err(Full(mail)) = hub.registry.send(&hub, &key.instance, mail) {
            // Its actor is gone although its task ran, and there is no room: waits in line like everyone.
            let instance = key.instance.clone();
            hub.tokio.clone().spawn(async move { hub.send(&instance, mail).await });
        }
    }
}

impl Sink for ToInstances {
    fn started(&self, key: &AttemptKey, serial: Serial, at: Timestamp) {
        self.send(key, Mail::Started { run: key.run, ticket: key.ticket, serial, at });
    }

    fn withdrawn(&self, key: &AttemptKey) {
        self.send(key, Mail::Withdrawn { run: key.run, ticket: key.ticket });
    }

    fn finished(&self, key: &AttemptKey, serial: Serial, outcome: Outcome) {
        self.send(key, Mail::Finished { run: key.run, ticket: key.ticket, serial, outcome });
    }
}
