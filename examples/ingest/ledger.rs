//! The ledger: one line for each time a file was really read, to show which files were read twice.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::stop::Stop;

/// A file of paths, only ever appended to.
pub(crate) struct Ledger {
    file: File,
}

impl Ledger {
    pub(crate) fn open(path: &Path) -> Result<Self, Stop> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        Ok(Self { file: file.map_err(|error| Stop::io("open the ledger", path, error))? })
    }

    /// Appends a line with one write, so that lines of tasks side by side do not mix.
    pub(crate) fn append(&self, path: &str) -> std::io::Result<()> {
        let line = format!("{}\n", path.replace('\n', "\\n"));
        (&self.file).write_all(line.as_bytes())
    }
}
