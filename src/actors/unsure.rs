//! Starts with an unknown outcome, while they are repeated. After the run of one was replaced or
//! deleted, nothing is swept until the start has finished: the rows are the proof that the run has
//! existed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::id::RunId;
use crate::store::Write;

/// The longest time for which a start stops sweeps. A start has finished and settled long before,
/// unless its task was lost.
const UNSURE_FOR: Duration = Duration::from_mins(1);

/// The runs of such starts. Noted by the persistence thread before it answers them, and by starts
/// that another actor commits; checked by the persistence thread before it sweeps.
#[derive(Default)]
pub(super) struct UnsureStarts(Mutex<HashMap<RunId, Noted>>);

struct Noted {
    at: Instant,
    /// True if the run may have been replaced or deleted since: only then its rows are a proof to
    /// be kept.
    is_over: bool,
}

impl UnsureStarts {
    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, Noted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the starts among writes whose outcome is unknown.
    pub(super) fn note(&self, writes: &[Write]) {
        for write in writes.iter().filter(|write| write.starts_run()) {
            self.note_run(write.run);
        }
    }

    /// Notes a start that is repeated, or handed to an actor that may panic before it answers.
    pub(super) fn note_run(&self, run: RunId) {
        let at = Instant::now();
        self.lock().entry(run).and_modify(|noted| noted.at = at).or_insert(Noted { at, is_over: false });
    }

    /// Notes the runs that these writes have replaced or deleted, or may have.
    pub(super) fn note_ended(&self, writes: &[Write]) {
        let mut unsure = self.lock();
        if unsure.is_empty() {
            return;
        }
        for run in writes.iter().filter_map(|write| write.superseded) {
            if let Some(noted) = unsure.get_mut(&run) {
                noted.is_over = true;
            }
        }
    }

    /// Removes a start that has finished. Returns true if it was the last one that sweeps waited
    /// for.
    pub(super) fn settle(&self, run: RunId) -> bool {
        let mut unsure = self.lock();
        unsure.remove(&run).is_some_and(|noted| noted.is_over) && !unsure.values().any(|noted| noted.is_over)
    }

    /// Returns true if a sweep could delete the proof that a run has existed whose start may be
    /// repeated.
    pub(super) fn are_any(&self) -> bool {
        let mut unsure = self.lock();
        unsure.retain(|_, noted| noted.at.elapsed() < UNSURE_FOR);
        unsure.values().any(|noted| noted.is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{InstanceId, Stamp};
    use crate::store::{Change, Condition};

    fn ending(run: RunId) -> Write {
        let (instance, stamp) = (InstanceId::new("id").unwrap(), Stamp::generate());
        let (condition, change) = (Condition::Absent, Change::Delete);
        Write { instance, stamp, condition, change, rows: Vec::new(), run, superseded: Some(run) }
    }

    /// Method: two starts are noted; the run of one is deleted and the start noted again. Sweeps
    /// wait for that one.
    #[test]
    fn start_whose_run_is_over_delays_sweeps() {
        let [one, two] = [1, 2].map(|n| RunId::from_bytes([n; 16]));
        let unsure = UnsureStarts::default();
        unsure.note_run(one);
        unsure.note_run(two);
        assert!(!unsure.are_any(), "their rows are those of live runs");
        unsure.note_ended(&[ending(one), ending(RunId::from_bytes([3; 16]))]);
        unsure.note_run(one);
        assert!(unsure.are_any());
        assert!(!unsure.settle(two));
        assert!(unsure.settle(one) && !unsure.are_any());
    }
}
