//! Bits that rot at rest, in tables, journals and small files: the store refuses to open, or every
//! readable instance continues, the rest is listed, and nothing hangs.
//!
//! `EVERSTEP_BITS=2000 cargo test --release --all-features --test rot` flips more of them.
#![cfg(feature = "file-store")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{still_clock, within};
use everstep::machine::HeadIndex;
use everstep::store::{Finding, Verification};
use everstep::{
    Clock as _, FileStore, InstanceFilter, ManualClock, Runtime, RuntimeError, StatusCode, Store as _, StoreError,
    Workflow,
};
use tokio::task::JoinSet;

const INSTANCES: usize = 1_000;
const HOUR: Duration = Duration::from_hours(1);
/// The longest until everything has ended. Never a measure of speed.
const PATIENCE: Duration = Duration::from_secs(40);

/// Returns an input so large that a memtable is full and becomes a table.
fn input() -> String {
    "x".repeat(18 << 10)
}

fn delayed() -> Workflow<String, String> {
    Workflow::builder_for::<String>("delayed").delay("hour", HOUR).build().unwrap()
}

fn bits() -> u64 {
    std::env::var("EVERSTEP_BITS").ok().and_then(|bits| bits.parse().ok()).unwrap_or(10)
}

/// Leaves a closed store with a thousand instances in a delay.
async fn parked(dir: &Path, clock: &ManualClock) {
    let workflow = Arc::new(delayed());
    let store = FileStore::open(dir).await.unwrap();
    let runtime = Runtime::builder(store).register(&workflow).clock(clock.clone()).start().await.unwrap();
    let mut starts = JoinSet::new();
    for n in 0..INSTANCES {
        let (runtime, workflow) = (runtime.clone(), Arc::clone(&workflow));
        starts.spawn(async move { drop(runtime.start(&workflow, format!("instance-{n:04}"), input()).await.unwrap()) });
    }
    starts.join_all().await;
    within(runtime.shutdown(Duration::from_secs(1))).await;
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Bytes at the end of each table, which hold the heads and indexes after the inputs.
const TAIL: u64 = 400 << 10;

/// Returns the places where bits are flipped: one in each file that is not empty, the others spread
/// over the bytes of all files, and over the end of each table.
fn places(dir: &Path) -> Vec<(PathBuf, u64)> {
    let sizes: Vec<_> = files(dir).into_iter().map(|path| (fs::metadata(&path).unwrap().len(), path)).collect();
    let sizes: Vec<_> = sizes.into_iter().filter(|(size, _)| *size > 0).collect();
    let total: u64 = sizes.iter().map(|(size, _)| size).sum();
    let mut places: Vec<_> = sizes.iter().map(|(size, path)| (path.clone(), size / 2)).collect();
    for sample in 0..bits() {
        let mut at = (total / bits()) * sample + 7 * sample;
        for (size, path) in &sizes {
            if at < *size {
                places.push((path.clone(), at));
                break;
            }
            at -= size;
        }
    }
    for (size, path) in sizes.iter().filter(|(_, path)| path.to_string_lossy().contains("tables")) {
        let (tail, samples) = (TAIL.min(*size), 4 * bits());
        places.extend((0..samples).map(|sample| (path.clone(), size - tail + (tail / samples) * sample + 3)));
    }
    places
}

/// Counts of stores with one flipped bit, by their fate.
#[derive(Debug, Default)]
struct Seen {
    refused: usize,
    untouched: usize,
    damaged: usize,
}

/// Opens the store, verifies it, and runs it. A backup of a store with an unreadable part is sound,
/// and runs with the same result.
async fn check(dir: &Path, clock: &ManualClock, (path, at): (&str, &str), seen: &mut Seen) {
    let store = match FileStore::open(dir).await {
        Ok(store) => store,
        Err(StoreError::Unreadable { at: named, .. }) => {
            assert!(!path.contains("tables") || named == path, "{at}: it names {named}");
            seen.refused += 1;
            return;
        }
        Err(error) => panic!("{at}: {error:?}"),
    };
    let found = store.verify().await.unwrap();
    assert!(!path.contains("tables") || !found.is_sound(), "{at}: nothing is found");
    let is_hole = |finding: &Finding| matches!(finding, Finding::Range(_));
    let copied = dir.with_extension("backup");
    let has_holes = found.findings.iter().any(is_hole);
    if has_holes {
        let backup = store.backup(&copied).await.unwrap();
        assert!(!backup.is_whole(), "{at}: {backup:?}");
    }
    let Some(counts) = run(store, clock, at, &found).await else {
        seen.refused += 1;
        return;
    };
    let kind = if counts.1 == 0 { &mut seen.untouched } else { &mut seen.damaged };
    *kind += 1;
    if has_holes {
        let store = FileStore::open(&copied).await.unwrap();
        let found = store.verify().await.unwrap();
        // A lost manifest is lost in the copy too, until a runtime registers its definition.
        let is_expected = |one: &Finding| one.instance().is_some() || matches!(one, Finding::NoManifest { .. });
        assert!(found.findings.iter().all(is_expected), "{at}: in the backup {found:?}");
        let at = format!("{at}, in the backup");
        assert_eq!(run(store, clock, &at, &found).await, Some(counts), "{at}");
        fs::remove_dir_all(&copied).unwrap();
    }
}

/// Runs the store past all delays, and waits until every readable instance has ended. Returns how
/// many have ended, and how many are quarantined; none if it does not start.
async fn run(store: FileStore, clock: &ManualClock, at: &str, found: &Verification) -> Option<(usize, usize)> {
    let again = store.clone();
    let later = ManualClock::new(clock.now().after(2 * HOUR));
    let started = Runtime::builder(store).register(&delayed()).clock(later.clone()).start().await;
    let runtime = match started {
        Ok(runtime) => runtime,
        Err(RuntimeError::Store(StoreError::Unreadable { .. })) => return None,
        Err(error) => panic!("{at}: {error:?}"),
    };
    let mut counts = (0, 0);
    let ended = tokio::time::timeout(PATIENCE, async {
        while counts.0 + counts.1 < INSTANCES {
            later.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(20)).await;
            let count = async |status| {
                usize::try_from(runtime.count(&InstanceFilter::new().status(status)).await.unwrap()).unwrap()
            };
            counts = (count(StatusCode::Completed).await, count(StatusCode::Quarantined).await);
        }
    });
    let ended = ended.await.is_ok();
    let unreadable = runtime.unreadable();
    assert!(ended, "{at}: {counts:?} ended and quarantined, {unreadable:?} cannot be read, {:?}", runtime.health());
    let aside = runtime.list(&InstanceFilter::new().status(StatusCode::Quarantined), None, INSTANCES).await.unwrap();
    for one in aside.instances {
        let loaded = again.load(&one.instance).await.unwrap().unwrap();
        assert!(HeadIndex::of_head(&one.instance, &loaded.head).is_err(), "{at}: {} can be read", one.instance);
        assert!(found.instances_found().contains(&one.instance), "{at}: {} is not found: {found:?}", one.instance);
    }
    within(runtime.shutdown(Duration::from_secs(1))).await;
    Some(counts)
}

