//! The life of an instance in steps, without actors: what the runtime calls, and what a service with a scheduler of its
//! own can call in the runtime's place.
//!
//! 1. [`check_existing_instance`] and [`prepare_run`]: start an instance, or find the one that is there.
//! 2. [`prepare_resume`]: take an instance up again after a crash or a wait; [`get_resume_input`] gives the value it goes
//!    on with.
//! 3. [`step`]: one event, one transition; [`Caller`]: one attempt of a task.
//! 4. [`finalize_execution`]: the last event of a stretch of work, committed, and the status it leaves.
//! 5. [`release`]: a quarantined instance goes on. [`take_over`]: one of an older definition goes on with a newer one.
//!    [`delete_instance`]: once it has ended, nothing of it need stay.
//!
//! Each loads, applies the machine and commits through a [`Port`]; none decides anything itself.
//!
//! Whoever drives instances this way must be the only one to do so for an instance at a time; a second one is refused by
//! the store ([`Conflict`](crate::store::Conflict)). A commit that failed with a store error is an unknown outcome: load
//! again before going on.

mod call;
mod delete;
mod finalize;
mod load;
mod port;
mod release;
mod result;
mod resume;
mod start;
mod step;
mod takeover;

pub use call::Caller;
pub(crate) use delete::deletion;
pub use delete::{DeleteError, delete_instance};
pub use finalize::{Ending, FinalizeError, Finalized, finalize_execution};
pub(crate) use load::{Found, ListRows, fill_next_run, find, has_moved};
pub use load::{
    LoadError, Stored, fill, fill_frames, fill_run, fill_values, load, read_branches, read_signal_id, read_signals,
};
pub use port::{CommitError, Port};
pub use release::{ReleaseError, release};
pub use result::task_result;
pub use resume::{ResumeError, ResumeInputError, ResumeOutcome, get_resume_input, prepare_resume};
pub use start::{
    ConflictPolicy, Existing, ExistingInstance, PrepareRunOutcome, StartError, check_existing_instance, prepare_run,
};
pub use step::{Moved, Step, Unwritten, step};
pub use takeover::{TakeOverError, take_over};
