//! The interpreter: the only code that moves an instance.

use std::sync::Arc;

use bytes::Bytes;

use super::envelope::Shape;
use super::frame::{Frame, FrameId, Lineage, Phase, ROOT};
use super::frame_record::encode_frame;
use super::frames::Frames;
use super::inline_results::InlineResults;
use super::signal::Unawaited;
use super::snapshot::Signals;
use super::{Effect, End, Event, Refusal, RowChange, RowKey, RowPlace, Snapshot, Transition, Wake};
use crate::codec::{Hidden, Home, Place, Value};
use crate::definition::{NodeNames as _, Op, Program};
use crate::id::{InstanceId, RunId, Stamp};
use crate::limits::{INLINE_BYTES_MAX, Limits};
use crate::time::Timestamp;

/// The inputs of a transition besides the snapshot and the event.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The program of the instance's definition.
    pub program: &'a Program,
    /// The limits in force.
    pub limits: &'a Limits,
    /// The wall-clock time.
    pub now: Timestamp,
}

/// A run to start. Its `Debug` shows only how many bytes its input has.
#[derive(Clone)]
pub struct NewRun {
    /// The instance's id.
    pub instance: InstanceId,
    /// The id of this execution, fresh.
    pub run: RunId,
    /// The id of the codec of `input`.
    pub codec: u8,
    /// The encoded input.
    pub input: Bytes,
    /// The caller's W3C traceparent.
    pub traceparent: Option<Arc<str>>,
}

impl std::fmt::Debug for NewRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { instance, run, codec, input, traceparent } = self;
        let mut new = f.debug_struct("NewRun");
        new.field("instance", instance).field("run", run).field("codec", codec).field("input", &Hidden(input));
        new.field("traceparent", traceparent).finish()
    }
}

/// Starts a run: returns its first snapshot, already at its first node.
pub fn start(context: &Context<'_>, new: NewRun) -> (Snapshot, Transition) {
    let mut snapshot = Snapshot {
        instance: new.instance,
        run: new.run,
        seq: 0,
        stamp: Stamp::NONE,
        definition: context.program.hash(),
        era: 0,
        codec: new.codec,
        started_at: context.now,
        deadline: context.program.deadline.map(|deadline| context.now.after(deadline)),
        traceparent: new.traceparent,
        frames: Frames::default(),
        next_frame: ROOT + 1,
        unread_frames: 0,
        unread_from: ROOT,
        shown: None,
        results: InlineResults::default(),
        signals: Signals::default(),
        pause: None,
        end: None,
        ended_at: None,
    };
    let mut interpreter = Interpreter::new(context, &mut snapshot);
    if new.input.len() > INLINE_BYTES_MAX {
        interpreter.put(RowKey::Input, &new.input);
    }
    interpreter.changed = true;
    let input = Value::leaf(new.input, Some(Home::Input));
    interpreter.go(ROOT, Box::new(Frame::new(Lineage::default(), 0, input)));
    let transition = interpreter.finish(&Asked::Unknown);
    (snapshot, transition)
}

/// Moves the instance by one event.
///
/// # Errors
/// [`Refusal`]: the event is not valid now; the snapshot is unchanged.
pub fn apply(context: &Context<'_>, snapshot: &mut Snapshot, event: Event) -> Result<Transition, Refusal> {
    // After an activation the previous wake-up is unknown, and a quarantined instance had none.
    let asked = if matches!(event, Event::Resumed { .. } | Event::Retry { .. } | Event::Released) {
        Asked::Unknown
    } else {
        Asked::For(snapshot.wake())
    };
    let mut interpreter = Interpreter::new(context, snapshot);
    match event {
        Event::Resumed { alive, process_crashed } => interpreter.resume(alive, process_crashed),
        Event::AttemptStarted { attempt_id, at } => interpreter.attempt_started(attempt_id, at),
        Event::AttemptWithdrawn { attempt_id } => interpreter.attempt_withdrawn(attempt_id),
        Event::AttemptFinished { attempt_id, outcome } => interpreter.attempt_finished(attempt_id, outcome),
        Event::Signal { name, id, payload } => interpreter.signal(&name, id, payload, Unawaited::Buffer)?,
        Event::SignalIfAwaited { name, id, payload } => interpreter.signal(&name, id, payload, Unawaited::Refuse)?,
        Event::Wake => interpreter.wake(),
        Event::Cancel { reason, by } => interpreter.cancel(reason, by)?,
        Event::Pause { reason, by } => interpreter.pause(reason, by)?,
        Event::Unpause => interpreter.unpause()?,
        Event::Retry { deadline } => interpreter.retry(deadline)?,
        Event::Released => interpreter.released(),
    }
    Ok(interpreter.finish(&asked))
}

/// The wake-up that was asked for before a transition.
#[derive(PartialEq)]
enum Asked {
    Unknown,
    For(Wake),
}

/// A transition in the making.
pub(super) struct Interpreter<'a> {
    pub(super) program: &'a Program,
    pub(super) limits: &'a Limits,
    pub(super) now: Timestamp,
    pub(super) snapshot: &'a mut Snapshot,
    pub(super) changed: bool,
    pub(super) refused: Option<Refusal>,
    /// True if the transition records the result of a task that need not be durable before the next
    /// tasks start.
    pub(super) defers: bool,
    /// The transition that must be durable before the effects are performed, even where this one
    /// need not be.
    pub(super) builds_on: u64,
    rows: Vec<RowChange>,
    pub(super) effects: Vec<Effect>,
    /// Frames on their way, the next one last.
    pub(super) moving: Vec<(FrameId, Box<Frame>)>,
    is_moving: bool,
    /// Branches from this number on are new: the store has no record of them.
    first_new: FrameId,
}

