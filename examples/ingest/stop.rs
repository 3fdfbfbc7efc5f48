//! Errors that keep the job from beginning: each with its own message, and exit code 2.

use std::path::{Path, PathBuf};

use everstep::{BuildErrors, RuntimeError, StoreError};

/// Error that keeps the job from beginning.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error("there is no {0}: pass the directory to ingest")]
    NoSuchPath(PathBuf),
    #[error("{0} is not a directory: pass the directory to ingest")]
    NotADirectory(PathBuf),
    #[error("cannot {what} {at}: {error}")]
    Io { what: &'static str, at: PathBuf, error: std::io::Error },
    #[error("line {line} of {at} is not from this job: move the file away, and it is written again from the store")]
    NotAReport { at: PathBuf, line: u64 },
    #[error("{data} belongs to the job that ingests {theirs}: use another --data directory for {ours}")]
    OtherJob { data: PathBuf, theirs: String, ours: String },
    #[error("{0} belongs to a job begun without --approve: continue without it, or use another --data directory")]
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
    /// Wraps an I/O error with the action and the file, for `map_err`.
    pub(crate) fn io(what: &'static str, at: &Path, error: std::io::Error) -> Self {
        Self::Io { what, at: at.to_owned(), error }
    }
}
