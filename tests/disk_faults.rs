//! System calls that fail under the store on disk. A preloaded library fails each one in a child
//! process; then the directory is opened without it. No acknowledged write is lost.
//!
//! `EVERSTEP_DISK_FAULTS=1000` fails as many calls of each kind; the default is 50 in all.
#![cfg(all(target_os = "linux", feature = "file-store"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic anywhere")]

#[path = "disk_faults/faults.rs"]
mod faults;
#[path = "common/recorded.rs"]
mod recorded;
#[path = "disk_faults/world.rs"]
mod world;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use everstep::{DefinitionHash, Durability, FileStore, Health, Store as _, StoreError};
use faults::{CONTROL, Fault, Faults, KINDS, Kind, build, preload};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use world::{INSTANCES, Ledger, PATIENCE, World, check, name, read};

const DIRECTORY: &str = "EVERSTEP_TEST_DATA";
const MODE: &str = "EVERSTEP_TEST_MODE";
const COMMITS_FAIL: &str = "EVERSTEP_TEST_COMMITS_FAIL";
const INPUT_BYTES: &str = "EVERSTEP_TEST_INPUT_BYTES";

/// The duration of the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// One call fails; the process continues and finishes everything.
    Once,
    /// Calls fail until the process was seen to be unhealthy; then the process continues.
    ForAWhile,
    /// Calls fail for good; the process shuts down.
    Lasting,
}

const MODES: [Mode; 3] = [Mode::Once, Mode::ForAWhile, Mode::Lasting];

struct Case {
    kind: Kind,
    fault: Fault,
    mode: Mode,
    first: u64,
    input_bytes: usize,
    /// Path below the store's directory: only calls on files under it can fail.
    under: &'static str,
}

impl Case {
    fn describe(&self) -> String {
        format!(
            "{:?} {} with {:?}, {:?}, inputs of {} bytes{}",
            self.kind, self.first, self.fault, self.mode, self.input_bytes, self.under
        )
    }
}

/// The directory of one case: the store in it, and the files out of the faults' reach.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        Self { dir: if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() } }
    }

    fn of(path: &Path) -> (PathBuf, PathBuf) {
        (path.join("data/store"), path.join("ledger"))
    }

    fn control(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    /// Runs the child, which must end well.
    async fn run(&self, library: &Path, case: &Case) {
        self.run_child(CHILD, library, case).await;
    }

    async fn run_child(&self, test: &str, library: &Path, case: &Case) {
        let what = case.describe();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).kill_on_drop(true);
        command.env(DIRECTORY, self.dir.path()).env(MODE, format!("{:?}", case.mode));
        command.env(INPUT_BYTES, case.input_bytes.to_string());
        if case.under.is_empty() && case.mode != Mode::Once && matches!(case.kind, Kind::Write | Kind::Sync) {
            command.env(COMMITS_FAIL, "1");
        }
        let prefix = format!("{}/data{}", self.dir.path().display(), case.under);
        preload(&mut command, library, &self.control(), Path::new(&prefix));
        command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let ended =
            tokio::time::timeout(2 * PATIENCE, command.output()).await.unwrap_or_else(|_| panic!("{what}: it hangs"));
        let ended = ended.unwrap();
        let said = String::from_utf8_lossy(&ended.stderr) + String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "{what}: {said}");
    }
}

const CHILD: &str = "child_process_with_failing_disk";
const WRITER: &str = "child_process_writing_faster_than_tables";

/// Runs the child's part, or nothing if this is not the child.
#[tokio::test(flavor = "multi_thread")]
async fn child_process_with_failing_disk() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let (data, ledger) = Place::of(Path::new(&dir));
    let mode = std::env::var(MODE).unwrap();
    let mode = MODES.into_iter().find(|one| format!("{one:?}") == mode).unwrap();
    let input_bytes = std::env::var(INPUT_BYTES).unwrap().parse().unwrap();
    let faults = Arc::new(Faults::attach(Path::new(&std::env::var_os(CONTROL).unwrap())));
    let Some(world) = begin(&data, &ledger, mode, input_bytes, &faults).await else { return };
    let torn_before = torn_tails(&data);
    let (seen, commits_fail) = (Arc::clone(&faults), std::env::var_os(COMMITS_FAIL).is_some());
    let may_be = move || !commits_fail || seen.failed() == 0 || seen.are_lifted();
    let mut all = world.drive(&read(&ledger), may_be);
    if mode != Mode::Once
        && let Some(reason) = unhealthy(&world, &mut all).await
    {
        let expected = ["os error", "Os { code", "Poisoned"];
        assert!(expected.iter().any(|one| reason.contains(one)), "{reason}");
        if mode == Mode::ForAWhile {
            faults.lift();
        }
    }
    if mode == Mode::Lasting {
        tokio::time::timeout(PATIENCE, world.runtime.shutdown(Duration::from_millis(100)))
            .await
            .expect("shutdown ends");
        all.join_all().await;
    } else {
        tokio::time::timeout(PATIENCE, all.join_all()).await.expect("all instances end");
        tokio::time::timeout(PATIENCE, world.is_healthy()).await.expect("the runtime is healthy again");
        world.runtime.shutdown(Duration::from_secs(1)).await;
        let ended = read(&ledger);
        assert!((0..INSTANCES).all(|number| ended.contains_key(&format!("ended {}", name(number)))), "{ended:?}");
        assert_eq!(torn_tails(&data), torn_before, "a failed write of this process leaves no torn tail");
    }
    assert_eq!(faults.retried(), 0, "a sync that had failed was tried again on the same handle");
    for (line, times) in read(&ledger) {
        assert_eq!(times, 1, "{line}, by the same process");
    }
}

