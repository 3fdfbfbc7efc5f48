//! Time passes: delays, timeouts, backoffs and the deadline.

use super::advance::timed_out;
use super::frame::{FrameId, Phase};
use super::mover::Mover;
use super::snapshot::Snapshot;
use super::{End, Wake};
use crate::definition::{Op, Program};
use crate::time::Timestamp;

impl Mover<'_> {
    /// Ends everything that is due.
    pub(super) fn wake(&mut self) {
        if self.snapshot.end.is_some() {
            return;
        }
        if self.is_overdue() {
            return self.end(End::DeadlineExceeded);
        }
        self.each(self.snapshot.frames.due(self.now, self.snapshot.is_paused()), Self::wake_frame);
    }

    /// Returns whether the run's deadline has passed.
    pub(super) fn is_overdue(&self) -> bool {
        self.snapshot.deadline.is_some_and(|deadline| deadline <= self.now)
    }

    fn wake_frame(&mut self, id: FrameId) {
        let program: &Program = self.program;
        // What was due before may have moved or removed this one.
        let Some(frame) = self.snapshot.frames.get(id) else { return };
        if frame.wake_at().is_none_or(|at| at > self.now) {
            return;
        }
        match (&frame.phase, program.op(frame.position)) {
            (Phase::Delay { .. }, _) => self.pass(id, |value| value),
            (Phase::Signal { .. }, Some(Op::Wait(op))) if !self.snapshot.holds_back(id) => {
                self.pass(id, |value| timed_out(op, value));
            }
            (Phase::Task { .. }, _) => self.start_attempt(id),
            _ => {}
        }
    }
}

impl Snapshot {
    /// When the instance wants to be woken next, and whether the store knows.
    pub fn wake(&self) -> Wake {
        let at = self.next_wake();
        // With nothing to be woken for, both are the same.
        Wake { at, stored: at.is_none() || self.due() == at }
    }

    /// When the instance wants to be woken next, as it stands. Known once the branches are read.
    pub fn next_wake(&self) -> Option<Timestamp> {
        if self.end.is_some() {
            return None;
        }
        let next = self.frames.next_wake(self.is_paused());
        next.into_iter().chain(self.deadline).min()
    }
}
