//! The output at the end, and how all output is written: a closed pipe must not panic, as with
//! `println!`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use crate::job::End;
use crate::report::{Sum, Summary};

/// Writes a line to standard output.
pub(crate) fn say(line: &str) {
    let _closed = writeln!(std::io::stdout(), "{line}");
}

/// Writes a line to standard error.
pub(crate) fn warn(line: &str) {
    let _closed = writeln!(std::io::stderr(), "{line}");
}

/// Prints how the job has ended.
pub(crate) fn print(end: &End, report: &Path) {
    let report = report.display();
    match end {
        End::Done(summary, now) => {
            let before = files(summary).saturating_sub(*now);
            say(&format!("{report}: {} files done now, {} before", grouped(*now), grouped(before)));
            table(summary);
        }
        End::DoneBefore(summary) => {
            say(&format!("{report}: was complete before; use --again to make a new one"));
            table(summary);
        }
        End::Waiting => say("the report still waits for approval: start the job again to be asked"),
        End::Failed(why) => warn(&format!("{why}\nstart the job again to continue where it failed")),
        End::Stopped => warn("stopped; start the job again to continue"),
    }
}

/// Files with a card.
fn files(summary: &Summary) -> u64 {
    summary.kinds.values().map(|sum| sum.files).sum()
}

fn table(summary: &Summary) {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = rows(&mut out, summary).and_then(|()| failed(&mut out, summary));
    say(out.trim_end());
}

fn rows(out: &mut String, summary: &Summary) -> std::fmt::Result {
    writeln!(out, "  {:<12} {:>9} {:>15} {:>13} {:>13}", "kind", "files", "bytes", "lines", "words")?;
    let mut all = Sum::default();
    for (kind, sum) in &summary.kinds {
        all.add(*sum);
        row(out, &format!("{kind:?}").to_lowercase(), sum)?;
    }
    row(out, "all", &all)
}

fn row(out: &mut String, name: &str, sum: &Sum) -> std::fmt::Result {
    let Sum { files, bytes, lines, words } = *sum;
    let [files, bytes, lines, words] = [files, bytes, lines, words].map(grouped);
    writeln!(out, "  {name:<12} {files:>9} {bytes:>15} {lines:>13} {words:>13}")
}

fn failed(out: &mut String, summary: &Summary) -> std::fmt::Result {
    if summary.failed == 0 {
        return Ok(());
    }
    writeln!(out, "{} failed; use --again to try all files again:", grouped(summary.failed))?;
    for why in &summary.first_failed {
        writeln!(out, "  {why}")?;
    }
    match summary.failed.saturating_sub(summary.first_failed.len() as u64) {
        0 => Ok(()),
        more => writeln!(out, "  and {} more, which the report lists", grouped(more)),
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
