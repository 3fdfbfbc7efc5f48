//! Attempts that wait for another instance, and keep their slots meanwhile: if all do, what they wait for gets none.

use std::cell::RefCell;
use std::sync::Arc;

use super::watchdog::PollMark;

thread_local! {
    /// The attempt that this thread polls.
    static POLLED: RefCell<Option<Arc<PollMark>>> = const { RefCell::new(None) };
}

/// Says which attempt this thread polls, until this is dropped.
pub(super) struct Polled {
    before: Option<Arc<PollMark>>,
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
