//! A parent of instances. Spawns nothing itself; when a child panics, it starts a successor that
//! loads the instance again, or quarantines the instance if its actors panic too often.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};

use super::instance::ActorPanicked;
use super::shared::Shared;
use crate::id::InstanceId;
use crate::time::Timestamp;

struct Shard;

struct State {
    shared: Weak<Shared>,
    /// The times of the panics of each instance's actors, within the window.
    panics: HashMap<InstanceId, VecDeque<Timestamp>>,
}

pub(super) async fn spawn(shared: &Arc<Shared>, root: ActorCell) -> Result<ActorCell, SpawnErr> {
    let state = State { shared: Arc::downgrade(shared), panics: HashMap::new() };
    Ok(Actor::spawn_linked(None, Shard, state, root).await?.0.get_cell())
}

impl Actor for Shard {
    type Msg = ();
    type State = State;
    type Arguments = State;

    async fn pre_start(&self, _: ActorRef<Self::Msg>, state: State) -> Result<State, ActorProcessingErr> {
        Ok(state)
    }

    /// Handles the end of a child. The default would stop the shard, and with it all its children.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(dead, error) = event
            && let Some(ActorPanicked { instance, run, panic }) = error.downcast_ref()
            && let Some(shared) = state.shared.upgrade()
        {
            tracing::error!(%instance, panic, "the actor of an instance panicked");
            if state.too_often(&shared, instance) {
                let (panics, seconds) = (shared.limits.panics_max.max(1), shared.limits.panic_window_seconds);
                let reason = format!("its actor failed {panics} times within {seconds} s, and last {panic}");
                shared.registry.quarantine(&shared, instance, dead.get_id(), *run, reason.into());
            } else {
                shared.registry.succeed(&shared, instance, dead.get_id());
            }
        }
        Ok(())
    }
}

impl State {
    fn too_often(&mut self, shared: &Shared, instance: &InstanceId) -> bool {
        let now = shared.clock.now();
        let window = Duration::from_secs(shared.limits.panic_window_seconds);
        self.panics.retain(|_, panics| panics.back().is_some_and(|last| now.since(*last) <= window));
        let panics = self.panics.entry(instance.clone()).or_default();
        panics.push_back(now);
        while panics.front().is_some_and(|first| now.since(*first) > window) {
            panics.pop_front();
        }
        let too_often = panics.len() >= shared.limits.panics_max as usize;
        if too_often {
            // Quarantined now; counting begins anew after a release.
            self.panics.remove(instance);
        }
        too_often
    }
}
