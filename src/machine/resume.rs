//! An instance is activated again.

use super::advance::run;
use super::frame::{AttemptId, FrameId, Phase, Stage};
use super::interpreter::Interpreter;
use super::{Effect, End};
use crate::definition::{AttemptFailure, FailureKind, NodeNames as _, Program};
use crate::limits::CRASHES_MAX;
use crate::time::Timestamp;

impl Interpreter<'_> {
    pub(super) fn resume(&mut self, mut alive: Vec<AttemptId>, process_crashed: bool) {
        if self.snapshot.end.is_some() {
            return;
        }
        // No more code runs for this instance, so even a task that crashes the process can do no
        // harm.
        if self.is_overdue() {
            return self.end(End::DeadlineExceeded);
        }
        // Each frame looks its own attempt id up.
        alive.sort_unstable();
        let alive = &*alive;
        if let Some(reason) = self.too_many_crashes(alive, process_crashed) {
            self.effects.push(Effect::Quarantine { reason: reason.into() });
            return;
        }
        self.each(self.snapshot.frames.ids(), |interpreter, id| interpreter.resume_frame(id, alive, process_crashed));
        self.wake();
    }

    /// Returns the reason to quarantine the instance, if there is one. Checked first, so that a
    /// quarantined instance's head stays unchanged. `alive` is sorted.
    fn too_many_crashes(&self, alive: &[AttemptId], process_crashed: bool) -> Option<String> {
        self.snapshot.frames.iter().filter(|_| process_crashed).find_map(|(id, frame)| match frame.phase {
            Phase::Task { issued, stage: Stage::Running { since: Some(_) }, crashes, .. }
                if crashes.saturating_add(1) >= CRASHES_MAX
                    && alive.binary_search(&AttemptId { frame: id, issued }).is_err() =>
            {
                let task = self.program.path(frame.node).map_or("", |path| path.as_str());
                Some(format!("the process crashed {CRASHES_MAX} times in a row while task `{task}` was running"))
            }
            _ => None,
        })
    }

    fn resume_frame(&mut self, id: FrameId, alive: &[AttemptId], process_crashed: bool) {
        let Some(frame) = self.snapshot.frames.get(id) else { return };
        let Phase::Task { issued, ref stage, crashes, .. } = frame.phase else { return };
        let attempt_id = AttemptId { frame: id, issued };
        let is_alive = alive.binary_search(&attempt_id).is_ok();
        match stage {
            Stage::Ready => self.start_attempt(id),
            Stage::Backoff { .. } => {}
            // The report of its start may have been lost with the previous actor.
            Stage::Running { since: None } if is_alive && crashes > 0 => {
                self.attempt_started(attempt_id, self.now);
            }
            Stage::Running { .. } if is_alive => self.effects.push(Effect::Proceed { attempt_id }),
            Stage::Running { since } => {
                let since = *since;
                self.hand_out_again(id, since, process_crashed);
            }
        }
    }

    /// Hands out an attempt again that was handed out before and that no executor runs any more.
    fn hand_out_again(&mut self, id: FrameId, since: Option<Timestamp>, process_crashed: bool) {
        let (program, paused, seq): (&Program, _, _) = (self.program, self.snapshot.is_paused(), self.seq());
        let position = self.snapshot.frames.get(id).map(|frame| frame.position);
        let Some(op) = position.and_then(|at| program.op(at)?.code()) else { return };
        let spent = since.map(|since| self.now.since(since));
        let timeout = op.timeout.map(|timeout| timeout.saturating_sub(spent.unwrap_or_default()));
        self.changed = true;
        let handed_out = self.snapshot.frames.update(id, |frame| {
            let Phase::Task { attempt, issued, stage, crashes } = &mut frame.phase else { return None };
            if process_crashed {
                // Only a recorded start proves that the task was running. Without one the count
                // becomes at least 1, as a precaution, and rises no further.
                *crashes = if since.is_some() { crashes.saturating_add(1) } else { (*crashes).max(1) };
            }
            if paused {
                *stage = Stage::Ready;
                return None;
            }
            // A new attempt id: the executor may still be dropping the old attempt. The attempt
            // counts as running only once its start is recorded again. The executor sets that start
            // back by the part of the timeout that was used before.
            *issued = seq;
            *stage = Stage::Running { since: None };
            let (attempt, crashes) = (*attempt, *crashes);
            Some(run(id, frame, seq, attempt, op, timeout, crashes))
        });
        let Some(Some(run)) = handed_out else { return };
        if timeout.is_some_and(|left| left.is_zero()) {
            let message = "timed out: its time was over when the instance was resumed";
            return self.fail_attempt(id, AttemptFailure::new(FailureKind::TimedOut, message));
        }
        self.effects.push(Effect::Run(run));
    }
}
