//! Payloads in `Debug`: what is shown ends up in logs, and a payload must not.

use std::fmt;

/// Bytes that may be a payload's, as `Debug` shows them: how many there are, never which.
pub(crate) struct Hidden<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
