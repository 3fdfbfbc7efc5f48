//! An attempt starts, is taken back, or ends.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::mover::Mover;
use super::snapshot::{Phase, Stage};
use super::{Effect, End, FrameId, Outcome};
use crate::codec::{Home, Value};
use crate::definition::{AttemptFailure, Names as _, Op};
use crate::limits::INLINE_BYTES_MAX;
use crate::time::Timestamp;

impl Mover<'_> {
    /// The stage of this very attempt, if it is handed out. A report of any other attempt is stale.
    fn running_stage(&mut self, id: FrameId, attempt: u32) -> Option<&mut Stage> {
        if self.snapshot.end.is_some() {
            return None;
        }
        match &mut self.snapshot.frames.get_mut(&id)?.phase {
            Phase::Task { attempt: current, stage: stage @ Stage::Running { .. }, .. } if *current == attempt => {
                Some(stage)
            }
            _ => None,
        }
    }

    /// Records since when an attempt runs, and lets it go ahead if it waits for that.
    pub(super) fn attempt_started(&mut self, id: FrameId, attempt: u32, at: Timestamp) {
        let Some(stage) = self.running_stage(id, attempt) else { return };
        if *stage == (Stage::Running { since: None }) {
            *stage = Stage::Running { since: Some(at) };
            self.changed = true;
        }
        self.effects.push(Effect::Proceed { frame: id, attempt });
    }

    pub(super) fn attempt_withdrawn(&mut self, id: FrameId, attempt: u32) {
        let Some(stage) = self.running_stage(id, attempt) else { return };
        *stage = Stage::Ready;
        self.changed = true;
        // Meanwhile the pause may have ended.
        self.start_attempt(id);
    }

    pub(super) fn attempt_finished(&mut self, id: FrameId, attempt: u32, outcome: Outcome) {
        if self.running_stage(id, attempt).is_none() {
            return;
        }
        match outcome {
            Ok(output) => self.succeed(id, output),
            Err(failure) => self.fail_attempt(id, attempt, failure),
        }
    }

    fn succeed(&mut self, id: FrameId, output: Bytes) {
        let Some(frame) = self.snapshot.frames.get(&id) else { return };
        let (node, next) = (frame.node, frame.position + 1);
        self.put_result(node, &output);
        self.enter(id, next, Value::leaf(output, Some(Home::Node(node))));
    }

    /// A failed attempt: the next one, if its policy has one more, else the end.
    pub(super) fn fail_attempt(&mut self, id: FrameId, attempt: u32, failure: AttemptFailure) {
        let chance = self.chance(id, attempt);
        let Some(frame) = self.snapshot.frames.get_mut(&id) else { return };
        let Some(Op::Task(op)) = self.program.op(frame.position) else { return };
        let retry = if failure.kind.is_retryable() { op.retry.delay_after(attempt, chance) } else { None };
        let Some(delay) = retry else {
            let node = frame.node;
            return self.end(End::TaskFailed { node, attempt, kind: failure.kind, message: failure.message });
        };
        let until = self.now.after(failure.retry_after.unwrap_or(delay));
        frame.phase = Phase::Task { attempt: attempt + 1, stage: Stage::Backoff { until }, deaths: 0 };
        self.changed = true;
        self.end_backoff_if_due(id, until);
    }

    pub(super) fn end_backoff_if_due(&mut self, id: FrameId, until: Timestamp) {
        if until <= self.now {
            self.start_attempt(id);
        }
    }

    /// The jitter's chance: no randomness here, but different for every run, node and attempt.
    fn chance(&self, id: FrameId, attempt: u32) -> u64 {
        let path = self.snapshot.frames.get(&id).and_then(|frame| self.program.path(frame.node));
        let mut input = self.snapshot.run.to_bytes().to_vec();
        input.extend_from_slice(path.map_or("", |path| path.as_str()).as_bytes());
        input.extend_from_slice(&attempt.to_be_bytes());
        xxh3_64(&input)
    }

    /// A signal's payload as a value: a large one is written as the waiting node's result, so that the head stays small.
    pub(super) fn payload_value(&mut self, node: u32, payload: Bytes) -> Value {
        if payload.len() <= INLINE_BYTES_MAX {
            return Value::leaf(payload, None);
        }
        self.put_result(node, &payload);
        Value::leaf(payload, Some(Home::Node(node)))
    }
}
