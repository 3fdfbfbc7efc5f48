//! Mends the database's journals before the database reads them.
//!
//! A power loss may leave any subset of the pages of the last batch, which was never acknowledged.
//! The database itself cuts everything from the first unreadable byte on, and refuses to open at a
//! wrong checksum. This module cuts a torn tail, and returns an error for damage with whole batches
//! after it, with the files as they were.
//!
//! ```text
//! 3.jnl  | batch | batch | batch |            zeros: as it should be
//! 3.jnl  | batch | batch | ba###h | zeros     torn: cut after the second batch
//! 3.jnl  | batch | ba###h | batch | zeros     damaged: does not open
//! ```
//!
//! Also owns `everstep.durable`, which says up to where the newest journal was once known to be
//! durable: a journal that ends before that position is not torn, but has lost data.

mod framing;
mod look;
mod milestone;

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use self::framing::Found;
pub(super) use self::framing::{BATCH_BYTES, ITEM_BYTES};
pub(super) use self::look::look;
pub(super) use self::milestone::Milestone;
use super::StoreError;
use super::directory::{is_established, unreadable};

const DURABLE: &str = "everstep.durable";
const TORN: &str = "everstep.torn-";
/// Most torn tails kept, each at most as long as one batch; a further one replaces the oldest.
const TORN_KEPT_MAX: usize = 8;
const CHUNK_BYTES: usize = 64 << 10;

/// The treatment of the bytes of a torn tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Torn {
    /// The bytes may have been acknowledged: they are kept in a file beside the journal.
    Kept,
    /// The bytes were not acknowledged: this process wrote them and saw the write fail.
    Dropped,
}

/// A position in a journal, after a whole batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) journal: u64,
    pub(super) offset: u64,
}

/// The end of the journals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) position: Position,
    /// The last milestone that is known to be before the newest journal; none if nothing is known.
    pub(super) behind: Option<u64>,
    /// True if the newest journal holds a milestone of its own, which names the last one before it.
    pub(super) is_joined: bool,
    /// The last milestone that any journal holds or names.
    pub(super) last: u64,
}

/// One journal file, from its beginning to the end of its whole batches.
struct Journal {
    number: u64,
    path: PathBuf,
    /// The position after its last whole batch.
    end: u64,
    /// The range of its last whole batch.
    last: Option<Range<u64>>,
    /// The position after the last byte that is not zero, if that is after `end`.
    torn_end: Option<u64>,
    /// Its first milestone that was written for this journal.
    joint: Option<Milestone>,
    /// The number of its last milestone; zero without one.
    last_milestone: u64,
}

/// The seqnos of the last two batches so far.
#[derive(Clone, Copy, Debug, Default)]
struct Order {
    last: Option<u64>,
    before_last: Option<u64>,
}

impl Order {
    /// Returns true if a batch with this seqno may come next, and makes it the last one.
    fn goes_on(&mut self, seqno: u64) -> bool {
        let newer = Some(seqno) > self.last;
        if newer {
            *self = Self { last: Some(seqno), before_last: self.last };
        }
        newer
    }
}

/// Cuts a torn tail, and makes sure that the rest is on the disk.
pub(super) fn mend(directory: &Path, torn: Torn) -> Result<Reached, StoreError> {
    let failed = |error: io::Error| unreadable(directory, &error);
    let mut journals = Vec::new();
    let mut order = Order::default();
    for (number, path) in list(directory).map_err(failed)? {
        let journal = Journal::read(number, path, 0, &mut order).map_err(failed)?;
        journals.push(journal);
    }
    if journals.is_empty() && is_established(directory) {
        let why = "its journals (*.jnl) are missing, and the last writes with them: restore a backup, or finish the copy \
                   if this is one";
        return Err(unreadable(directory, &why));
    }
    check_nothing_is_behind_damage(&journals, order)?;
    check_durable(directory, &journals)?;
    milestone::check(directory, &journals)?;
    for journal in journals.iter().filter(|journal| journal.torn_end.is_some()) {
        journal.cut(directory, torn).map_err(failed)?;
    }
    if let Some((journal, last)) = journals.iter().rev().find_map(|journal| Some((journal, journal.last.clone()?))) {
        journal.write_again(last).map_err(failed)?;
    }
    let Some((newest, earlier)) = journals.split_last() else { return Ok(Reached::default()) };
    let behind = earlier.iter().map(|journal| journal.last_milestone).max();
    Ok(Reached {
        position: newest.position(),
        behind: newest.joint.map(|joint| joint.behind).or(behind),
        is_joined: newest.joint.is_some(),
        last: journals.iter().map(Journal::highest).max().unwrap_or_default(),
    })
}

