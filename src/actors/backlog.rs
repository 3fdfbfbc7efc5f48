//! Instances to be activated that are known by id: acknowledged starts that found no room,
//! instances that another writer has changed, and those that could not be read and are tried again.
//! No listing is needed for them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::id::InstanceId;
use crate::store::StoreError;

/// The most waiting instances, and the most failing ones. Beyond that, everything in progress is
/// listed.
const INSTANCES_MAX: usize = 16_384;
/// The most instances that [`Backlog::unreadable`] returns.
const LISTED_MAX: usize = 1_000;
/// The number of consecutive failures from which an instance is listed.
const FAILURES_LISTED: u32 = 5;
/// The first delay before an instance is read again.
const BACKOFF: Duration = Duration::from_millis(50);
/// The longest delay while no other instance could be read either: the store may be at fault.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// The longest delay while other instances were read.
const BACKOFF_ALONE_MAX: Duration = Duration::from_mins(1);

/// An instance that could not be read or written at least five times in a row. The runtime tries
/// again at least once a minute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unreadable {
    /// The instance.
    pub instance: InstanceId,
    /// The number of consecutive failures.
    pub failures: u32,
    /// The last error.
    pub error: StoreError,
}

#[derive(Default)]
pub(super) struct Backlog {
    state: Mutex<State>,
    /// Notified when there is an instance to take, or one is to be taken earlier.
    news: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<InstanceId>,
    failing: HashMap<InstanceId, Failing>,
    /// The failing instances, by the time of their next try.
    retries: BTreeSet<(Instant, InstanceId)>,
    /// The number of successful reads of instances.
    reads: u64,
    /// True if an instance found no place here.
    has_overflown: bool,
}

struct Failing {
    failures: u32,
    error: StoreError,
    /// The time of the next try.
    retry_at: Instant,
    /// The number of successful reads at the last failure.
    reads: u64,
}

impl State {
    fn forget(&mut self, instance: &InstanceId) {
        if let Some(failing) = self.failing.remove(instance) {
            self.retries.remove(&(failing.retry_at, instance.clone()));
        }
    }
}

/// The next work for recovery.
pub(super) enum Next {
    /// Activate this instance.
    Activate(InstanceId),
    /// List everything in progress, since some instances found no place in the backlog.
    List,
    /// Nothing before this time; `None` if nothing is scheduled.
    Wait(Option<Instant>),
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an instance for activation as soon as there is room, after the earlier ones.
    pub(super) fn push(&self, instance: InstanceId) {
        let mut state = self.lock();
        if state.waiting.len() < INSTANCES_MAX {
            state.waiting.push_back(instance);
        } else {
            state.has_overflown = true;
        }
        drop(state);
        self.news.notify_one();
    }

    /// Schedules a retry of an instance that could not be read or written, with a backoff of its
    /// own. Returns its number of consecutive failures; `None` if there are too many failing
    /// instances.
    pub(super) fn failed(&self, instance: &InstanceId, error: &StoreError) -> Option<u32> {
        let mut state = self.lock();
        let state = &mut *state;
        let before = state.failing.get(instance).map_or((0, state.reads), |failing| (failing.failures, failing.reads));
        if before.0 == 0 && state.failing.len() >= INSTANCES_MAX {
            return None;
        }
        let (failures, reads) = before;
        let longest = if state.reads > reads { BACKOFF_ALONE_MAX } else { BACKOFF_MAX };
        let retry_at = Instant::now() + BACKOFF.saturating_mul(1 << failures.min(16)).min(longest);
        state.forget(instance);
        state.retries.insert((retry_at, instance.clone()));
        let failing =
            Failing { failures: failures.saturating_add(1), error: error.clone(), retry_at, reads: state.reads };
        state.failing.insert(instance.clone(), failing);
        self.news.notify_one();
        Some(failures.saturating_add(1))
    }

    /// Counts a successful read of an instance, which shows that the store works. Reads of failing
    /// instances do not count: their heads may come from memory.
    pub(super) fn counts_read(&self, instance: &InstanceId) {
        let mut state = self.lock();
        state.reads += u64::from(!state.failing.contains_key(instance));
    }

    /// Removes an instance that has loaded and written all it had to, or that does not exist.
    pub(super) fn forget(&self, instance: &InstanceId) {
        let mut state = self.lock();
        if !state.failing.is_empty() {
            state.forget(instance);
        }
    }

    /// Makes all failing instances due now: the store was reopened.
    pub(super) fn retry_all(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        let state = &mut *state;
        state.retries.clear();
        for (instance, failing) in &mut state.failing {
            failing.retry_at = failing.retry_at.min(now);
            state.retries.insert((failing.retry_at, instance.clone()));
        }
        self.news.notify_one();
    }

    /// Takes the next work. Failing instances come first: their backoff makes them rare.
    pub(super) fn next(&self) -> Next {
        let mut state = self.lock();
        let (now, retry) = (Instant::now(), state.retries.first().cloned());
        if let Some((at, instance)) = retry.clone().filter(|(at, _)| *at <= now) {
            // Its activation is in flight; if that is lost, it is tried again.
            let again = now + BACKOFF_ALONE_MAX;
            state.retries.remove(&(at, instance.clone()));
            state.retries.insert((again, instance.clone()));
            if let Some(failing) = state.failing.get_mut(&instance) {
                failing.retry_at = again;
            }
            return Next::Activate(instance);
        }
        if let Some(instance) = state.waiting.pop_front() {
            return Next::Activate(instance);
        }
        if std::mem::take(&mut state.has_overflown) { Next::List } else { Next::Wait(retry.map(|(at, _)| at)) }
    }

    /// Resolves when there may be more work.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Returns the instances that could not be read for some time.
    pub(super) fn unreadable(&self) -> Vec<Unreadable> {
        let state = self.lock();
        let listed = state.failing.iter().filter(|(_, failing)| failing.failures >= FAILURES_LISTED);
        let listed = listed.map(|(instance, failing)| Unreadable {
            instance: instance.clone(),
            failures: failing.failures,
            error: failing.error.clone(),
        });
        let mut listed: Vec<_> = listed.take(LISTED_MAX).collect();
        listed.sort_by(|a, b| a.instance.cmp(&b.instance));
        listed
    }
}
