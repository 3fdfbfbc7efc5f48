//! Errors that keep the job from beginning or ending: each with its own message, and exit code 2.

use std::path::{Path, PathBuf};

use everstep::{BuildErrors, HandleError, MessageError, RuntimeError, StartError, StoreError};

/// Error that keeps the job from beginning or ending.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error("there is no {0}: pass the directory to report on")]
    NoSuchPath(PathBuf),
    #[error("{0} is not a directory: pass the directory to report on")]
    NotADirectory(PathBuf),
    #[error("cannot {what} {at}: {error}")]
    Io { what: &'static str, at: PathBuf, error: std::io::Error },
    #[error("{data} belongs to the report on {theirs}: use another --data directory for {ours}")]
    OtherJob { data: PathBuf, theirs: String, ours: String },
    #[error("the job in {0} was begun without --approve: continue without it, or start over with --again")]
    BegunWithoutApproval(PathBuf),
    #[error("{0} is not this job's: use another --data directory")]
    NotAnOwner(PathBuf),
    #[error("cannot open the store: {0}")]
    Store(#[from] StoreError),
    #[error("the workflow is wrong: {0}")]
    Build(#[from] BuildErrors),
    #[error("cannot start the runtime: {0}")]
    Runtime(#[from] RuntimeError),
    #[error("cannot start the job: {0}")]
    Start(#[from] StartError),
    #[error("the job does not answer: {0}")]
    Handle(#[from] HandleError),
    #[error("the job refuses the message: {0}")]
    Message(#[from] MessageError),
}

impl Stop {
    /// Wraps an I/O error with the action and the file, for `map_err`.
    pub(crate) fn io(what: &'static str, at: &Path, error: std::io::Error) -> Self {
        Self::Io { what, at: at.to_owned(), error }
    }
}