/// Returns the current end of the newest journal; `known` is an earlier result. It is durable once
/// the journal is synced.
pub(super) fn reach(directory: &Path, known: Position) -> io::Result<Option<Position>> {
    let Some((number, path)) = list(directory)?.pop() else { return Ok(None) };
    let from = if number == known.journal { known.offset } else { 0 };
    Ok(Some(Journal::read(number, path, from, &mut Order::default())?.position()))
}

/// Returns true if a journal exists that was never written to.
pub(super) fn is_blank(path: &Path) -> bool {
    let end = File::open(path).and_then(|file| end_of_bytes(&mut BufReader::with_capacity(CHUNK_BYTES, file)));
    matches!(end, Ok(None))
}

/// Returns the path of the journal with this number, which may not exist.
pub(super) fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number}.jnl"))
}

/// Returns the journals, oldest first.
fn list(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut journals = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(number) = number
            && path.extension().is_some_and(|end| end == "jnl")
        {
            journals.push((number, path));
        }
    }
    journals.sort_unstable();
    Ok(journals)
}

impl Journal {
    /// Returns the highest number of a milestone that it holds or names.
    fn highest(&self) -> u64 {
        self.joint.map_or(0, |joint| joint.behind).max(self.last_milestone)
    }

    /// Reads a journal from `offset`, where a batch begins.
    fn read(number: u64, path: PathBuf, offset: u64, order: &mut Order) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(CHUNK_BYTES, File::open(&path)?);
        file.seek(SeekFrom::Start(offset))?;
        let (mut end, mut last) = (offset, None);
        let (mut joint, mut last_milestone) = (None, 0);
        // A batch that is not newer than the one before it is left over from another file.
        while let Found::Whole { seqno, bytes, milestone } = framing::next(&mut file)?
            && order.goes_on(seqno)
        {
            last = Some(end..end + bytes);
            end += bytes;
            if let Some(milestone) = milestone {
                joint = joint.or(Some(milestone).filter(|milestone| milestone.journal == number));
                last_milestone = last_milestone.max(milestone.number);
            }
        }
        file.seek(SeekFrom::Start(end))?;
        let torn_end = end_of_bytes(&mut file)?.map(|bytes| end + bytes);
        Ok(Self { number, path, end, last, torn_end, joint, last_milestone })
    }

    fn position(&self) -> Position {
        Position { journal: self.number, offset: self.end }
    }

    fn tail(&self) -> io::Result<Vec<u8>> {
        let mut tail = Vec::new();
        let Some(torn_end) = self.torn_end else { return Ok(tail) };
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.end))?;
        file.take(torn_end - self.end).read_to_end(&mut tail)?;
        Ok(tail)
    }

    fn cut(&self, directory: &Path, torn: Torn) -> io::Result<()> {
        let kept = match torn {
            Torn::Kept => Some(keep(directory, &self.tail()?)?),
            Torn::Dropped => None,
        };
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.set_len(self.end)?;
        file.sync_all()?;
        let (journal, kept) = (self.path.display(), kept.map(|path| path.display().to_string()));
        let (from, to) = (self.end, self.torn_end);
        tracing::warn!(%journal, from, to, kept, "cut a torn batch from the end of the journal");
        Ok(())
    }

    /// Writes bytes again at their place, and syncs them. After a failed sync the operating system
    /// may show bytes that the disk does not have, and call them written: on Linux only new writes
    /// are retried (Rebello et al., USENIX ATC 2020). All batches but the last were synced before
    /// the next was written.
    fn write_again(&self, range: Range<u64>) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let mut at = range.start;
        let mut chunk = Vec::new();
        while at < range.end {
            chunk.resize(usize::try_from(range.end - at).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES)), 0);
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(&mut chunk)?;
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&chunk)?;
            at += chunk.len() as u64;
        }
        file.sync_all()
    }
}

/// Returns the number of bytes up to the last one that is not zero; none if all are zero.
fn end_of_bytes(reader: &mut BufReader<File>) -> io::Result<Option<u64>> {
    static ZEROS: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut end, mut at) = (None, 0);
    loop {
        let read = reader.read(&mut chunk)?;
        let chunk = chunk.get(..read).unwrap_or_default();
        if chunk.is_empty() {
            return Ok(end);
        }
        // Compared as a whole first: a new journal holds 64 MiB of zeros.
        if ZEROS.get(..read) != Some(chunk)
            && let Some(last) = chunk.iter().rposition(|byte| *byte != 0)
        {
            end = Some(at + last as u64 + 1);
        }
        at += read as u64;
    }
}

