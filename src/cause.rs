//! Causes of errors, for errors that are cloned and compared.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// A cause of an error: a text, and the underlying error if there is one. Can be made from either.
///
/// ```
/// use std::error::Error as _;
/// use everstep::{Cause, StoreError};
///
/// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// let error = StoreError::Transient(Cause::of(refused));
/// assert_eq!(error.to_string(), "the store is temporarily unavailable: connection refused");
/// assert!(error.source().unwrap().is::<std::io::Error>());
/// let error = StoreError::Fatal("the disk is gone".into());
/// assert_eq!(error.to_string(), "the store failed: the disk is gone");
/// ```
#[derive(Clone)]
pub struct Cause {
    text: Arc<str>,
    error: Option<Arc<dyn Error + Send + Sync>>,
}

impl Cause {
    /// Keeps the error, and takes its text.
    pub fn of(error: impl Error + Send + Sync + 'static) -> Self {
        Self { text: error.to_string().into(), error: Some(Arc::new(error)) }
    }

    /// Returns the error, if the cause was made from one.
    pub fn error(&self) -> Option<&(dyn Error + 'static)> {
        self.error.as_deref().map(|error| error as _)
    }
}

impl<T: Into<Arc<str>>> From<T> for Cause {
    fn from(text: T) -> Self {
        Self { text: text.into(), error: None }
    }
}

/// Causes are equal if their texts are.
impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Cause {}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The source is that of the underlying error, whose text this already shows.
impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error().and_then(Error::source)
    }
}
