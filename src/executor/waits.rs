//! Attempts that wait for another instance and hold their slots meanwhile. If all slots are held
//! so, the awaited instances get none.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use super::table::Table;
use super::watchdog::{PollMark, Whose};

thread_local! {
    /// The attempt that this thread is polling.
    static POLLED: RefCell<Option<Arc<PollMark>>> = const { RefCell::new(None) };
}

/// A guard that marks this thread as polling an attempt, until dropped.
pub(super) struct Polled {
    before: Option<Arc<PollMark>>,
}

/// Runs a future as a part of the attempt with this mark, on any thread that polls it.
pub(super) async fn polled<T>(mark: Arc<PollMark>, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|context| {
        let _polled = Polled::begin(&mark);
        future.as_mut().poll(context)
    })
    .await
}

impl Polled {
    pub(super) fn begin(mark: &Arc<PollMark>) -> Self {
        Self { before: POLLED.replace(Some(Arc::clone(mark))) }
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        POLLED.set(self.before.take());
    }
}

/// A guard that marks an attempt as waiting for another instance, until dropped.
pub(crate) struct WaitsForInstance(Option<Arc<PollMark>>);

impl WaitsForInstance {
    /// Marks the attempt that calls this. Marks none if called elsewhere, also from a task that an
    /// attempt has spawned.
    pub(crate) fn begin() -> Self {
        let polled = POLLED.with_borrow(Clone::clone);
        if let Some(mark) = &polled {
            mark.wait_begins();
        }
        Self(polled)
    }
}

impl Drop for WaitsForInstance {
    fn drop(&mut self) {
        if let Some(mark) = &self.0 {
            mark.wait_ends();
        }
    }
}

impl Table {
    /// Returns the attempts that wait for other instances and thereby hold up the queue: they have
    /// all slots, all threads, or the turn to run alone, and other attempts queue for the same.
    /// Empty if at least one holder does not wait.
    pub(super) fn holding_up(&self, slots: usize, threads: usize) -> Vec<Whose> {
        let mut waiting: Vec<_> = self.marks.waiting().cloned().collect();
        if !self.queue.is_empty() && waiting.len() >= slots {
            return waiting;
        }
        let blocking = waiting.iter().filter(|whose| whose.is_blocking).count();
        if self.queue.has_blocking() && blocking >= threads {
            waiting.retain(|whose| whose.is_blocking);
        } else {
            waiting.retain(|whose| !self.alone.is_empty() && self.turn == Some(whose.serial));
        }
        waiting
    }
}
