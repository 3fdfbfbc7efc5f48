//! How an attempt fails, and how a task says what that means.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::decode_record;
use crate::id::NodePath;
use crate::limits::FAILURE_MESSAGE_BYTES_MAX;

/// Any error a task may return; `anyhow::Error` converts to it as well.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Wraps an error that no retry can mend: the task fails at once, whatever its retry policy. Found also as the source of
/// another error.
///
/// ```
/// use everstep::{BoxError, Permanent};
///
/// async fn parse(text: String) -> Result<u32, BoxError> {
///     text.parse().map_err(|error: std::num::ParseIntError| Permanent::new(error).into())
/// }
/// ```
#[derive(Debug)]
pub struct Permanent(BoxError);

impl Permanent {
    /// Marks `error` as permanent.
    pub fn new(error: impl Into<BoxError>) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Permanent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Permanent {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Wraps an error that says itself when to try again, as "429 Too Many Requests" does. Used in place of the policy's
/// wait, if the policy has a retry left.
#[derive(Debug)]
pub struct RetryAfter(BoxError, Duration);

impl RetryAfter {
    /// Marks `error` as worth a retry after `wait`.
    pub fn new(error: impl Into<BoxError>, wait: Duration) -> Self {
        Self(error.into(), wait)
    }
}

impl fmt::Display for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for RetryAfter {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// What made an attempt fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// The task returned an error.
    Error,
    /// The task returned an error marked [`Permanent`].
    Permanent,
    /// The task panicked.
    Panicked,
    /// The attempt ran longer than its timeout.
    TimedOut,
    /// The input did not decode or the output did not encode. Never retried.
    Codec,
    /// A route's key function gave a key that has no arm, and there is no default arm. Never retried.
    UnknownKey,
    /// A loop's body said [`Again`](crate::LoopResult::Again) when its limit was reached. Never retried.
    LoopLimit,
}

impl FailureKind {
    /// Whether the retry policy is asked at all.
    pub(crate) fn is_retryable(self) -> bool {
        matches!(self, Self::Error | Self::Panicked | Self::TimedOut)
    }
}

/// A task's final failure; or that of a route that knows no arm for its key, or of a loop that reached its limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("task `{task}` failed in attempt {attempt}: {message}")]
pub struct TaskFailure {
    /// The task's node, or the route's or loop's.
    pub task: NodePath,
    /// The attempt that was its last.
    pub attempt: u32,
    /// What made it fail.
    pub kind: FailureKind,
    /// The error's text.
    pub message: String,
}

impl TaskFailure {
    /// As a map keeps it that collects failures: MessagePack with field names.
    pub(crate) fn to_bytes(&self) -> Bytes {
        match rmp_serde::to_vec_named(self) {
            Ok(bytes) => bytes.into(),
            Err(error) => panic!("a failure of ours does not encode: {error}"),
        }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        decode_record(bytes)
    }
}

/// One failed attempt, as the machine is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptFailure {
    /// What made it fail.
    pub kind: FailureKind,
    /// The text of the error and its causes, cut at 2,048 bytes.
    pub message: String,
    /// The wait the error named itself.
    pub retry_after: Option<Duration>,
}

impl AttemptFailure {
    /// A failure of `kind` with `message`, cut to its limit.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        let end = message.floor_char_boundary(FAILURE_MESSAGE_BYTES_MAX);
        message.truncate(end);
        Self { kind, message, retry_after: None }
    }

    /// What the task's own error means.
    pub fn from_error(error: &BoxError) -> Self {
        let first: &(dyn std::error::Error + 'static) = &**error;
        let chain = || std::iter::successors(Some(first), |error| error.source());
        let permanent = chain().any(<dyn std::error::Error>::is::<Permanent>);
        let kind = if permanent { FailureKind::Permanent } else { FailureKind::Error };
        let retry_after = chain().find_map(|error| error.downcast_ref::<RetryAfter>()).map(|RetryAfter(_, wait)| *wait);
        Self { retry_after, ..Self::new(kind, message(chain())) }
    }
}

/// What an error and its causes say, each once: many errors repeat their cause in their own text.
fn message<'a>(chain: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    let mut message = String::new();
    for text in chain.map(ToString::to_string) {
        if !message.contains(&text) {
            if !message.is_empty() {
                message.push_str(": ");
            }
            message.push_str(&text);
        }
        if message.len() > FAILURE_MESSAGE_BYTES_MAX {
            break;
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("paying failed")]
    struct Paying(#[source] Permanent);

    #[test]
    fn markers_count_and_causes_are_told_also_behind_an_error_of_the_users() {
        let failure = AttemptFailure::from_error(&Paying(Permanent::new("no such card")).into());
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Permanent, "paying failed: no such card"));
    }

    #[test]
    fn markers_are_found_and_leave_the_message_as_it_was() {
        let permanent = AttemptFailure::from_error(&Permanent::new("gone").into());
        assert_eq!((permanent.kind, permanent.message.as_str()), (FailureKind::Permanent, "gone"));
        let later = AttemptFailure::from_error(&RetryAfter::new("busy", Duration::from_secs(3)).into());
        assert_eq!((later.kind, later.retry_after), (FailureKind::Error, Some(Duration::from_secs(3))));
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let failure = AttemptFailure::new(FailureKind::Error, "é".repeat(2_000));
        assert_eq!(failure.message.len(), 2_048);
        assert_eq!(AttemptFailure::new(FailureKind::Error, format!("a{}", "é".repeat(2_000))).message.len(), 2_047);
    }
}
