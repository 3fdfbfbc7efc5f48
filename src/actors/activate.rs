//! Activation: how an actor loads its instance, from the store, from an older definition, or out of
//! quarantine.

use std::sync::Arc;

use ractor::ActorRef;

use super::active::ActiveInstance;
use super::command::{CommandError, InstanceMessage};
use super::instance::{ActorState, State};
use super::removal::quarantine;
use super::upgrades::LeftAlone;
use crate::codec::Codec;
use crate::lifecycle::{
    CommitError, Found, LoadError, UpgradeError, fill_frames, find, has_moved, load, release, upgrade,
};
use crate::machine::{Context, DamageCause, Damaged, End, Refusal, Snapshot};
use crate::status::Status;
use crate::store::Version;

impl State {
    pub(super) async fn is_stored(&self, snapshot: &Snapshot) -> bool {
        matches!(has_moved(&*self.shared.store, snapshot).await, Ok(false))
    }

    /// Reads the instance and continues it. `may_have_crashed` is true if attempts that the
    /// executor does not know may have been lost in a process crash.
    pub(super) async fn activate(
        &self,
        myself: &ActorRef<InstanceMessage>,
        may_have_crashed: bool,
    ) -> Result<Box<ActiveInstance>, CommandError> {
        let snapshot = self.read().await;
        if !matches!(snapshot, Err(CommandError::Store(_))) {
            self.shared.backlog.counts_read(&self.id);
        }
        let snapshot = snapshot?;
        let process_crashed = may_have_crashed && self.shared.counts_as_crash(snapshot.run());
        let mut active = self.active_instance(myself, snapshot)?;
        self.shared.upgrades.forget(&self.id);
        active.is_on_trial = true;
        active.resume(process_crashed).await;
        Ok(active)
    }

    async fn read(&self) -> Result<Snapshot, CommandError> {
        let store = &*self.shared.store;
        loop {
            let found = find(store, &self.id).await.map_err(CommandError::Store)?;
            let Found { version, quarantine, snapshot } = found.ok_or(CommandError::NotFound)?;
            // First of all: a quarantined instance stays quarantined, whatever else is wrong with
            // it.
            if let Some(reason) = quarantine {
                return Err(CommandError::Quarantined(Status::Quarantined { reason }));
            }
            let mut snapshot = match snapshot {
                Ok(snapshot) => snapshot,
                Err(damaged) => return Err(self.unreadable(damaged.into(), version).await),
            };
            let hash = snapshot.definition();
            let Some(definition) = self.shared.definitions.get(&hash) else { return self.upgrade(snapshot).await };
            match fill_frames(store, definition.program(), &mut snapshot).await {
                Ok(()) => return Ok(snapshot),
                // The previous owner may have moved it a last time during the read.
                Err(LoadError::Damaged(_)) if matches!(has_moved(store, &snapshot).await, Ok(true)) => {}
                Err(error) => return Err(self.unreadable(error, version).await),
            }
        }
    }

    /// Upgrades an instance of an older definition, if the newer definition has a place for it.
    async fn upgrade(&self, snapshot: Snapshot) -> Result<Snapshot, CommandError> {
        let (shared, hash) = (&self.shared, snapshot.definition());
        let (newer, upgrade_from) = shared.upgrades.of(&hash).ok_or(CommandError::NotRegistered(hash))?;
        if let Some(End::Completed { .. } | End::Cancelled { .. }) = snapshot.end() {
            let status = snapshot.status(&*shared.names(&hash).await.map_err(CommandError::Store)?);
            return Err(CommandError::Refused { refusal: Refusal::Ended, status });
        }
        let context = Context { program: newer.program(), limits: &shared.limits, now: shared.clock.now() };
        let seen = Version::from(&snapshot);
        match upgrade(shared.persistence(), &context, newer, upgrade_from, snapshot).await {
            Ok(snapshot) => {
                shared.upgrades.forget(&self.id);
                tracing::info!(instance = %self.id, from = %hash, to = %newer.hash(), "an instance was upgraded");
                shared.waiters.tell(&self.id);
                Ok(snapshot)
            }
            Err(UpgradeError::Commit(error)) => Err(CommandError::from(&error)),
            Err(UpgradeError::Damaged(damaged)) => Err(self.unreadable(damaged.into(), seen).await),
            Err(error @ (UpgradeError::NoPlace(_) | UpgradeError::NoManifest)) => {
                let why = error.to_string();
                tracing::warn!(instance = %self.id, why, "an instance cannot be upgraded");
                shared.upgrades.note(LeftAlone { instance: self.id.clone(), definition: Some(hash), why: why.clone() });
                Err(CommandError::CannotUpgrade(why))
            }
        }
    }