/// Method: flip one bit of a copy, open it when all delays are over, and count ended and
/// quarantined instances.
#[tokio::test(flavor = "multi_thread")]
async fn flipped_bit_costs_only_damaged_instances() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), still_clock());
    let template = dir.path().join("template");
    parked(&template, &clock).await;
    let tables = files(&template).iter().filter(|path| path.to_string_lossy().contains("tables")).count();
    assert!(tables > 0, "there is a table to be damaged: {:?}", files(&template));
    let store = FileStore::open(&template).await.unwrap();
    let found = store.verify().await.unwrap();
    assert!(found.is_sound() && found.instances == INSTANCES as u64 && found.rows == INSTANCES as u64, "{found:?}");
    store.close().await;
    let mut seen = Seen::default();
    for (number, (path, at)) in places(&template).into_iter().enumerate() {
        let copied = dir.path().join(format!("{number}"));
        copy(&template, &copied);
        let path = copied.join(path.strip_prefix(&template).unwrap());
        let mut bytes = fs::read(&path).unwrap();
        bytes[usize::try_from(at).unwrap()] ^= 1 << (number % 8);
        fs::write(&path, bytes).unwrap();
        let at = format!("bit {} of byte {at} of {}", number % 8, path.display());
        check(&copied, &clock, (&path.to_string_lossy(), &at), &mut seen).await;
        fs::remove_dir_all(&copied).unwrap();
    }
    println!("{seen:?}");
}
