//! Cancel, pause and unpause.

use std::sync::Arc;

use super::frame::{Phase, Stage};
use super::interpreter::Interpreter;
use super::snapshot::Request;
use super::{Effect, End, Refusal};
use crate::limits::REASON_BYTES_MAX;

impl Interpreter<'_> {
    pub(super) fn cancel(&mut self, reason: Arc<str>, by: Arc<str>) -> Result<(), Refusal> {
        self.refuse_if_ended()?;
        check_length(&reason, &by)?;
        self.end(End::Cancelled { reason, by });
        Ok(())
    }

    /// Pauses the instance. Pausing twice is allowed: the first reason stays.
    pub(super) fn pause(&mut self, reason: Arc<str>, by: Arc<str>) -> Result<(), Refusal> {
        self.refuse_if_ended()?;
        check_length(&reason, &by)?;
        if self.snapshot.pause.is_some() {
            return Ok(());
        }
        self.snapshot.pause = Some(Request { reason, by });
        self.changed = true;
        let running: Vec<_> = self.snapshot.running().collect();
        self.effects.extend(running.into_iter().map(|attempt_id| Effect::Withdraw { attempt_id }));
        Ok(())
    }

    /// Ends the pause. Signals that came meanwhile are consumed before timeouts that have passed,
    /// since only signals that came in time were kept for a wait.
    pub(super) fn unpause(&mut self) -> Result<(), Refusal> {
        self.refuse_if_ended()?;
        if self.snapshot.pause.take().is_none() {
            return Err(Refusal::NotPaused);
        }
        self.changed = true;
        // Checked before a signal that waited for the end of the pause could complete the run.
        if self.is_overdue() {
            self.end(End::DeadlineExceeded);
            return Ok(());
        }
        self.consume_buffered();
        self.each(self.snapshot.frames.ids(), |interpreter, id| {
            let phase = interpreter.snapshot.frames.get(id).map(|frame| &frame.phase);
            if matches!(phase, Some(Phase::Task { stage: Stage::Ready, .. })) {
                interpreter.start_attempt(id);
            }
        });
        self.wake();
        Ok(())
    }
}

fn check_length(reason: &str, by: &str) -> Result<(), Refusal> {
    let bytes = reason.len().max(by.len());
    if bytes > REASON_BYTES_MAX { Err(Refusal::ReasonTooLong { bytes }) } else { Ok(()) }
}
