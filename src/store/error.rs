//! Why a store could not do what it was asked.

use std::error::Error;
use std::fmt;

use crate::cause::Cause;

/// Why a store could not do what it was asked.
///
/// A failed commit may yet have become durable: it is an unknown outcome, never "did not happen".
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// It may work when tried again, with the same batch.
    Transient(Cause),
    /// The store must be reopened before anything else is written.
    Fatal(Cause),
    /// Another process, or another store in this one, has the directory open.
    Locked(String),
    /// What is on disk is not a store of ours, or cannot be read.
    Unreadable {
        /// Where.
        at: String,
        /// What is wrong.
        why: String,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transient(cause) => write!(f, "the store is not available just now: {cause}"),
            Self::Fatal(cause) => write!(f, "the store failed: {cause}"),
            Self::Locked(at) => write!(
                f,
                "{at} is open already, in another process or in this one: only one runtime may use a data directory at a time"
            ),
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
