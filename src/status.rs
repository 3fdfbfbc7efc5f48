//! Status of an instance, in the names that its author chose.

use std::fmt;
use std::sync::Arc;

use crate::definition::TaskFailure;
use crate::id::NodePath;
use crate::time::Timestamp;

/// Status of an instance, as of its last commit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// A task runs, waits for its slot, or waits for its next attempt.
    InProgress,
    /// Parked in a delay.
    Waiting {
        /// The time at which the delay ends.
        wake_at: Timestamp,
        /// The delay's node.
        delay: NodePath,
    },
    /// Parked until a signal comes.
    AwaitingSignal {
        /// The node that waits.
        node: NodePath,
        /// The signal's name.
        signal: String,
        /// The time at which it stops waiting, if ever.
        wake_at: Option<Timestamp>,
    },
    /// Paused: running tasks finish, none start.
    Paused {
        /// The reason given.
        reason: Arc<str>,
        /// The person or service that paused it.
        by: Arc<str>,
    },
    /// Ended with an output.
    Completed,
    /// Ended by a failure; every finished result is kept.
    Failed {
        /// The failure.
        failure: Failure,
    },
    /// Ended by a request.
    Cancelled {
        /// The reason given.
        reason: Arc<str>,
        /// The person or service that cancelled it.
        by: Arc<str>,
    },
    /// Quarantined: going on would do harm. The stored bytes stay unchanged.
    Quarantined {
        /// The reason.
        reason: Arc<str>,
    },
}

impl Status {
    /// Returns true if the run has ended.
    pub fn is_terminal(&self) -> bool {
        self.code().is_terminal()
    }

    /// Returns the status without its details, as stores index it.
    pub fn code(&self) -> StatusCode {
        match self {
            Self::InProgress => StatusCode::InProgress,
            Self::Waiting { .. } => StatusCode::Waiting,
            Self::AwaitingSignal { .. } => StatusCode::AwaitingSignal,
            Self::Paused { .. } => StatusCode::Paused,
            Self::Completed => StatusCode::Completed,
            Self::Failed { .. } => StatusCode::Failed,
            Self::Cancelled { .. } => StatusCode::Cancelled,
            Self::Quarantined { .. } => StatusCode::Quarantined,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProgress => f.write_str("in progress"),
            Self::Waiting { delay, .. } => write!(f, "waiting in delay `{delay}`"),
            Self::AwaitingSignal { node, signal, .. } => write!(f, "awaiting signal `{signal}` at `{node}`"),
            Self::Paused { reason, by } => write!(f, "paused by {by}: {reason}"),
            Self::Completed => f.write_str("completed"),
            Self::Failed { failure } => write!(f, "failed: {failure}"),
            Self::Cancelled { reason, by } => write!(f, "cancelled by {by}: {reason}"),
            Self::Quarantined { reason } => write!(f, "quarantined: {reason}"),
        }
    }
}

/// A status without its details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum StatusCode {
    /// See [`Status::InProgress`].
    InProgress = 0,
    /// See [`Status::Waiting`].
    Waiting = 1,
    /// See [`Status::AwaitingSignal`].
    AwaitingSignal = 2,
    /// See [`Status::Paused`].
    Paused = 3,
    /// See [`Status::Completed`].
    Completed = 4,
    /// See [`Status::Failed`].
    Failed = 5,
    /// See [`Status::Cancelled`].
    Cancelled = 6,
    /// See [`Status::Quarantined`].
    Quarantined = 7,
}

impl StatusCode {
    /// All codes, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::InProgress,
        Self::Waiting,
        Self::AwaitingSignal,
        Self::Paused,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Quarantined,
    ];

    /// Returns true for a status of a run that has ended.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// Returns the code with this number, if there is one.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Failure of an instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A task failed in its last attempt, a route had no arm for its key, or a loop reached its
    /// limit.
    #[error(transparent)]
    Task(TaskFailure),
    /// The workflow's deadline passed.
    #[error("the workflow's deadline passed")]
    DeadlineExceeded,
}
