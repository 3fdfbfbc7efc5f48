//! A point in wall-clock time, as the store keeps it. Pure: reading the clock is [`crate::clock`]'s business.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch, by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// The last point that [`after`](Self::after) gives: `i64::MAX` microseconds, in the year 294247, so that every database
    /// can hold it.
    pub const LAST: Self = Self(i64::MAX as u64);

    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The same as the standard library's type, for showing it.
    pub fn to_system_time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(self.0)
    }

    /// The point `duration` later, rounded up to a microsecond so that a wait is never short; at most [`Timestamp::LAST`].
    pub fn after(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX);
        // Never back, from a later time that an earlier version stored.
        Self(self.0.saturating_add(micros).min(Self::LAST.0.max(self.0)))
    }

    /// The point `duration` earlier; at most the epoch.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_ends_where_a_signed_number_does() {
        assert_eq!(Timestamp::EPOCH.after(Duration::MAX), Timestamp::LAST);
        assert_eq!(Timestamp::from_micros(5).after(Duration::from_nanos(1)), Timestamp::from_micros(6));
        assert_eq!(Timestamp::LAST.after(Duration::from_micros(1)), Timestamp::LAST);
        let stored = Timestamp::from_micros(u64::MAX - 1);
        assert_eq!(stored.after(Duration::from_secs(1)), stored);
    }
}
