//! The output at the end, and how all output is written: a closed pipe must not panic, as with
//! `println!`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use crate::report::{Report, Sum, Totals};
use crate::tally::{Latencies, Tally};
use crate::tasks::DELAY;

/// Failed files that are listed one by one.
const FAILED_SHOWN_MAX: usize = 50;

/// Writes a line to standard output.
pub(crate) fn say(line: &str) {
    let _closed = writeln!(std::io::stdout(), "{line}");
}

/// Writes a line to standard error.
pub(crate) fn warn(line: &str) {
    let _closed = writeln!(std::io::stderr(), "{line}");
}

/// Prints the totals of the report and the time of this run.
pub(crate) fn print(report: &Report, tally: &Tally, tasks: u64) {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = headline(&mut out, report, tally, tasks)
        .and_then(|()| languages(&mut out, &report.totals()))
        .and_then(|()| speed(&mut out, tally, tasks))
        .and_then(|()| troubles(&mut out, tally));
    say(out.trim_end());
}

fn headline(out: &mut String, report: &Report, tally: &Tally, tasks: u64) -> std::fmt::Result {
    let at = report.path().display();
    // There may be tasks without a file recorded now: instances left by a kill ended before the job
    // asked for them.
    if tally.is_idle() && tasks == 0 {
        writeln!(out, "nothing to do: all {} files are recorded", grouped(tally.before))?;
    }
    writeln!(out, "{at}: {} recorded now, {} before", grouped(tally.now), grouped(tally.before))
}

fn languages(out: &mut String, totals: &Totals) -> std::fmt::Result {
    let row = |out: &mut String, name: &str, sum: &Sum| {
        writeln!(out, "  {name:<18} {:>9} {:>15} {:>13}", grouped(sum.files), grouped(sum.bytes), grouped(sum.lines))
    };
    let mut by_bytes: Vec<_> = totals.by_language.iter().collect();
    by_bytes.sort_by_key(|(name, sum)| (std::cmp::Reverse(sum.bytes), *name));
    writeln!(out, "  {:<18} {:>9} {:>15} {:>13}", "language", "files", "bytes", "lines")?;
    by_bytes.into_iter().try_for_each(|(name, sum)| row(out, name, sum))?;
    row(out, "all", &totals.all)
}

fn speed(out: &mut String, tally: &Tally, tasks: u64) -> std::fmt::Result {
    if tasks == 0 {
        return Ok(());
    }
    let seconds = tally.worked.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
    let per_second = tasks as f64 / seconds.max(1e-9);
    writeln!(out, "  {} tasks in {seconds:.2} s: {per_second:.0} tasks per second", grouped(tasks))?;
    writeln!(out, "  {:<40} {:>10} {:>10} {:>10}", "latency, ms", "p50", "p99", "max")?;
    latencies(out, "start until it is durable", &tally.starts)?;
    let delay = format!("start to end, {} ms delay included", DELAY.as_millis());
    latencies(out, &delay, &tally.ends)?;
    latencies(out, "approval to end", &tally.approvals)
}

fn latencies(out: &mut String, name: &str, latencies: &Latencies) -> std::fmt::Result {
    let Some(quantiles) = latencies.quantiles() else { return Ok(()) };
    let [p50, p99, max] = quantiles.map(|one: Duration| one.as_secs_f64() * 1e3);
    writeln!(out, "  {name:<40} {p50:>10.2} {p99:>10.2} {max:>10.2}")
}

fn troubles(out: &mut String, tally: &Tally) -> std::fmt::Result {
    if tally.left_out > 0 {
        writeln!(out, "  {} left out: links to directories, devices, pipes or sockets", tally.left_out)?;
    }
    if tally.failed.is_empty() {
        return Ok(());
    }
    writeln!(out, "{} failed; start the job again to retry them:", tally.failed.len())?;
    for (path, why) in tally.failed.iter().take(FAILED_SHOWN_MAX) {
        writeln!(out, "  {path}: {why}")?;
    }
    match tally.failed.len().saturating_sub(FAILED_SHOWN_MAX) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more"),
    }
}

/// Formats 1234567 as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
