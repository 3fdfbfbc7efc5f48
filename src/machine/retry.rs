//! Somebody lets an instance go on that has failed or was set aside.

use std::time::Duration;

use super::frame::{Frame, FrameId, Phase, Stage};
use super::mover::Mover;
use super::{End, Refusal};

impl Mover<'_> {
    /// A failed instance goes on in every frame from where it stood, with fresh attempts. What its tasks gave is kept, and so
    /// are delays and timeouts: those that have passed meanwhile end at once.
    pub(super) fn retry(&mut self, deadline: Option<Duration>) -> Result<(), Refusal> {
        if !matches!(self.snapshot.end, Some(End::TaskFailed { .. } | End::DeadlineExceeded)) {
            return Err(Refusal::NotFailed);
        }
        let deadline = deadline.map(|deadline| self.now.after(deadline)).or(self.snapshot.deadline);
        if deadline.is_some_and(|deadline| deadline <= self.now) {
            return Err(Refusal::DeadlinePassed);
        }
        self.snapshot.deadline = deadline;
        // A pause ends with its run; earlier versions kept it.
        self.snapshot.pause = None;
        (self.snapshot.end, self.snapshot.ended_at) = (None, None);
        self.changed = true;
        self.each(self.snapshot.frames.ids(), Self::retry_frame);
        // The run may have failed before everyone was served.
        self.consume_buffered();
        self.wake();
        Ok(())
    }

    fn retry_frame(&mut self, id: FrameId) {
        match self.snapshot.frames.get(id).map(|frame| &frame.phase) {
            Some(Phase::Task { issued, .. }) => {
                let issued = *issued;
                self.snapshot.frames.update(id, |frame| {
                    frame.phase = Phase::Task { attempt: 1, issued, stage: Stage::Ready, deaths: 0 };
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

    /// A quarantined instance goes on as after a restart; deaths of the process before are not counted any more, and what ran
    /// then has its whole timeout again.
    pub(super) fn released(&mut self) {
        self.changed = true;
        for id in self.snapshot.frames.ids() {
            let phase = self.snapshot.frames.get(id).map(|frame| &frame.phase);
            let is_spent = matches!(
                phase,
                Some(Phase::Task { deaths: 1.., .. } | Phase::Task { stage: Stage::Running { since: Some(_) }, .. })
            );
            if is_spent {
                self.snapshot.frames.update(id, start_anew);
            }
        }
        self.resume(Vec::new(), false);
    }
}

/// Forgets the deaths at a frame's task, and when it began to run.
fn start_anew(frame: &mut Frame) {
    if let Phase::Task { deaths, stage, .. } = &mut frame.phase {
        *deaths = 0;
        if let Stage::Running { since } = stage {
            *since = None;
        }
    }
}
