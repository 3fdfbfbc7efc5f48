//! Retry of a failed instance, and release of a quarantined one.

use std::time::Duration;

use super::frame::{Frame, FrameId, Phase, Stage};
use super::interpreter::Interpreter;
use super::{End, Refusal};

impl Interpreter<'_> {
    /// Lets a failed instance go on from where it stood, in every frame, with fresh attempts. Task
    /// results, delays and timeouts are kept; delays and timeouts that have passed meanwhile end at
    /// once.
    pub(super) fn retry(&mut self, deadline: Option<Duration>) -> Result<(), Refusal> {
        if !matches!(self.snapshot.end, Some(End::TaskFailed { .. } | End::DeadlineExceeded)) {
            return Err(Refusal::NotFailed);
        }
        let deadline = deadline.map(|deadline| self.now.after(deadline)).or(self.snapshot.deadline);
        if deadline.is_some_and(|deadline| deadline <= self.now) {
            return Err(Refusal::DeadlinePassed);
        }
        self.snapshot.deadline = deadline;
        // A run's end also ends its pause now; earlier versions kept the pause.
        self.snapshot.pause = None;
        (self.snapshot.end, self.snapshot.ended_at) = (None, None);
        self.changed = true;
        self.each(self.snapshot.frames.ids(), Self::retry_frame);
        // The run may have failed before every waiting frame got its signal.
        self.consume_buffered();
        self.wake();
        Ok(())
    }

    fn retry_frame(&mut self, id: FrameId) {
        match self.snapshot.frames.get(id).map(|frame| &frame.phase) {
            Some(Phase::Task { issued, .. }) => {
                let issued = *issued;
                self.snapshot.frames.update(id, |frame| {
                    frame.phase = Phase::Task { attempt: 1, issued, stage: Stage::Ready, crashes: 0 };
                });
                self.start_attempt(id);
            }
            Some(Phase::Failed) => {
                if let Some(frame) = self.snapshot.frames.take(id) {
                    self.go(id, frame);
                }
            }
            _ => {}
        }
    }

    /// Lets a quarantined instance go on as after a restart. Earlier process crashes are not
    /// counted any more, and tasks that ran then have their whole timeouts again.
    pub(super) fn released(&mut self) {
        self.changed = true;
        for id in self.snapshot.frames.ids() {
            let phase = self.snapshot.frames.get(id).map(|frame| &frame.phase);
            let is_spent = matches!(
                phase,
                Some(Phase::Task { crashes: 1.., .. } | Phase::Task { stage: Stage::Running { since: Some(_) }, .. })
            );
            if is_spent {
                self.snapshot.frames.update(id, start_anew);
            }
        }
        self.resume(Vec::new(), false);
    }
}

/// Resets the crash count of a frame's task, and the time when it began to run.
fn start_anew(frame: &mut Frame) {
    if let Phase::Task { crashes, stage, .. } = &mut frame.phase {
        *crashes = 0;
        if let Stage::Running { since } = stage {
            *since = None;
        }
    }
}
