//! Starts of which nobody knows whether they are durable, while they are repeated: what is left of a run that has come and
//! gone meanwhile is not cleared up, since it is the proof that the run has been.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::id::RunId;
use crate::store::Write;

/// How long a start is waited for at most: it has ended long before, and has said so, unless it died.
const UNSURE_FOR: Duration = Duration::from_mins(1);

/// Noted by the persistence thread before it tells the starts, and by those of them that somebody else carries out; looked at by
/// the persistence thread before it sweeps.
#[derive(Default)]
pub(super) struct UnsureStarts(Mutex<HashMap<RunId, Noted>>);

struct Noted {
    at: Instant,
    /// Whether the run may have been replaced or deleted since: only then is there a proof to be kept.
    is_over: bool,
}

impl UnsureStarts {
    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, Noted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the starts among writes of unknown outcome.
    pub(super) fn note(&self, writes: &[Write]) {
        for write in writes.iter().filter(|write| write.starts_run()) {
            self.note_run(write.run);
        }
    }

    /// Notes a start that is handed to an actor, which may die with the answer, or that is repeated.
    pub(super) fn note_run(&self, run: RunId) {
        let at = Instant::now();
        self.lock().entry(run).and_modify(|noted| noted.at = at).or_insert(Noted { at, is_over: false });
    }

    /// Notes the runs that writes have ended, or may have.
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

    /// Forgets a start that has come to its end. Returns whether it was the last one that sweeping waited for.
    pub(super) fn settle(&self, run: RunId) -> bool {
        let mut unsure = self.lock();
        unsure.remove(&run).is_some_and(|noted| noted.is_over) && !unsure.values().any(|noted| noted.is_over)
    }

    /// Returns whether sweeping could delete the proof that a run has been whose start may come again.
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

    /// Method: two starts are noted, one of which is ended while it is under way, and noted again. Sweeping waits for that one.
    #[test]
    fn sweeping_waits_for_starts_whose_runs_are_over() {
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
