//! Reads the journals of a store that may be in use, and changes nothing.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{DURABLE, Journal, Order, list, read_durable};
use crate::store::tables::DamagedFile;

/// Length and number of waits for a batch that is being written: five seconds in all.
const WRITE_WAIT: Duration = Duration::from_millis(10);
const WRITE_WAITS_MAX: u32 = 500;

/// Reads all journals of a store that may be in use; returns their number and the damaged files.
pub(in crate::store) fn look(directory: &Path) -> io::Result<(u64, Vec<DamagedFile>)> {
    let mut damaged = Vec::new();
    let mut journals = list(directory)?;
    let newest = journals.pop();
    let mut count = 0;
    for (number, path) in journals {
        // A journal whose data is all in tables is deleted.
        let Some(journal) = Journal::read_if_there(number, &path, 0)? else { continue };
        count += 1;
        damaged.extend(journal.torn_end.map(|_| journal.damage()));
    }
    if let Some((number, path)) = newest
        && let Some(journal) = Journal::read_to_end_of_writes(number, &path)?
    {
        count += 1;
        damaged.extend(journal.torn_end.map(|_| journal.damage()));
    }
    if directory.join(DURABLE).exists() && read_durable(directory).is_none() {
        damaged.push(DamagedFile::new(&directory.join(DURABLE), "it is damaged"));
    }
    Ok((count, damaged))
}

impl Journal {
    fn read_if_there(number: u64, path: &Path, offset: u64) -> io::Result<Option<Self>> {
        match Self::read(number, path.to_owned(), offset, &mut Order::default()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    /// Reads a journal that may be written to. A batch that is being written looks torn until it is
    /// complete.
    fn read_to_end_of_writes(number: u64, path: &Path) -> io::Result<Option<Self>> {
        let Some(journal) = Self::read_if_there(number, path, 0)? else { return Ok(None) };
        let mut waits = 0;
        while journal.torn_end.is_some() && waits < WRITE_WAITS_MAX {
            std::thread::sleep(WRITE_WAIT);
            waits += 1;
            match Self::read_if_there(number, path, journal.end)? {
                None => return Ok(None),
                Some(rest) if rest.end > journal.end || rest.torn_end.is_none() => {
                    return Ok(Some(Self { torn_end: None, ..journal }));
                }
                Some(_) => {}
            }
        }
        Ok(Some(journal))
    }

    fn damage(&self) -> DamagedFile {
        DamagedFile::new(&self.path, format!("it cannot be read from byte {} on", self.end))
    }
}
