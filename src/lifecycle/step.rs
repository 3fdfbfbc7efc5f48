//! One event, one transition.

use bytes::Bytes;

use crate::definition::Program;
use crate::id::Stamp;
use crate::limits::DEFERRED_BYTES_MAX;
use crate::machine::{Effect, Event, Refusal, RowChange, Setting, Snapshot, Transition, apply, encode_head};
use crate::store::{Change, Condition, Version, Write};

/// What one event comes to.
#[derive(Clone, Debug)]
pub struct Step {
    /// What must be committed, if the event changed anything.
    pub write: Option<Write>,
    /// Why the event itself was refused, although time that had passed moved the instance. To be answered once the write
    /// is durable.
    pub refused: Option<Refusal>,
    /// What to do once the write, and every write before it, is durable; never earlier.
    pub effects: Vec<Effect>,
}

/// Moves a snapshot by one event.
///
/// # Errors
/// [`Refusal`]: the event is not valid now, and nothing changed. The refusal is computed from the snapshot, so it may be
/// answered only once that is durable.
pub fn step(setting: &Setting<'_>, snapshot: &mut Snapshot, event: Event) -> Result<Step, Refusal> {
    let mut unwritten = Unwritten::default();
    let Moved { refused, effects, .. } = unwritten.apply(setting, snapshot, event)?;
    Ok(Step { write: unwritten.write(setting.program, snapshot), refused, effects })
}

impl Step {
    pub(super) fn new(program: &Program, snapshot: &mut Snapshot, transition: Transition, seen: Version) -> Self {
        let (changed, condition) = (transition.changed, Condition::Seen(seen));
        let write = changed.then(|| write(program, snapshot, transition.rows, condition, Stamp::generate()));
        Self { write, refused: transition.refused, effects: transition.effects }
    }
}

/// The write of a snapshot, which is what the stamp then says has left it so.
pub(super) fn write(
    program: &Program,
    snapshot: &mut Snapshot,
    rows: Vec<RowChange>,
    condition: Condition,
    stamp: Stamp,
) -> Write {
    snapshot.stamp = stamp;
    Write {
        instance: snapshot.instance().clone(),
        stamp,
        condition,
        change: Change::Head(encode_head(program, snapshot)),
        rows,
        run: snapshot.run(),
        superseded: None,
    }
}

/// Transitions of one instance, one after the other, that are to share a write.
#[derive(Clone, Debug, Default)]
pub struct Unwritten {
    /// What is stored before the first of them; none if there is nothing to write.
    seen: Option<Version>,
    rows: Vec<RowChange>,
    bytes: usize,
}

/// What one event comes to, beside what is to be written.
#[derive(Clone, Debug)]
pub struct Moved {
    /// When the effects may be performed before they are written: [`Transition::deferrable`].
    pub deferrable: Option<u64>,
    /// As in [`Step`].
    pub refused: Option<Refusal>,
    /// What to do once everything so far is durable; never earlier, unless it may be deferred.
    pub effects: Vec<Effect>,
}

impl Unwritten {
    /// Moves the snapshot by one more event.
    ///
    /// # Errors
    /// [`Refusal`], as [`step`].
    pub fn apply(&mut self, setting: &Setting<'_>, snapshot: &mut Snapshot, event: Event) -> Result<Moved, Refusal> {
        let seen = Version::from(&*snapshot);
        let Transition { changed, rows, deferrable, refused, effects } = apply(setting, snapshot, event)?;
        if changed {
            self.seen.get_or_insert(seen);
            self.bytes += rows.iter().filter_map(|row| row.value.as_ref()).map(Bytes::len).sum::<usize>();
            self.rows.extend(rows);
        }
        Ok(Moved { deferrable, refused, effects })
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.seen.is_none()
    }

    /// Whether it holds so many bytes that they should be written.
    pub fn is_large(&self) -> bool {
        self.bytes > DEFERRED_BYTES_MAX
    }

    /// Takes out the write that makes all of it durable: rows in the order of the transitions, and the head that they lead to.
    /// The snapshot takes the write's stamp: what comes next builds on it.
    pub fn write(&mut self, program: &Program, snapshot: &mut Snapshot) -> Option<Write> {
        let Self { seen, rows, .. } = std::mem::take(self);
        Some(write(program, snapshot, rows, Condition::Seen(seen?), Stamp::generate()))
    }
}
