//! Failures of attempts, and the marks that a task puts on its errors.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::decode_record;
use crate::id::NodePath;
use crate::limits::FAILURE_MESSAGE_BYTES_MAX;

/// Any error a task may return; `anyhow::Error` converts to it as well.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Wraps an error that no retry can fix: the task fails at once, whatever its retry policy. The
/// mark is found in every error that wraps it or has it among its sources: boxed, converted by `?`
/// into `anyhow::Error`, with or without context, or wrapped by thiserror's `#[from]`, `#[source]`
/// and `transparent`.
///
/// ```
/// use everstep::{BoxError, Permanent};
///
/// async fn parse(text: String) -> Result<u32, BoxError> {
///     text.parse().map_err(|error: std::num::ParseIntError| Permanent::new(error).into())
/// }
/// ```
#[derive(Debug)]
pub struct Permanent(Marked<Never>);

/// Wraps an error that names the time of its retry, as "429 Too Many Requests" does. This wait
/// replaces the policy's, if the policy has a retry left. The mark is found as that of
/// [`Permanent`] is.
#[derive(Debug)]
pub struct RetryAfter(Marked<Duration>);

/// The source of a [`Permanent`] or [`RetryAfter`]: the wrapped error and its mark. A transparent
/// wrapper hides the type of the error it wraps but passes on its source, so the mark is found
/// where the wrapper is not.
#[derive(Debug)]
struct Marked<M> {
    error: BoxError,
    mark: M,
}

/// Marks an error that must not be retried.
#[derive(Debug)]
struct Never;

impl Permanent {
    /// Marks `error` as permanent.
    pub fn new(error: impl Into<BoxError>) -> Self {
        Self(Marked { error: error.into(), mark: Never })
    }
}

impl RetryAfter {
    /// Marks `error` as worth a retry after `wait`.
    pub fn new(error: impl Into<BoxError>, wait: Duration) -> Self {
        Self(Marked { error: error.into(), mark: wait })
    }
}

impl<M> fmt::Display for Marked<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<M: fmt::Debug> Error for Marked<M> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.error)
    }
}

impl fmt::Display for Permanent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Permanent {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

impl fmt::Display for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for RetryAfter {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// Cause of an attempt's failure.
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
    /// A route's key function returned a key without an arm, and there is no default arm. Never
    /// retried.
    UnknownKey,
    /// A loop's body returned [`Again`](crate::LoopResult::Again) when its limit was reached. Never
    /// retried.
    LoopLimit,
}

impl FailureKind {
    /// Returns true if the retry policy applies at all.
    pub(crate) fn is_retryable(self) -> bool {
        matches!(self, Self::Error | Self::Panicked | Self::TimedOut)
    }
}

/// Final failure of a task; or of a route without an arm for its key, or of a loop at its limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("task `{task}` failed in attempt {attempt}: {message}")]
pub struct TaskFailure {
    /// The node of the task, route or loop.
    pub task: NodePath,
    /// The number of its last attempt.
    pub attempt: u32,
    /// The cause of the failure.
    pub kind: FailureKind,
    /// The text of the error.
    pub message: String,
}

impl TaskFailure {
    /// Encodes the failure as a map that collects failures keeps it: MessagePack with field names.
    pub(crate) fn to_bytes(&self) -> Bytes {
        match rmp_serde::to_vec_named(self) {
            Ok(bytes) => bytes.into(),
            Err(error) => panic!("a failure record does not encode: {error}"),
        }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        decode_record(bytes)
    }
}

/// Failure of one attempt, as reported to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptFailure {
    /// The cause of the failure.
    pub kind: FailureKind,
    /// The text of the error and its causes, cut at 2,048 bytes.
    pub message: String,
    /// The wait named by the error itself.
    pub retry_after: Option<Duration>,
}

