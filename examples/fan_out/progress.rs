//! Progress of the job: a bar on a terminal, a line each second elsewhere.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::files::FileName;
use crate::table::warn;

/// Time between lines if there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Counts finished files, on standard error. A service, since the tasks know when a file is
/// finished.
pub(crate) struct Progress {
    /// Absent if there is no terminal.
    bar: Option<ProgressBar>,
    inner: Mutex<Inner>,
}

struct Inner {
    total: u64,
    /// Files done by earlier processes.
    before: u64,
    /// Files done by this process.
    now: HashSet<FileName>,
    last_line: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(bar);
        let inner = Inner { total: 0, before: 0, now: HashSet::new(), last_line: Instant::now() };
        Self { bar, inner: Mutex::new(inner) }
    }

    /// Sets the number of files.
    pub(crate) fn found(&self, files: usize) {
        self.go_on(files, 0);
    }

    /// Sets the number of files, and the number done by earlier processes.
    pub(crate) fn go_on(&self, files: usize, before: u64) {
        self.change(|inner| (inner.total, inner.before) = (files as u64, before));
    }

    /// Counts one more finished file.
    pub(crate) fn one(&self, file: FileName) {
        self.change(|inner| {
            inner.now.insert(file);
        });
    }

    /// Returns the number of files done by this process.
    pub(crate) fn now(&self) -> u64 {
        self.lock().now.len() as u64
    }

    /// Returns true if this process did the file.
    pub(crate) fn did(&self, file: &FileName) -> bool {
        self.lock().now.contains(file)
    }

    /// Writes a line above the bar.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| warn(line)),
            None => warn(line),
        }
    }

    /// Clears the bar.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        change(&mut inner);
        let (done, total) = (inner.before + inner.now.len() as u64, inner.total);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        } else if total > 0 && inner.last_line.elapsed() >= LINE_EVERY {
            inner.last_line = Instant::now();
            warn(&format!("{done} of {total} files"));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bar() -> ProgressBar {
    let template = "{wide_bar} {human_pos} of {human_len} files, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(0).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
