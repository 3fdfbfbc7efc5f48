//! A record of the tasks that really ran, outside of the store: a file that is only appended to, a
//! line at a time.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use everstep::{Clock as _, SystemClock, TaskContext};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mark {
    Begin,
    End,
    Fail,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    /// The number of the child, counted by the parent.
    pub(crate) life: u32,
    /// Time in microseconds, by the wall clock.
    pub(crate) at: u64,
    pub(crate) mark: Mark,
    pub(crate) instance: String,
    pub(crate) node: String,
    pub(crate) trail: Vec<u32>,
    pub(crate) attempt: u32,
    pub(crate) key: String,
}

pub(crate) struct Ledger {
    life: u32,
    file: File,
}

/// The start of each line.
const START: &str = "{\"life\":";

impl Ledger {
    pub(crate) fn open(path: &Path, life: u32) -> Self {
        Self { life, file: OpenOptions::new().create(true).append(true).open(path).unwrap() }
    }

    /// Writes a line in one system call. The operating system does that whole or not at all when
    /// the process is killed, except where the line crosses a page: then only the first part may be
    /// there.
    pub(crate) fn write(&self, mark: Mark, context: &TaskContext, trail: &[u32]) {
        let line = Line {
            life: self.life,
            at: SystemClock.now().as_micros(),
            mark,
            instance: context.instance().to_string(),
            node: context.node().to_string(),
            trail: trail.to_vec(),
            attempt: context.attempt(),
            key: context.idempotency_key(),
        };
        let text = serde_json::to_string(&line).unwrap() + "\n";
        assert_eq!((&self.file).write(text.as_bytes()).unwrap(), text.len());
    }

    pub(crate) fn read(path: &Path) -> Vec<Line> {
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        // The rest of a line that a kill has torn comes before the next one, and counts as not
        // written.
        let whole = |line: &'_ str| line.rfind(START).map_or_else(String::new, |start| line[start..].to_owned());
        let parse = |line: String| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        text.lines().map(whole).filter(|line| !line.is_empty()).map(parse).collect()
    }
}
