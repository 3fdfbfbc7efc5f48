//! A frame enters an op, and passes on as far as nothing holds it.

use super::mover::Mover;
use super::snapshot::{Frame, Phase, Stage};
use super::{Effect, End, FrameId, Run, Ticket};
use crate::codec::Value;
use crate::definition::{Op, Program, TaskOp, WaitOp};
use crate::limits::DEATHS_ALONE;
use crate::time::Timestamp;

impl Mover<'_> {
    /// Puts a frame at an op with a value, and moves it on until something holds it: a task, an unfinished wait, the end.
    pub(super) fn enter(&mut self, id: FrameId, mut position: u32, mut value: Value) {
        let program: &Program = self.program;
        while let Some(op) = program.op(position) {
            let (node, phase) = match op {
                Op::Task(op) => {
                    (op.node, Phase::Task { attempt: 1, issued: self.seq(), stage: Stage::Ready, deaths: 0 })
                }
                Op::Delay { node, duration } => {
                    let until = self.now.after(*duration);
                    if until <= self.now {
                        position += 1;
                        continue;
                    }
                    (*node, Phase::Delay { until })
                }
                Op::Wait(op) => match self.enter_wait(op, value) {
                    Entered::Passed(passed) => {
                        value = passed;
                        position += 1;
                        continue;
                    }
                    Entered::Held { kept, until } => {
                        value = kept;
                        (op.node, Phase::Signal { signal: op.signal.clone(), until })
                    }
                },
                Op::End => return self.complete(id, value),
            };
            let is_task = matches!(phase, Phase::Task { .. });
            self.snapshot.frames.insert(id, Frame { position, node, value, phase });
            self.changed = true;
            if is_task {
                self.start_attempt(id);
            }
            return;
        }
    }

    fn enter_wait(&mut self, op: &WaitOp, value: Value) -> Entered {
        let until = op.timeout.map(|timeout| self.now.after(timeout));
        if !self.snapshot.is_paused()
            && let Some(payload) = self.take_buffered(op)
        {
            return Entered::Passed(received(op, value, payload));
        }
        if until.is_some_and(|until| until <= self.now) && !self.snapshot.holds_back(&op.signal) {
            return Entered::Passed(timed_out(op, value));
        }
        Entered::Held { kept: value, until }
    }

    fn complete(&mut self, id: FrameId, output: Value) {
        self.snapshot.frames.remove(&id);
        self.end(End::Completed { output });
    }

    /// Hands the attempt of a frame that is at a task to the executor, unless the instance is paused.
    pub(super) fn start_attempt(&mut self, id: FrameId) {
        let (paused, seq) = (self.snapshot.is_paused(), self.seq());
        let Some(frame) = self.snapshot.frames.get_mut(&id) else { return };
        let Phase::Task { attempt, issued, stage, deaths } = &mut frame.phase else { return };
        let Some(Op::Task(op)) = self.program.op(frame.position) else { return };
        let next = if paused { Stage::Ready } else { Stage::Running { since: None } };
        self.changed |= *stage != next;
        *stage = next;
        if !paused {
            // A ticket of its own each time: the executor may still be busy forgetting one that was stopped.
            *issued = seq;
            let ticket = Ticket { frame: id, issued: seq };
            let run = run(ticket, *attempt, op, frame.value.clone(), op.timeout, *deaths);
            self.effects.push(Effect::Run(run));
        }
    }
}

/// The attempt to run at a task.
pub(super) fn run(
    ticket: Ticket,
    attempt: u32,
    op: &TaskOp,
    value: Value,
    timeout: Option<std::time::Duration>,
    deaths: u32,
) -> Run {
    let (announce, alone) = (deaths > 0, deaths >= DEATHS_ALONE);
    Run { ticket, attempt, node: op.node, task: op.task, value, timeout, announce, alone }
}

enum Entered {
    Passed(Value),
    Held { kept: Value, until: Option<Timestamp> },
}

/// What a wait gives when its signal came.
pub(super) fn received(op: &WaitOp, flowed_in: Value, payload: Value) -> Value {
    let outcome = if op.timeout.is_some() { Value::received(payload) } else { payload };
    keep(op, flowed_in, outcome)
}

/// What a wait gives when its timeout passed.
pub(super) fn timed_out(op: &WaitOp, flowed_in: Value) -> Value {
    keep(op, flowed_in, Value::timed_out())
}

fn keep(op: &WaitOp, flowed_in: Value, outcome: Value) -> Value {
    if op.keeps_input { Value::pair(flowed_in, outcome) } else { outcome }
}
