//! Decides which batches carry a milestone: see `store::journal_repair`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::store::journal_repair::{Milestone, Reached, path_of};

/// Bytes from which on a journal may end: the database begins a new one after 64 MB.
const FULL_BYTES: u64 = 60_000_000;
/// Bytes between two milestones from there on. A loss between the last milestone and the journal's
/// end may go unnoticed.
const STEP_BYTES: u64 = 16 << 10;

/// The milestones of a store that is open.
#[derive(Debug)]
pub(super) struct Milestones {
    /// Bytes in the newest journal.
    bytes: AtomicU64,
    /// Bytes of the newest journal at which the next milestone is due.
    due_at: AtomicU64,
    course: Mutex<Course>,
}

#[derive(Debug)]
struct Course {
    directory: PathBuf,
    journal: u64,
    /// The last number assigned.
    number: u64,
    /// The last milestone that is known to be in this journal or an earlier one.
    stands: u64,
    /// The last milestone that is known to be in a journal before this one.
    behind: u64,
}

/// A milestone to be written. It holds the lock, so that there is only one at a time.
#[derive(Debug)]
pub(super) struct Due<'a> {
    milestones: &'a Milestones,
    course: MutexGuard<'a, Course>,
    pub(super) milestone: Milestone,
}

impl Milestones {
    /// Begins after an open. `stored` is the number of the stored milestone, zero if it cannot be
    /// read: the numbers in the journals count as well.
    pub(super) fn new(directory: PathBuf, reached: &Reached, stored: u64) -> Self {
        let last = stored.max(reached.last);
        let behind = reached.behind.unwrap_or(0);
        // A journal that began without a milestone gets one at once.
        let due_at = if behind > 0 && !reached.is_joined { 0 } else { FULL_BYTES };
        let course = Course { directory, journal: reached.position.journal, number: last, stands: last, behind };
        Self {
            bytes: AtomicU64::new(reached.position.offset),
            due_at: AtomicU64::new(due_at),
            course: Mutex::new(course),
        }
    }

    /// Notes a batch of this size; returns a milestone to be written with it if one is due.
    pub(super) fn pass(&self, bytes: u64) -> Option<Due<'_>> {
        let reached = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if reached < self.due_at.load(Ordering::Relaxed) {
            return None;
        }
        let mut course = self.course.try_lock().ok()?;
        if course.is_at_end() {
            course.journal += 1;
            course.behind = course.stands;
            self.bytes.store(bytes, Ordering::Relaxed);
        }
        course.number += 1;
        let milestone = Milestone { number: course.number, journal: course.journal, behind: course.behind };
        Some(Due { milestones: self, course, milestone })
    }
}

impl Course {
    /// Returns true if there is a newer journal.
    fn is_at_end(&self) -> bool {
        path_of(&self.directory, self.journal + 1).exists()
    }
}

impl Due<'_> {
    /// Notes that the milestone is stored.
    pub(super) fn written(mut self) {
        // As long as there is no newer journal, the milestone is in this one.
        if !self.course.is_at_end() {
            self.course.stands = self.milestone.number;
        }
        let reached = self.milestones.bytes.load(Ordering::Relaxed);
        self.milestones.due_at.store((reached + STEP_BYTES).max(FULL_BYTES), Ordering::Relaxed);
    }
}
