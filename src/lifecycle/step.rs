//! Applies one event as one transition.

use bytes::Bytes;

use crate::definition::Program;
use crate::id::Stamp;
use crate::limits::DEFERRED_BYTES_MAX;
use crate::machine::{Context, Effect, Event, Refusal, RowChange, Snapshot, Transition, apply, encode_head};
use crate::store::{Change, Condition, Version, Write};

/// The result of one event.
#[derive(Clone, Debug)]
pub struct Step {
    /// The write to commit, if the event changed anything.
    pub write: Option<Write>,
    /// The reason why the event was refused, although time that had passed changed the instance.
    /// Answer with it once the write is durable.
    pub refused: Option<Refusal>,
    /// The effects to perform once this write and all earlier ones are durable, never before.
    pub effects: Vec<Effect>,
}

/// Applies one event to a snapshot.
///
/// # Errors
/// [`Refusal`]: the event is not valid now, and nothing changed. The refusal is computed from the
/// snapshot: answer with it only once the snapshot is durable.
pub fn step(context: &Context<'_>, snapshot: &mut Snapshot, event: Event) -> Result<Step, Refusal> {
    let mut uncommitted = UncommittedBatch::default();
    let Applied { refused, effects, .. } = uncommitted.apply(context, snapshot, event)?;
    Ok(Step { write: uncommitted.write(context.program, snapshot), refused, effects })
}

impl Step {
    pub(super) fn new(program: &Program, snapshot: &mut Snapshot, transition: Transition, seen: Version) -> Self {
        let (changed, condition) = (transition.changed, Condition::Seen(seen));
        let write = changed.then(|| write(program, snapshot, transition.rows, condition, Stamp::generate()));
        Self { write, refused: transition.refused, effects: transition.effects }
    }
}

/// Returns the write of a snapshot, and sets the snapshot's stamp to the write's.
pub(super) fn write(
    program: &Program,
    snapshot: &mut Snapshot,
    rows: Vec<RowChange>,
    condition: Condition,
    stamp: Stamp,
) -> Write {
    snapshot.set_stamp(stamp);
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

/// Successive transitions of one instance that share a write.
#[derive(Clone, Debug, Default)]
pub struct UncommittedBatch {
    /// The stored version before the first transition; `None` if there is nothing to write.
    seen: Option<Version>,
    rows: Vec<RowChange>,
    bytes: usize,
}

/// The result of one event, besides what is to be written.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The transition that must be durable before the effects may be performed ahead of their own
    /// write: [`Transition::deferrable`].
    pub deferrable: Option<u64>,
    /// The reason for a refusal, as in [`Step::refused`].
    pub refused: Option<Refusal>,
    /// The effects to perform once everything so far is durable, never before unless they are
    /// deferrable.
    pub effects: Vec<Effect>,
}

impl UncommittedBatch {
    /// Applies one more event to the snapshot.
    ///
    /// # Errors
    /// [`Refusal`], as [`step`].
    pub fn apply(&mut self, context: &Context<'_>, snapshot: &mut Snapshot, event: Event) -> Result<Applied, Refusal> {
        let seen = Version::from(&*snapshot);
        let Transition { changed, rows, deferrable, refused, effects } = apply(context, snapshot, event)?;
        if changed {
            self.seen.get_or_insert(seen);
            self.bytes += rows.iter().filter_map(|row| row.value.as_ref()).map(Bytes::len).sum::<usize>();
            self.rows.extend(rows);
        }
        Ok(Applied { deferrable, refused, effects })
    }

    /// Returns true if there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.seen.is_none()
    }

    /// Returns true if the rows are so large that they should be written now.
    pub fn is_large(&self) -> bool {
        self.bytes > DEFERRED_BYTES_MAX
    }

    /// Takes the write that makes all transitions durable: their rows in order, and the head after
    /// the last one. `None` if there is nothing to write. Sets the snapshot's stamp to the write's:
    /// the next write is conditional on it.
    pub fn write(&mut self, program: &Program, snapshot: &mut Snapshot) -> Option<Write> {
        let Self { seen, rows, .. } = std::mem::take(self);
        Some(write(program, snapshot, rows, Condition::Seen(seen?), Stamp::generate()))
    }
}
