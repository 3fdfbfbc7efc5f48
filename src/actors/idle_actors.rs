//! Idle actors: their instance has left, and they are kept for the next one. Reuse saves making an
//! actor and reporting its end to the shard, which costs as much as several messages.

use std::sync::{Mutex, PoisonError};

use ractor::{ActorCell, ActorRef, MessagingErr};

use super::command::InstanceMessage;
use super::instance::State;

/// The most idle actors of a shard. One takes some six kilobytes; all shards together have as many
/// as tasks run at once by default.
const IDLE_ACTORS_MAX: usize = 64;

/// A shard and its idle actors, as the registry sees it. An instance stays with its shard, which
/// counts its panics.
pub(super) struct IdleActors {
    pub(super) shard: ActorCell,
    actors: Mutex<Vec<ActorRef<InstanceMessage>>>,
}

impl IdleActors {
    pub(super) fn of(shard: ActorCell) -> Self {
        Self { shard, actors: Mutex::default() }
    }

    /// Keeps an actor whose instance has left; false if there are enough.
    pub(super) fn put(&self, actor: &ActorRef<InstanceMessage>) -> bool {
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = actors.len() < IDLE_ACTORS_MAX;
        if has_room {
            actors.push(actor.clone());
        }
        has_room
    }

    /// Assigns an instance to an idle actor; returns the state if there is none.
    pub(super) fn assign(&self, mut state: Box<State>) -> Result<ActorRef<InstanceMessage>, Box<State>> {
        loop {
            let idle = self.actors.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(actor) = idle else { return Err(state) };
            match actor.cast(InstanceMessage::Assign(state)) {
                Ok(()) => return Ok(actor),
                // The runtime shuts down.
                Err(MessagingErr::SendErr(InstanceMessage::Assign(refused))) => state = refused,
                Err(error) => unreachable!("a local actor returns a message that it refuses: {error}"),
            }
        }
    }
}
