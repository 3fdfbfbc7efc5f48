//! Finds attempts that block their thread, and keeps the rest going meanwhile.
//!
//! Each poll of an attempt stores the watchdog's tick when it begins and clears it when it returns:
//! two atomic stores, no lock, no clock. The watchdog counts ticks on a thread of its own, because
//! tokio's threads may all be blocked. A poll that began n ticks ago has lasted n ticks.
//!
//! ```text
//!   ticks   |-------|-------|-------|-------|
//!           7       8       9       10
//! a poll        [began at 7 ................   at 10: for two ticks at least
//! ```

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Executor, Serial};
use crate::id::{InstanceId, NodePath};

/// Time between two ticks.
const TICK: Duration = Duration::from_millis(250);
/// Whole ticks after which a poll is reported: 0.5 to 0.75 s, since the poll may have begun just
/// after a tick.
const STALLED_TICKS: u64 = 2;
/// Attempts named in one warning.
const NAMES_MAX: usize = 8;
/// Value of a mark's tick while no poll is going on.
const NOT_POLLED: u64 = 0;

/// The cause for which [`Runtime::stalled`](crate::Runtime::stalled) lists an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StallCause {
    /// The attempt blocks its thread, which other tasks and actors need. Declare the task
    /// [`blocking`](crate::Task::blocking), or wrap the part that blocks in
    /// `tokio::task::spawn_blocking`.
    BlocksThread,
    /// The attempt waits for the result of another instance, and so do all others that hold a slot
    /// ([`Limits::tasks_running_max`](crate::Limits::tasks_running_max)), a thread
    /// ([`Limits::blocking_tasks_running_max`](crate::Limits::blocking_tasks_running_max)) or the
    /// turn to run alone, while others queue for the same. If the awaited instances are among those
    /// that queue, nothing moves until one of the attempts is cancelled.
    AwaitsInstance,
}

/// An attempt that keeps others from going on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stalled {
    /// The instance that the attempt belongs to.
    pub instance: InstanceId,
    /// The task's path in the workflow.
    pub node: NodePath,
    /// The time for which it has stalled so far: at least this, at most half a second more.
    pub stalled_for: Duration,
    /// The cause.
    pub cause: StallCause,
}

/// The tick count so far, from 1.
pub(super) struct Ticks {
    count: AtomicU64,
    /// The tick since which attempts that wait for other instances hold up the queue, or
    /// [`NOT_POLLED`].
    all_wait_since: AtomicU64,
}

impl Ticks {
    pub(super) fn new() -> Self {
        Self { count: AtomicU64::new(NOT_POLLED + 1), all_wait_since: AtomicU64::new(NOT_POLLED) }
    }

    fn now(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the whole ticks for which all holders have waited, if they do now.
    fn all_wait_for(&self) -> Option<u64> {
        let since = self.all_wait_since.load(Ordering::Relaxed);
        (since != NOT_POLLED).then(|| self.now().saturating_sub(since))
    }
}

/// Record of an attempt being polled. The next attempt with the same slot uses it again.
#[derive(Default)]
pub(super) struct PollMark {
    began: AtomicU64,
    /// True once the attempt was reported as blocking.
    told: AtomicBool,
    /// Number of results of other instances that the attempt waits for.
    waits: AtomicU32,
}

/// A guard for a poll that is going on, until dropped.
pub(super) struct Polling<'a>(&'a PollMark);

impl PollMark {
    pub(super) fn poll(&self, ticks: &Ticks) -> Polling<'_> {
        self.began.store(ticks.now(), Ordering::Relaxed);
        Polling(self)
    }

    pub(super) fn wait_begins(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn wait_ends(&self) {
        self.waits.fetch_sub(1, Ordering::Relaxed);
    }

    fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed) > 0
    }

    /// Returns the whole ticks that the current poll has lasted.
    fn lasts(&self, now: u64) -> u64 {
        match self.began.load(Ordering::Relaxed) {
            NOT_POLLED => 0,
            began => now.saturating_sub(began + 1),
        }
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.began.store(NOT_POLLED, Ordering::Relaxed);
    }
}

/// One mark per slot that was ever taken, so that looking at all marks does not cost more the more
/// is queued.
#[derive(Default)]
pub(super) struct PollMarks {
    all: Vec<(Arc<PollMark>, Option<Whose>)>,
    free: Vec<usize>,
}

/// The attempt that holds a seat.
#[derive(Clone)]
pub(super) struct Whose {
    pub(super) instance: InstanceId,
    pub(super) node: NodePath,
    pub(super) serial: Serial,
    /// True if it holds a thread of the pool for blocking work.
    pub(super) is_blocking: bool,
}

/// The mark of an attempt that has its slot.
pub(super) struct Seat {
    place: usize,
    mark: Arc<PollMark>,
}

impl Seat {
    pub(super) fn poll(&self, ticks: &Ticks) -> Polling<'_> {
        self.mark.poll(ticks)
    }

    pub(super) fn mark(&self) -> &Arc<PollMark> {
        &self.mark
    }
}

impl PollMarks {
    pub(super) fn take(&mut self, of: Whose) -> Seat {
        let place = self.free.pop().unwrap_or_else(|| {
            self.all.push((Arc::default(), None));
            self.all.len() - 1
        });
        let Some((mark, whose)) = self.all.get_mut(place) else {
            unreachable!("a free place is an index of this list")
        };
        mark.told.store(false, Ordering::Relaxed);
        *whose = Some(of);
        Seat { place, mark: Arc::clone(mark) }
    }

