//! Points in wall-clock time, as the store keeps them. Pure: [`crate::clock`] reads the clock.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// A point in wall-clock time, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// The latest point that [`after`](Self::after) returns: `i64::MAX` microseconds, in the year
    /// 294247. Every database can hold it.
    pub const LAST: Self = Self(i64::MAX as u64);

    /// Creates a point from microseconds since the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Returns the microseconds since the Unix epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Converts the point to the standard library's type, for display.
    pub fn to_system_time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(self.0)
    }

    /// Returns the point `duration` later, at most [`Timestamp::LAST`]. Rounds up to a microsecond,
    /// so that a wait is never short.
    pub fn after(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX);
        // A later time stored by an earlier version must not move back.
        Self(self.0.saturating_add(micros).min(Self::LAST.0.max(self.0)))
    }

    /// Returns the point `duration` earlier, at least the epoch.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Returns the time passed since `earlier`; zero if this point is before it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_after_saturates_at_i64_max() {
        assert_eq!(Timestamp::EPOCH.after(Duration::MAX), Timestamp::LAST);
        assert_eq!(Timestamp::from_micros(5).after(Duration::from_nanos(1)), Timestamp::from_micros(6));
        assert_eq!(Timestamp::LAST.after(Duration::from_micros(1)), Timestamp::LAST);
        let stored = Timestamp::from_micros(u64::MAX - 1);
        assert_eq!(stored.after(Duration::from_secs(1)), stored);
    }
}
