//! Starts of which nobody knows whether they are durable, while they are repeated: what is left of a run that has come and
//! gone meanwhile is not cleared up, since it is the proof that the run has been.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::id::RunId;
use crate::store::{Change, Condition, Write};

/// How long a start is waited for at most: it has ended long before, and has said so, unless it died.
const UNSURE_FOR: Duration = Duration::from_mins(1);

/// Noted by the persistence thread before it tells the starts, and looked at by it before it sweeps.
#[derive(Default)]
pub(super) struct UnsureStarts(Mutex<HashMap<RunId, Instant>>);

impl UnsureStarts {
    /// What became of these writes is unknown.
    pub(super) fn note(&self, writes: &[Write]) {
        let starts = writes.iter().filter(|write| starts_a_run(write)).map(|write| (write.run, Instant::now()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(starts);
    }

    /// A start has come to its end. Whether it was the last one that was waited for.
    pub(super) fn settle(&self, run: RunId) -> bool {
        let mut unsure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unsure.remove(&run).is_some() && unsure.is_empty()
    }

    pub(super) fn are_any(&self) -> bool {
        let mut unsure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unsure.retain(|_, noted| noted.elapsed() < UNSURE_FOR);
        !unsure.is_empty()
    }
}

fn starts_a_run(write: &Write) -> bool {
    let is_head = matches!(write.change, Change::Head(_));
    is_head && (write.condition == Condition::Absent || write.superseded.is_some())
}
