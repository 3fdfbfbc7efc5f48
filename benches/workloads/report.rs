//! Figures, for readers and for machines.

use std::time::Duration;

use serde::Serialize;

/// One line of results.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) workload: String,
    pub(crate) store: &'static str,
    pub(crate) durability: String,
    pub(crate) tasks: usize,
    pub(crate) in_flight: usize,
    /// Instances, or records, of the median round.
    pub(crate) count: usize,
    pub(crate) rounds: usize,
    /// Tasks, or records, per second: the median of the rounds.
    pub(crate) per_s: f64,
    pub(crate) per_s_min: f64,
    pub(crate) per_s_max: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// Bytes that the process wrote for each task or record: as it handed them to the system, and
    /// as the system put them on the disk, where a sync writes whole pages.
    pub(crate) bytes_written: f64,
    pub(crate) bytes_on_disk: f64,
    pub(crate) rss_bytes: u64,
    pub(crate) limit_per_s: f64,
    pub(crate) ratio_to_limit: f64,
}

/// Result of one round.
pub(crate) struct Round {
    pub(crate) steps: usize,
    pub(crate) count: usize,
    pub(crate) elapsed: Duration,
    pub(crate) latencies: Vec<Duration>,
    pub(crate) written: Written,
}

/// Bytes this process has written so far, or in a round.
#[derive(Clone, Copy, Default)]
pub(crate) struct Written {
    /// Bytes handed to the system.
    pub(crate) bytes: u64,
    /// Bytes put on disks, in whole pages.
    pub(crate) on_disk: u64,
}

impl Round {
    pub(crate) fn per_s(&self) -> f64 {
        self.steps as f64 / self.elapsed.as_secs_f64()
    }
}

/// Returns the median round by throughput, and latencies over all rounds.
pub(crate) fn figures(options: &super::Options, mut rounds: Vec<Round>, limit_per_s: f64) -> Figures {
    let mut latencies: Vec<f64> =
        rounds.iter().flat_map(|round| &round.latencies).map(|one| one.as_secs_f64() * 1e3).collect();
    latencies.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let last = latencies.len().saturating_sub(1);
        latencies.get((last as f64 * part).round() as usize).copied().unwrap_or_default()
    };
    rounds.sort_by(|a, b| a.per_s().total_cmp(&b.per_s()));
    let median = &rounds[rounds.len() / 2];
    let extreme = |round: Option<&Round>| round.map_or(0.0, Round::per_s);
    Figures {
        workload: options.workload.name(),
        store: "file",
        durability: format!("{:?}", options.durability()),
        tasks: options.tasks,
        in_flight: options.in_flight,
        count: median.count,
        rounds: rounds.len(),
        per_s: median.per_s(),
        per_s_min: extreme(rounds.first()),
        per_s_max: extreme(rounds.last()),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        bytes_written: median.written.bytes as f64 / median.steps.max(1) as f64,
        bytes_on_disk: median.written.on_disk as f64 / median.steps.max(1) as f64,
        rss_bytes: rss_bytes(),
        limit_per_s,
        ratio_to_limit: if limit_per_s > 0.0 { median.per_s() / limit_per_s } else { 0.0 },
    }
}

impl Figures {
    pub(crate) fn print(&self, json: bool) -> Result<(), serde_json::Error> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let Self { workload, tasks, in_flight, count, rounds, durability, .. } = self;
        println!(
            "{workload}: {tasks} tasks, {in_flight} in flight, {count} in the median of {rounds} rounds, {durability}"
        );
        println!("  per second {:>12.0}  ({:.0} to {:.0})", self.per_s, self.per_s_min, self.per_s_max);
        println!("  latency    {:>12.2} ms p50, {:.2} ms p99, {:.2} ms at most", self.p50_ms, self.p99_ms, self.max_ms);
        let (written, on_disk, rss) = (self.bytes_written, self.bytes_on_disk, self.rss_bytes as f64 / 1e6);
        println!("  written    {written:>12.0} B each, {on_disk:.0} B in pages; {rss:.1} MB in memory");
        if self.limit_per_s > 0.0 {
            println!("  bare log   {:>12.0} records per second: {:.2} of it", self.limit_per_s, self.ratio_to_limit);
        }
        Ok(())
    }
}

impl Written {
    /// Returns the bytes up to now.
    pub(crate) fn so_far() -> Self {
        let field = |name| proc_field("/proc/self/io", name);
        Self { bytes: field("wchar:"), on_disk: field("write_bytes:") }
    }

    /// Returns the bytes since `then`.
    pub(crate) fn since(then: Self) -> Self {
        let now = Self::so_far();
        Self { bytes: now.bytes - then.bytes, on_disk: now.on_disk - then.on_disk }
    }
}

/// Returns the resident memory of this process.
pub(crate) fn rss_bytes() -> u64 {
    proc_field("/proc/self/status", "VmRSS:") * 1024
}

fn proc_field(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
