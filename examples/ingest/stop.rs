//! Why the job cannot begin: each a message of its own, and exit code 2.

use std::path::{Path, PathBuf};

use everstep::{BuildErrors, RuntimeError, StoreError};

/// Why the job cannot begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error("there is no {0}: give the directory to take in")]
    NoSuchPath(PathBuf),
    #[error("{0} is not a directory: give the directory to take in")]
    NotADirectory(PathBuf),
    #[error("cannot {what} {at}: {error}")]
    Io { what: &'static str, at: PathBuf, error: std::io::Error },
    #[error("line {line} of {at} is not one of this job's: move the file away, and it is written anew from the store")]
    NotAReport { at: PathBuf, line: u64 },
    #[error("{data} belongs to the job that takes in {theirs}: use another --data directory for {ours}")]
    OtherJob { data: PathBuf, theirs: String, ours: String },
    #[error("{0} belongs to a job that was begun without --approve: go on without it, or use another --data directory")]
    BegunWithoutApproval(PathBuf),
    #[error("{0} is not this job's card: use another --data directory")]
    NotACard(PathBuf),
    #[error("cannot open the store: {0}")]
    Store(#[from] StoreError),
    #[error("the workflow is wrong: {0}")]
    Build(#[from] BuildErrors),
    #[error("cannot start the runtime: {0}")]
    Runtime(#[from] RuntimeError),
}

impl Stop {
    /// For `map_err`: what was to be done, and to which file.
    pub(crate) fn io(what: &'static str, at: &Path, error: std::io::Error) -> Self {
        Self::Io { what, at: at.to_owned(), error }
    }
}
