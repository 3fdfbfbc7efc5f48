//! The errors of stores.

use std::error::Error;
use std::fmt;

use crate::cause::Cause;

/// An error of a store.
///
/// A commit that failed may still be durable: its outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// A temporary failure: try again, with the same batch.
    Transient(Cause),
    /// A failure after which the store must be reopened before its next write.
    Fatal(Cause),
    /// Another process, or another store in this process, has the directory open. Nothing was
    /// changed: close that store first.
    Locked(String),
    /// The directory or file is not a store of this crate, or is damaged. `why` says what to do.
    Unreadable {
        /// The path.
        at: String,
        /// The reason.
        why: String,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transient(cause) => write!(f, "the store is temporarily unavailable: {cause}"),
            Self::Fatal(cause) => write!(f, "the store failed: {cause}"),
            Self::Locked(at) => {
                write!(f, "the store at {at} is already open, in this process or another one: close it there first")
            }
            Self::Unreadable { at, why } => write!(f, "the store at {at} cannot be opened: {why}"),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Transient(cause) | Self::Fatal(cause) => cause.error(),
            Self::Locked(_) | Self::Unreadable { .. } => None,
        }
    }
}
