//! HOW an instance moves: one pure function, [`apply`], from a snapshot and an event to the next snapshot, what must be
//! written, and what the runtime must then do.
//!
//! * `snapshot`: the whole durable state of an instance, in memory; `record` and `envelope`: the same as bytes.
//! * `event`: what can happen to it; `effect`: what a transition writes and asks for.
//! * `mover` dispatches; `advance`, `attempt`, `signal`, `wake`, `control` and `resume` each handle a kind
//!   of event.
//!
//! Names neither tokio, the clock, randomness nor a store: the same input gives the same output.

mod advance;
mod attempt;
mod control;
mod effect;
mod envelope;
mod event;
#[cfg(test)]
mod golden;
mod mover;
mod record;
mod resume;
mod row;
mod rows;
mod signal;
mod snapshot;
mod status;
mod wake;

pub use effect::{Effect, RowChange, Run, Transition, Wake};
pub use envelope::{Damaged, Envelope, HEAD_INDEX_BYTES, HeadIndex, Kind};
pub use event::{Event, Outcome, Refusal};
pub use mover::{NewRun, Setting, apply, start};
pub use record::{decode_head, encode_head};
pub use row::RowKey;
pub use rows::{decode_quarantine, encode_quarantine};
pub use snapshot::{End, Frame, FrameId, Phase, Snapshot, Stage, Ticket};
