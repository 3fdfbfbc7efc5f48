//! The report: `report.jsonl`, one line per file, each file once.
//!
//! A task runs at least once: killed between its line and its commit, it runs again. So the report
//! ensures that each line exists once: it knows every path it holds. A kill may also tear the last
//! line. The torn line is removed when the report is opened, and the task that wrote it, never
//! recorded as finished, writes it again. Lines are handed to the operating system, not synced; a
//! line lost in a power failure is written again from the instance's output.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::stop::Stop;

/// Record of one file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The path below the root, with forward slashes.
    pub(crate) path: String,
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    pub(crate) words: u64,
    /// Length in bytes, without the line feed.
    pub(crate) longest_line: u64,
    pub(crate) language: String,
}

/// The report file, and its known contents.
pub(crate) struct Report {
    at: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    file: File,
    /// Bytes of whole lines: the length of the file between two calls.
    bytes: u64,
    paths: HashSet<String>,
    totals: Totals,
}

/// Sums over the whole report.
#[derive(Clone, Default)]
pub(crate) struct Totals {
    pub(crate) all: Sum,
    pub(crate) by_language: BTreeMap<String, Sum>,
}

/// One row of sums.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
}

impl Report {
    /// Opens or creates the report; removes a torn last line and reads the others.
    pub(crate) fn open(at: PathBuf) -> Result<Self, Stop> {
        let opened = OpenOptions::new().read(true).append(true).create(true).open(&at);
        let file = opened.map_err(|error| Stop::io("open", &at, error))?;
        let mut inner = Inner { file, bytes: 0, paths: HashSet::new(), totals: Totals::default() };
        inner.load(&at)?;
        Ok(Self { at, inner: Mutex::new(inner) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// Adds a line, unless its path is recorded already. When this returns, the operating system
    /// has the line.
    pub(crate) fn record(&self, record: &Record) -> std::io::Result<()> {
        let mut inner = self.inner();
        if inner.paths.contains(&record.path) {
            return Ok(());
        }
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if let Err(error) = inner.file.write_all(&line) {
            // A full disk may have taken a part of the line: remove it, or the next line would
            // follow it.
            inner.file.set_len(inner.bytes)?;
            return Err(error);
        }
        inner.take(record.clone(), line.len());
        Ok(())
    }

    pub(crate) fn totals(&self) -> Totals {
        self.inner().totals.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn load(&mut self, at: &Path) -> Result<(), Stop> {
        let cannot_read = |error| Stop::io("read", at, error);
        let mut reader = BufReader::new(self.file.try_clone().map_err(cannot_read)?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            reader.read_until(b'\n', &mut line).map_err(cannot_read)?;
            if !line.ends_with(b"\n") {
                break;
            }
            let not_a_report = |_| Stop::NotAReport { at: at.to_owned(), line: number };
            self.take(serde_json::from_slice(&line).map_err(not_a_report)?, line.len());
        }
        if !line.is_empty() {
            self.file.set_len(self.bytes).map_err(|error| Stop::io("cut the torn line of", at, error))?;
        }
        Ok(())
    }

    fn take(&mut self, record: Record, line_bytes: usize) {
        self.bytes += line_bytes as u64;
        self.totals.all.add(&record);
        self.totals.by_language.entry(record.language.clone()).or_default().add(&record);
        self.paths.insert(record.path);
    }
}

impl Sum {
    fn add(&mut self, record: &Record) {
        self.files += 1;
        self.bytes += record.bytes;
        self.lines += record.lines;
    }
}
