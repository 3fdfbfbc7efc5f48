//! Tests of copied directories, with tables and journals of one moment or of several, and of
//! records that do not fit together.

use std::time::Duration;

use super::*;
use crate::definition::Workflow;
use crate::machine::HeadIndex;
use crate::store::journal_repair::path_of;
use crate::{InstanceId, Runtime};

/// Bytes of one value; each batch has one.
const VALUE_BYTES: usize = 1 << 20;
/// Most MiB that one test writes.
const MIB_MAX: u32 = 1_000;

/// Returns a directory where syncs are fast.
fn fast_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::TempDir::new_in(memory).unwrap() } else { tempfile::TempDir::new().unwrap() }
}

fn try_copy(from: &Path, to: &Path, is_copied: &dyn Fn(&str) -> bool) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() && is_copied(&name) {
            try_copy(&entry.path(), &to.join(name), &|_| true)?;
        } else if is_copied(&name) {
            std::fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

fn names(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        found.extend(names(&entry.path()));
        found.push(entry.path());
    }
    found.sort();
    found
}

/// Copies the files while no table comes or goes.
fn copy(from: &Path, to: &Path, is_copied: &dyn Fn(&str) -> bool) {
    loop {
        let before = names(from);
        let copied = try_copy(from, to, is_copied);
        if before == names(from) {
            return copied.unwrap();
        }
        std::fs::remove_dir_all(to.join("keyspaces")).ok();
    }
}

fn copy_tables(from: &Path, to: &Path) {
    copy(from, to, &|name| name == "keyspaces");
}

fn copy_all_but_tables(from: &Path, to: &Path) {
    copy(from, to, &|name| name != "keyspaces");
}

fn has_journal(directory: &Path, number: u64) -> bool {
    path_of(directory, number).exists()
}

fn has_table(directory: &Path) -> bool {
    std::fs::read_dir(directory.join("keyspaces/1/tables")).is_ok_and(|tables| tables.count() > 0)
}

fn key(row: u32) -> Vec<u8> {
    format!("m{row:04}").into_bytes()
}

/// Rows of one MiB each, one batch after the other.
struct Filling {
    store: FileStore,
    rows: u32,
    /// Number of rows left: earlier ones are deleted again.
    kept: u32,
}

impl Filling {
    async fn start(directory: &Path) -> Self {
        Self { store: FileStore::open_with(directory, Durability::ProcessCrash).await.unwrap(), rows: 0, kept: MIB_MAX }
    }

    fn write(&mut self) {
        let value = vec![u8::try_from(self.rows % 251).unwrap(); VALUE_BYTES];
        let mut ops = Ops::from([(key(self.rows), Some(value.into()))]);
        if let Some(last) = self.rows.checked_sub(self.kept) {
            ops.insert(key(last), None);
        }
        self.store.kv.write(ops).unwrap();
        self.rows += 1;
    }

    fn write_until(&mut self, is_enough: impl Fn(&Path) -> bool) {
        let directory = self.store.kv.shared.path.clone();
        while !is_enough(&directory) {
            assert!(self.rows < MIB_MAX, "it takes too long");
            self.write();
            self.settle();
        }
    }

    /// Waits until the database has no background work left.
    fn settle(&self) {
        let is_busy = |open: &Open| Ok(open.database.outstanding_flushes() > 0 || open.map.sealed_memtable_count() > 0);
        while self.store.kv.with(is_busy).unwrap() {
            std::thread::yield_now();
        }
    }
}

