//! Why the job cannot begin, or cannot be seen to its end: each a message of its own, and exit code 2.

use std::path::{Path, PathBuf};

use everstep::{BuildErrors, HandleError, MessageError, RuntimeError, StartError, StoreError};

/// Why the job cannot begin, or cannot be seen to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error("there is no {0}: give the directory to report on")]
    NoSuchPath(PathBuf),
    #[error("{0} is not a directory: give the directory to report on")]
    NotADirectory(PathBuf),
    #[error("cannot {what} {at}: {error}")]
    Io { what: &'static str, at: PathBuf, error: std::io::Error },
    #[error("{data} belongs to the report on {theirs}: use another --data directory for {ours}")]
    OtherJob { data: PathBuf, theirs: String, ours: String },
    #[error("the job in {0} was begun without --approve: go on without it, or begin anew with --again")]
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
    #[error("the job takes no message: {0}")]
    Message(#[from] MessageError),
}

impl Stop {
    /// For `map_err`: what was to be done, and to which file.
    pub(crate) fn io(what: &'static str, at: &Path, error: std::io::Error) -> Self {
        Self::Io { what, at: at.to_owned(), error }
    }
}
