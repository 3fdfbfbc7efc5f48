//! The state machine of an instance: one pure function, [`apply`], turns a snapshot and an event
//! into the next snapshot, the rows to write, and the effects that the runtime must perform.
//!
//! * `snapshot`: the whole durable state of an instance, in memory; its `frames` are indexed by
//!   what they wait for (`waits`). `record` and `envelope`: its bytes. `inline_results`: small
//!   results, which stand in the head.
//! * `era`: the definitions that a run had before it was upgraded.
//! * `event`: inputs of the machine; `effect`: what a transition writes and asks for.
//! * `interpreter` dispatches; `attempt`, `signal`, `wake`, `control`, `resume` and `retry` each
//!   handle a kind of event; `advance` moves a frame through ops, `branches` forks and joins.
//!
//! Names neither tokio, the clock, randomness nor a store: the same input gives the same output.

mod advance;
mod attempt;
mod branches;
mod control;
mod effect;
mod envelope;
mod envelope_v1;
mod era;
mod event;
mod frame;
mod frame_record;
mod frames;
#[cfg(test)]
mod golden;
mod inline_results;
mod interpreter;
mod record;
mod resume;
mod retry;
mod row;
mod rows;
mod signal;
mod snapshot;
mod status;
mod upgrade;
mod value_record;
mod waits;
mod wake;

pub use effect::{Effect, RowChange, Run, Transition, Wake};
pub use envelope::{DamageCause, Damaged, Envelope, FORMAT, HEAD_INDEX_BYTES, HeadIndex, Kind, Shape};
pub(crate) use era::Era;
#[cfg(feature = "file-store")]
pub(crate) use era::definition_of_era;
pub use event::{Event, Outcome, Refusal};
pub use frame::{AttemptId, Frame, FrameId, Phase, Stage};
pub use interpreter::{Context, NewRun, apply, start};
pub use record::{decode_head, encode_head};
pub use row::{RowKey, RowPlace};
pub use rows::{decode_quarantine, encode_quarantine, quarantine_stamp};
pub use snapshot::{End, Snapshot};
pub use upgrade::{UpgradeConflict, upgrade};
