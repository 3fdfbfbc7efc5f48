//! An attempt starts, is taken back, or ends.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::mover::Mover;
use super::snapshot::{Phase, Stage};
use super::{Effect, End, FrameId, Outcome, Ticket};
use crate::codec::{Home, Value};
use crate::definition::{AttemptFailure, Names as _, Op};
use crate::limits::INLINE_BYTES_MAX;
use crate::time::Timestamp;

impl Mover<'_> {
    /// The stage of this very attempt, if it is handed out. A report of any other attempt is stale.
    fn running_stage(&mut self, ticket: Ticket) -> Option<(&mut Stage, u32)> {
        if self.snapshot.end.is_some() {
            return None;
        }
        match &mut self.snapshot.frames.get_mut(&ticket.frame)?.phase {
            Phase::Task { issued, stage: stage @ Stage::Running { .. }, deaths, .. } if *issued == ticket.issued => {
                Some((stage, *deaths))
            }
            _ => None,
        }
    }

    /// Records since when an attempt runs, and lets it go ahead if it waits for that.
    pub(super) fn attempt_started(&mut self, ticket: Ticket, at: Timestamp) {
        let paused = self.snapshot.is_paused();
        let Some((stage, deaths)) = self.running_stage(ticket) else {
            // Nobody waits for what this one does.
            self.effects.push(Effect::Stop { ticket });
            return;
        };
        if paused && deaths > 0 && *stage == (Stage::Running { since: None }) {
            // It waits to go ahead, and no task starts in a pause.
            *stage = Stage::Ready;
            self.changed = true;
            self.effects.push(Effect::Stop { ticket });
            return;
        }
        if *stage == (Stage::Running { since: None }) {
            *stage = Stage::Running { since: Some(at) };
            self.changed = true;
        }
        self.effects.push(Effect::Proceed { ticket });
    }

    pub(super) fn attempt_withdrawn(&mut self, ticket: Ticket) {
        let Some((stage, _)) = self.running_stage(ticket) else { return };
        *stage = Stage::Ready;
        self.changed = true;
        // Meanwhile the pause may have ended.
        self.start_attempt(ticket.frame);
    }

    pub(super) fn attempt_finished(&mut self, ticket: Ticket, outcome: Outcome) {
        if self.running_stage(ticket).is_none() {
            return;
        }
        match outcome {
            Ok(output) => self.succeed(ticket.frame, output),
            Err(failure) => self.fail_attempt(ticket.frame, failure),
        }
    }

    fn succeed(&mut self, id: FrameId, output: Bytes) {
        let Some(frame) = self.snapshot.frames.get(&id) else { return };
        let (node, next) = (frame.node, frame.position + 1);
        self.put_result(node, &output);
        self.enter(id, next, Value::leaf(output, Some(Home::Node(node))));
    }

    /// A failed attempt: the next one, if its policy has one more, else the end.
    pub(super) fn fail_attempt(&mut self, id: FrameId, failure: AttemptFailure) {
        let issued = self.seq();
        let Some(frame) = self.snapshot.frames.get(&id) else { return };
        let Phase::Task { attempt, .. } = frame.phase else { return };
        let chance = self.chance(frame.node, attempt);
        let Some(frame) = self.snapshot.frames.get_mut(&id) else { return };
        let Some(Op::Task(op)) = self.program.op(frame.position) else { return };
        let retry = if failure.kind.is_retryable() { op.retry.delay_after(attempt, chance) } else { None };
        let Some(delay) = retry else {
            let node = frame.node;
            return self.end(End::TaskFailed { node, attempt, kind: failure.kind, message: failure.message });
        };
        let until = self.now.after(failure.retry_after.unwrap_or(delay));
        frame.phase = Phase::Task { attempt: attempt + 1, issued, stage: Stage::Backoff { until }, deaths: 0 };
        self.changed = true;
        if until <= self.now {
            self.start_attempt(id);
        }
    }

    /// The jitter's chance: no randomness here, but different for every run, node and attempt.
    fn chance(&self, node: u32, attempt: u32) -> u64 {
        let path = self.program.path(node);
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
