//! What an error rests on, in errors that are cloned and compared.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// What went wrong: a text, and the error that said so, if there is one. Made from either.
///
/// ```
/// use std::error::Error as _;
/// use everstep::{Cause, StoreError};
///
/// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// let error = StoreError::Transient(Cause::of(refused));
/// assert_eq!(error.to_string(), "the store is not available just now: connection refused");
/// assert!(error.source().unwrap().is::<std::io::Error>());
/// assert_eq!(StoreError::Fatal("the disk is gone".into()).to_string(), "the store failed: the disk is gone");
/// ```
#[derive(Clone)]
pub struct Cause {
    text: Arc<str>,
    error: Option<Arc<dyn Error + Send + Sync>>,
}

impl Cause {
    /// Keeps the error, and shows its text.
    pub fn of(error: impl Error + Send + Sync + 'static) -> Self {
        Self { text: error.to_string().into(), error: Some(Arc::new(error)) }
    }

    /// Returns the error, if it was made from one.
    pub fn error(&self) -> Option<&(dyn Error + 'static)> {
        self.error.as_deref().map(|error| error as _)
    }
}

impl<T: Into<Arc<str>>> From<T> for Cause {
    fn from(text: T) -> Self {
        Self { text: text.into(), error: None }
    }
}

/// Two causes are equal if they say the same.
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

/// The error behind the text; the text is that error's.
impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error().and_then(Error::source)
    }
}
