//! Progress of the job: a bar on a terminal, a line each second elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::summary::warn;

/// Time between lines if there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Counts finished files, on standard error.
pub(crate) struct Progress {
    what: &'static str,
    total: usize,
    done: usize,
    /// Absent if there is no terminal.
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(what, total as u64));
        Self { what, total, done: 0, bar, last_line: Instant::now() }
    }

    /// Counts one more finished file.
    pub(crate) fn one(&mut self) {
        self.done += 1;
        match &self.bar {
            Some(bar) => bar.inc(1),
            None if self.last_line.elapsed() >= LINE_EVERY => self.line(),
            None => {}
        }
    }

    /// Clears the bar, or writes a last line.
    pub(crate) fn end(mut self) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => self.line(),
        }
    }

    fn line(&mut self) {
        self.last_line = Instant::now();
        warn(&format!("{}: {} of {} files", self.what, self.done, self.total));
    }
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    let template = "{msg} {wide_bar} {human_pos} of {human_len} files, {per_sec:.0}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total).with_style(style).with_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
