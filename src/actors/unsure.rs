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
pub(super) struct UnsureStarts(Mutex<HashMap<RunId, Instant>>);

impl UnsureStarts {
    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of these writes is unknown.
    pub(super) fn note(&self, writes: &[Write]) {
        let starts = writes.iter().filter(|write| write.starts_run()).map(|write| (write.run, Instant::now()));
        self.lock().extend(starts);
    }

    /// A start is handed to somebody who may die with the answer, or is repeated.
    pub(super) fn note_run(&self, run: RunId) {
        self.lock().insert(run, Instant::now());
    }

    /// A start has come to its end. Whether it was the last one that was waited for.
    pub(super) fn settle(&self, run: RunId) -> bool {
        let mut unsure = self.lock();
        unsure.remove(&run).is_some() && unsure.is_empty()
    }

    pub(super) fn are_any(&self) -> bool {
        let mut unsure = self.lock();
        unsure.retain(|_, noted| noted.elapsed() < UNSURE_FOR);
        !unsure.is_empty()
    }
}
