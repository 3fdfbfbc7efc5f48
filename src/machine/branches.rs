//! Branches of forks and items of maps: how they start and end, and what a failure removes.
//!
//! ```text
//! frame ──Fork or Map──> waits, with a count of live branches
//!            \──> branch 0 .. BranchEnd ──> its record is replaced by its result
//!             \─> branch 1 .. BranchEnd ──> the last one lets the waiting frame go on, with the
//!                                           list of all results
//! ```

use super::frame::{Frame, FrameId, Lineage, Phase};
use super::interpreter::Interpreter;
use super::value_record::{encode_items, encode_value};
use super::{Effect, End, RowKey};
use crate::codec::{Block, Home, Place, Token, Value};
use crate::definition::{FailureKind, ForkOp, MapOp, NodeNames as _, Op, Program, TaskFailure};
use crate::id::NodePath;
use crate::limits::{LIST_ROW_BYTES, LIST_ROW_ITEMS_MAX};

impl Interpreter<'_> {
    pub(super) fn fork(&mut self, id: FrameId, mut frame: Box<Frame>, op: &ForkOp) {
        let input = std::mem::take(&mut frame.value);
        let live = u32::try_from(op.branches.len()).unwrap_or(u32::MAX);
        let starts = (0..live).zip(&op.branches);
        let branches: Vec<_> = starts
            .map(|(index, target)| self.branch(frame.lineage.branch(id, index), target.start, input.clone()))
            .collect();
        self.hold(id, frame, op.node, Phase::Fork { live });
        // The first branch goes first.
        self.moving.extend(branches.into_iter().rev());
        self.move_all();
    }

    fn branch(&mut self, lineage: Lineage, position: u32, value: Value) -> (FrameId, Box<Frame>) {
        let id = self.snapshot.next_frame;
        self.snapshot.next_frame += 1;
        (id, Box::new(Frame::new(lineage, position, value)))
    }

    /// Writes the list of a map, and starts its first items.
    pub(super) fn split(&mut self, id: FrameId, list: Value, op: &MapOp) {
        let total = match list.tokens().first() {
            Some(Token::List(total)) => *total,
            _ => return self.fail(id, 1, FailureKind::Codec, "the list was not split into a list".into()),
        };
        let Some(mut frame) = self.snapshot.frames.take(id) else { return };
        self.changed = true;
        if total == 0 {
            if frame.lineage.is_in_loop() {
                self.put_list(&frame, &self.place(&frame), total, &list);
            }
            (frame.value, frame.position) = (list, op.next);
            return self.go(id, frame);
        }
        let place = self.place(&frame);
        let per_row = self.put_list(&frame, &place, total, &list);
        frame.value = block(Home::List(place, total), list.into_tokens());
        frame.phase = Phase::Map { total, started: 0, live: 0, bytes: 0, per_row };
        self.start_items(id, frame, op);
    }

    /// Writes a list in rows of some kilobytes, and returns how many items stand in each. In a
    /// loop, rows of an earlier, longer list may follow them.
    fn put_list(&mut self, frame: &Frame, place: &Place, total: u32, list: &Value) -> u32 {
        let rows = u32::try_from(list.bytes() / LIST_ROW_BYTES).unwrap_or(u32::MAX).saturating_add(1);
        let per_row = total.div_ceil(rows).clamp(1, LIST_ROW_ITEMS_MAX);
        let items = list.tokens().get(1..).unwrap_or_default();
        let Some(rows) = self.row_place(frame.node, place) else { return per_row };
        let mut says = frame.lineage.is_in_loop().then_some(total);
        if total == 0 {
            self.put(RowKey::List(rows.clone(), 0), &encode_items(&[], says));
        }
        for (number, items) in (0..).zip(items.chunks(per_row as usize)) {
            self.put(RowKey::List(rows.clone(), number), &encode_items(items, says.take()));
        }
        per_row
    }

    /// Starts items as far as the concurrency limit allows.
    fn start_items(&mut self, id: FrameId, mut frame: Box<Frame>, op: &MapOp) {
        let Phase::Map { total, mut started, mut live, bytes, per_row } = frame.phase else { return };
        let mut items = Vec::new();
        while started < total && op.concurrency.is_none_or(|limit| live < limit) {
            let value = item(&frame, self.place(&frame), started, per_row);
            items.push(self.branch(frame.lineage.item(id, started), frame.position + 1, value));
            (started, live) = (started + 1, live + 1);
        }
        frame.phase = Phase::Map { total, started, live, bytes, per_row };
        self.snapshot.frames.put(id, frame);
        self.changed = true;
        // Items go in their order: new ones after earlier ones that are still to go.
        let is_item =
            |(_, frame): &(FrameId, Box<Frame>)| frame.lineage.origin.is_some_and(|origin| origin.parent == id);
        if !items.is_empty() {
            let behind = self.moving.iter().position(is_item).unwrap_or(self.moving.len());
            self.moving.splice(behind..behind, items.into_iter().rev());
        }
        self.move_all();
    }

    /// Ends a branch's chain. An item that was passed on unchanged, and never read since
    /// activation, counts as 0 bytes: together such items have at most the bytes of their list.
    pub(super) fn branch_succeeded(&mut self, id: FrameId, frame: Box<Frame>, node: u32) {
        let parent = frame.lineage.origin.and_then(|origin| self.snapshot.frames.get(origin.parent));
        let bytes_max = self.limits.list_bytes_max as u64;
        let is_too_large = match parent.map(|parent| &parent.phase) {
            Some(Phase::Map { bytes, .. }) => bytes.saturating_add(frame.value_bytes()) > bytes_max,
            _ => false,
        };
        if is_too_large {
            self.hold(id, frame, node, Phase::Failed);
            let message =
                format!("the map's results are over their limit of {bytes_max} bytes (Limits::list_bytes_max)");
            return self.fail(id, 1, FailureKind::Codec, message);
        }
        self.branch_ended(id, *frame, None);
    }

    /// Keeps a branch's result, and lets the frame that waits for it go on if it was the last.
    fn branch_ended(&mut self, id: FrameId, frame: Frame, failure: Option<TaskFailure>) {
        let program: &Program = self.program;
        let Some(origin) = frame.lineage.origin else { return };
        let Some(mut parent) = self.snapshot.frames.take(origin.parent) else { return };
        // A branch that ended without ever being held has no record to delete.
        drop(self.snapshot.frames.take(id));
        let op = program.op(parent.position);
        let collects = matches!(op, Some(Op::Map(MapOp { collects: true, .. })));
        let succeeded_bytes = frame.value_bytes();
        let (gave, size) = match failure.map(|failure| self.collected(failure, &parent).to_bytes()) {
            Some(failure) => (Value::from_tokens(vec![Token::Failed(failure.clone())]), failure.len() as u64),
            None if collects => (frame.value.behind(Token::Succeeded), succeeded_bytes),
            None => (frame.value, succeeded_bytes),
        };
        let gave = self.put_branch(&parent, origin.index, gave);
        parent.branch_results.insert(origin.index, gave);
        self.changed = true;
        match (&mut parent.phase, op) {
            (Phase::Fork { live: 1 }, Some(Op::Fork(op))) => {
                let count = u32::try_from(op.branches.len()).unwrap_or(u32::MAX);
                self.join(origin.parent, parent, count, op.next);
            }
            (Phase::Fork { live }, _) => {
                *live -= 1;
                self.snapshot.frames.put(origin.parent, parent);
            }
            (Phase::Map { total, started, live: 1, bytes, .. }, Some(Op::Map(op))) if started == total => {
                let count = *total;
                parent.unread_bytes = bytes.saturating_add(size);
                self.join(origin.parent, parent, count, op.next);
            }
            (Phase::Map { live, bytes, .. }, Some(Op::Map(op))) => {
                *live -= 1;
                *bytes = bytes.saturating_add(size);
                self.start_items(origin.parent, parent, op);
            }
            _ => self.snapshot.frames.put(origin.parent, parent),
        }
    }

    /// Returns the failure as a map keeps it: without its message, if the list of results has no
    /// room for that.
    fn collected(&self, failure: TaskFailure, parent: &Frame) -> TaskFailure {
        let listed = if let Phase::Map { bytes, .. } = parent.phase { bytes } else { 0 };
        let size = failure.to_bytes().len() as u64;
        if listed.saturating_add(size) <= self.limits.list_bytes_max as u64 {
            return failure;
        }
        TaskFailure { message: LIST_IS_FULL.to_owned(), ..failure }
    }

    /// Writes a branch's result, and returns it as a read from its row would.
    fn put_branch(&mut self, parent: &Frame, index: u32, gave: Value) -> Value {
        let place = self.place(parent);
        if let Some(rows) = self.row_place(parent.node, &place) {
            self.put(RowKey::Branch(rows, index), &encode_value(&gave));
        }
        block(Home::Branch(place, index), gave.into_tokens())
    }

    /// Ends a frame's wait for its branches: it goes on with the list of their results.
    fn join(&mut self, id: FrameId, mut frame: Box<Frame>, count: u32, next: u32) {
        // The results of the other branches must be durable, and the transitions that led to them.
        self.builds_on = self.snapshot.seq;
        let place = self.place(&frame);
        frame.began = None;
        let mut branch_results = std::mem::take(&mut frame.branch_results);
        let gave = (0..count).map(|index| match branch_results.remove(&index).map(Value::into_tokens) {
            Some(tokens) => tokens,
            None => Value::stored(Home::Branch(place.clone(), index)).into_tokens(),
        });
        let tokens = std::iter::once(Token::List(count)).chain(gave.flatten()).collect();
        frame.value = block(Home::Branches(place, count), tokens);
        // Bytes not read since activation still count, where a map kept count.
        frame.unread_bytes = frame.unread_bytes.saturating_sub(frame.value.bytes() as u64);
        frame.position = next;
        self.go(id, frame);
    }

    /// Fails a node for good: ends the item of the nearest map that collects failures, or else the
    /// run.
    pub(super) fn fail(&mut self, id: FrameId, attempt: u32, kind: FailureKind, message: String) {
        let Some(node) = self.snapshot.frames.get(id).map(|frame| frame.node) else { return };
        let Some(item) = self.collected_item(id) else {
            return self.end(End::TaskFailed { node, attempt, kind, message });
        };
        self.drop_branches(item);
        if let Some(frame) = self.snapshot.frames.take(item) {
            let task = self.program.path(node).cloned().unwrap_or_else(|| NodePath::new(""));
            self.branch_ended(item, *frame, Some(TaskFailure { task, attempt, kind, message }));
        }
    }

    /// Returns the frame, or its nearest ancestor, that is an item of a map that collects failures.
    fn collected_item(&self, mut id: FrameId) -> Option<FrameId> {
        loop {
            let parent = self.snapshot.frames.get(id)?.lineage.origin?.parent;
            let at = self.snapshot.frames.get(parent)?.position;
            if let Some(Op::Map(MapOp { collects: true, .. })) = self.program.op(at) {
                return Some(id);
            }
            id = parent;
        }
    }

    /// Drops all branches of a frame, at any depth, and stops their running attempts.
    fn drop_branches(&mut self, id: FrameId) {
        let mut doomed: Vec<_> = self.snapshot.frames.branches_of(id).collect();
        while let Some(id) = doomed.pop() {
            doomed.extend(self.snapshot.frames.branches_of(id));
            if let Some(attempt_id) = self.snapshot.frames.take(id).and_then(|frame| frame.running(id)) {
                self.effects.push(Effect::Stop { attempt_id });
            }
        }
    }
}

/// Replaces the message of a failure for which a full list of results has no room.
const LIST_IS_FULL: &str = "left out: the list of results is at its limit (Limits::list_bytes_max)";

fn block(home: Home, tokens: Vec<Token>) -> Value {
    Value::from_tokens(vec![Token::Block(Block { home, tokens: tokens.into() })])
}

/// Returns one item of the list that a map's frame carries.
fn item(frame: &Frame, place: Place, index: u32, per_row: u32) -> Value {
    // Zero occurs in a damaged record only; the item read then does not exist.
    let per_row = per_row.max(1);
    let home = Home::Item(place, index / per_row, index % per_row);
    let read = match frame.value.tokens() {
        [Token::Block(block)] => block.tokens.get(index as usize + 1),
        _ => None,
    };
    match read {
        Some(Token::Leaf(leaf)) => Value::leaf(leaf.bytes.clone(), Some(home)),
        _ => Value::stored(home),
    }
}
