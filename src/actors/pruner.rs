//! Deletes what has ended long enough ago. Without a retention to keep there is none.
//!
//! It looks into the index of ends once a second, and deletes in small batches through the persistence actor, like any other
//! caller: whoever else wants to write is in the same commit. Past the instances' actors, since each delete names the
//! transition it is of: a new run, a retry or a quarantine that came first wins, and the delete is refused.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinSet;

use super::hub::Hub;
use crate::cause::Cause;
use crate::clock::sleep_until;
use crate::id::InstanceId;
use crate::lifecycle::{CommitError, Port as _, deletion};
use crate::machine::HeadIndex;
use crate::status::StatusCode;
use crate::store::{StoreError, Write};
use crate::time::Timestamp;

/// Instances deleted in one commit. Enough to keep up with instances that do nothing but start and end.
const BATCH: usize = 512;
/// Time between two looks when nothing was left to delete.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The first and the longest wait after the store has failed.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long instances are kept after their run has ended, with their results: for ever, unless it says otherwise.
///
/// They are deleted within about a second after their time, in the background, in small batches; a backlog takes longer. Ids of
/// deleted instances are free again. With a short time a result may be gone before whoever waits for it has read it, and a start with [`ConflictPolicy::UseExisting`](crate::ConflictPolicy::UseExisting) finds nothing to use: keep
/// instances for longer than anybody asks for them. Time is the wall clock's, as for delays.
///
/// Quarantined instances are never deleted by this, nor are runs that ended before their end was recorded with its time:
/// see [`Runtime::list`](crate::Runtime::list) and [`Runtime::delete`](crate::Runtime::delete).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    completed: Option<Duration>,
    failed: Option<Duration>,
    cancelled: Option<Duration>,
}

impl Retention {
    /// Everything is kept for ever.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long completed instances are kept; zero is allowed.
    pub fn completed(mut self, kept: Duration) -> Self {
        self.completed = Some(kept);
        self
    }

    /// How long failed instances are kept; zero is allowed.
    pub fn failed(mut self, kept: Duration) -> Self {
        self.failed = Some(kept);
        self
    }

    /// How long cancelled instances are kept; zero is allowed.
    pub fn cancelled(mut self, kept: Duration) -> Self {
        self.cancelled = Some(kept);
        self
    }

    /// Whether anything is ever deleted.
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
pub(super) async fn run(hub: Weak<Hub>, retention: Retention) {
    let mut backoff = BACKOFF.0;
    loop {
        let Some(alive) = hub.upgrade() else { return };
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
                    tracing::warn!(%error, "instances that have ended could not be deleted; trying again");
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

/// Deletes everything that is due now, batch by batch.
async fn prune(hub: &Arc<Hub>, retention: &Retention) -> Result<(), StoreError> {
    for (status, kept) in retention.limits() {
        let mut after = None;
        loop {
            let Batch { last, more } = prune_some(hub, status, kept, after.as_ref()).await?;
            after = last.or(after);
            if !more || hub.is_closing() {
                break;
            }
        }
    }
    Ok(())
}

type End = (Timestamp, InstanceId);

/// What was due of one page of the index.
struct Batch {
    /// The last end that was deleted; none if nothing was due.
    last: Option<End>,
    /// Whether there may be more.
    more: bool,
}

/// Deletes one batch of what is due behind `after`.
async fn prune_some(
    hub: &Arc<Hub>,
    status: StatusCode,
    kept: Duration,
    after: Option<&End>,
) -> Result<Batch, StoreError> {
    let now = hub.clock.now();
    // What ended in this very moment is due if it is kept for no time at all.
    let before = now.before(kept).after(Duration::from_micros(1));
    let mut ends = hub.store.ended(status, before, after, BATCH).await?;
    let more = ends.len() == BATCH;
    // A time that the clock cannot go back by ends at the epoch, where something may have ended.
    ends.retain(|(at, _)| at.after(kept) <= now);
    let mut writes = Vec::with_capacity(ends.len());
    let mut unread = None;
    for end in &ends {
        match delete_at(hub, status, end).await {
            Ok(write) => writes.extend(write),
            Err(error) => {
                // It holds up no other one, and is looked at again with the next look.
                tracing::warn!(instance = %end.1, %error, "an instance that has ended could not be read");
                unread = Some(error);
            }
        }
    }
    if let Some(error) = unread.filter(|_| writes.is_empty()) {
        return Err(error);
    }
    let mut deletes = JoinSet::new();
    for write in writes {
        let hub = Arc::clone(hub);
        deletes.spawn(async move { delete(&hub, write).await });
    }
    let mut outcome = Ok(());
    while let Some(done) = deletes.join_next().await {
        outcome = outcome.and(done.unwrap_or_else(|error| Err(StoreError::Transient(Cause::of(error)))));
    }
    if !ends.is_empty() {
        // Also after a failure: some may be gone.
        hub.persistence().sweep();
    }
    outcome?;
    let last = ends.pop();
    Ok(Batch { more: more && last.is_some(), last })
}

/// The write that deletes an instance; none if it does not stand any more where it was listed.
async fn delete_at(hub: &Hub, status: StatusCode, (at, instance): &End) -> Result<Option<Write>, StoreError> {
    let Some(loaded) = hub.store.load(instance).await? else { return Ok(None) };
    let index = HeadIndex::of_head(instance, &loaded.head).ok();
    let stands = index.is_some_and(|index| (index.status, index.ended) == (status, Some(*at)));
    let is_due = stands && loaded.quarantine.is_none();
    Ok(is_due.then(|| deletion(instance.clone(), loaded.version(instance))))
}

async fn delete(hub: &Hub, write: Write) -> Result<(), StoreError> {
    let instance = write.instance.clone();
    match hub.persistence().commit(write).await {
        Ok(()) => {
            hub.waiters.tell(&instance);
            Ok(())
        }
        // It has moved on meanwhile.
        Err(CommitError::Conflict(_)) => Ok(()),
        Err(CommitError::Store(error)) => Err(error),
    }
}
