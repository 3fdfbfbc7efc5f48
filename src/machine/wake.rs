//! Time passes: delays, timeouts, backoffs and the deadline.

use super::advance::timed_out;
use super::frame::{FrameId, Phase};
use super::interpreter::Interpreter;
use super::snapshot::Snapshot;
use super::{End, Wake};
use crate::definition::{Op, Program};
use crate::time::Timestamp;

impl Interpreter<'_> {
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

    /// Returns true if the run's deadline has passed.
    pub(super) fn is_overdue(&self) -> bool {
        self.snapshot.deadline.is_some_and(|deadline| deadline <= self.now)
    }

    fn wake_frame(&mut self, id: FrameId) {
        let program: &Program = self.program;
        // A frame that was due earlier may have moved or removed this one.
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
    /// Returns when the instance wants to be woken next, and whether the store's due index lists
    /// that.
    pub fn wake(&self) -> Wake {
        let at = self.next_wake();
        // Without a wake-up time `stored` has no meaning: always true, so that equal wakes compare
        // equal.
        Wake { at, stored: at.is_none() || self.due() == at }
    }

    /// Returns when the instance wants to be woken next. Known once the branches are read.
    pub fn next_wake(&self) -> Option<Timestamp> {
        if self.end.is_some() {
            return None;
        }
        let next = self.frames.next_wake(self.is_paused());
        next.into_iter().chain(self.deadline).min()
    }
}
