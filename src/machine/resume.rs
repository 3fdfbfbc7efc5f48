//! An instance is taken up again.

use super::advance::run;
use super::mover::Mover;
use super::snapshot::{Phase, Stage};
use super::{Effect, FrameId, Ticket};
use crate::definition::{AttemptFailure, FailureKind, Names as _, Op};
use crate::limits::DEATHS_MAX;

impl Mover<'_> {
    pub(super) fn resume(&mut self, alive: &[Ticket], process_died: bool) {
        if self.snapshot.end.is_some() {
            return;
        }
        if let Some(reason) = self.too_many_deaths(alive, process_died) {
            self.effects.push(Effect::Quarantine { reason: reason.into() });
            return;
        }
        for id in self.frame_ids() {
            self.resume_frame(id, alive, process_died);
        }
        self.wake();
    }

    /// Checked first, so that a quarantined instance's head stays as it is.
    fn too_many_deaths(&self, alive: &[Ticket], process_died: bool) -> Option<String> {
        self.snapshot.frames.iter().filter(|_| process_died).find_map(|(id, frame)| match frame.phase {
            Phase::Task { issued, stage: Stage::Running { since: Some(_) }, deaths, .. }
                if deaths.saturating_add(1) >= DEATHS_MAX && !alive.contains(&Ticket { frame: *id, issued }) =>
            {
                let task = self.program.path(frame.node).map_or("", |path| path.as_str());
                Some(format!("the process died {DEATHS_MAX} times in a row while task `{task}` was running"))
            }
            _ => None,
        })
    }

    fn resume_frame(&mut self, id: FrameId, alive: &[Ticket], process_died: bool) {
        let (paused, seq) = (self.snapshot.is_paused(), self.seq());
        let Some(frame) = self.snapshot.frames.get_mut(&id) else { return };
        let Phase::Task { attempt, issued, stage, deaths } = &mut frame.phase else { return };
        let (attempt, ticket) = (*attempt, Ticket { frame: id, issued: *issued });
        let since = match stage {
            Stage::Ready => return self.start_attempt(id),
            Stage::Backoff { .. } => return,
            // Its announcement may have been lost with the actor it was made to.
            Stage::Running { since: None } if alive.contains(&ticket) && *deaths > 0 => {
                return self.attempt_started(ticket, self.now);
            }
            Stage::Running { .. } if alive.contains(&ticket) => {
                self.effects.push(Effect::Proceed { ticket });
                return;
            }
            Stage::Running { since } => *since,
        };
        if process_died {
            // Only a recorded start proves that the task was running; without one, once is enough to be careful.
            *deaths = if since.is_some() { deaths.saturating_add(1) } else { (*deaths).max(1) };
        }
        self.changed = true;
        if paused {
            *stage = Stage::Ready;
            return;
        }
        let Some(Op::Task(op)) = self.program.op(frame.position) else { return };
        let spent = since.map(|since| self.now.since(since));
        let timeout = op.timeout.map(|timeout| timeout.saturating_sub(spent.unwrap_or_default()));
        if timeout.is_some_and(|left| left.is_zero()) {
            let message = "timed out: its time had passed when the process was back";
            return self.fail_attempt(id, AttemptFailure::new(FailureKind::TimedOut, message));
        }
        // A ticket of its own: the executor may still be busy forgetting the old one. It counts as running only once its
        // start is recorded anew, which goes back to the first start by what is left of the timeout.
        *issued = seq;
        *stage = Stage::Running { since: None };
        let ticket = Ticket { frame: id, issued: seq };
        let run = run(ticket, attempt, op, frame.value.clone(), timeout, *deaths);
        self.effects.push(Effect::Run(run));
    }
}
