//! Payloads in `Debug`: debug output ends up in logs, where payloads must not appear.

use std::fmt;

/// Bytes that may hold a payload. Their `Debug` shows how many there are, and none of them.
pub(crate) struct Hidden<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
