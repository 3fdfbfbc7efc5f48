//! How an attempt fails, and how a task says what that means.

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

/// Wraps an error that no retry can mend: the task fails at once, whatever its retry policy. Found in every error that it is
/// turned into or that has it among its sources: boxed, by `?` into `anyhow::Error`, with or without context, by thiserror's
/// `#[from]`, `#[source]` and `transparent`.
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

/// Wraps an error that says itself when to try again, as "429 Too Many Requests" does. Used in place of the policy's
/// wait, if the policy has a retry left. Found as [`Permanent`] is.
#[derive(Debug)]
pub struct RetryAfter(Marked<Duration>);

/// The error in a [`Permanent`] or [`RetryAfter`], and what that says of it: their source. An error that stands for another one
/// hides that one's type but hands on its source, so the mark is found where its wrapper is not.
#[derive(Debug)]
struct Marked<M> {
    error: BoxError,
    mark: M,
}

/// Not to be tried again.
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
        let first: &(dyn Error + 'static) = &**error;
        let chain = || std::iter::successors(Some(first), |error: &&'_ (dyn Error + 'static)| Error::source(*error));
        let permanent = chain().any(<dyn Error>::is::<Marked<Never>>);
        let kind = if permanent { FailureKind::Permanent } else { FailureKind::Error };
        let retry_after = chain().find_map(|error| error.downcast_ref::<Marked<Duration>>()).map(|marked| marked.mark);
        Self { retry_after, ..Self::new(kind, message(chain())) }
    }
}

/// What an error and its causes say, each once: many errors repeat their cause in their own text.
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

    /// What users do to an error on its way out of a task.
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
    fn permanent_is_found_however_it_is_wrapped() {
        for (name, wrap) in wraps::<Permanent>() {
            let failure = AttemptFailure::from_error(&wrap(Permanent::new("gone")));
            assert_eq!(failure.kind, FailureKind::Permanent, "{name}");
            assert!(failure.message.ends_with("gone") && failure.message.matches("gone").count() == 1, "{name}");
        }
    }

    #[test]
    fn retry_after_is_found_however_it_is_wrapped() {
        let wait = Duration::from_secs(3);
        for (name, wrap) in wraps::<RetryAfter>() {
            let failure = AttemptFailure::from_error(&wrap(RetryAfter::new("busy", wait)));
            assert_eq!((failure.kind, failure.retry_after), (FailureKind::Error, Some(wait)), "{name}");
        }
    }

    #[test]
    fn marked_error_stays_reachable_by_its_type() {
        let error: BoxError = Permanent::new("x".parse::<u32>().unwrap_err()).into();
        let inner = error.source().and_then(Error::source).unwrap();
        assert!(inner.is::<std::num::ParseIntError>());
        let failure = AttemptFailure::from_error(&error);
        assert_eq!(failure.message, "invalid digit found in string");
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let failure = AttemptFailure::new(FailureKind::Error, "é".repeat(2_000));
        assert_eq!(failure.message.len(), 2_048);
        assert_eq!(AttemptFailure::new(FailureKind::Error, format!("a{}", "é".repeat(2_000))).message.len(), 2_047);
    }
}