fn torn_tails(data: &Path) -> usize {
    let names = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("everstep.torn-")).count()
}

/// Opens the store twice and starts the runtime; a step that fails is tried again, unless it would
/// fail for ever.
async fn begin(data: &Path, ledger: &Path, mode: Mode, input_bytes: usize, faults: &Faults) -> Option<Arc<World>> {
    loop {
        let begun = async {
            let store = FileStore::open(data).await.map_err(|error| error.to_string())?;
            store.close().await;
            store.reopen().await.map_err(|error| error.to_string())?;
            World::on(store, Ledger::open(ledger), input_bytes).await
        };
        match begun.await {
            Ok(world) => return Some(world),
            Err(error) => {
                assert!(faults.failed() > 0, "{error}");
                match mode {
                    Mode::Once => {}
                    Mode::ForAWhile => faults.lift(),
                    Mode::Lasting => return None,
                }
            }
        }
    }
}

/// Waits until the runtime says why it is not healthy; returns none if everything ended all the
/// same.
async fn unhealthy(world: &World, all: &mut JoinSet<()>) -> Option<String> {
    let waiting = async {
        loop {
            if let Health::Unhealthy { reason } = world.runtime.health() {
                return Some(reason);
            }
            tokio::select! {
                one = all.join_next() => match one {
                    Some(one) => one.unwrap(),
                    None => return None,
                },
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the runtime is unhealthy, or everything ends")
}

/// Returns the library, and the number of calls of each kind without a fault; none where faults
/// cannot be made.
async fn prepare(dir: &Path, input_bytes: usize, under: &'static str) -> Option<(PathBuf, [u64; 4])> {
    let skip = |why: &str| {
        assert!(std::env::var_os("CI").is_none(), "no faults can be made: {why}");
        println!("skipped, since no faults can be made: {why}");
    };
    let library = match build(dir) {
        Ok(library) => library,
        Err(why) => {
            skip(&why);
            return None;
        }
    };
    let place = Place::new();
    let faults = Faults::create(&place.control());
    let case = Case { kind: Kind::Write, fault: Fault::IoError, mode: Mode::Once, first: u64::MAX, input_bytes, under };
    place.run(&library, &case).await;
    let calls = KINDS.map(|kind| faults.calls(kind));
    if calls[Kind::Write as usize] == 0 {
        skip(&format!("the library saw {calls:?} calls"));
        return None;
    }
    Some((library, calls))
}

async fn fail(library: &Path, case: Case) -> bool {
    let (place, what) = (Place::new(), case.describe());
    let faults = Faults::create(&place.control());
    let many = match (case.mode, case.fault) {
        (Mode::Once, Fault::ShortWrite) => 2,
        (Mode::Once, _) => 1,
        _ => u64::MAX,
    };
    faults.plan(case.kind, case.fault, case.first, many);
    place.run(library, &case).await;
    let (data, ledger) = Place::of(place.dir.path());
    check(&data, &ledger, case.input_bytes, &what).await;
    faults.failed() > 0
}

/// Fails calls of each kind, as many as its share or `EVERSTEP_DISK_FAULTS` says, spread over all
/// calls of the workload.
async fn fail_all(shares: [u64; 4], input_bytes: usize, under: &'static str) {
    let dir = TempDir::new().unwrap();
    let Some((library, calls)) = prepare(dir.path(), input_bytes, under).await else { return };
    println!("{KINDS:?}: {calls:?} calls");
    let each = std::env::var("EVERSTEP_DISK_FAULTS").ok().and_then(|each| each.parse().ok());
    let mut cases = Vec::new();
    for (kind, share) in KINDS.into_iter().zip(shares) {
        let faults = match kind {
            Kind::Write => vec![Fault::IoError, Fault::NoSpace, Fault::ShortWrite],
            _ => vec![Fault::IoError, Fault::NoSpace],
        };
        let (many, calls) = (each.unwrap_or(share), calls[kind as usize]);
        let modes = MODES.into_iter().flat_map(|mode| faults.iter().map(move |fault| (*fault, mode)));
        for (number, (fault, mode)) in (0..many).zip(modes.cycle()).filter(|_| calls > 0) {
            cases.push(Case { kind, fault, mode, first: 1 + number * calls / many, input_bytes, under });
        }
    }
    let (all, library) = (cases.len(), Arc::new(library));
    let (places, mut running, mut failed) = (Arc::new(Semaphore::new(3)), JoinSet::new(), 0);
    for case in cases {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let library = Arc::clone(&library);
        running.spawn(async move {
            let _place = place;
            fail(&library, case).await
        });
        while let Some(ended) = running.try_join_next() {
            failed += usize::from(ended.unwrap());
        }
    }
    failed += running.join_all().await.into_iter().filter(|failed| *failed).count();
    println!("{failed} of {all} faults came to pass");
    // The size of commits varies, so the last calls may not come.
    assert!(2 * failed > all, "{failed} of {all} faults came to pass");
}

/// Method: a first child counts the calls of the workload. Then, for calls spread over all of them,
/// a child of its own fails one, and a runtime starts on the directory it left.
#[tokio::test(flavor = "multi_thread")]
async fn any_failing_syscall_loses_no_acknowledged_write() {
    fail_all([20, 18, 4, 8], 3_000, "").await;
}

/// Method: as above, with inputs so large that the database's own threads write tables; calls on
/// the tables' files fail.
#[tokio::test(flavor = "multi_thread")]
async fn any_failing_table_syscall_loses_no_acknowledged_write() {
    fail_all([3, 3, 0, 2], 1_000_000, "/store/keyspaces").await;
}

fn hash(number: u32) -> DefinitionHash {
    format!("{number:064x}").parse().unwrap()
}

/// Runs the child's part: commits megabytes until one fails. Once no commit returns any more, the
/// writing of tables fails.
#[tokio::test(flavor = "multi_thread")]
async fn child_process_writing_faster_than_tables() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let (data, _) = Place::of(Path::new(&dir));
    let faults = Faults::attach(Path::new(&std::env::var_os(CONTROL).unwrap()));
    let store = Arc::new(FileStore::open_with(data, Durability::ProcessCrash).await.unwrap());
    faults.plan(Kind::Sync, Fault::SlowError, faults.calls(Kind::Sync) + 1, u64::MAX);
    let (commits, writer) = (Arc::new(AtomicU32::new(0)), Arc::clone(&store));
    let counted = Arc::clone(&commits);
    let failed = tokio::task::spawn_blocking(move || {
        for number in 0..500 {
            let megabyte = vec![1; 1 << 20].into();
            if let Err(error) = Handle::current().block_on(writer.save_manifest(&hash(number), megabyte)) {
                return error;
            }
            counted.store(number, Ordering::SeqCst);
        }
        panic!("no commit failed")
    });
    let mut before = u32::MAX;
    while faults.failed() == 0 || before != commits.load(Ordering::SeqCst) {
        before = commits.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // 64 are let in, and then one a second.
    assert!(before < 100, "{before} megabytes are in memory, and no table is written");
    faults.let_fail();
    let failed = tokio::time::timeout(PATIENCE, failed).await.expect("the waiting commit fails").unwrap();
    assert!(matches!(failed, StoreError::Fatal(_)), "{failed}");
    faults.lift();
    store.reopen().await.unwrap();
    store.save_manifest(&hash(1_000), vec![1].into()).await.unwrap();
}

/// Method: a child commits large values while the first table it writes makes no headway, until its
/// commits wait for the table; then every sync of a table fails. The waiting commits are in memory
/// already, so there must be few; and they must fail.
#[tokio::test(flavor = "multi_thread")]
async fn commits_waiting_for_tables_fail_when_tables_do() {
    let dir = TempDir::new().unwrap();
    let under = "/store/keyspaces/1/tables";
    let Some((library, _)) = prepare(dir.path(), 3_000, "").await else { return };
    let case = Case { kind: Kind::Sync, fault: Fault::SlowError, mode: Mode::Lasting, first: 1, input_bytes: 0, under };
    let place = Place::new();
    Faults::create(&place.control());
    place.run_child(WRITER, &library, &case).await;
}
