//! Watching a status.

use std::sync::Arc;
use std::time::Duration;

use super::HandleError;
use crate::actors::{Actors, Hub, Subscription};
use crate::id::{InstanceId, RunId};
use crate::lifecycle::LoadError;
use crate::status::Status;

/// The first and the longest wait before a status is read again that could not be read.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The status changes of one run, from [`InstanceHandle::watch`](crate::InstanceHandle::watch).
pub struct StatusWatch {
    changes: Subscription,
    actors: Arc<Actors>,
    instance: InstanceId,
    run: RunId,
    last: Option<Status>,
    /// Why it has ended early, if it has.
    error: Option<HandleError>,
}

impl StatusWatch {
    pub(super) fn new(changes: Subscription, actors: Arc<Actors>, instance: InstanceId, run: RunId) -> Self {
        Self { changes, actors, instance, run, last: None, error: None }
    }

    /// The next status; none once the run has ended and that was given, or was deleted, or another run has taken its
    /// place, or the runtime has shut down; and once the instance cannot be read for good, see [`error`](Self::error). While
    /// the store fails it is asked again, with backoff.
    pub async fn next(&mut self) -> Option<Status> {
        let hub = Arc::clone(self.actors.hub());
        let mut backoff = BACKOFF.0;
        loop {
            if self.error.is_some() || self.last.as_ref().is_some_and(Status::is_terminal) {
                return None;
            }
            let mut ask_again = None;
            match hub.read(&self.instance).await {
                Ok(Some(read)) if read.stored.snapshot.run() == self.run => {
                    if self.last.as_ref() != Some(&read.status) {
                        self.last = Some(read.status.clone());
                        return Some(read.status);
                    }
                }
                Ok(_) => return None,
                Err(LoadError::Store(error)) => {
                    tracing::warn!(instance = %self.instance, %error, "a status could not be read; trying again");
                    ask_again = Some(backoff);
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
                Err(error) => {
                    self.error = Some(error.into());
                    return None;
                }
            }
            tokio::select! {
                () = self.changes.changed() => {}
                () = wait(&hub, ask_again) => {}
                () = hub.closed() => return None,
            }
        }
    }

    /// Returns why the watch has ended although the run has not: a record of the instance is damaged.
    pub fn error(&self) -> Option<&HandleError> {
        self.error.as_ref()
    }
}

/// Waits as long, on the tokio runtime that Everstep runs on; for ever without a time.
async fn wait(hub: &Hub, time: Option<Duration>) {
    match time {
        Some(time) => hub.sleep(time).await,
        None => std::future::pending().await,
    }
}

impl std::fmt::Debug for StatusWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StatusWatch({}, run {})", self.instance, self.run)
    }
}
