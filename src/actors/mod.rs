//! The only code that names ractor: every awake instance is a supervised actor.
//!
//! ```text
//! root                 supervises the three below; a child that ends is noticed, never ignored
//!  +- persistence  1   batches writes, commits them on a thread of its own, answers
//!  +- timers       1   a window of the nearest wake-ups over the store's due index; wakes, never decides
//!  +- shard        16  parents only: spawn instances, count their panics
//!      +- instance     one per awake instance: its snapshot, and what waits for its commits
//! ```
//!
//! Beside them, not actors: [`registry`] (who is awake), [`submissions`] (writes on their way to persistence, and the answers on
//! theirs back), [`payloads`] (how many bytes of callers are under way), [`waiters`] (who waits for a result or watches),
//! [`recovery`] (takes up what is in progress) and its [`backlog`] (what is known by id), [`pruner`] (deletes what has ended), [`upgrades`] (what goes on with a newer
//! definition), [`hub`] (what they all share).
//!
//! Calls point down only (instance to persistence); everything sideways or up is a cast. User code never runs in a
//! handler.

mod backlog;
mod hub;
#[cfg(feature = "testing")]
mod idle;
mod instance;
mod live;
mod loads;
mod mail;
mod payloads;
mod perform;
mod persistence;
mod pruner;
mod recovery;
mod registry;
mod removal;
mod room;
mod root;
mod shard;
mod spares;
mod starts;
mod submissions;
mod take_up;
mod timers;
mod unsure;
mod upgrades;
mod waiters;
mod window;
mod writing;

pub use backlog::Unreadable;
pub use hub::Health;
pub(crate) use hub::{Hub, HubParts, Read, Undelivered};
#[cfg(feature = "testing")]
pub(crate) use idle::next_due;
pub(crate) use mail::{Mail, MailError, Replacement, Reply, SignalMail};
pub(crate) use payloads::PayloadShare;
pub use pruner::Retention;
pub(crate) use root::Actors;
pub(crate) use starts::{StartKind, StartPlace};
pub(crate) use upgrades::TakeOvers;
pub use upgrades::Unplaced;
pub(crate) use waiters::Subscription;