impl AttemptFailure {
    /// Creates a failure of `kind` with `message`, cut to its limit.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        let end = message.floor_char_boundary(FAILURE_MESSAGE_BYTES_MAX);
        message.truncate(end);
        Self { kind, message, retry_after: None }
    }

    /// Converts an error returned by a task, with its marks.
    pub fn from_error(error: &BoxError) -> Self {
        let first: &(dyn Error + 'static) = &**error;
        let chain = || std::iter::successors(Some(first), |error: &&'_ (dyn Error + 'static)| Error::source(*error));
        let permanent = chain().any(<dyn Error>::is::<Marked<Never>>);
        let kind = if permanent { FailureKind::Permanent } else { FailureKind::Error };
        let retry_after = chain().find_map(|error| error.downcast_ref::<Marked<Duration>>()).map(|marked| marked.mark);
        Self { retry_after, ..Self::new(kind, message(chain())) }
    }
}

/// Joins the texts of an error and its causes, each once: many errors repeat their cause in their
/// own text.
fn message<'a>(chain: impl Iterator<Item = &'a (dyn Error + 'static)>) -> String {
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
    enum Wrapped<E: Error + 'static> {
        #[error(transparent)]
        Transparent(#[from] E),
        #[error("paying failed")]
        Source(#[source] E),
        #[error(transparent)]
        Boxed(BoxError),
        #[error(transparent)]
        Anyhow(anyhow::Error),
    }

    type Wrap<E> = (&'static str, fn(E) -> BoxError);

    /// Returns ways in which users wrap an error on its way out of a task.
    fn wraps<E: Error + Send + Sync + 'static>() -> Vec<Wrap<E>> {
        use anyhow::Context as _;
        vec![
            ("boxed", |error| error.into()),
            ("twice boxed", |error| Box::new(Wrapped::<E>::Boxed(error.into()))),
            ("in an Arc", |error| std::sync::Arc::new(error).into()),
            ("in an io::Error", |error| std::io::Error::other(error).into()),
            ("anyhow", |error| anyhow::Error::from(error).into()),
            ("anyhow with context", |error| anyhow::Error::from(error).context("outer").into()),
            ("anyhow with two contexts", |error| {
                Err::<(), _>(error).context("inner").context("outer").unwrap_err().into()
            }),
            ("anyhow in anyhow", |error| {
                let inner: BoxError = anyhow::Error::from(error).into();
                anyhow::Error::from_boxed(inner).into()
            }),
            ("transparent", |error| Wrapped::Transparent(error).into()),
            ("source", |error| Wrapped::Source(error).into()),
            ("transparent, anyhow", |error| anyhow::Error::from(Wrapped::Transparent(error)).into()),
            ("anyhow, transparent", |error| Wrapped::<E>::Anyhow(anyhow::Error::from(error)).into()),
            ("source, anyhow, context", |error| anyhow::Error::from(Wrapped::Source(error)).context("outer").into()),
        ]
    }

    #[test]
    fn permanent_is_found_in_any_wrapper() {
        for (name, wrap) in wraps::<Permanent>() {
            let failure = AttemptFailure::from_error(&wrap(Permanent::new("gone")));
            assert_eq!(failure.kind, FailureKind::Permanent, "{name}");
            assert!(failure.message.ends_with("gone") && failure.message.matches("gone").count() == 1, "{name}");
        }
    }

    #[test]
    fn retry_after_is_found_in_any_wrapper() {
        let wait = Duration::from_secs(3);
        for (name, wrap) in wraps::<RetryAfter>() {
            let failure = AttemptFailure::from_error(&wrap(RetryAfter::new("busy", wait)));
            assert_eq!((failure.kind, failure.retry_after), (FailureKind::Error, Some(wait)), "{name}");
        }
    }

    #[test]
    fn marked_error_stays_reachable_by_type() {
        let error: BoxError = Permanent::new("x".parse::<u32>().unwrap_err()).into();
        let inner = error.source().and_then(Error::source).unwrap();
        assert!(inner.is::<std::num::ParseIntError>());
        let failure = AttemptFailure::from_error(&error);
        assert_eq!(failure.message, "invalid digit found in string");
    }

    #[test]
    fn long_message_is_cut_at_a_character() {
        let failure = AttemptFailure::new(FailureKind::Error, "é".repeat(2_000));
        assert_eq!(failure.message.len(), 2_048);
        assert_eq!(AttemptFailure::new(FailureKind::Error, format!("a{}", "é".repeat(2_000))).message.len(), 2_047);
    }
}
