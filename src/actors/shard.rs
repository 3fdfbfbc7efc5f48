//! A parent of instances. Spawns nothing itself; when a child panics, it starts a successor that
//! loads the instance again, or quarantines the instance if its actors panic too often.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};

use super::hub::Hub;
use super::instance::ActorPanicked;
use crate::id::InstanceId;
use crate::time::Timestamp;

struct Shard;

struct State {
    hub: Weak<Hub>,
    /// The times of the panics of each instance's actors, within the window.
    panics: HashMap<InstanceId, VecDeque<Timestamp>>,
}

pub(super) async fn spawn(hub: &Arc<Hub>, root: ActorCell) -> Result<ActorCell, SpawnErr> {
    let state = State { hub: Arc::downgrade(hub), panics: HashMap::new() };
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
            && let Some(hub) = state.hub.upgrade()
        {
            tracing::error!(%instance, panic, "the actor of an instance failed");
            if state.too_often(&hub, instance) {
                let (panics, seconds) = (hub.limits.panics_max.max(1), hub.limits.panic_window_seconds);
                let reason = format!("its actor failed {panics} times within {seconds} s: {panic}");
                hub.registry.set_aside(&hub, instance, dead.get_id(), *run, reason.into());
            } else {
                hub.registry.succeed(&hub, instance, dead.get_id());
            }
        }
        Ok(())
    }
}

impl State {
    fn too_often(&mut self, hub: &Hub, instance: &InstanceId) -> bool {
        let now = hub.clock.now();
        let window = Duration::from_secs(hub.limits.panic_window_seconds);
        self.panics.retain(|_, panics| panics.back().is_some_and(|last| now.since(*last) <= window));
        let panics = self.panics.entry(instance.clone()).or_default();
        panics.push_back(now);
        while panics.front().is_some_and(|first| now.since(*first) > window) {
            panics.pop_front();
        }
        let too_often = panics.len() >= hub.limits.panics_max as usize;
        if too_often {
            // Quarantined now; counting begins anew after a release.
            self.panics.remove(instance);
        }
        too_often
    }
}
