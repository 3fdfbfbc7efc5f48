//! Starts and stops the actors.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::pruner::Retention;
use super::shared::{Running, Shared, SharedParts, ToInstances};
use super::timers::TimerMessage;
use super::{persistence, pruner, recovery, resting, shard, timers};
use crate::cause::Cause;
use crate::executor::{Executor, Watchdog};
use crate::lifecycle::Committer as _;

/// The number of shards, the parents of instances. Linking a child locks its parent, so there are
/// several.
const SHARDS: usize = 16;

struct Root;

impl Actor for Root {
    type Msg = ();
    type State = std::sync::Weak<Shared>;
    type Arguments = std::sync::Weak<Shared>;

    async fn pre_start(&self, _: ActorRef<()>, shared: Self::State) -> Result<Self::State, ActorProcessingErr> {
        Ok(shared)
    }

    /// Reports the end of a child. Persistence, timers and shards do not end before the root:
    /// without one of them the runtime cannot continue.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        shared: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let ended = match event {
            SupervisionEvent::ActorFailed(_, error) => error.to_string(),
            SupervisionEvent::ActorTerminated(..) => "it stopped".to_owned(),
            _ => return Ok(()),
        };
        if let Some(shared) = shared.upgrade()
            && !shared.is_closing()
        {
            let reason = format!("an actor of the runtime has ended, restart the service: {ended}");
            tracing::error!(reason);
            shared.break_down(reason);
        }
        Ok(())
    }
}

/// The running actors; stopped when this is dropped.
pub(crate) struct Actors {
    shared: Arc<Shared>,
    root: ActorRef<()>,
    persistence: Mutex<Option<persistence::Thread>>,
    watchdog: Mutex<Option<Watchdog>>,
}

impl Actors {
    /// Starts all actors; recovery continues in the background.
    pub(crate) async fn start(parts: SharedParts, retention: Retention) -> Result<Self, Cause> {
        let shared = Shared::new(parts);
        let (root, _) = Actor::spawn(None, Root, Arc::downgrade(&shared)).await.map_err(Cause::of)?;
        let unfinished = Unfinished(Some(root.clone()));
        let mut shards = Vec::with_capacity(SHARDS);
        for _ in 0..SHARDS {
            shards.push(shard::spawn(&shared, root.get_cell()).await.map_err(Cause::of)?);
        }
        shared.registry.set_shards(shards);
        let executor =
            Executor::new(&shared.limits, Arc::clone(&shared.clock), Arc::new(ToInstances(Arc::downgrade(&shared))));
        let watchdog = Watchdog::start(&executor).map_err(Cause::of)?;
        let (handle, thread) = persistence::spawn(&shared, root.get_cell()).map_err(Cause::of)?;
        let timers = timers::spawn(&shared, root.get_cell()).await.map_err(Cause::of)?;
        handle.sweep();
        let running = Running { executor, persistence: handle, timers };
        // Set only here, before any message is sent whose handler reads it.
        let first_tick = running.timers.clone();
        let _ = shared.parts.set(running);
        first_tick.cast(TimerMessage::Tick).map_err(Cause::of)?;
        tokio::spawn(close_with_tokio(shared.closing_guard(), shared.closing()));
        recovery::spawn(&shared);
        if shared.limits.resting_seconds > 0 {
            tokio::spawn(resting::run(Arc::downgrade(&shared)));
        }
        if retention.is_limited() {
            tokio::spawn(pruner::run(Arc::downgrade(&shared), retention));
        }
        unfinished.finish();
        Ok(Self { shared, root, persistence: Mutex::new(Some(thread)), watchdog: Mutex::new(Some(watchdog)) })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Stops everything in an order that loses nothing: attempts end or are cancelled, instances
    /// write their transitions, then the store is closed.
    pub(crate) async fn shutdown(&self, grace: Duration) {
        self.shared.set_closing();
        self.shared.running().executor.close(grace).await;
        self.shared.registry.stop_all().await;
        self.shared.persistence().barrier().await;
        self.stop_actors();
        let thread = self.persistence.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the thread was already reported to the root.
            let _ = thread.await;
        }
        self.shared.persistence().store().close().await;
        drop(self.watchdog.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Stops everything at once, as a crash does: what was acknowledged is durable.
    fn abort(&self) {
        self.shared.set_closing();
        self.shared.running().executor.stop_all();
        self.stop_actors();
    }

    /// Stops everything as a crash does, whatever handles are held; on return no user code runs any
    /// more.
    #[cfg(feature = "testing")]
    pub(crate) async fn crash(&self) {
        self.abort();
        self.shared.running().executor.idle().await;
    }

    fn stop_actors(&self) {
        self.shared.running().timers.stop(None);
        self.root.stop_children(None);
        self.root.stop(None);
    }
}

/// Stops the started actors if the start fails or is cancelled: otherwise the thread and the
/// store's lock would stay.
struct Unfinished(Option<ActorRef<()>>);

impl Unfinished {
    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(root) = self.0.take() {
            root.stop_children(None);
            root.stop(None);
        }
    }
}

/// Waits for the shutdown. If the tokio runtime ends first, it drops this future and so closes
/// Everstep's: otherwise callers on another tokio runtime would wait for ever.
async fn close_with_tokio(guard: DropGuard, closing: CancellationToken) {
    closing.cancelled().await;
    drop(guard);
}

impl Drop for Actors {
    fn drop(&mut self) {
        self.abort();
    }
}

#[cfg(test)]
mod tests {
    use crate::definition::Workflow;
    use crate::runtime::Health;
    use crate::{MemoryStore, Runtime};

    /// Method: kills the timers, then commits a start, which shows that the store works.
    #[tokio::test]
    async fn loss_of_an_actor_stays_in_health_after_commits() {
        let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").build().unwrap();
        let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
        let actors = runtime.actors().upgrade().unwrap();
        actors.shared().running().timers.kill();
        while runtime.health() == Health::Healthy {
            tokio::task::yield_now().await;
        }
        runtime.start(&workflow, "id", 1).await.unwrap();
        let health = runtime.health();
        assert!(
            matches!(&health, Health::Unhealthy { reason } if reason.contains("restart the service")),
            "{health:?}"
        );
    }
}
