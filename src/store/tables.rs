//! Checks the table files of a store, without its journals.
//!
//! ```text
//! keyspaces/N/current   the number of the current version, and the checksum of its file
//! keyspaces/N/vV        the tables of version V, each with its number and the checksum of its file
//! keyspaces/N/tables/T  table T
//! ```
//!
//! The database reads a table block by block, each with its own checksum. This module reads whole
//! files, so that it finds damage in blocks that no reader has asked for.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use lsm_tree::{AbstractTree as _, Error, SeqNo, SequenceNumberCounter};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::directory::unreadable;
use super::journal_repair::Milestone;
use super::{StoreError, keys};

/// Folder with one tree for the database's own rows, and one for the store's single keyspace. The
/// database numbers them: the store's is 1, or 2 if the first open was interrupted.
const TREES: &str = "keyspaces";
/// The tree of the database's own rows.
const ITS_OWN: &str = "0";
const CURRENT: &str = "current";
const CHUNK_BYTES: usize = 64 << 10;
/// Most attempts to read a version file, which a newer version may replace meanwhile.
const TRIES_MAX: u32 = 100;

/// A file that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DamagedFile {
    pub(super) path: PathBuf,
    pub(super) why: String,
    /// True if the disk failed, so that the content is unknown.
    pub(super) is_unknown: bool,
}

impl DamagedFile {
    pub(super) fn new(path: &Path, why: impl Into<String>) -> Self {
        Self { path: path.to_owned(), why: why.into(), is_unknown: false }
    }

    fn failed(path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::new(path, "it is missing"),
            io::ErrorKind::UnexpectedEof => Self::new(path, "it is cut short"),
            _ => Self { is_unknown: true, ..Self::new(path, error.to_string()) },
        }
    }
}

/// A table as its version names it.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) path: PathBuf,
    checksum: u128,
}

/// Returns true if an error says that bytes are not as they were written; false if the disk failed
/// or the format is of another version.
pub(super) fn is_damage(error: &Error) -> bool {
    !matches!(error, Error::Io(_) | Error::InvalidVersion(_))
}

/// Returns the number of the last milestone in the tables; zero if they hold none, and `None` if
/// the part that would hold it is damaged. The store must be closed.
pub(super) fn milestone(directory: &Path) -> Result<Option<u64>, StoreError> {
    let counter = SequenceNumberCounter::default;
    let failed = |error: Error| explain(directory, &error);
    let mut last = 0;
    let trees = trees(directory).map_err(|DamagedFile { path, why, .. }| unreadable(&path, &why))?;
    for path in trees.iter().filter(|path| !path.ends_with(ITS_OWN)) {
        let tree = lsm_tree::Config::new(path, counter(), counter()).open().map_err(failed)?;
        match tree.get(keys::MILESTONE, SeqNo::MAX) {
            Ok(row) => {
                let milestone = row.and_then(|row| Milestone::parse(&row));
                last = milestone.map_or(last, |milestone| milestone.number.max(last));
            }
            Err(error) if is_damage(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(Some(last))
}

/// Returns the trees that have tables, in the order of their numbers.
fn trees(directory: &Path) -> Result<Vec<PathBuf>, DamagedFile> {
    let folder = directory.join(TREES);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()),
    };
    let mut trees = entries.map_err(|error| DamagedFile::failed(&folder, &error))?;
    trees.retain(|tree| tree.join(CURRENT).exists());
    trees.sort_by_key(|tree| tree.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok()));
    Ok(trees)
}

/// Returns an error for a directory that does not open; it names the damaged file, if there is one.
/// Reads all tables for that.
pub(super) fn explain(directory: &Path, error: &dyn std::fmt::Display) -> StoreError {
    let damaged = check(directory, |_| Ok::<_, StoreError>(())).ok().and_then(|damaged| damaged.into_iter().next());
    let advice = "check the disk, and restore a backup, or finish the copy if this is one";
    match damaged {
        Some(DamagedFile { path, why, .. }) => unreadable(&path, &format!("{why} ({error}): {advice}")),
        None => unreadable(directory, error),
    }
}

/// Returns the tables of the current version.
pub(super) fn list(directory: &Path) -> Result<Vec<Table>, DamagedFile> {
    let mut tables = Vec::new();
    for tree in trees(directory)? {
        tables.extend(list_tree(&tree)?);
    }
    Ok(tables)
}

