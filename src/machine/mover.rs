//! The one way an instance moves.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::snapshot::{ROOT, Signals};
use super::{Effect, End, Event, FrameId, Refusal, RowChange, RowKey, Snapshot, Transition, Wake};
use crate::codec::{Home, Value};
use crate::definition::{Names as _, Program};
use crate::id::{InstanceId, RunId};
use crate::limits::{INLINE_BYTES_MAX, Limits};
use crate::time::Timestamp;

/// What a transition depends on besides the snapshot and the event.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The program of the instance's definition.
    pub program: &'a Program,
    /// The bounds in force.
    pub limits: &'a Limits,
    /// The wall-clock time.
    pub now: Timestamp,
}

/// A run to start.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// The instance's id.
    pub instance: InstanceId,
    /// The execution's id, fresh.
    pub run: RunId,
    /// The id of the codec that `input` is in.
    pub codec: u8,
    /// The encoded input.
    pub input: Bytes,
    /// The W3C traceparent of whoever starts it.
    pub traceparent: Option<Arc<str>>,
}

/// Starts a run: its first snapshot, already at its first node.
pub fn start(setting: &Setting<'_>, new: NewRun) -> (Snapshot, Transition) {
    let mut snapshot = Snapshot {
        instance: new.instance,
        run: new.run,
        seq: 0,
        definition: setting.program.hash(),
        codec: new.codec,
        started_at: setting.now,
        deadline: setting.program.deadline.map(|deadline| setting.now.after(deadline)),
        traceparent: new.traceparent,
        frames: BTreeMap::new(),
        signals: Signals::default(),
        pause: None,
        end: None,
        ended_at: None,
    };
    let mut mover = Mover::new(setting, &mut snapshot);
    if new.input.len() > INLINE_BYTES_MAX {
        mover.put(RowKey::Input, &new.input);
    }
    mover.changed = true;
    mover.enter(ROOT, 0, Value::leaf(new.input, Some(Home::Input)));
    let transition = mover.finish(&Asked::Unknown);
    (snapshot, transition)
}

/// Moves the instance by one event.
///
/// # Errors
/// [`Refusal`]: the event is not valid now; the snapshot is as it was.
pub fn apply(setting: &Setting<'_>, snapshot: &mut Snapshot, event: Event) -> Result<Transition, Refusal> {
    // Whoever takes an instance up does not know what was asked for before.
    let asked = if matches!(event, Event::Resumed { .. }) { Asked::Unknown } else { Asked::For(snapshot.wake()) };
    let mut mover = Mover::new(setting, snapshot);
    match event {
        Event::Resumed { alive, process_died } => mover.resume(&alive, process_died),
        Event::AttemptStarted { ticket, at } => mover.attempt_started(ticket, at),
        Event::AttemptWithdrawn { ticket } => mover.attempt_withdrawn(ticket),
        Event::AttemptFinished { ticket, outcome } => mover.attempt_finished(ticket, outcome),
        Event::Signal { name, id, payload } => mover.signal(&name, id, payload)?,
        Event::Wake => mover.wake(),
        Event::Cancel { reason, by } => mover.cancel(reason, by)?,
        Event::Pause { reason, by } => mover.pause(reason, by)?,
        Event::Unpause => mover.unpause()?,
    }
    Ok(mover.finish(&asked))
}

/// The wake-up that was asked for before a transition.
#[derive(PartialEq)]
enum Asked {
    Unknown,
    For(Wake),
}

/// A transition in the making.
pub(super) struct Mover<'a> {
    pub(super) program: &'a Program,
    pub(super) limits: &'a Limits,
    pub(super) now: Timestamp,
    pub(super) snapshot: &'a mut Snapshot,
    pub(super) changed: bool,
    pub(super) refused: Option<Refusal>,
    rows: Vec<RowChange>,
    pub(super) effects: Vec<Effect>,
}

impl<'a> Mover<'a> {
    fn new(setting: &Setting<'a>, snapshot: &'a mut Snapshot) -> Self {
        Self {
            program: setting.program,
            limits: setting.limits,
            now: setting.now,
            snapshot,
            changed: false,
            refused: None,
            rows: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// Writes a row of this run, in its envelope.
    pub(super) fn put(&mut self, key: RowKey, body: &[u8]) {
        let value = self.snapshot.envelope(key.kind(), self.seq()).seal(body, &key.to_bytes());
        self.rows.push(RowChange { key, value: Some(value) });
    }

    pub(super) fn delete(&mut self, key: RowKey) {
        self.rows.push(RowChange { key, value: None });
    }

    /// Writes a node's result.
    pub(super) fn put_result(&mut self, node: u32, bytes: &[u8]) {
        if let Some(path) = self.program.path(node) {
            self.put(RowKey::Result(path.clone()), bytes);
        }
    }

    /// Ends the run: what still runs is stopped.
    pub(super) fn end(&mut self, end: End) {
        let running: Vec<_> = self.snapshot.running().collect();
        self.effects.extend(running.into_iter().map(|ticket| Effect::Stop { ticket }));
        self.snapshot.end = Some(end);
        self.snapshot.ended_at = Some(self.now);
        self.changed = true;
        self.effects.push(Effect::Ended);
    }

    pub(super) fn refuse_if_ended(&self) -> Result<(), Refusal> {
        if self.snapshot.end.is_some() { Err(Refusal::Ended) } else { Ok(()) }
    }

    /// The number this transition will have.
    pub(super) fn seq(&self) -> u64 {
        self.snapshot.seq.saturating_add(1)
    }

    /// The frames there are now; a transition may add or remove some.
    pub(super) fn frame_ids(&self) -> Vec<FrameId> {
        self.snapshot.frames.keys().copied().collect()
    }

    fn finish(mut self, asked: &Asked) -> Transition {
        if self.changed {
            self.snapshot.seq = self.seq();
        }
        let wake = self.snapshot.wake();
        if *asked != Asked::For(wake) {
            self.effects.push(Effect::WakeAt(wake));
        }
        Transition { changed: self.changed, rows: self.rows, refused: self.refused, effects: self.effects }
    }
}