impl<'a> Interpreter<'a> {
    pub(super) fn new(context: &Context<'a>, snapshot: &'a mut Snapshot) -> Self {
        let first_new = snapshot.next_frame;
        Self {
            program: context.program,
            limits: context.limits,
            now: context.now,
            snapshot,
            changed: false,
            refused: None,
            defers: false,
            builds_on: 0,
            rows: Vec::new(),
            effects: Vec::new(),
            moving: Vec::new(),
            is_moving: false,
            first_new,
        }
    }

    /// Lets a frame go on from the op it is put at, until something holds it.
    pub(super) fn go(&mut self, id: FrameId, frame: Box<Frame>) {
        if self.is_moving {
            return self.moving.push((id, frame));
        }
        self.is_moving = true;
        let mut next = Some((id, frame));
        while let Some((id, frame)) = next {
            if self.is_wanted(&frame) {
                self.enter(id, frame);
            }
            next = self.moving.pop();
        }
        self.is_moving = false;
    }

    /// Lets every frame in `moving` go on. Not recursive: frames that this creates are added to
    /// `moving`.
    pub(super) fn move_all(&mut self) {
        if !self.is_moving
            && let Some((id, frame)) = self.moving.pop()
        {
            self.go(id, frame);
        }
    }

    /// Returns false if a failure on the way removed the frame's parent, and with it all its
    /// branches.
    fn is_wanted(&self, frame: &Frame) -> bool {
        frame.lineage.origin.is_none_or(|origin| self.snapshot.frames.get(origin.parent).is_some())
    }

    /// Applies `what` to each frame in order, until the run ends.
    pub(super) fn each(&mut self, ids: Vec<FrameId>, what: impl Fn(&mut Self, FrameId)) {
        for id in ids {
            if self.snapshot.end.is_none() {
                what(self, id);
            }
        }
    }

    /// Lets a held frame go on with the next op.
    pub(super) fn pass(&mut self, id: FrameId, value: impl FnOnce(Value) -> Value) {
        if let Some(mut frame) = self.snapshot.frames.take(id) {
            frame.position += 1;
            frame.value = value(frame.value);
            self.go(id, frame);
        }
    }

    /// Writes a row of this run, in its envelope.
    pub(super) fn put(&mut self, key: RowKey, body: &[u8]) {
        self.put_shaped(key, Shape::Plain, body);
    }

    pub(super) fn put_shaped(&mut self, key: RowKey, shape: Shape, body: &[u8]) {
        let value = self.snapshot.envelope(key.kind(), self.seq()).shaped(shape).seal(body, &key.to_bytes());
        self.rows.push(RowChange { key, value: Some(value) });
    }

    pub(super) fn delete(&mut self, key: RowKey) {
        self.rows.push(RowChange { key, value: None });
    }

    /// Returns the place of a frame's op, for what is stored under it.
    pub(super) fn place(&self, frame: &Frame) -> Place {
        frame.place(self.snapshot.era)
    }

    /// Returns the place by its node's path, which has not changed since the era of the place;
    /// `node` is the node's index now.
    pub(super) fn row_place(&self, node: u32, place: &Place) -> Option<RowPlace> {
        let path = self.program.path(node)?.clone();
        Some(RowPlace { era: place.era, path, indices: Arc::clone(&place.indices) })
    }

    /// Ends the run: stops running attempts, and keeps branches that were about to start for a
    /// retry.
    pub(super) fn end(&mut self, end: End) {
        let running: Vec<_> = self.snapshot.running().collect();
        self.effects.extend(running.into_iter().map(|attempt_id| Effect::Stop { attempt_id }));
        for (id, frame) in std::mem::take(&mut self.moving) {
            if self.is_wanted(&frame) {
                let node = self.program.op(frame.position).and_then(Op::node).unwrap_or_default();
                self.hold(id, frame, node, Phase::Failed);
            }
        }
        self.snapshot.end = Some(end);
        self.snapshot.pause = None;
        self.snapshot.ended_at = Some(self.now);
        self.changed = true;
        self.effects.push(Effect::Ended);
    }

    pub(super) fn refuse_if_ended(&self) -> Result<(), Refusal> {
        if self.snapshot.end.is_some() { Err(Refusal::Ended) } else { Ok(()) }
    }

    /// Returns the number that this transition will have.
    pub(super) fn seq(&self) -> u64 {
        self.snapshot.seq.saturating_add(1)
    }

    /// Writes or deletes the records of branches that changed.
    fn put_frames(&mut self) {
        for id in self.snapshot.frames.take_changed() {
            self.changed = true;
            match self.snapshot.frames.get(id).map(|frame| encode_frame(self.program, frame)) {
                Some(record) => self.put(RowKey::Frame(id), &record),
                None if id < self.first_new => self.delete(RowKey::Frame(id)),
                None => {}
            }
        }
    }

    /// Returns the transition, where the wake-up asked for before is unknown.
    pub(super) fn finish_unasked(self) -> Transition {
        self.finish(&Asked::Unknown)
    }

    fn finish(mut self, asked: &Asked) -> Transition {
        self.put_frames();
        if self.changed {
            self.snapshot.seq = self.seq();
        }
        let wake = self.snapshot.wake();
        if *asked != Asked::For(wake) {
            self.effects.push(Effect::WakeAt(wake));
        }
        let Self { changed, rows, refused, effects, .. } = self;
        let starts = !effects.is_empty() && effects.iter().all(|effect| matches!(effect, Effect::Run(_)));
        let deferrable = (self.defers && starts).then_some(self.builds_on);
        Transition { changed, rows, deferrable, refused, effects }
    }
}