fn check_nothing_is_behind_damage(journals: &[Journal], order: Order) -> Result<(), StoreError> {
    let Some(first) = journals.iter().position(|journal| journal.torn_end.is_some()) else { return Ok(()) };
    let Some((damaged, behind)) = journals.get(first..).and_then(<[_]>::split_first) else { return Ok(()) };
    let refuse = |journal: &Journal, at: u64| {
        let (offset, other) = (damaged.end, journal.path.display());
        let why = format!(
            "the journal is damaged at byte {offset}, and whole batches follow the damage, from byte {at} of {other} \
             on: restore a backup, or, to give up everything from the damage on, cut the file there, and move {DURABLE} \
             and the journals with greater numbers away"
        );
        unreadable(&damaged.path, &why)
    };
    if let Some(journal) = behind.iter().find(|journal| journal.last.is_some()) {
        return Err(refuse(journal, 0));
    }
    for journal in std::iter::once(damaged).chain(behind) {
        let failed = |error: io::Error| unreadable(&journal.path, &error);
        // Compares with the seqno before the last one: no checksum covers a seqno, and a damaged
        // one that is too great would hide the batches after it.
        if let Some(at) = framing::find_newer(&journal.tail().map_err(failed)?, order.before_last).map_err(failed)? {
            return Err(refuse(journal, journal.end + at as u64));
        }
    }
    Ok(())
}

/// Refuses journals that end before the position that was known to be durable.
fn check_durable(directory: &Path, journals: &[Journal]) -> Result<(), StoreError> {
    let Some(durable) = read_durable(directory) else { return Ok(()) };
    if let Some(newest) = journals.last().filter(|newest| newest.number < durable.journal) {
        let why = format!(
            "the newer journal {}.jnl is missing, and the last writes with it: restore a backup, or, to give up what is \
             lost, delete {DURABLE} beside it",
            durable.journal
        );
        return Err(unreadable(&newest.path, &why));
    }
    let Some(journal) = journals.iter().find(|journal| journal.number == durable.journal) else {
        // Its data was moved to tables meanwhile, and it was deleted.
        return Ok(());
    };
    if journal.end >= durable.offset {
        return Ok(());
    }
    let why = format!(
        "it was durable up to byte {}, but can only be read up to byte {}: restore a backup, or, to give up what is \
         lost, delete {DURABLE} beside it",
        durable.offset, journal.end
    );
    Err(unreadable(&journal.path, &why))
}

/// Notes that the journal is durable up to a position. The note stays true, so an old one does no
/// harm.
pub(super) fn note_durable(directory: &Path, position: Position) -> io::Result<()> {
    if read_durable(directory) == Some(position) {
        return Ok(());
    }
    let line = durable_line(position);
    // Overwritten in place: the line has a fixed length, and needs no room on a full disk.
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(directory.join(DURABLE))?;
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

fn durable_line(Position { journal, offset }: Position) -> String {
    let text = format!("journal {journal:020} durable to byte {offset:020}");
    format!("{text} {:016x}\n", xxh3_64(text.as_bytes()))
}

/// Reads the durable position; none if there is no note, or the note itself is torn.
fn read_durable(directory: &Path) -> Option<Position> {
    let line = std::fs::read_to_string(directory.join(DURABLE)).ok()?;
    let mut numbers = line.split_ascii_whitespace().filter_map(|word| word.parse().ok());
    let position = Position { journal: numbers.next()?, offset: numbers.next()? };
    (line == durable_line(position)).then_some(position)
}

/// Keeps the bytes of a torn tail in a file of their own.
fn keep(directory: &Path, tail: &[u8]) -> io::Result<PathBuf> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix(TORN)).and_then(|number| number.parse::<u64>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    let path = |number: u64| directory.join(format!("{TORN}{number}"));
    for oldest in numbers.iter().rev().skip(TORN_KEPT_MAX - 1) {
        std::fs::remove_file(path(*oldest))?;
    }
    let kept = path(numbers.last().map_or(1, |last| last.saturating_add(1)));
    let written = File::create_new(&kept).and_then(|mut file| {
        file.write_all(tail)?;
        file.sync_all()?;
        File::open(directory)?.sync_all()
    });
    // A part of the file, left by each attempt on a full disk, would push out the tails kept
    // earlier.
    written.inspect_err(|_| drop(std::fs::remove_file(&kept)))?;
    Ok(kept)
}

#[cfg(test)]
mod tests;
