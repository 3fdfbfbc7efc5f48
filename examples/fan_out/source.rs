//! The service of the tasks: the location of the files and of the report, and a ledger of the work
//! really done.

use std::fs::{File, OpenOptions};
use std::io::{Error, Write};
use std::path::{Path, PathBuf};

use everstep::TaskContext;

use crate::files::FileName;
use crate::stop::Stop;

/// Locations of files, report and ledger.
pub(crate) struct Source {
    root: PathBuf,
    /// Paths of the job's own files, which are skipped.
    left_out: Vec<PathBuf>,
    report: PathBuf,
    ledger: Option<File>,
}

impl Source {
    pub(crate) fn new(root: PathBuf, data: &Path, ledger: Option<&Path>) -> Result<Self, Stop> {
        let open = |path: &Path| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.map_err(|error| Stop::io("open the ledger", path, error))
        };
        let report = data.join("report.json");
        let opened = ledger.map(open).transpose()?;
        let left_out = [Some(data), ledger].into_iter().flatten().filter_map(|path| path.canonicalize().ok()).collect();
        Ok(Self { root, left_out, report, ledger: opened })
    }

    /// Returns the directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of a file.
    pub(crate) fn at(&self, name: &FileName) -> PathBuf {
        self.root.join(&name.0)
    }

    /// Returns true if a path below the root is one of the job's own.
    pub(crate) fn leaves_out(&self, below: &Path) -> bool {
        let at = self.root.join(below);
        self.left_out.contains(&at)
    }

    /// Returns the path of the report.
    pub(crate) fn report(&self) -> &Path {
        &self.report
    }

    /// Notes in the ledger that a task runs, and on what. Uses one write, so that lines of
    /// concurrent tasks do not mix.
    pub(crate) fn note(&self, context: &TaskContext, what: &str) -> std::io::Result<()> {
        let Some(mut ledger) = self.ledger.as_ref() else { return Ok(()) };
        let line = format!("{} {}\n", context.node(), what.replace('\n', "\\n"));
        ledger.write_all(line.as_bytes())
    }
}

impl FileName {
    /// Adds the name of the file to an I/O error, for `map_err`.
    pub(crate) fn failed(&self, error: &Error) -> Error {
        Error::new(error.kind(), format!("{}: {error}", self.0))
    }
}