/// Opens a copy, and counts the rows of a filling in it.
async fn rows_in(directory: &Path) -> Result<usize, StoreError> {
    let store = FileStore::open_with(directory, Durability::ProcessCrash).await?;
    Ok(store.kv.scan(b"m", b"n", usize::MAX)?.len())
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(opened: Result<T, StoreError>, at: &Path) {
    match opened {
        Err(StoreError::Unreadable { at: named, why }) => {
            assert_eq!(named, at.display().to_string());
            assert!(why.contains("backup"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

/// Method: copy the tables, write until the first journal has been deleted, copy the rest. Repeat
/// with the first journal as it was when the tables were copied, and with the first and the last
/// journal, but not the one between.
#[tokio::test]
async fn copy_that_lacks_rows_in_the_middle_is_refused() {
    let (dir, copies) = (fast_dir(), fast_dir());
    let [begun, early, holed, joined] = ["begun", "early", "holed", "joined"].map(|name| copies.path().join(name));
    let mut filling = Filling::start(dir.path()).await;
    filling.write_until(has_table);
    copy_tables(dir.path(), &begun);
    copy_tables(dir.path(), &early);
    copy_tables(dir.path(), &holed);
    copy_all_but_tables(dir.path(), &early);
    let rows = filling.rows as usize;
    filling.write_until(|directory| has_journal(directory, 1) && !has_journal(directory, 0));
    filling.write();
    copy_all_but_tables(dir.path(), &begun);
    assert_refused(rows_in(&begun).await, &path_of(&begun, 1));
    copy_tables(dir.path(), &joined);
    copy_all_but_tables(dir.path(), &joined);
    assert_eq!(rows_in(&joined).await, Ok(filling.rows as usize), "one moment, in use");
    copy_all_but_tables(dir.path(), &holed);
    std::fs::copy(path_of(&early, 0), path_of(&holed, 0)).unwrap();
    assert_refused(rows_in(&holed).await, &path_of(&holed, 1));
    assert_eq!(rows_in(&early).await, Ok(rows), "one moment, in use");
}

/// Method: leave the files of a first open that was killed before it made its keyspace, which then
/// gets another number. Write until the first journal has been deleted, and open a copy.
#[tokio::test]
async fn store_whose_first_open_was_killed_opens_ever_after() {
    let dir = fast_dir();
    std::fs::create_dir(dir.path().join("keyspaces")).unwrap();
    std::fs::write(dir.path().join("version"), b"FJL\x03").unwrap();
    std::fs::write(dir.path().join("lock"), b"").unwrap();
    std::fs::File::create(path_of(dir.path(), 0)).unwrap().set_len(64 << 20).unwrap();
    let mut filling = Filling::start(dir.path()).await;
    assert!(dir.path().join("keyspaces/2").exists(), "the number is not what this is about");
    filling.write_until(|directory| has_journal(directory, 1) && !has_journal(directory, 0));
    filling.write();
    let copied = fast_dir();
    copy(dir.path(), copied.path(), &|_| true);
    assert_eq!(rows_in(copied.path()).await, Ok(filling.rows as usize));
}

/// Method: write and delete, so that whole tables go again, and copy the directory while journals
/// end, as a crash may leave it. Reopen the store itself in between.
#[tokio::test]
async fn image_of_one_moment_opens_whatever_was_flushed() {
    const KEPT: u32 = 10;
    let dir = fast_dir();
    let mut filling = Filling { kept: KEPT, ..Filling::start(dir.path()).await };
    filling.write_until(|directory| has_journal(directory, 1));
    while !has_journal(dir.path(), 2) || has_journal(dir.path(), 1) {
        (0..13).for_each(|_| filling.write());
        filling.settle();
        let copied = fast_dir();
        copy(dir.path(), copied.path(), &|_| true);
        assert_eq!(rows_in(copied.path()).await, Ok(KEPT as usize), "{} rows", filling.rows);
        if filling.rows.is_multiple_of(2) {
            filling.store.kv.reopen().unwrap();
        }
    }
}

/// Method: remove the newest journal, with an older one in its place, and all journals.
#[tokio::test]
async fn store_without_one_of_its_journals_is_refused() {
    let dir = fast_dir();
    let mut filling = Filling::start(dir.path()).await;
    filling.write_until(|directory| has_journal(directory, 1));
    filling.write();
    filling.store.kv.reopen().unwrap();
    drop(filling);
    let [without_newest, without_any] = [(); 2].map(|()| fast_dir());
    copy(dir.path(), without_newest.path(), &|name| name != "1.jnl");
    std::fs::copy(path_of(dir.path(), 1), path_of(without_newest.path(), 0)).unwrap();
    assert_refused(rows_in(without_newest.path()).await, &path_of(without_newest.path(), 0));
    copy(dir.path(), without_any.path(), &|name| Path::new(name).extension().is_none_or(|end| end != "jnl"));
    assert_refused(rows_in(without_any.path()).await, without_any.path());
}

/// Method: remove the head of one instance, an index entry of another, and everything but the rows
/// of a third; put a row of a fifth in place of a fourth's.
#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_what_does_not_go_together() {
    let dir = fast_dir();
    let store = FileStore::open(dir.path()).await.unwrap();
    let workflow = Workflow::builder_for::<String>("w").delay("d", Duration::from_hours(1)).build().unwrap();
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    let names = ["headless", "unlisted", "forgotten", "mixed", "right"];
    for name in names {
        runtime.start(&workflow, name, "x".repeat(1_000)).await.unwrap();
    }
    runtime.shutdown(Duration::from_secs(1)).await;
    drop(runtime);
    let store = FileStore::open(dir.path()).await.unwrap();
    let sound = store.verify().await.unwrap();
    assert!(sound.is_sound() && sound.instances == 5 && sound.rows == 5 && sound.entries == 10, "{sound:?}");

    let [headless, unlisted, forgotten, mixed, right] = names.map(|name| InstanceId::new(name).unwrap());
    let index = |id: &InstanceId| {
        let head = store.kv.get(&keys::head(id)).unwrap().unwrap();
        HeadIndex::of_head(id, &head).unwrap()
    };
    let row = |id: &InstanceId| store.kv.scan(&keys::rows(index(id).run), b"c", 1).unwrap().pop().unwrap();
    let orphan = index(&forgotten).run;
    let mut ops = Ops::from([(keys::head(&headless), None), (keys::head(&forgotten), None)]);
    ops.extend(keys::index_entries(&forgotten, &index(&forgotten)).map(|(key, _)| (key, None)));
    ops.insert(keys::due(index(&unlisted).due.unwrap(), &unlisted), None);
    ops.insert(row(&mixed).0.to_vec(), Some(row(&right).1));
    store.kv.write(ops).unwrap();
    let found = store.verify().await.unwrap();
    let lacks = |index| Finding::EntryWithoutHead { instance: headless.clone(), index };
    let expected =
        [lacks("status"), lacks("due"), Finding::HeadWithoutEntry { instance: unlisted.clone(), index: "due" }];
    for finding in expected.into_iter().chain([Finding::OrphanRows { run: orphan, rows: 1 }]) {
        assert!(found.findings.contains(&finding), "{finding}: {found:?}");
    }
    assert!(
        found.findings.iter().any(|finding| matches!(finding, Finding::Record { instance, .. } if *instance == mixed))
    );
    assert_eq!(found.findings.len(), 5, "{found:?}");
    assert!(!found.instances_found().contains(&right));
}

/// Returns the tables, once none comes or goes.
fn settled_tables(store: &FileStore) -> Vec<PathBuf> {
    let is_busy = |open: &Open| Ok(open.map.sealed_memtable_count() > 0 || open.database.active_compactions() > 0);
    loop {
        let listed = || tables::list(&store.kv.shared.path).unwrap().into_iter().map(|table| table.path);
        let ours: Vec<_> = listed().filter(|path| path.to_string_lossy().contains("keyspaces/1")).collect();
        let is_busy = store.kv.with(is_busy).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        if !is_busy && !ours.is_empty() && ours.iter().all(|table| listed().any(|other| other == *table)) {
            return ours;
        }
    }
}

/// Method: fill tables with the same rows, and flip a bit in one, so that they can no longer be
/// merged.
#[tokio::test(flavor = "multi_thread")]
async fn merge_of_a_damaged_table_ends_in_a_named_state() {
    const ROWS: u32 = 20;
    let (dir, to) = (fast_dir(), fast_dir());
    let store = FileStore::open_with(dir.path(), Durability::ProcessCrash).await.unwrap();
    let write = |store: &FileStore, row: u32| {
        let value = vec![u8::try_from(row % 251).unwrap(); VALUE_BYTES];
        store.kv.write(Ops::from([(key(row % ROWS), Some(value.into()))]))
    };
    let mut rows = 0..MIB_MAX;
    while !has_table(dir.path()) {
        write(&store, rows.next().unwrap()).unwrap();
    }
    let table = settled_tables(&store).pop().unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    let mut reopened = 0;
    let verdict = loop {
        if write(&store, rows.next().expect("it comes to an end")).is_err() {
            match store.kv.reopen() {
                Ok(()) => reopened += 1,
                Err(verdict) => break verdict,
            }
        }
    };
    assert_refused::<()>(Err(verdict.clone()), &table);
    assert_eq!(reopened, 1);
    assert_eq!(store.kv.reopen(), Err(verdict), "and stays so");
    let backup = store.backup(to.path()).await.unwrap();
    let copy = FileStore::open_with(to.path(), Durability::ProcessCrash).await.unwrap();
    let found = copy.kv.scan(b"m", b"n", usize::MAX).unwrap().len();
    // A block may hold two rows.
    assert!(found >= ROWS as usize - 2 && !backup.is_whole(), "{found} rows, {backup:?}");
    assert!(copy.verify().await.unwrap().is_sound());
    write(&copy, 0).unwrap();
}

/// Method: replace a table by nothing, by its first half, and by a path that cannot be read as a
/// file, like a disk that fails.
#[tokio::test]
async fn table_that_cannot_be_read_is_not_called_damaged() {
    let dir = fast_dir();
    let mut filling = Filling::start(dir.path()).await;
    filling.write_until(has_table);
    let table = settled_tables(&filling.store).pop().unwrap();
    filling.store.kv.close();
    let check = || tables::check(dir.path(), |_| Ok::<_, StoreError>(())).unwrap();
    assert_eq!(check(), []);
    let bytes = std::fs::read(&table).unwrap();
    std::fs::write(&table, &bytes[..bytes.len() / 2]).unwrap();
    assert!(check().iter().any(|damaged| damaged.path == table && !damaged.is_unknown));
    std::fs::remove_file(&table).unwrap();
    assert!(check().iter().any(|damaged| damaged.path == table && !damaged.is_unknown));
    let opened = FileStore::open(dir.path()).await.map(drop);
    assert!(
        matches!(&opened, Err(StoreError::Unreadable { at, .. }) if *at == table.display().to_string()),
        "{opened:?}"
    );
    std::fs::create_dir(&table).unwrap();
    assert!(check().iter().any(|damaged| damaged.path == table && damaged.is_unknown));
}
