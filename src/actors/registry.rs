//! The instances in memory, active or at rest, and their actors. Not an actor but a sharded map, so
//! that a message takes no detour.
//!
//! Every message to an instance is cast under the lock of its entry, and counted there. An actor
//! leaves under the same lock, and only after it has handled all messages. So no message is lost to
//! an actor that leaves, and an instance never has two actors at once.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as MapEntry;
use foldhash::fast::RandomState;
use ractor::{ActorCell, ActorId, ActorRef, ActorStatus, MessagingErr};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::command::{Command, InstanceMessage, Place};
use super::idle_actors::IdleActors;
use super::instance::{self, Activation};
use super::payloads::PayloadShare;
use super::read_epoch::{ReadEpoch, ReadEpochs};
use super::resting::{Rest, Resting};
use super::room::{Line, Resident, Room};
use super::shared::Shared;
use crate::id::{InstanceId, RunId};
use crate::limits::{LimitReached, Limits, WhenBusy};

pub(super) struct Registry {
    instances: DashMap<InstanceId, Entry, RandomState>,
    shards: OnceLock<Vec<IdleActors>>,
    /// The room for actors, which bounds the active instances.
    room: Room,
    resting: Resting,
    read_epochs: ReadEpochs,
    messages_max: usize,
    /// Notified when an instance has left.
    left: Notify,
}

struct Entry {
    actor: ActorRef<InstanceMessage>,
    standing: Arc<Standing>,
    /// Places for callers' messages.
    places: Arc<Semaphore>,
    /// `None` while the instance rests, or if its actor failed at rest.
    resident: Option<Resident>,
    rest: Option<Rest>,
}

/// The state that the registry and an actor share.
#[derive(Default)]
pub(super) struct Standing {
    /// The number of commands that were cast and are not handled yet.
    queued: AtomicUsize,
    /// True once `Stop` was sent to the actor.
    is_told_to_stop: AtomicBool,
    /// The run that the actor has loaded.
    run: Mutex<Option<RunId>>,
}

impl Standing {
    fn of(activation: &Activation) -> Self {
        let run = if let Activation::Fresh { snapshot, .. } = activation { Some(snapshot.run()) } else { None };
        Self { run: Mutex::new(run), ..Self::default() }
    }

