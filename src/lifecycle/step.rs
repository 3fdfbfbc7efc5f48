//! One event, one transition.

use crate::definition::Program;
use crate::machine::{Effect, Event, Refusal, Setting, Snapshot, Transition, apply, encode_head};
use crate::store::{Change, Condition, Write};

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
    let condition = Condition::At { run: snapshot.run(), seq: snapshot.seq() };
    let transition = apply(setting, snapshot, event)?;
    Ok(Step::new(setting.program, snapshot, transition, condition))
}

impl Step {
    pub(super) fn new(program: &Program, snapshot: &Snapshot, transition: Transition, condition: Condition) -> Self {
        let write = transition.changed.then(|| Write {
            instance: snapshot.instance().clone(),
            condition,
            change: Change::Head(encode_head(program, snapshot)),
            rows: transition.rows,
            run: snapshot.run(),
            superseded: None,
        });
        Self { write, refused: transition.refused, effects: transition.effects }
    }
}
