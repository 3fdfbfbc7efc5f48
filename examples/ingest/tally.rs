//! Results and latencies of the job.

use std::time::Duration;

/// Results of the whole job in this process.
#[derive(Default)]
pub(crate) struct Tally {
    /// Files recorded by this process.
    pub(crate) now: u64,
    /// Files whose instances had ended before.
    pub(crate) before: u64,
    /// Files and directories that failed, with the reason.
    pub(crate) failed: Vec<(String, String)>,
    /// Entries that are not files.
    pub(crate) left_out: usize,
    /// Time spent working, without waiting for a person.
    pub(crate) worked: Duration,
    pub(crate) starts: Latencies,
    pub(crate) ends: Latencies,
    pub(crate) approvals: Latencies,
}

impl Tally {
    pub(crate) fn new(unreadable: Vec<(String, String)>, left_out: usize) -> Self {
        Self { failed: unreadable, left_out, ..Self::default() }
    }

    /// Returns true if every file was recorded before.
    pub(crate) fn is_idle(&self) -> bool {
        self.now == 0 && self.failed.is_empty() && self.before > 0
    }
}

/// Measured latencies.
#[derive(Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    /// Adds a latency, if it was measured.
    pub(crate) fn add(&mut self, latency: Option<Duration>) {
        self.0.extend(latency);
    }

    /// Returns the median, the 99th percentile and the longest; `None` if nothing was measured.
    pub(crate) fn quantiles(&self) -> Option<[Duration; 3]> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at =
            |percent: usize| sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied();
        Some([at(50)?, at(99)?, *sorted.last()?])
    }
}
