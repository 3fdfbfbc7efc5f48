//! Watching a status.

use std::sync::Arc;

use crate::actors::{Actors, Subscription};
use crate::id::{InstanceId, RunId};
use crate::status::Status;

/// The status changes of one run, from [`InstanceHandle::watch`](crate::InstanceHandle::watch).
pub struct StatusWatch {
    changes: Subscription,
    actors: Arc<Actors>,
    instance: InstanceId,
    run: RunId,
    last: Option<Status>,
}

impl StatusWatch {
    pub(super) fn new(changes: Subscription, actors: Arc<Actors>, instance: InstanceId, run: RunId) -> Self {
        Self { changes, actors, instance, run, last: None }
    }

    /// The next status; none once the run has ended and that was given, or was deleted, or another run has taken its
    /// place, or the runtime has shut down.
    pub async fn next(&mut self) -> Option<Status> {
        let hub = Arc::clone(self.actors.hub());
        loop {
            if self.last.as_ref().is_some_and(Status::is_terminal) {
                return None;
            }
            match hub.read(&self.instance).await {
                Ok(Some(read)) if read.stored.snapshot.run() == self.run => {
                    if self.last.as_ref() != Some(&read.status) {
                        self.last = Some(read.status.clone());
                        return Some(read.status);
                    }
                }
                Ok(_) => return None,
                // Listeners are told when the store is back.
                Err(error) => tracing::warn!(instance = %self.instance, %error, "a status could not be read"),
            }
            tokio::select! {
                () = self.changes.changed() => {}
                () = hub.closed() => return None,
            }
        }
    }
}

impl std::fmt::Debug for StatusWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StatusWatch({}, run {})", self.instance, self.run)
    }
}