/// Reads all tables of the current version and returns the damaged ones. Calls `next` before each
/// table; an error from it ends the check.
pub(super) fn check<E>(directory: &Path, mut next: impl FnMut(&Table) -> Result<(), E>) -> Result<Vec<DamagedFile>, E> {
    let tables = match list(directory) {
        Ok(tables) => tables,
        Err(damaged) => return Ok(vec![damaged]),
    };
    let mut damaged = Vec::new();
    for table in tables {
        next(&table)?;
        // A table that was merged with others meanwhile is rightly gone.
        let still_counts = || list(directory).is_ok_and(|now| now.iter().any(|other| other.path == table.path));
        damaged.extend(table.check().filter(|_| still_counts()));
    }
    Ok(damaged)
}

fn list_tree(tree: &Path) -> Result<Vec<Table>, DamagedFile> {
    let mut tries = 0;
    let (path, version) = loop {
        let current = tree.join(CURRENT);
        let failed = |error: io::Error| DamagedFile::failed(&current, &error);
        let bytes = std::fs::read(&current).map_err(failed)?;
        let mut fields = bytes.as_slice();
        let number = u64::from_le_bytes(take(&mut fields).map_err(failed)?);
        let checksum = u128::from_le_bytes(take(&mut fields).map_err(failed)?);
        let path = tree.join(format!("v{number}"));
        match std::fs::read(&path) {
            Ok(version) if xxh3_128(&version) == checksum => break (path, version),
            Ok(_) if tries >= TRIES_MAX => return Err(DamagedFile::new(&path, MISMATCH)),
            Err(error) if tries >= TRIES_MAX => return Err(DamagedFile::failed(&path, &error)),
            // A newer version has replaced this one.
            Ok(_) | Err(_) => tries += 1,
        }
    };
    parse_version(tree, &version).map_err(|error| DamagedFile::new(&path, error.to_string()))
}

const MISMATCH: &str = "its checksum does not match";

/// Parses a version file: `levels u8 | runs u8 | tables u32 | number u64, kind of checksum u8,
/// checksum u128, seqno u64`, little-endian.
fn parse_version(tree: &Path, version: &[u8]) -> io::Result<Vec<Table>> {
    let archive = sfa::Reader::from_reader(&mut Cursor::new(version)).map_err(io::Error::other)?;
    let section = archive.toc().section(b"tables").and_then(|section| {
        let from = usize::try_from(section.pos()).ok()?;
        version.get(from..from.checked_add(usize::try_from(section.len()).ok()?)?)
    });
    let mut fields = section.ok_or_else(|| io::Error::other("it does not say which tables there are"))?;
    let fields = &mut fields;
    let mut tables = Vec::new();
    let [levels] = take(fields)?;
    for _ in 0..levels {
        let [runs] = take(fields)?;
        for _ in 0..runs {
            for _ in 0..u32::from_le_bytes(take(fields)?) {
                let number = u64::from_le_bytes(take(fields)?);
                let [_kind] = take(fields)?;
                let checksum = u128::from_le_bytes(take(fields)?);
                let _seqno: [u8; 8] = take(fields)?;
                tables.push(Table { path: tree.join("tables").join(number.to_string()), checksum });
            }
        }
    }
    Ok(tables)
}

fn take<const N: usize>(fields: &mut &[u8]) -> io::Result<[u8; N]> {
    let mut field = [0; N];
    fields.read_exact(&mut field)?;
    Ok(field)
}

impl Table {
    /// Reads the whole file and returns its damage, if any.
    fn check(&self) -> Option<DamagedFile> {
        match self.read() {
            Ok(checksum) if checksum == self.checksum => None,
            Ok(_) => Some(DamagedFile::new(&self.path, MISMATCH)),
            Err(error) => Some(DamagedFile::failed(&self.path, &error)),
        }
    }

    fn read(&self) -> io::Result<u128> {
        let mut file = File::open(&self.path)?;
        let (mut checksum, mut chunk) = (Xxh3::new(), vec![0; CHUNK_BYTES]);
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                return Ok(checksum.digest128());
            }
            checksum.update(chunk.get(..read).unwrap_or_default());
        }
    }
}
