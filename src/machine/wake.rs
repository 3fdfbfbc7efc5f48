//! Time passes: delays, timeouts, backoffs and the deadline.

use super::advance::timed_out;
use super::mover::Mover;
use super::snapshot::{Frame, Phase, Snapshot, Stage};
use super::{End, FrameId, Wake};
use crate::definition::{Op, Program};
use crate::time::Timestamp;

impl Mover<'_> {
    /// Ends everything that is due.
    pub(super) fn wake(&mut self) {
        if self.snapshot.end.is_some() {
            return;
        }
        if self.snapshot.deadline.is_some_and(|deadline| deadline <= self.now) {
            return self.end(End::DeadlineExceeded);
        }
        for id in self.frame_ids() {
            self.wake_frame(id);
        }
    }

    fn wake_frame(&mut self, id: FrameId) {
        let program: &Program = self.program;
        let Some(frame) = self.snapshot.frames.get(&id) else { return };
        if frame.wake_at(self.snapshot).is_none_or(|at| at > self.now) {
            return;
        }
        match (&frame.phase, program.op(frame.position)) {
            (Phase::Delay { .. }, _) => {
                if let Some(frame) = self.snapshot.frames.remove(&id) {
                    self.enter(id, frame.position + 1, frame.value);
                }
            }
            (Phase::Signal { .. }, Some(Op::Wait(op))) => {
                if let Some(frame) = self.snapshot.frames.remove(&id) {
                    self.enter(id, frame.position + 1, timed_out(op, frame.value));
                }
            }
            (Phase::Task { .. }, _) => self.start_attempt(id),
            (Phase::Signal { .. }, _) => {}
        }
    }
}

impl Snapshot {
    /// When the instance wants to be woken next, and whether the store knows.
    pub fn wake(&self) -> Wake {
        let at = self.next_wake();
        // With nothing to be woken for, both are the same.
        Wake { at, stored: at.is_none() || !self.is_running() }
    }

    /// When the instance wants to be woken next, as it stands.
    pub fn next_wake(&self) -> Option<Timestamp> {
        if self.end.is_some() {
            return None;
        }
        self.frames.values().filter_map(|frame| frame.wake_at(self)).chain(self.deadline).min()
    }
}

impl Frame {
    fn wake_at(&self, snapshot: &Snapshot) -> Option<Timestamp> {
        match &self.phase {
            Phase::Delay { until } | Phase::Task { stage: Stage::Backoff { until }, .. } => Some(*until),
            // While paused, a signal that came in time waits for the end of the pause, and so does the wait.
            Phase::Signal { signal, until } => until.filter(|_| !snapshot.holds_back(signal)),
            Phase::Task { .. } => None,
        }
    }
}
