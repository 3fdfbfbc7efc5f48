//! An attempt starts, is withdrawn, or ends.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::frame::{AttemptId, FrameId, Phase, Stage};
use super::interpreter::Interpreter;
use super::{Effect, End, Outcome};
use crate::codec::{Place, Value};
use crate::definition::{AttemptFailure, FailureKind, NodeNames as _, Op, Program, RouteOp};
use crate::limits::INLINE_BYTES_MAX;
use crate::time::Timestamp;

impl Interpreter<'_> {
    /// Returns the stage and crash count of exactly this attempt, if it is handed out. A report of
    /// any other attempt is stale.
    fn running_stage(&self, attempt_id: AttemptId) -> Option<(&Stage, u32)> {
        match &self.snapshot.frames.get(attempt_id.frame)?.phase {
            Phase::Task { stage, crashes, .. } if self.snapshot.runs(attempt_id) => Some((stage, *crashes)),
            _ => None,
        }
    }

    fn set_stage(&mut self, id: FrameId, to: Stage) {
        self.snapshot.frames.update(id, |frame| {
            if let Phase::Task { stage, .. } = &mut frame.phase {
                *stage = to;
            }
        });
        self.changed = true;
    }

    /// Records when an attempt began to run, and lets it proceed if it waits for that.
    pub(super) fn attempt_started(&mut self, attempt_id: AttemptId, at: Timestamp) {
        let paused = self.snapshot.is_paused();
        let Some((stage, crashes)) = self.running_stage(attempt_id) else {
            // Nothing waits for the result of this attempt.
            self.effects.push(Effect::Stop { attempt_id });
            return;
        };
        if self.is_overdue() {
            return self.end(End::DeadlineExceeded);
        }
        let is_first = *stage == (Stage::Running { since: None });
        if paused && crashes > 0 && is_first {
            // The attempt waits for leave to proceed, and no task starts in a pause.
            self.set_stage(attempt_id.frame, Stage::Ready);
            self.effects.push(Effect::Stop { attempt_id });
            return;
        }
        if is_first {
            self.set_stage(attempt_id.frame, Stage::Running { since: Some(at) });
        }
        self.effects.push(Effect::Proceed { attempt_id });
    }

    pub(super) fn attempt_withdrawn(&mut self, attempt_id: AttemptId) {
        if self.running_stage(attempt_id).is_none() {
            return;
        }
        if self.is_overdue() {
            return self.end(End::DeadlineExceeded);
        }
        self.set_stage(attempt_id.frame, Stage::Ready);
        // The pause may have ended meanwhile.
        self.start_attempt(attempt_id.frame);
    }

    pub(super) fn attempt_finished(&mut self, attempt_id: AttemptId, outcome: Outcome) {
        if self.running_stage(attempt_id).is_none() {
            return;
        }
        // The clock is checked first, as for a signal: which of the two events arrives first is
        // chance.
        if self.is_overdue() {
            return self.end(End::DeadlineExceeded);
        }
        match outcome {
            Ok(output) => self.succeed(attempt_id.frame, output),
            Err(failure) => self.fail_attempt(attempt_id.frame, failure),
        }
    }

    /// Records the output of the code at a frame's op: a task's result, a route's key, or a map's
    /// list.
    fn succeed(&mut self, id: FrameId, output: Value) {
        let program: &Program = self.program;
        let Some(frame) = self.snapshot.frames.get(id) else { return };
        match program.op(frame.position) {
            Some(Op::Route(op)) => self.choose(id, &output, op),
            Some(Op::Map(op)) => self.split(id, output, op),
            op => {
                let place = self.place(frame);
                // After a crash, results are committed one by one, so that a second crash is
                // attributed to the right task.
                let crashed = matches!(frame.phase, Phase::Task { crashes: 1.., .. });
                self.defers = !crashed && op.and_then(Op::code).is_some_and(|task| task.deferred);
                let value = self.put_result(place, output);
                self.pass(id, |_| value);
            }
        }
    }

    /// Moves a frame to the arm for its key. The arm is recorded with its first op, before that op
    /// runs.
    fn choose(&mut self, id: FrameId, key: &Value, op: &RouteOp) {
        let key = key.payload().map(|key| String::from_utf8_lossy(key)).unwrap_or_default();
        let Some(start) = op.arm(&key) else {
            let message = format!("the route has no arm for key `{key}` and no default arm: add one");
            return self.fail_attempt(id, AttemptFailure::new(FailureKind::UnknownKey, message));
        };
        if let Some(mut frame) = self.snapshot.frames.take(id) {
            frame.position = start;
            self.go(id, frame);
        }
    }

    /// Handles a failed attempt: starts the next one if the retry policy has one, else fails the
    /// node.
    pub(super) fn fail_attempt(&mut self, id: FrameId, failure: AttemptFailure) {
        let (program, issued): (&Program, _) = (self.program, self.seq());
        let Some(frame) = self.snapshot.frames.get(id) else { return };
        let Phase::Task { attempt, .. } = frame.phase else { return };
        let Some(op) = program.op(frame.position).and_then(Op::code) else { return };
        let chance = self.chance(id, attempt);
        let retry = if failure.kind.is_retryable() { op.retry.delay_after(attempt, chance) } else { None };
        let Some(delay) = retry else {
            return self.fail(id, attempt, failure.kind, failure.message);
        };
        let until = self.now.after(failure.retry_after.unwrap_or(delay));
        self.snapshot.frames.update(id, |frame| {
            frame.phase = Phase::Task { attempt: attempt + 1, issued, stage: Stage::Backoff { until }, crashes: 0 };
        });
        self.changed = true;
        if until <= self.now {
            self.start_attempt(id);
        }
    }

    /// Returns the chance for the jitter: not random, but different for every run, node, iteration,
    /// item and attempt.
    fn chance(&self, id: FrameId, attempt: u32) -> u64 {
        let Some(frame) = self.snapshot.frames.get(id) else { return 0 };
        let path = self.program.path(frame.node);
        let mut input = self.snapshot.run.to_bytes().to_vec();
        input.extend_from_slice(path.map_or("", |path| path.as_str()).as_bytes());
        input.extend_from_slice(&attempt.to_be_bytes());
        for number in &*frame.lineage.execution_path() {
            input.extend_from_slice(&number.to_be_bytes());
        }
        xxh3_64(&input)
    }

    /// Returns a signal's payload as a value. A large one is written as the waiting node's result,
    /// so that the head stays small.
    pub(super) fn payload_value(&mut self, place: Place, payload: Bytes) -> Value {
        let value = Value::leaf(payload, None);
        if value.bytes() <= INLINE_BYTES_MAX { value } else { self.put_result(place, value) }
    }
}