    pub(super) fn active_instance(
        &self,
        myself: &ActorRef<InstanceMessage>,
        snapshot: Snapshot,
    ) -> Result<Box<ActiveInstance>, CommandError> {
        // A run that has ended sends no more news.
        self.standing.works_on(snapshot.end().is_none().then(|| snapshot.run()));
        let hash = snapshot.definition();
        let definition = self.shared.definitions.get(&hash).ok_or(CommandError::NotRegistered(hash))?;
        let codec: &Codec =
            self.shared.codecs.get(&snapshot.codec()).ok_or(CommandError::UnknownCodec(snapshot.codec()))?;
        let (shared, standing) = (Arc::clone(&self.shared), Arc::clone(&self.standing));
        Ok(Box::new(ActiveInstance::new(
            shared,
            standing,
            myself.clone(),
            Arc::clone(definition),
            codec.clone(),
            snapshot,
        )))
    }

    /// Quarantines a damaged instance. A failure of the store is not the instance's fault.
    async fn unreadable(&self, error: LoadError, seen: Version) -> CommandError {
        match error {
            LoadError::Store(error) => CommandError::Store(error),
            LoadError::Damaged(sound) if sound.is_readable_elsewhere() => self.leave_alone(sound),
            LoadError::Damaged(damaged) => {
                tracing::error!(instance = %self.id, error = %damaged, "a record of an instance is damaged; the instance will be quarantined");
                self.quarantine(&damaged.to_string(), seen).await
            }
        }
    }

    /// Leaves an instance alone that another version of this crate, or another start of the
    /// service, will continue.
    pub(super) fn leave_alone(&self, sound: Damaged) -> CommandError {
        tracing::warn!(instance = %self.id, error = %sound, "this process cannot read an instance, and leaves it unchanged");
        self.shared.stop_attempts(&self.id);
        let definition = match &sound.cause {
            DamageCause::NoManifest(definition) => Some(**definition),
            _ => None,
        };
        self.shared.upgrades.note(LeftAlone { instance: self.id.clone(), definition, why: sound.to_string() });
        CommandError::Damaged(sound)
    }

    /// Quarantines the instance if it is still at version `seen`; its head stays as it is.
    pub(super) async fn quarantine(&self, reason: &str, seen: Version) -> CommandError {
        match quarantine(&self.shared, &self.id, reason, seen).await {
            Ok(()) => {
                self.shared.stop_attempts(&self.id);
                CommandError::Quarantined(Status::Quarantined { reason: reason.into() })
            }
            Err(CommitError::Store(error)) => CommandError::Store(error),
            Err(CommitError::Conflict(_)) => CommandError::Fenced,
        }
    }

    /// Continues the instance if it is quarantined.
    pub(super) async fn release(&mut self, myself: &ActorRef<InstanceMessage>) -> Result<(), CommandError> {
        let shared = Arc::clone(&self.shared);
        let stored = load(&*shared.store, &self.id).await.map_err(CommandError::from)?;
        let stored = stored.ok_or(CommandError::NotFound)?;
        let hash = stored.snapshot.definition();
        let definition = shared.definitions.get(&hash).ok_or(CommandError::NotRegistered(hash))?;
        let codec = stored.snapshot.codec();
        if !shared.codecs.contains_key(&codec) {
            return Err(CommandError::UnknownCodec(codec));
        }
        let context = Context { program: definition.program(), limits: &shared.limits, now: shared.clock.now() };
        let (snapshot, effects) = match release(shared.persistence(), &context, stored).await {
            Ok(released) => released,
            Err(error) => {
                let error = CommandError::from(error);
                if let CommandError::Store(_) = error {
                    // The instance may be released all the same: recovery checks after this actor
                    // has left.
                    self.phase = ActorState::Gone(error.clone());
                }
                return Err(error);
            }
        };
        // Attempts from before the quarantine: all are submitted again.
        shared.stop_attempts(&self.id);
        let mut active = self.active_instance(myself, *snapshot)?;
        active.perform(effects).await;
        self.phase = ActorState::Active(active);
        shared.waiters.tell(&self.id);
        Ok(())
    }
}
