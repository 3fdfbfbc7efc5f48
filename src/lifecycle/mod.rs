//! The life of an instance in steps, without actors. The runtime calls these functions; a service
//! with its own scheduler can call them instead.
//!
//! 1. [`check_existing_instance`] and [`prepare_run`]: start an instance, or find the existing one.
//! 2. [`prepare_resume`]: load an instance after a crash or a wait; [`get_resume_input`] returns
//!    the value it continues with.
//! 3. [`step`]: one event, one transition; [`Caller`]: one attempt of a task.
//! 4. [`finalize_execution`]: the last event before a run ends, pauses or parks, committed, and the
//!    status after it.
//! 5. [`release`]: a quarantined instance continues. [`upgrade`]: an instance of an older
//!    definition is upgraded to a newer one. [`delete_instance`]: an ended instance is removed.
//!
//! Each of them loads, applies the machine and commits through a [`Committer`]; none makes
//! decisions itself.
//!
//! A scheduler must be the only one that drives an instance at a time: the store refuses the writes
//! of a second one ([`Conflict`](crate::store::Conflict)). A commit that failed with a store error
//! has an unknown outcome: load the instance again before its next event.

mod call;
mod committer;
mod delete;
mod era;
mod finalize;
mod load;
mod release;
mod result;
mod resume;
mod rows;
mod start;
mod step;
mod upgrade;

pub use call::Caller;
pub use committer::{CommitError, Committer};
pub(crate) use delete::deletion;
pub use delete::{DeleteError, delete_instance};
pub use finalize::{Ending, FinalizeError, Finalized, finalize_execution};
pub(crate) use load::{Found, fill_next_run, find, has_moved};
pub use load::{
    LoadError, Stored, fill, fill_frames, fill_run, fill_values, load, read_branches, read_signal_id, read_signals,
};
pub use release::{ReleaseError, release};
pub use result::task_result;
pub use resume::{ResumeError, ResumeInputError, ResumeOutcome, get_resume_input, prepare_resume};
pub(crate) use rows::RowCache;
pub use start::{
    ConflictPolicy, Existing, ExistingInstance, PrepareRunOutcome, StartError, check_existing_instance, prepare_run,
};
pub use step::{Applied, Step, UncommittedBatch, step};
pub use upgrade::{UpgradeError, upgrade};
