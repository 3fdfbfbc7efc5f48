//! Finds attempts that block their thread, and keeps the rest going meanwhile.
//!
//! A poll of an attempt notes the watchdog's tick when it begins and clears it when it returns: two atomic stores, no
//! lock, no look at a clock. The watchdog counts ticks on a thread of its own, since those of tokio may all be blocked,
//! and a poll that began ticks ago has lasted so long.
//!
//! ```text
//!   ticks   |-------|-------|-------|-------|
//!           7       8       9       10
//! a poll        [began at 7 ................   at 10: for two ticks at least
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Executor;
use crate::id::{InstanceId, NodePath};

/// Between two ticks.
const TICK: Duration = Duration::from_millis(250);
/// Whole ticks after which a poll is reported: within a second, since it may have begun just behind one.
const STALLED_TICKS: u64 = 2;
/// What a poll that is not going on has for the tick at which it began.
const NOT_POLLED: u64 = 0;

/// An attempt that blocks its thread, which other tasks and actors need: a task that does so wants
/// [`blocking`](crate::Task::blocking), or `tokio::task::spawn_blocking` around the part that blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stalled {
    /// The instance whose attempt it is.
    pub instance: InstanceId,
    /// The task's place in the workflow.
    pub node: NodePath,
    /// How long it has not come to an await, at least; up to half a second longer.
    pub stalled_for: Duration,
}

/// The ticks so far, from 1.
pub(super) struct Ticks(AtomicU64);

impl Ticks {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(NOT_POLLED + 1))
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where an attempt notes that it is polled. Used again by another one when it has ended.
#[derive(Default)]
pub(super) struct PollMark {
    began: AtomicU64,
    /// Whether this attempt was reported.
    told: AtomicBool,
}

/// A poll that is going on, until this is dropped.
pub(super) struct Polling<'a>(&'a PollMark);

impl PollMark {
    pub(super) fn poll(&self, ticks: &Ticks) -> Polling<'_> {
        self.began.store(ticks.now(), Ordering::Relaxed);
        Polling(self)
    }

    /// Whole ticks that the present poll has lasted.
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

/// One mark for each slot that was ever taken, so that looking at all costs nothing that grows with what is queued.
#[derive(Default)]
pub(super) struct PollMarks {
    all: Vec<(Arc<PollMark>, Option<Whose>)>,
    free: Vec<usize>,
}

#[derive(Clone)]
struct Whose {
    instance: InstanceId,
    node: NodePath,
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
}

impl PollMarks {
    pub(super) fn take(&mut self, instance: InstanceId, node: NodePath) -> Seat {
        let place = self.free.pop().unwrap_or_else(|| {
            self.all.push((Arc::default(), None));
            self.all.len() - 1
        });
        let Some((mark, whose)) = self.all.get_mut(place) else { unreachable!("free places are places") };
        mark.told.store(false, Ordering::Relaxed);
        *whose = Some(Whose { instance, node });
        Seat { place, mark: Arc::clone(mark) }
    }

    pub(super) fn give_back(&mut self, seat: &Seat) {
        if let Some((_, whose)) = self.all.get_mut(seat.place) {
            *whose = None;
        }
        self.free.push(seat.place);
    }

    fn marks(&self) -> impl Iterator<Item = &PollMark> {
        self.all.iter().map(|(mark, _)| &**mark)
    }
}

/// The thread that ticks; it ends when this is dropped.
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

/// False once the executor is gone.
fn tick(executor: &Weak<Executor>) -> bool {
    let Some(executor) = executor.upgrade() else { return false };
    executor.ticks.0.fetch_add(1, Ordering::Relaxed);
    if executor.longest_poll() >= 1 {
        // The thread that blocks may be the one that looked after tokio's timers and sockets, and another one takes that over
        // only when it goes to sleep anew: so it is woken.
        executor.tokio.spawn(std::future::ready(()));
    }
    for Stalled { instance, node, stalled_for } in
        executor.find_stalled(|mark| !mark.told.swap(true, Ordering::Relaxed))
    {
        tracing::warn!(%instance, %node, ?stalled_for,
            "a task blocks its thread: declare it `.blocking()`, or use `spawn_blocking` for the part that blocks");
    }
    true
}

impl Executor {
    /// Attempts that block their thread now.
    pub(crate) fn stalled(&self) -> Vec<Stalled> {
        self.find_stalled(|_| true)
    }

    /// In whole ticks.
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
            let Whose { instance, node } = whose.clone()?;
            Some(Stalled { instance, node, stalled_for: TICK * u32::try_from(ticks).unwrap_or(u32::MAX) })
        });
        stalled.collect()
    }
}
