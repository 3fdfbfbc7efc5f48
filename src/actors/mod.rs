//! The only code that names ractor: every active instance is a supervised actor.
//!
//! ```text
//! root                 supervises the three below; never ignores the end of a child
//!  +- persistence  1   batches writes, commits them on a thread of its own, answers
//!  +- timers       1   a window of the nearest wake-ups over the store's due index; wakes, never decides
//!  +- shard        16  parents only: spawn instances, count their panics
//!      +- instance     one per active instance: its snapshot, and what waits for its commits
//! ```
//!
//! Beside them, not actors: [`registry`] (the active instances), [`submissions`] (writes on their
//! way to persistence, and the results on their way back), [`payloads`] (payload bytes of callers
//! in flight), [`waiters`] (callers that wait for a result or watch a status), [`resting`]
//! (instances that stay in memory for a while when they are no longer active), [`recovery`]
//! (activates what is in progress) and its [`backlog`] (instances known by id), [`pruner`] (deletes
//! ended instances), [`upgrades`] (upgrades to newer definitions), [`shared`] (the state that all
//! of them share).
//!
//! Calls point down only (instance to persistence); everything sideways or up is a cast. User code
//! never runs in a handler.

mod activate;
mod active;
mod backlog;
mod command;
mod effects;
mod idle_actors;
mod instance;
mod payloads;
mod pending;
mod persistence;
mod pruner;
#[cfg(feature = "testing")]
mod quiescence;
mod read_epoch;
mod recovery;
mod registry;
mod removal;
mod resting;
mod room;
mod root;
mod shard;
mod shared;
mod starts;
mod submissions;
mod timers;
mod unsure;
mod upgrades;
mod waiters;
mod weight;
mod window;

pub use backlog::Unreadable;
pub(crate) use command::{Command, CommandError, Replacement, Reply, SignalCommand};
pub(crate) use payloads::PayloadShare;
pub use pruner::Retention;
#[cfg(feature = "testing")]
pub(crate) use quiescence::next_due;
pub(crate) use root::Actors;
pub use shared::Health;
pub(crate) use shared::{Read, SendError, Shared, SharedParts};
pub(crate) use starts::{StartKind, StartPlace};
pub use upgrades::LeftAlone;
pub(crate) use upgrades::UpgradePaths;
pub(crate) use waiters::Subscription;