    /// Counts one command as handled.
    pub(super) fn handled(&self) {
        self.queued.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn works_on(&self, run: Option<RunId>) {
        *self.run.lock().unwrap_or_else(PoisonError::into_inner) = run;
    }
}

/// The permit with which a caller's command was admitted.
pub(super) enum Admitted {
    /// A place in the queue of an active instance.
    Queue(OwnedSemaphorePermit),
    /// Room for one more actor.
    Room(Resident),
}

/// A command that was not sent, because no more instances may be active, or because the runtime
/// shuts down.
pub(super) struct Unsent(pub(super) Command);

impl Registry {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            instances: DashMap::default(),
            shards: OnceLock::new(),
            room: Room::new(limits.resident_max.max(1)),
            resting: Resting::new(limits),
            read_epochs: ReadEpochs::new(),
            messages_max: limits.instance_messages_max.max(1),
            left: Notify::new(),
        }
    }

    pub(super) fn set_shards(&self, shards: Vec<ActorCell>) {
        // Set once, by the root, before anything is sent.
        let _ = self.shards.set(shards.into_iter().map(IdleActors::of).collect());
    }

    pub(super) fn is_in_memory(&self, id: &InstanceId) -> bool {
        self.instances.contains_key(id)
    }

    #[cfg(feature = "testing")]
    pub(super) fn has_active(&self) -> bool {
        self.instances.iter().any(|entry| entry.rest.is_none())
    }

    /// Returns true if an actor has this run active. Subscribers are notified when its status
    /// changes, and when it has left.
    pub(super) fn works_on(&self, id: &InstanceId, run: RunId) -> bool {
        let works_on = |standing: &Standing| *standing.run.lock().unwrap_or_else(PoisonError::into_inner) == Some(run);
        self.instances.get(id).is_some_and(|entry| works_on(&entry.standing))
    }

    /// Takes room for one more actor, in the runtime's line: at its end when this returns.
    pub(super) fn resident(&self) -> impl Future<Output = Option<Resident>> + Send + use<> {
        self.room.take(Line::Runtime)
    }

    /// Admits a caller's command: to the queue of an active instance, or with room to activate a
    /// parked one.
    pub(super) async fn admit(&self, id: &InstanceId, when_busy: WhenBusy) -> Result<Admitted, LimitReached> {
        let active = self.instances.get(id).filter(|entry| entry.rest.is_none());
        let places = active.map(|entry| Arc::clone(&entry.places));
        if let Some(places) = places {
            return acquire(&places, 1, when_busy).await.map(Admitted::Queue).ok_or(LimitReached::InstanceMessages);
        }
        let resident = match when_busy {
            WhenBusy::Wait => self.room.take(Line::Callers).await,
            WhenBusy::Refuse => self.room.try_take(),
        };
        resident.map(Admitted::Room).ok_or(LimitReached::Residents)
    }

    /// Sends a caller's command to an instance, with a place in its queue. Returns the command if
    /// the instance has left or was activated since the command was admitted, so that it must be
    /// admitted again, or if the runtime shuts down.
    pub(super) fn deliver<M>(
        &self,
        shared: &Arc<Shared>,
        id: &InstanceId,
        admitted: Admitted,
        payload: PayloadShare,
        command: M,
    ) -> Result<(), M>
    where
        M: FnOnce(Place) -> Command,
    {
        match (self.instances.entry(id.clone()), admitted) {
            // An instance at rest needs room, as a parked one does.
            (MapEntry::Occupied(entry), Admitted::Queue(_)) if entry.get().rest.is_some() => Err(command),
            (MapEntry::Occupied(entry), _) if entry.get().rest.is_some() && shared.is_closing() => Err(command),
            (MapEntry::Occupied(mut entry), Admitted::Room(resident)) if entry.get().rest.is_some() => {
                let Ok(place) = Arc::clone(&entry.get().places).try_acquire_owned() else { return Err(command) };
                self.reactivate(entry.get_mut(), resident);
                self.cast(shared, id, entry.get_mut(), command(Place::new(place, payload)));
                Ok(())
            }
            (MapEntry::Occupied(mut entry), admitted) => match entry.get().place(admitted) {
                Some(place) => {
                    self.cast(shared, id, entry.get_mut(), command(Place::new(place, payload)));
                    Ok(())
                }
                None => Err(command),
            },
            (MapEntry::Vacant(vacant), Admitted::Room(resident)) if !shared.is_closing() => {
                let entry = self.activate(shared, id, resident, Activation::Load);
                // An empty queue has a free place.
                let Ok(place) = Arc::clone(&entry.places).try_acquire_owned() else { return Err(command) };
                entry.cast_to_new(command(Place::new(place, payload)));
                vacant.insert(entry);
                Ok(())
            }
            (MapEntry::Vacant(_), _) => Err(command),
        }
    }

    /// Sends a command to an instance, and activates it if it is parked and there is room.
    pub(super) fn send(&self, shared: &Arc<Shared>, id: &InstanceId, command: Command) -> Result<(), Unsent> {
        self.send_with(shared, id, command, None, || Activation::Load)
    }

    /// Returns the current read epoch of this id.
    pub(super) fn read_epoch(&self, id: &InstanceId) -> ReadEpoch {
        self.read_epochs.current(id)
    }

    /// Sends a command to an instance. One that is not active takes `resident`, or else free room.
    /// One that is not in memory is activated as `activation` says, which is called under the lock
    /// of the entry.
    pub(super) fn send_with(
        &self,
        shared: &Arc<Shared>,
        id: &InstanceId,
        command: Command,
        resident: Option<Resident>,
        activation: impl FnOnce() -> Activation,
    ) -> Result<(), Unsent> {
        match self.instances.entry(id.clone()) {
            MapEntry::Occupied(mut entry) => {
                if entry.get().rest.is_some() {
                    let resident = resident.or_else(|| self.room.try_take()).filter(|_| !shared.is_closing());
                    let Some(resident) = resident else { return Err(Unsent(command)) };
                    self.reactivate(entry.get_mut(), resident);
                }
                self.cast(shared, id, entry.get_mut(), command);
            }
            MapEntry::Vacant(vacant) => {
                if shared.is_closing() {
                    return Err(Unsent(command));
                }
                let resident = resident.or_else(|| self.room.try_take());
                let Some(resident) = resident else { return Err(Unsent(command)) };
                let entry = self.activate(shared, id, resident, activation());
                entry.cast_to_new(command);
                vacant.insert(entry);
            }
        }
        Ok(())
    }

    fn cast(&self, shared: &Arc<Shared>, id: &InstanceId, entry: &mut Entry, command: Command) {
        // No entry with a message in its queue may be removed for having rested long enough.
        self.end_rest_of(entry);
        if let Err(command) = entry.cast(command) {
            // The actor has failed, and its shard does not know yet.
            entry.renew(self.spawn(shared, id, Activation::Successor));
            entry.cast_to_new(command);
        }
    }

    fn activate(&self, shared: &Arc<Shared>, id: &InstanceId, resident: Resident, activation: Activation) -> Entry {
        let (actor, standing) = self.spawn(shared, id, activation);
        let places = Arc::new(Semaphore::new(self.messages_max));
        Entry { actor, standing, places, resident: Some(resident), rest: None }
    }

    fn spawn(&self, shared: &Arc<Shared>, id: &InstanceId, activation: Activation) -> Spawned {
        let _tokio = shared.tokio.enter();
        match activation {
            Activation::Fresh { .. } => {}
            Activation::Load | Activation::Successor | Activation::Quarantine { .. } => self.read_epochs.begin(id),
        }
        let standing = Arc::new(Standing::of(&activation));
        let actor = instance::spawn(shared, id.clone(), Arc::clone(&standing), activation, self.shard(id));
        (actor, standing)
    }

    /// Keeps an idle actor for another instance of its shard; false if the actor must stop.
    pub(super) fn put_idle(&self, id: &InstanceId, actor: &ActorRef<InstanceMessage>) -> bool {
        self.shard(id).put(actor)
    }

    fn shard(&self, id: &InstanceId) -> &IdleActors {
        let shards = self.shards.get().map_or(&[][..], Vec::as_slice);
        let hash = usize::try_from(self.instances.hasher().hash_one(id) >> 7).unwrap_or_default();
        match shards.get(hash % shards.len().max(1)) {
            Some(shard) => shard,
            None => unreachable!("the root sets the shards before any message is sent"),
        }
    }

    /// Removes the entry of an actor that leaves; false if the actor has commands that it has not
    /// handled.
    pub(super) fn leave(&self, id: &InstanceId, actor: ActorId) -> bool {
        self.remove_if(id, |entry| entry.is_idle(actor)).is_some()
    }

    /// Removes an actor even if it has commands; the senders see the dropped replies and repeat.
    pub(super) fn remove(&self, id: &InstanceId, actor: ActorId) {
        self.remove_if(id, |entry| entry.actor.get_id() == actor);
    }

    fn remove_if(&self, id: &InstanceId, condition: impl FnOnce(&Entry) -> bool) -> Option<Entry> {
        let (_, mut entry) = self.instances.remove_if(id, |_, entry| condition(entry))?;
        self.end_rest_of(&mut entry);
        self.left.notify_waiters();
        Some(entry)
    }

    /// Lets an instance rest, if its actor has handled all its commands. Returns true if the
    /// instance rests.
    pub(super) fn rest(&self, shared: &Shared, id: &InstanceId, actor: ActorId, bytes: usize) -> bool {
        let bytes = bytes.saturating_add(ACTOR_BYTES);
        if !self.resting.has_room_for(bytes) {
            return false;
        }
        let Some(mut entry) = self.instances.get_mut(id).filter(|entry| entry.is_idle(actor)) else { return false };
        self.end_rest_of(&mut entry);
        entry.rest = Some(self.resting.begin(id.clone(), bytes, shared.clock.now()));
        let resident = entry.resident.take();
        drop(entry);
        // After the lock, since the drop hands the place on to the next in line.
        drop(resident);
        while let Some((rest, instance)) = self.resting.take_above_bound() {
            self.end_rest(rest, &instance);
        }
        true
    }

    pub(super) fn resting(&self) -> &Resting {
        &self.resting
    }

    /// Removes an instance whose rest is over, unless it is active again.
    pub(super) fn end_rest(&self, rest: Rest, id: &InstanceId) {
        if let Some(entry) = self.remove_if(id, |entry| entry.rest == Some(rest)) {
            // Refused only while the runtime shuts down.
            let _ = entry.actor.cast(InstanceMessage::Leave);
        }
    }

    /// Makes an instance at rest active again.
    fn reactivate(&self, entry: &mut Entry, resident: Resident) {
        self.end_rest_of(entry);
        entry.resident = Some(resident);
    }

    fn end_rest_of(&self, entry: &mut Entry) {
        if let Some(rest) = entry.rest.take() {
            self.resting.end(rest);
        }
    }

    /// Replaces a failed actor by a successor, which loads the instance again, unless a sender of
    /// a command already did so.
    pub(super) fn succeed(&self, shared: &Arc<Shared>, id: &InstanceId, dead: ActorId) {
        let MapEntry::Occupied(mut entry) = self.instances.entry(id.clone()) else { return };
        if entry.get().actor.get_id() == dead {
            self.end_rest_of(entry.get_mut());
            entry.get_mut().renew(self.spawn(shared, id, Activation::Successor));
        }
    }

    /// Lets the successor of a failed actor quarantine the instance: a new one, or the one that a
    /// sender of a command has spawned.
    pub(super) fn quarantine(
        &self,
        shared: &Arc<Shared>,
        id: &InstanceId,
        dead: ActorId,
        run: Option<RunId>,
        reason: Arc<str>,
    ) {
        let MapEntry::Occupied(mut entry) = self.instances.entry(id.clone()) else { return };
        if entry.get().actor.get_id() == dead {
            self.end_rest_of(entry.get_mut());
            entry.get_mut().renew(self.spawn(shared, id, Activation::Quarantine { run, reason }));
        } else {
            self.cast(shared, id, entry.get_mut(), Command::Quarantine { run, reason });
        }
    }

    /// Sends `Stop` to every actor once, and waits until all have left.
    pub(super) async fn stop_all(&self) {
        loop {
            let left = self.left.notified();
            let ids: Vec<_> = self.instances.iter().map(|entry| entry.key().clone()).collect();
            if ids.is_empty() {
                return;
            }
            for id in ids {
                // An instance that has just left is not activated.
                if let Some(entry) = self.instances.get(&id)
                    && entry.stop().is_err()
                {
                    let actor = entry.actor.get_id();
                    drop(entry);
                    self.remove(&id, actor);
                }
            }
            // An actor that left before `left` was polled is seen in the next round.
            tokio::select! {
                () = left => {}
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }
}

/// The bytes that an actor at rest takes beside its snapshot, roughly.
const ACTOR_BYTES: usize = 8 << 10;

type Spawned = (ActorRef<InstanceMessage>, Arc<Standing>);

/// Takes `count` permits, at once or after waiting; `None` if `when_busy` says not to wait.
pub(super) async fn acquire(places: &Arc<Semaphore>, count: u32, when_busy: WhenBusy) -> Option<OwnedSemaphorePermit> {
    let places = Arc::clone(places);
    match when_busy {
        // Never closed.
        WhenBusy::Wait => places.acquire_many_owned(count).await.ok(),
        WhenBusy::Refuse => places.try_acquire_many_owned(count).ok(),
    }
}

impl Entry {
    fn is_idle(&self, actor: ActorId) -> bool {
        self.actor.get_id() == actor && self.standing.queued.load(Ordering::Acquire) == 0
    }

    /// Returns the place that a command was admitted to, if it is one of this queue; or a free
    /// place.
    fn place(&self, admitted: Admitted) -> Option<OwnedSemaphorePermit> {
        match admitted {
            Admitted::Queue(place) => Arc::ptr_eq(place.semaphore(), &self.places).then_some(place),
            Admitted::Room(_) => Arc::clone(&self.places).try_acquire_owned().ok(),
        }
    }

    fn cast(&self, command: Command) -> Result<(), Command> {
        self.standing.queued.fetch_add(1, Ordering::AcqRel);
        match self.actor.cast(InstanceMessage::Command(command)) {
            Err(MessagingErr::SendErr(InstanceMessage::Command(command))) => Err(command),
            // The other errors do not occur for a typed local reference. They lose the message: its
            // sender sees the dropped reply.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Sends `Stop` to the actor once: one that is busy for long would get more and more of them.
    fn stop(&self) -> Result<(), Command> {
        let is_told = self.standing.is_told_to_stop.swap(true, Ordering::AcqRel);
        if is_told && self.actor.get_status() < ActorStatus::Stopping { Ok(()) } else { self.cast(Command::Stop) }
    }

    /// Sends a command to a new actor. If that does not even start, the sender sees the dropped
    /// reply.
    fn cast_to_new(&self, command: Command) {
        let _ = self.cast(command);
    }

    fn renew(&mut self, (actor, standing): Spawned) {
        self.actor = actor;
        self.standing = standing;
    }
}

#[cfg(test)]
mod tests;
