//! A store whose every commit is known, and copies of its directory as a crash might leave them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use everstep::machine::{self, Context, NewRun, RowChange, RowKey};
use everstep::store::{Change, Condition, FileStore, Loaded, Store, StoreError, Write};
use everstep::{InstanceId, Limits, RunId, Stamp, Timestamp, Workflow};
use tempfile::TempDir;

/// Returns a directory where syncs take no time: these tests are about bytes.
pub(crate) fn fast_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

/// Returns the insert of an instance, with a row of this many bytes that no other batch has.
pub(crate) fn insert(number: u8, row_bytes: usize) -> Write {
    let bytes = (0..row_bytes).map(|at| u8::try_from(at * 7 % 251).unwrap() ^ number).collect::<Vec<_>>();
    insert_row(number, bytes.into())
}

pub(crate) fn insert_row(number: u8, row: Bytes) -> Write {
    let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").build().unwrap();
    let program = workflow.definition().program();
    let (limits, now) = (Limits::default(), Timestamp::from_micros(1_000));
    let (instance, run) = (InstanceId::new(&format!("i{number}")).unwrap(), RunId::from_bytes([number; 16]));
    let new = NewRun { instance: instance.clone(), run, codec: 1, input: Bytes::from_static(&[1]), traceparent: None };
    let (snapshot, _) = machine::start(&Context { program, limits: &limits, now }, new);
    let change = Change::Head(machine::encode_head(program, &snapshot));
    let rows = vec![RowChange { key: RowKey::Signal(3), value: Some(row) }];
    let stamp = Stamp::generate();
    Write { instance, stamp, condition: Condition::Absent, change, rows, run, superseded: None }
}

/// Returns true if the store has the whole batch; it must not have a part of it.
pub(crate) async fn has(store: &FileStore, batch: &Write) -> bool {
    let Change::Head(head) = batch.change.clone() else { unreachable!() };
    let row = store.row(batch.run, &batch.rows[0].key).await.unwrap();
    let loaded = store.load(&batch.instance).await.unwrap();
    let whole = loaded == Some(Loaded { head, quarantine: None }) && row == batch.rows[0].value;
    assert!(whole || (loaded.is_none() && row.is_none()), "a part of {}", batch.instance);
    whole
}

/// A store with a batch for each of these rows, copied while it is open.
pub(crate) struct Written {
    pub(crate) batches: Vec<Write>,
    /// The journal, and the end of each batch in it.
    pub(crate) journal: Vec<u8>,
    pub(crate) ends: Vec<usize>,
    /// The directory's other files.
    others: BTreeMap<PathBuf, Vec<u8>>,
}

/// Writes a store that was closed after the first `closed_after` batches, and written on since
/// then.
pub(crate) async fn written(row_bytes: &[usize], closed_after: usize) -> Written {
    let batches = row_bytes.iter().zip(1_u8..).map(|(bytes, number)| insert(number, *bytes)).collect();
    written_batches(batches, closed_after).await
}

pub(crate) async fn written_batches(batches: Vec<Write>, closed_after: usize) -> Written {
    let dir = fast_dir();
    let (path, journal) = (dir.path().join("store"), dir.path().join("store/0.jnl"));
    let mut ends = Vec::new();
    let store = FileStore::open(&path).await.unwrap();
    for (number, batch) in batches.iter().enumerate() {
        if number == closed_after {
            store.close().await;
            store.reopen().await.unwrap();
        }
        assert_eq!(store.commit(std::slice::from_ref(batch)).await.unwrap(), [Ok(())]);
        ends.push(std::fs::read(&journal).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1);
    }
    let mut others = files(&path);
    let mut journal = others.remove(Path::new("0.jnl")).unwrap();
    journal.truncate(*ends.last().unwrap());
    Written { batches, journal, ends, others }
}

/// Returns every file under a directory.
pub(crate) fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// A directory with these journals.
pub(crate) struct Image {
    dir: TempDir,
}

impl Written {
    pub(crate) fn start_of(&self, batch: usize) -> usize {
        batch.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    pub(crate) fn image(&self, journal: &[u8]) -> Image {
        self.image_of(&[journal])
    }

    /// Returns an image with several journals, the oldest first.
    pub(crate) fn image_of(&self, journals: &[&[u8]]) -> Image {
        let image = Image { dir: fast_dir() };
        for (name, bytes) in &self.others {
            let path = image.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        for (number, bytes) in journals.iter().enumerate() {
            std::fs::write(image.journal(number), bytes).unwrap();
        }
        image
    }

    /// Opens an image that a crash may leave while this batch was written. Every batch before it is
    /// there, the batch itself is there or not, and the store takes new batches and has them after
    /// a reopen.
    pub(crate) async fn survives(&self, image: &Image, torn: usize, what: &str) -> bool {
        let store = image.open().await.unwrap_or_else(|error| panic!("{what}: {error}"));
        for batch in &self.batches[..torn] {
            assert!(has(&store, batch).await, "{what}: {} was acknowledged", batch.instance);
        }
        let is_there = match self.batches.get(torn) {
            Some(batch) => has(&store, batch).await,
            None => false,
        };
        let new = insert(200, 100);
        assert_eq!(store.commit(std::slice::from_ref(&new)).await.unwrap(), [Ok(())], "{what}");
        drop(store);
        let store = image.open().await.unwrap_or_else(|error| panic!("{what}, opened again: {error}"));
        assert!(has(&store, &new).await, "{what}: the new batch");
        for batch in &self.batches[..torn + usize::from(is_there)] {
            assert!(has(&store, batch).await, "{what}, opened again: {}", batch.instance);
        }
        is_there
    }
}

impl Image {
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn journal(&self, number: usize) -> PathBuf {
        self.path().join(format!("{number}.jnl"))
    }

    pub(crate) async fn open(&self) -> Result<FileStore, StoreError> {
        FileStore::open(self.path()).await
    }

    /// Returns the torn tails that were saved.
    pub(crate) fn kept(&self) -> Vec<Vec<u8>> {
        let files = files(self.path());
        let torn = files.iter().filter(|(name, _)| name.to_string_lossy().starts_with("everstep.torn-"));
        torn.map(|(_, bytes)| bytes.clone()).collect()
    }

    /// Checks that the store does not open, reports the place, and leaves every file unchanged.
    pub(crate) async fn is_refused(&self, what: &str) -> String {
        let before = files(self.path());
        let Err(StoreError::Unreadable { at, why }) = self.open().await else { panic!("{what}: it opened") };
        assert!(files(self.path()) == before, "{what}: a file was touched");
        format!("{at}: {why}")
    }
}
