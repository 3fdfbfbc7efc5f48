//! Faults that a preloaded library makes, and the channel to and from it: a file of numbers that it
//! maps.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const CONTROL: &str = "EVERSTEP_FAULT_CONTROL";
const PREFIX: &str = "EVERSTEP_FAULT_PREFIX";

/// The calls that fail. The numbers are the library's. (Renames are system calls of the database's
/// own, past the C library.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Write,
    Sync,
    Truncate,
    Create,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Write, Kind::Sync, Kind::Truncate, Kind::Create];

/// The ways in which they fail. The numbers are the library's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    IoError = 1,
    NoSpace = 2,
    /// Half is written, then there is no space.
    ShortWrite = 3,
    /// An error of the device that is held until [`Faults::let_fail`].
    SlowError = 4,
}

const NO_KIND: u64 = u64::MAX;
const WORDS: u64 = 11;
const HELD: u64 = 10;

/// The file of numbers.
pub(crate) struct Faults(File);

impl Faults {
    /// Creates the file, without a fault.
    pub(crate) fn create(path: &Path) -> Self {
        std::fs::write(path, vec![0; 8 * usize::try_from(WORDS).unwrap()]).unwrap();
        let faults = Self::attach(path);
        faults.lift();
        faults
    }

    pub(crate) fn attach(path: &Path) -> Self {
        Self(File::options().read(true).write(true).open(path).unwrap())
    }

    fn get(&self, word: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, 8 * word).unwrap();
        u64::from_ne_bytes(bytes)
    }

    fn set(&self, word: u64, value: u64) {
        self.0.write_all_at(&value.to_ne_bytes(), 8 * word).unwrap();
    }

    /// Makes `many` calls of this kind fail, from the `first` on.
    pub(crate) fn plan(&self, kind: Kind, fault: Fault, first: u64, many: u64) {
        self.set(1, first);
        self.set(2, first.saturating_add(many - 1));
        self.set(3, fault as u64);
        self.set(HELD, 1);
        self.set(0, kind as u64);
    }

    /// Ends all faults.
    pub(crate) fn lift(&self) {
        self.set(0, NO_KIND);
    }

    /// Releases the slow errors.
    pub(crate) fn let_fail(&self) {
        self.set(HELD, 0);
    }

    pub(crate) fn are_lifted(&self) -> bool {
        self.get(0) == NO_KIND
    }

    /// Returns the number of failed calls.
    pub(crate) fn failed(&self) -> u64 {
        self.get(4)
    }

    /// Returns how often a commit was synced on a handle that had failed.
    pub(crate) fn retried(&self) -> u64 {
        self.get(5)
    }

    /// Returns the number of calls of a kind.
    pub(crate) fn calls(&self, kind: Kind) -> u64 {
        self.get(6 + kind as u64)
    }
}

/// Builds the library with the C compiler, or returns the reason why there is none.
pub(crate) fn build(dir: &Path) -> Result<PathBuf, String> {
    let (source, library) = (concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk_faults/shim.c"), dir.join("shim.so"));
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
    match compiler.output() {
        Ok(output) if output.status.success() => Ok(library),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("cc: {error}")),
    }
}

/// Loads the library into a process that is not started yet.
pub(crate) fn preload(command: &mut tokio::process::Command, library: &Path, control: &Path, prefix: &Path) {
    command.env("LD_PRELOAD", library).env(CONTROL, control).env(PREFIX, prefix);
}
