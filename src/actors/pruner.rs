//! Deletes instances whose retention is over. Runs only if a retention is set.
//!
//! Reads the index of ended runs once a second, and deletes in small batches through the
//! persistence actor, like any other caller: other writes share the commit. Bypasses the instances'
//! actors, since each delete names the version that it deletes: a new run, a retry or a quarantine
//! that comes first wins, and the delete is refused.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinSet;

use super::shared::Shared;
use crate::cause::Cause;
use crate::clock::sleep_until;
use crate::id::InstanceId;
use crate::lifecycle::{CommitError, Committer as _, deletion};
use crate::machine::HeadIndex;
use crate::status::StatusCode;
use crate::store::{StoreError, Write};
use crate::time::Timestamp;

/// Instances deleted in one commit. Enough to keep up with instances that only start and end.
const BATCH: usize = 512;
/// The time between two reads of the index when nothing is left to delete.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The first and the longest delay after the store has failed.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The time for which instances are kept after their run has ended, with their results: for ever,
/// unless set.
///
/// An instance is deleted within about a second after that time, in the background, in small
/// batches; a backlog takes longer. Its id is free again. With a short time a result may be deleted
/// before a waiting caller has read it, and a start with
/// [`ConflictPolicy::UseExisting`](crate::ConflictPolicy::UseExisting) finds nothing to use: keep
/// instances for longer than any caller asks for them. Times are of the wall clock, as for delays.
///
/// Never deletes quarantined instances, nor runs that ended before the time of their end was
/// recorded: see [`Runtime::list`](crate::Runtime::list) and
/// [`Runtime::delete`](crate::Runtime::delete).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    completed: Option<Duration>,
    failed: Option<Duration>,
    cancelled: Option<Duration>,
}

impl Retention {
    /// Returns a retention that keeps everything for ever.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time for which completed instances are kept; zero is allowed.
    pub fn completed(mut self, kept: Duration) -> Self {
        self.completed = Some(kept);
        self
    }

    /// Sets the time for which failed instances are kept; zero is allowed.
    pub fn failed(mut self, kept: Duration) -> Self {
        self.failed = Some(kept);
        self
    }

    /// Sets the time for which cancelled instances are kept; zero is allowed.
    pub fn cancelled(mut self, kept: Duration) -> Self {
        self.cancelled = Some(kept);
        self
    }

    /// Returns true if anything is ever deleted.
    pub(super) fn is_limited(&self) -> bool {
        self.limits().next().is_some()
    }

    fn limits(&self) -> impl Iterator<Item = (StatusCode, Duration)> {
        let limits = [
            (StatusCode::Completed, self.completed),
            (StatusCode::Failed, self.failed),
            (StatusCode::Cancelled, self.cancelled),
        ];
        limits.into_iter().filter_map(|(status, kept)| Some((status, kept?)))
    }
}

/// Runs until the runtime is gone.
pub(super) async fn run(shared: Weak<Shared>, retention: Retention) {
    let mut backoff = BACKOFF.0;
    loop {
        let Some(alive) = shared.upgrade() else { return };
        let pruned = prune(&alive, &retention).await;
        if alive.is_closing() {
            return;
        }
        let pause = async {
            match pruned {
                Ok(()) => {
                    backoff = BACKOFF.0;
                    let next = alive.clock.now().after(LOOK_AGAIN);
                    sleep_until(&*alive.clock, next, LOOK_AGAIN).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "ended instances could not be deleted; trying again");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
        };
        tokio::select! {
            () = pause => {}
            () = alive.closed() => return,
        }
    }
}

/// Deletes everything that is due now, in batches.
async fn prune(shared: &Arc<Shared>, retention: &Retention) -> Result<(), StoreError> {
    for (status, kept) in retention.limits() {
        let mut after = None;
        loop {
            let Batch { last, more } = prune_some(shared, status, kept, after.as_ref()).await?;
            after = last.or(after);
            if !more || shared.is_closing() {
                break;
            }
        }
    }
    Ok(())
}

type End = (Timestamp, InstanceId);

/// The result of deleting one page of the index.
struct Batch {
    /// The last end that was due; `None` if nothing was due.
    last: Option<End>,
    /// True if there may be more.
    more: bool,
}

/// Deletes one batch of the due instances after `after`.
async fn prune_some(
    shared: &Arc<Shared>,
    status: StatusCode,
    kept: Duration,
    after: Option<&End>,
) -> Result<Batch, StoreError> {
    let now = shared.clock.now();
    // With a retention of zero, an instance that ended in this very microsecond is due.
    let before = now.before(kept).after(Duration::from_micros(1));
    let mut ends = shared.store.ended(status, before, after, BATCH).await?;
    let more = ends.len() == BATCH;
    // `before` saturates at the epoch, where runs may have ended that are not due yet.
    ends.retain(|(at, _)| at.after(kept) <= now);
    let mut writes = Vec::with_capacity(ends.len());
    let mut unread = None;
    for end in &ends {
        match delete_at(shared, status, end).await {
            Ok(write) => writes.extend(write),
            Err(error) => {
                // Does not hold up other instances, and is tried again in the next round.
                tracing::warn!(instance = %end.1, %error, "an ended instance could not be read, and is not deleted");
                unread = Some(error);
            }
        }
    }
    if let Some(error) = unread.filter(|_| writes.is_empty()) {
        return Err(error);
    }
    let mut deletes = JoinSet::new();
    for write in writes {
        let shared = Arc::clone(shared);
        deletes.spawn(async move { delete(&shared, write).await });
    }
    let mut outcome = Ok(());
    while let Some(done) = deletes.join_next().await {
        outcome = outcome.and(done.unwrap_or_else(|error| Err(StoreError::Transient(Cause::of(error)))));
    }
    if !ends.is_empty() {
        // Also after a failure: some may be deleted.
        shared.persistence().sweep();
    }
    outcome?;
    let last = ends.pop();
    Ok(Batch { more: more && last.is_some(), last })
}

/// Returns the write that deletes an instance; `None` if it has changed since it was listed.
async fn delete_at(shared: &Shared, status: StatusCode, (at, instance): &End) -> Result<Option<Write>, StoreError> {
    let Some(loaded) = shared.store.load(instance).await? else { return Ok(None) };
    let index = HeadIndex::of_head(instance, &loaded.head).ok();
    let stands = index.is_some_and(|index| (index.status, index.ended) == (status, Some(*at)));
    let is_due = stands && loaded.quarantine.is_none();
    Ok(is_due.then(|| deletion(instance.clone(), loaded.version(instance))))
}

async fn delete(shared: &Shared, write: Write) -> Result<(), StoreError> {
    let instance = write.instance.clone();
    match shared.persistence().commit(write).await {
        Ok(()) => {
            shared.waiters.tell(&instance);
            Ok(())
        }
        // The instance has changed meanwhile.
        Err(CommitError::Conflict(_)) => Ok(()),
        Err(CommitError::Store(error)) => Err(error),
    }
}
