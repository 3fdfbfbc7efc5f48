//! Watching a status.

use std::sync::Arc;
use std::time::Duration;

use super::HandleError;
use crate::actors::{Actors, Shared, Subscription};
use crate::id::{InstanceId, RunId};
use crate::lifecycle::LoadError;
use crate::status::Status;

/// The first and the longest wait after a failed read of the status.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The status changes of one run, from [`InstanceHandle::watch`](crate::InstanceHandle::watch).
pub struct StatusWatch {
    changes: Subscription,
    actors: Arc<Actors>,
    instance: InstanceId,
    run: RunId,
    last: Option<Status>,
    /// The error that ended the watch early, if any.
    error: Option<HandleError>,
}

impl StatusWatch {
    pub(super) fn new(changes: Subscription, actors: Arc<Actors>, instance: InstanceId, run: RunId) -> Self {
        Self { changes, actors, instance, run, last: None, error: None }
    }

    /// Returns the next status. Returns `None` after the status that ends the run, when the run is
    /// deleted or replaced, when the runtime shuts down, and when the instance cannot be read for
    /// good ([`error`](Self::error)). While the store fails, the read is repeated with backoff.
    pub async fn next(&mut self) -> Option<Status> {
        let shared = Arc::clone(self.actors.shared());
        let mut backoff = BACKOFF.0;
        loop {
            if self.error.is_some() || self.last.as_ref().is_some_and(Status::is_terminal) {
                return None;
            }
            let mut ask_again = None;
            match shared.read(&self.instance).await {
                Ok(Some(read)) if read.stored.snapshot.run() == self.run => {
                    if self.last.as_ref() != Some(&read.status) {
                        self.last = Some(read.status.clone());
                        return Some(read.status);
                    }
                }
                Ok(_) => return None,
                Err(LoadError::Store(error)) => {
                    tracing::warn!(instance = %self.instance, %error, "the status could not be read; reading it again");
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
                () = wait(&shared, ask_again) => {}
                () = shared.closed() => return None,
            }
        }
    }

    /// Returns the error that ended the watch before the run ended: a record of the instance is
    /// damaged.
    pub fn error(&self) -> Option<&HandleError> {
        self.error.as_ref()
    }
}

/// Waits for `time` on the tokio runtime that Everstep runs on; forever without a time.
async fn wait(shared: &Shared, time: Option<Duration>) {
    match time {
        Some(time) => shared.sleep(time).await,
        None => std::future::pending().await,
    }
}

impl std::fmt::Debug for StatusWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StatusWatch({}, run {})", self.instance, self.run)
    }
}
