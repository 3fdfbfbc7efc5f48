//! Attempts that wait for another instance, and keep their slots meanwhile: if all do, what they wait for gets none.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use super::table::Table;
use super::watchdog::{PollMark, Whose};

thread_local! {
    /// The attempt that this thread polls.
    static POLLED: RefCell<Option<Arc<PollMark>>> = const { RefCell::new(None) };
}

/// Says which attempt this thread polls, until this is dropped.
pub(super) struct Polled {
    before: Option<Arc<PollMark>>,
}

/// Runs a future as a part of the attempt with this mark, on whatever thread it is polled.
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

/// Says that an attempt waits for an instance, until this is dropped.
pub(crate) struct WaitsForInstance(Option<Arc<PollMark>>);

impl WaitsForInstance {
    /// Of the attempt that this is called in; of none if it is called elsewhere, also by what an attempt has spawned.
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
    /// The attempts that wait for instances and hold others up: all that have a slot, a thread, or the turn to run alone, while
    /// others queue for the same. None if one of those that have it does not wait.
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
