//! Retry policies of tasks.

use std::time::Duration;

/// Number of retries of a failed task, and the waits before them.
///
/// The wait before retry `n` is `initial * multiplier^(n-1)`, at most `max_delay`, less a random
/// part of up to `jitter` of it. An error may name its own wait ([`RetryAfter`](crate::RetryAfter))
/// or refuse retries ([`Permanent`](crate::Permanent)). After a restart of the process, the rest of
/// a wait is still waited for.
///
/// The default is no retry: [`RetryPolicy::none`].
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    max_retries: u32,
    initial: Duration,
    multiplier: f64,
    max_delay: Duration,
    jitter: f64,
}

impl RetryPolicy {
    /// Creates a policy without retries: the first failure is final.
    pub const fn none() -> Self {
        Self::fixed(0, Duration::ZERO)
    }

    /// Creates a policy of up to `max_retries` retries, each after `delay`.
    pub const fn fixed(max_retries: u32, delay: Duration) -> Self {
        Self { max_retries, initial: delay, multiplier: 1.0, max_delay: delay, jitter: 0.0 }
    }

    /// Creates a policy of up to `max_retries` retries, after 100 ms, 200 ms, 400 ms and so on up
    /// to a minute, with 20 % jitter.
    pub const fn exponential(max_retries: u32) -> Self {
        Self {
            max_retries,
            initial: Duration::from_millis(100),
            multiplier: 2.0,
            max_delay: Duration::from_mins(1),
            jitter: 0.2,
        }
    }

    /// Sets the wait before the first retry.
    pub const fn initial(mut self, delay: Duration) -> Self {
        self.initial = delay;
        self
    }

    /// Sets the factor from one wait to the next. A factor below 1, or not a number, counts as 1.
    pub const fn multiplier(mut self, factor: f64) -> Self {
        self.multiplier = if factor >= 1.0 { factor } else { 1.0 };
        self
    }

    /// Sets the longest wait.
    pub const fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Sets the random part of each wait, 0 to 1: with 0.2 a wait of 10 s takes 8 to 10 s. Other
    /// numbers are clamped to that range.
    pub const fn jitter(mut self, part: f64) -> Self {
        self.jitter = if part >= 1.0 {
            1.0
        } else if part > 0.0 {
            part
        } else {
            0.0
        };
        self
    }

    /// Returns the number of retries after the first attempt; 0 means none.
    pub const fn max_retries(&self) -> u32 {
        self.max_retries
    }

    /// Returns the wait after failed attempt number `attempt` (from 1), or `None` if there is no
    /// retry left. `chance` decides the jitter, so that equal inputs give equal waits.
    pub(crate) fn delay_after(&self, attempt: u32, chance: u64) -> Option<Duration> {
        if attempt > self.max_retries {
            return None;
        }
        // Zero times an infinite factor would be NaN.
        if self.initial.is_zero() {
            return Some(Duration::ZERO);
        }
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let factor = self.multiplier.powi(exponent);
        // An f64 holds 53 bits exactly.
        #[expect(clippy::cast_precision_loss, reason = "the low bits of chance do not matter")]
        let chance = (chance >> 11) as f64 / (1_u64 << 53) as f64;
        let seconds = (self.initial.as_secs_f64() * factor).min(self.max_delay.as_secs_f64());
        Some(Duration::try_from_secs_f64(seconds * (1.0 - self.jitter * chance)).unwrap_or(self.max_delay))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_end_with_the_retries() {
        let policy = RetryPolicy::exponential(5).max_delay(Duration::from_millis(300)).jitter(0.0);
        let waits: Vec<_> = (1..=6).map(|attempt| policy.delay_after(attempt, 0)).collect();
        let millis = |n| Some(Duration::from_millis(n));
        assert_eq!(waits, [millis(100), millis(200), millis(300), millis(300), millis(300), None]);
    }

    #[test]
    fn no_retries_means_none_and_huge_numbers_stay_capped() {
        assert_eq!(RetryPolicy::none().delay_after(1, 0), None);
        let policy = RetryPolicy::exponential(u32::MAX).multiplier(f64::MAX);
        assert_eq!(policy.delay_after(u32::MAX, 0), Some(Duration::from_mins(1)));
    }

    /// Method: try every combination of extreme numbers. A wait is never longer than the longest,
    /// nor shorter than the initial one (or the longest, if that is shorter) less its jitter.
    #[test]
    fn extreme_policies_keep_waits_within_bounds() {
        let times = [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1), Duration::MAX];
        let factors = [f64::NEG_INFINITY, -1.0, 0.0, 0.5, 1.0, 2.0, f64::MAX, f64::INFINITY, f64::NAN];
        let jitters = [f64::NEG_INFINITY, -1.0, 0.0, 0.5, 1.0, 2.0, f64::NAN];
        for initial in times {
            for max_delay in times {
                for factor in factors {
                    for jitter in jitters {
                        let policy = RetryPolicy::exponential(u32::MAX).initial(initial).max_delay(max_delay);
                        assert_bounded(&policy.multiplier(factor).jitter(jitter));
                    }
                }
            }
        }
    }

    fn assert_bounded(policy: &RetryPolicy) {
        let least = policy.initial.min(policy.max_delay).as_secs_f64() * (1.0 - policy.jitter);
        for attempt in [1, 2, 1_024, 1_025, u32::MAX - 1, u32::MAX] {
            for chance in [0, u64::MAX / 2, u64::MAX] {
                let wait = policy.delay_after(attempt, chance).unwrap();
                assert!(wait <= policy.max_delay, "{policy:?}, attempt {attempt}: {wait:?}");
                // An f64 holds 15 digits, and a duration whole nanoseconds.
                let tolerated = least * (1.0 - 1e-9) - 1e-9;
                assert!(wait.as_secs_f64() >= tolerated, "{policy:?}, attempt {attempt}: {wait:?}");
                if policy.initial.is_zero() {
                    assert_eq!(wait, Duration::ZERO, "{policy:?}, attempt {attempt}");
                }
            }
        }
    }

    #[test]
    fn jitter_takes_at_most_its_part() {
        let policy = RetryPolicy::fixed(1, Duration::from_secs(10)).jitter(0.2);
        assert_eq!(policy.delay_after(1, 0), Some(Duration::from_secs(10)));
        let least = policy.delay_after(1, u64::MAX).unwrap();
        assert!(least >= Duration::from_millis(7_999) && least < Duration::from_millis(8_001), "{least:?}");
    }
}
