//! Instances that are to be taken up and are known by id: acknowledged starts that found no room, instances that another writer
//! has moved, and those that could not be read and are tried again. Nothing is listed for them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::id::InstanceId;
use crate::store::StoreError;

/// Instances that wait, and instances that could not be read: most of each. Beyond that, everything is looked for.
const INSTANCES_MAX: usize = 16_384;
/// Instances given out by [`Backlog::unreadable`].
const LISTED_MAX: usize = 1_000;
/// Failures in a row from which an instance is listed.
const FAILURES_LISTED: u32 = 5;
/// The first wait before an instance is read again.
const BACKOFF: Duration = Duration::from_millis(50);
/// The longest one while nothing else could be read either, so that the store may be at fault.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// The longest one while other instances were read.
const BACKOFF_ALONE_MAX: Duration = Duration::from_mins(1);

/// An instance that the store has failed to read five times in a row or more. It is tried again, at least once a minute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unreadable {
    /// The instance.
    pub instance: InstanceId,
    /// How often in a row.
    pub failures: u32,
    /// The last error.
    pub error: StoreError,
}

#[derive(Default)]
pub(super) struct Backlog {
    state: Mutex<State>,
    /// Told when there is something to take, or it is to be taken earlier.
    news: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<InstanceId>,
    failing: HashMap<InstanceId, Failing>,
    /// The same by the time of their next try.
    retries: BTreeSet<(Instant, InstanceId)>,
    /// Reads of instances that went through.
    reads: u64,
    /// Whether an instance found no place here.
    has_overflown: bool,
}

struct Failing {
    failures: u32,
    error: StoreError,
    /// When to try again.
    retry_at: Instant,
    /// How many reads had gone through.
    reads: u64,
}

impl State {
    fn forget(&mut self, instance: &InstanceId) {
        if let Some(failing) = self.failing.remove(instance) {
            self.retries.remove(&(failing.retry_at, instance.clone()));
        }
    }
}

/// What there is to be done.
pub(super) enum Next {
    /// Take this one up.
    TakeUp(InstanceId),
    /// List everything in progress, since some instances found no place here.
    List,
    /// Nothing before this time, if ever.
    Wait(Option<Instant>),
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an instance up as soon as there is room, after those that came before.
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

    /// Takes an instance up later that could not be read or written, with a backoff of its own. Returns its failures in a row; none
    /// if there are too many instances here.
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

    /// Counts an instance that was read, which shows that the store can be. The heads of those that fail prove nothing: they may
    /// come from memory.
    pub(super) fn counts_read(&self, instance: &InstanceId) {
        let mut state = self.lock();
        state.reads += u64::from(!state.failing.contains_key(instance));
    }

    /// An instance has all that it needs from the store and has written what it had to, or it is not there.
    pub(super) fn forget(&self, instance: &InstanceId) {
        let mut state = self.lock();
        if !state.failing.is_empty() {
            state.forget(instance);
        }
    }

    /// Tries at once what could not be read: the store is open again.
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

    /// Takes what is to be done next. What could not be read comes first: its backoff makes it rare.
    pub(super) fn next(&self) -> Next {
        let mut state = self.lock();
        let (now, retry) = (Instant::now(), state.retries.first().cloned());
        if let Some((at, instance)) = retry.clone().filter(|(at, _)| *at <= now) {
            // It is on its way now; should that be lost, it is tried again.
            let again = now + BACKOFF_ALONE_MAX;
            state.retries.remove(&(at, instance.clone()));
            state.retries.insert((again, instance.clone()));
            if let Some(failing) = state.failing.get_mut(&instance) {
                failing.retry_at = again;
            }
            return Next::TakeUp(instance);
        }
        if let Some(instance) = state.waiting.pop_front() {
            return Next::TakeUp(instance);
        }
        if std::mem::take(&mut state.has_overflown) { Next::List } else { Next::Wait(retry.map(|(at, _)| at)) }
    }

    /// Resolves when there may be more to be done.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Instances that could not be read for some time.
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
