//! Actors whose instance has left, kept for the next one: that spares making an actor and telling its shard of its end, which
//! costs as much as several messages.

use std::sync::{Mutex, PoisonError};

use ractor::{ActorCell, ActorRef, MessagingErr};

use super::instance::State;
use super::mail::InstanceMessage;

/// Spare actors of a shard. One takes some six kilobytes: those of all shards are as many as tasks run at once by default.
const SPARES_MAX: usize = 64;

/// A shard, as the registry sees it, with its spare actors: an instance stays with its shard, which counts its panics.
pub(super) struct Spares {
    pub(super) shard: ActorCell,
    actors: Mutex<Vec<ActorRef<InstanceMessage>>>,
}

impl Spares {
    pub(super) fn of(shard: ActorCell) -> Self {
        Self { shard, actors: Mutex::default() }
    }

    /// Keeps an actor that has let go of its instance; false if there are enough.
    pub(super) fn keep(&self, actor: &ActorRef<InstanceMessage>) -> bool {
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = actors.len() < SPARES_MAX;
        if has_room {
            actors.push(actor.clone());
        }
        has_room
    }

    /// Gives an instance to a spare actor, if there is one.
    pub(super) fn adopt(&self, mut state: Box<State>) -> Result<ActorRef<InstanceMessage>, Box<State>> {
        loop {
            let spare = self.actors.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(actor) = spare else { return Err(state) };
            match actor.cast(InstanceMessage::Adopt(state)) {
                Ok(()) => return Ok(actor),
                // The runtime goes down.
                Err(MessagingErr::SendErr(InstanceMessage::Adopt(refused))) => state = refused,
                Err(error) => unreachable!("a local actor gives back what it does not take: {error}"),
            }
        }
    }
}