    pub(super) fn give_back(&mut self, seat: &Seat) {
        if let Some((mark, whose)) = self.all.get_mut(seat.place) {
            let was_blocking = whose.take().is_some_and(|whose| whose.is_blocking);
            if was_blocking || mark.waits() {
                // A thread or a wait of the attempt may outlive it: neither must count for the next
                // attempt here.
                *mark = Arc::default();
            }
        }
        self.free.push(seat.place);
    }

    /// Returns the attempts that wait for other instances.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Whose> {
        self.all.iter().filter(|(mark, _)| mark.waits()).filter_map(|(_, whose)| whose.as_ref())
    }

    fn marks(&self) -> impl Iterator<Item = &PollMark> {
        self.all.iter().map(|(mark, _)| &**mark)
    }
}

/// Owner of the thread that ticks. Dropping it ends the thread.
pub(crate) struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    pub(crate) fn start(executor: &Arc<Executor>) -> std::io::Result<Self> {
        let (alive, ended) = channel();
        let executor = Arc::downgrade(executor);
        let run = move || {
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) && tick(&executor) {}
        };
        std::thread::Builder::new().name("everstep-watchdog".into()).spawn(run)?;
        Ok(Self { _alive: alive })
    }
}

/// Counts a tick and reports attempts that block. Returns false once the executor is gone.
fn tick(executor: &Weak<Executor>) -> bool {
    let Some(executor) = executor.upgrade() else { return false };
    executor.ticks.count.fetch_add(1, Ordering::Relaxed);
    executor.see_whether_waits_hold_up();
    if executor.longest_poll() >= 1 {
        // The blocked thread may be the one that served tokio's timers and sockets. Another worker
        // takes over only when it next goes to sleep, so wake one.
        executor.tokio.spawn(std::future::ready(()));
    }
    for Stalled { instance, node, stalled_for, .. } in
        executor.find_stalled(|mark| !mark.told.swap(true, Ordering::Relaxed))
    {
        tracing::warn!(%instance, %node, ?stalled_for,
            "a task blocks its thread: declare it `.blocking()`, or use `spawn_blocking` for the part that blocks");
    }
    true
}

impl Executor {
    /// Returns the attempts that block their thread now, or that hold up the queue by waiting.
    pub(crate) fn stalled(&self) -> Vec<Stalled> {
        let mut stalled = self.find_stalled(|_| true);
        stalled.extend(self.all_that_wait());
        stalled
    }

    /// Notes since when attempts that wait for other instances hold up the queue. Warns once when
    /// that has lasted [`STALLED_TICKS`].
    fn see_whether_waits_hold_up(&self) {
        let hold_up = !self.table().holding_up(self.slots, self.threads).is_empty();
        let since = &self.ticks.all_wait_since;
        if !hold_up {
            since.store(NOT_POLLED, Ordering::Relaxed);
        } else if since.load(Ordering::Relaxed) == NOT_POLLED {
            since.store(self.ticks.now(), Ordering::Relaxed);
        } else if self.ticks.all_wait_for() == Some(STALLED_TICKS) {
            let waiting = self.all_that_wait();
            let names: Vec<_> =
                waiting.iter().take(NAMES_MAX).map(|one| (one.instance.as_str(), one.node.as_str())).collect();
            tracing::warn!(
                count = waiting.len(),
                ?names,
                "tasks that wait for other instances hold all slots: raise Limits::tasks_running_max or \
                 blocking_tasks_running_max, or wait at a node of the workflow"
            );
        }
    }

    /// Returns the attempts that wait for other instances and hold up the queue, if that has lasted
    /// [`STALLED_TICKS`].
    fn all_that_wait(&self) -> Vec<Stalled> {
        let Some(ticks) = self.ticks.all_wait_for().filter(|ticks| *ticks >= STALLED_TICKS) else { return Vec::new() };
        let waiting = self.table().holding_up(self.slots, self.threads);
        let stalled_for = TICK * u32::try_from(ticks).unwrap_or(u32::MAX);
        let cause = StallCause::AwaitsInstance;
        let stalled = waiting.into_iter();
        stalled.map(|Whose { instance, node, .. }| Stalled { instance, node, stalled_for, cause }).collect()
    }

    /// Returns how long the longest current poll has lasted, in whole ticks.
    fn longest_poll(&self) -> u64 {
        let now = self.ticks.now();
        self.table().marks.marks().map(|mark| mark.lasts(now)).max().unwrap_or_default()
    }

    fn find_stalled(&self, wanted: impl Fn(&PollMark) -> bool) -> Vec<Stalled> {
        let now = self.ticks.now();
        let table = self.table();
        let lasting = table.marks.all.iter().map(|(mark, whose)| (mark, mark.lasts(now), whose));
        let stalled = lasting.filter(|(mark, ticks, _)| *ticks >= STALLED_TICKS && wanted(mark));
        let stalled = stalled.filter_map(|(_, ticks, whose)| {
            let Whose { instance, node, .. } = whose.clone()?;
            let stalled_for = TICK * u32::try_from(ticks).unwrap_or(u32::MAX);
            Some(Stalled { instance, node, stalled_for, cause: StallCause::BlocksThread })
        });
        stalled.collect()
    }
}
