//! A frame enters an op, and goes on until something holds it.

use super::frame::{AttemptId, Frame, FrameId, Phase, Stage};
use super::interpreter::Interpreter;
use super::{Effect, End, Run};
use crate::codec::{Token, Value};
use crate::definition::{FailureKind, LoopOp, Op, Program, TaskOp, WaitOp};
use crate::limits::CRASHES_ALONE;

impl Interpreter<'_> {
    /// Moves a frame on from the op it is put at, until something holds it: user code, an
    /// unfinished wait, branches, the end.
    pub(super) fn enter(&mut self, id: FrameId, mut frame: Box<Frame>) {
        let program: &Program = self.program;
        while let Some(op) = program.op(frame.position) {
            match op {
                Op::Task(_) | Op::Map(_) | Op::Route(_) => return self.hold_at_code(id, frame, op),
                Op::Delay { node, duration } => {
                    let until = self.now.after(*duration);
                    if until > self.now {
                        return self.hold(id, frame, *node, Phase::Delay { until });
                    }
                    frame.position += 1;
                }
                Op::Wait(op) => match self.enter_wait(id, &mut frame, op) {
                    None => frame.position += 1,
                    Some(phase) => return self.hold(id, frame, op.node, phase),
                },
                Op::Fork(op) => return self.fork(id, frame, op),
                Op::BranchEnd { node } => return self.branch_succeeded(id, frame, *node),
                Op::Jump { to } => frame.position = *to,
                Op::Loop(_) => {
                    frame.lineage.loops.push(1);
                    frame.position += 1;
                }
                Op::LoopEnd { start, node } => match self.turn(program, &mut frame, *start) {
                    Ok(next) => frame.position = next,
                    Err(limit) => return self.loop_limit(id, frame, *node, limit),
                },
                Op::End => return self.end(End::Completed { output: frame.value }),
            }
        }
    }

    /// Leaves a frame where it is, in this phase.
    pub(super) fn hold(&mut self, id: FrameId, mut frame: Box<Frame>, node: u32, phase: Phase) {
        (frame.node, frame.phase) = (node, phase);
        self.snapshot.frames.put(id, frame);
        self.changed = true;
    }

    fn hold_at_code(&mut self, id: FrameId, frame: Box<Frame>, op: &Op) {
        let node = op.node().unwrap_or_default();
        let phase = Phase::Task { attempt: 1, issued: self.seq(), stage: Stage::Ready, crashes: 0 };
        self.hold(id, frame, node, phase);
        self.start_attempt(id);
    }

    /// Passes a wait, or returns the phase that holds the frame there.
    fn enter_wait(&mut self, id: FrameId, frame: &mut Frame, op: &WaitOp) -> Option<Phase> {
        let until = op.timeout.map(|timeout| self.now.after(timeout));
        frame.node = op.node;
        // At the end of a pause other frames may have waited longer: this one is then served in its
        // turn.
        if !self.snapshot.is_paused()
            && self.snapshot.frames.would_be_first(&op.signal, (self.seq(), id))
            && let Some(payload) = self.take_buffered(op, self.place(frame))
        {
            frame.value = received(op, std::mem::take(&mut frame.value), payload);
            return None;
        }
        if until.is_some_and(|until| until <= self.now)
            && !self.snapshot.frames.would_be_held(&op.signal, (self.seq(), id))
        {
            frame.value = timed_out(op, std::mem::take(&mut frame.value));
            return None;
        }
        Some(Phase::Signal { signal: op.signal.clone(), until, since: self.seq() })
    }

    /// Returns the position after a loop's body: its first op again, or the op after the loop. The
    /// error is the limit that was reached.
    fn turn(&mut self, program: &Program, frame: &mut Frame, start: u32) -> Result<u32, u64> {
        let Some(Op::Loop(LoopOp { limit, exits, drains, .. })) = program.op(start) else {
            return Ok(frame.position + 1);
        };
        let says_again = matches!(frame.value.tokens(), [Token::Again, ..]);
        let unclaimed =
            drains.as_deref().filter(|_| !says_again).and_then(|signal| self.snapshot.first_unclaimed(signal));
        // The next iteration happens only because of that signal.
        self.builds_on = self.builds_on.max(unclaimed.unwrap_or_default());
        let again = says_again || unclaimed.is_some();
        let iteration = frame.lineage.loops.last().copied().unwrap_or(u64::MAX);
        let is_last = limit.is_some_and(|limit| iteration >= limit);
        if again && is_last && !exits {
            return Err(limit.unwrap_or(iteration));
        }
        let carried = std::mem::take(&mut frame.value).into_tokens();
        frame.value = Value::from_tokens(carried.into_iter().skip(1).collect());
        if again && !is_last {
            if let Some(iteration) = frame.lineage.loops.last_mut() {
                *iteration += 1;
            }
            return Ok(start + 1);
        }
        frame.lineage.loops.pop();
        Ok(frame.position + 1)
    }

    fn loop_limit(&mut self, id: FrameId, frame: Box<Frame>, node: u32, limit: u64) {
        self.hold(id, frame, node, Phase::Failed);
        let message = format!("the loop asked for iteration {}: its limit is {limit}", limit.saturating_add(1));
        self.fail(id, 1, FailureKind::LoopLimit, message);
    }

    /// Hands the attempt of a frame at user code to the executor, unless the instance is paused.
    pub(super) fn start_attempt(&mut self, id: FrameId) {
        let (program, paused, seq): (&Program, _, _) = (self.program, self.snapshot.is_paused(), self.seq());
        let next = if paused { Stage::Ready } else { Stage::Running { since: None } };
        match self.snapshot.frames.get(id).map(|frame| &frame.phase) {
            Some(Phase::Task { stage, .. }) if !paused || *stage != next => {}
            _ => return,
        }
        self.changed = true;
        let started = self.snapshot.frames.update(id, |frame| {
            let Phase::Task { attempt, issued, stage, crashes } = &mut frame.phase else { return None };
            *stage = next;
            // A new attempt id each time: the executor may still be dropping an attempt that was
            // stopped.
            *issued = seq;
            let (attempt, crashes) = (*attempt, *crashes);
            let op = program.op(frame.position)?.code()?;
            Some(run(id, frame, seq, attempt, op, op.timeout, crashes))
        });
        if let Some(Some(run)) = started.filter(|_| !paused) {
            self.effects.push(Effect::Run(run));
        }
    }
}

/// Returns the attempt to run for a frame at user code.
pub(super) fn run(
    id: FrameId,
    frame: &Frame,
    issued: u64,
    attempt: u32,
    op: &TaskOp,
    timeout: Option<std::time::Duration>,
    crashes: u32,
) -> Run {
    Run {
        attempt_id: AttemptId { frame: id, issued },
        attempt,
        node: op.node,
        task: op.task,
        value: frame.value.clone(),
        execution_path: frame.lineage.execution_path(),
        timeout,
        announce: crashes > 0,
        alone: crashes >= CRASHES_ALONE,
    }
}

/// Returns the value of a wait whose signal came.
pub(super) fn received(op: &WaitOp, flowed_in: Value, payload: Value) -> Value {
    let outcome = if op.timeout.is_some() { payload.behind(Token::Received) } else { payload };
    keep(op, flowed_in, outcome)
}

/// Returns the value of a wait whose timeout passed.
pub(super) fn timed_out(op: &WaitOp, flowed_in: Value) -> Value {
    keep(op, flowed_in, Value::timed_out())
}

fn keep(op: &WaitOp, flowed_in: Value, outcome: Value) -> Value {
    if op.keeps_input { Value::pair(flowed_in, outcome) } else { outcome }
}
