//! Tests of stores over a map of bytes, beyond the conformance suite.

mod long_lives;

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::definition::Workflow;
use crate::id::RunId;
use crate::limits::Limits;
use crate::machine::{self, Context, Event, NewRun, RowChange, RowKey};
use crate::store::memory::Memory;
use crate::store::{Change, Condition, Conflict, Version};

/// Method: damage the head of an instance that is due and of one that has ended, beside many
/// others. Delete or replace it, at once or after a quarantine. Its index entries and rows go,
/// though no head names them any more, and the entries of other instances are not read for that.
#[test]
fn a_rotten_head_leaves_nothing_and_costs_little() {
    for others in [10, 1_000] {
        for state in ["due", "ended"] {
            for (aside, replaced) in [(false, false), (true, false), (false, true), (true, true)] {
                let what = format!("{state}, set aside: {aside}, replaced: {replaced}");
                let store = KvStore::over(Failing::default());
                let (mut writes, mut insert) = Writes::start("one");
                insert.rows.push(RowChange { key: RowKey::Input, value: Some(Bytes::from_static(b"input")) });
                let inserts: Vec<_> = (0..others).map(|n| Writes::start(&format!("other {n}")).1).collect();
                store.commit_batch(&inserts).unwrap();
                let before = store.kv.memory.scan(&[], &[u8::MAX], usize::MAX).unwrap();
                store.commit_batch(&[insert]).unwrap();
                if state == "ended" {
                    let end = Event::Cancel { reason: "".into(), by: "".into() };
                    store.commit_batch(&[writes.happen(end)]).unwrap();
                }
                let (instance, run) = (writes.snapshot.instance().clone(), writes.snapshot.run());
                let head = store.load_instance(&instance).unwrap().unwrap().head.slice(1..);
                store.kv.write(Ops::from([(keys::head(&instance), Some(head))])).unwrap();
                store.committing.lock().unwrap().clear();
                let seen = || Condition::Seen(store.load_instance(&instance).unwrap().unwrap().version(&instance));
                let looked = store.kv.looked.load(Ordering::SeqCst);
                let bare = |change| Write { rows: Vec::new(), change, condition: seen(), ..Writes::start("one").1 };
                if aside {
                    let record = machine::encode_quarantine(&instance, "rotten", Stamp::generate());
                    assert_eq!(store.commit_batch(&[bare(Change::Quarantine(record))]).unwrap(), [Ok(())], "{what}");
                }
                let (mut anew, _) = Writes::start("one");
                let end = if replaced { anew.write(seen()) } else { bare(Change::Delete) };
                assert_eq!(store.commit_batch(&[end]).unwrap(), [Ok(())], "{what}");
                let looked = store.kv.looked.load(Ordering::SeqCst) - looked;
                assert!(looked < 60, "{what}: {looked} keys of {others} other instances");
                if replaced {
                    let delete = Write { superseded: Some(anew.snapshot.run()), ..bare(Change::Delete) };
                    assert_eq!(store.commit_batch(&[delete]).unwrap(), [Ok(())], "{what}");
                }
                while store.sweep_some(100).unwrap() > 0 {}
                assert_eq!(store.kv.get(&keys::row(run, &RowKey::Input)).unwrap(), None, "{what}");
                assert_eq!(store.kv.memory.scan(&[], &[u8::MAX], usize::MAX).unwrap(), before, "{what}");
            }
        }
    }
}

/// Method: empty the status entries, as earlier versions left them; then damage a head. The index
/// that may list the instance is scanned in pages.
#[test]
fn a_rotten_head_of_an_earlier_version_leaves_no_entry() {
    let store = KvStore::over(Failing::default());
    let mut inserts: Vec<_> = (0..2_500).map(|n| Writes::start(&format!("other {n}")).1).collect();
    let (writes, insert) = Writes::start("twin");
    inserts.push(insert);
    store.commit_batch(&inserts).unwrap();
    let instance = writes.snapshot.instance().clone();
    let entries = store.kv.scan(keys::STATUSES, &keys::behind(keys::STATUSES), usize::MAX).unwrap();
    store.kv.write(entries.into_iter().map(|(key, _)| (key.to_vec(), Some(Bytes::new()))).collect()).unwrap();
    store.kv.write(Ops::from([(keys::head(&instance), Some(Bytes::from_static(b"rotten")))])).unwrap();
    store.committing.lock().unwrap().clear();
    let seen = store.load_instance(&instance).unwrap().unwrap().version(&instance);
    let delete = Write { change: Change::Delete, condition: Condition::Seen(seen), ..Writes::start("twin").1 };
    assert_eq!(store.commit_batch(&[delete]).unwrap(), [Ok(())]);
    let left = store.kv.scan(&[], &[u8::MAX], usize::MAX).unwrap();
    let names_it = |key: &Bytes| key.ends_with(b"twin");
    assert_eq!(left.iter().filter(|(key, _)| names_it(key)).count(), 0);
    assert_eq!(left.len(), 3 * 2_500);
}

/// A map whose writes fail on demand, before or after they are done, and which counts reads.
#[derive(Default)]
struct Failing {
    memory: Memory,
    fails: AtomicU32,
    reads: AtomicU32,
    /// Number of keys looked at.
    looked: AtomicU32,
    /// Prefix of the keys at which scans fail, if any.
    rotten: Mutex<Option<Vec<u8>>>,
}

impl Kv for Failing {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.looked.fetch_add(1, Ordering::SeqCst);
        self.memory.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if self.rotten.lock().unwrap().as_ref().is_some_and(|rotten| from.starts_with(rotten)) {
            return Err(StoreError::Fatal("rotten".into()));
        }
        let found = self.memory.scan(from, to, limit)?;
        self.looked.fetch_add(u32::try_from(found.len()).unwrap(), Ordering::SeqCst);
        Ok(found)
    }

    fn write(&self, ops: Ops) -> Result<(), StoreError> {
        match self.fails.swap(0, Ordering::SeqCst) {
            0 => self.memory.write(ops),
            1 => Err(StoreError::Transient("before".into())),
            _ => {
                self.memory.write(ops)?;
                Err(StoreError::Transient("after".into()))
            }
        }
    }

    fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(&self) {}

    fn durability(&self) -> Durability {
        Durability::ProcessCrash
    }
}

/// A run that is paused and unpaused, write after write.
struct Writes {
    workflow: Workflow<u32, u32>,
    limits: Limits,
    snapshot: machine::Snapshot,
}

impl Writes {
    fn start(name: &str) -> (Self, Write) {
        let workflow =
            Workflow::builder_for::<u32>("w").delay("d", std::time::Duration::from_hours(1)).build().unwrap();
        let (limits, now) = (Limits::default(), Timestamp::from_micros(1_000_000));
        let (instance, run) = (InstanceId::new(name).unwrap(), RunId::generate(now));
        let new = NewRun { instance, run, codec: 1, input: Bytes::from_static(&[1]), traceparent: None };
        let context = Context { program: workflow.definition().program(), limits: &limits, now };
        let (snapshot, _) = machine::start(&context, new);
        let mut writes = Self { workflow, limits, snapshot };
        let write = writes.write(Condition::Absent);
        (writes, write)
    }

    fn next(&mut self) -> Write {
        let pauses = self.snapshot.seq().is_multiple_of(2);
        self.happen(if pauses { Event::Unpause } else { Event::Pause { reason: "".into(), by: "".into() } })
    }

    fn happen(&mut self, event: Event) -> Write {
        let condition = Condition::Seen(Version::from(&self.snapshot));
        let now = Timestamp::from_micros(1_000_000);
        let context = Context { program: self.workflow.definition().program(), limits: &self.limits, now };
        machine::apply(&context, &mut self.snapshot, event).unwrap();
        self.write(condition)
    }

    fn end(&mut self) -> Write {
        let condition = Condition::Seen(Version::from(&self.snapshot));
        let now = Timestamp::from_micros(1_000_000 + self.snapshot.seq());
        let context = Context { program: self.workflow.definition().program(), limits: &self.limits, now };
        let event = Event::Cancel { reason: "".into(), by: "".into() };
        machine::apply(&context, &mut self.snapshot, event).unwrap();
        self.write(condition)
    }

    fn write(&mut self, condition: Condition) -> Write {
        let stamp = Stamp::generate();
        self.snapshot.set_stamp(stamp);
        let head = machine::encode_head(self.workflow.definition().program(), &self.snapshot);
        let (instance, run) = (self.snapshot.instance().clone(), self.snapshot.run());
        Write { instance, stamp, condition, change: Change::Head(head), rows: Vec::new(), run, superseded: None }
    }
}

#[test]
fn an_instance_that_is_written_again_is_not_read_again() {
    let store = KvStore::over(Failing::default());
    let (mut writes, insert) = Writes::start("one");
    assert_eq!(store.commit_batch(&[insert]).unwrap(), [Ok(())]);
    let before = store.kv.reads.load(Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(store.commit_batch(&[writes.next()]).unwrap(), [Ok(())]);
    }
    assert_eq!(store.kv.reads.load(Ordering::SeqCst), before);
}

/// Method: let a write fail before or after it was done; then commit one that builds on it, which
/// succeeds only if the failed one is stored.
#[test]
fn failed_write_leaves_conditions_to_stored_state() {
    for fails in [1, 2] {
        let store = KvStore::over(Failing::default());
        let (mut writes, insert) = Writes::start("one");
        assert_eq!(store.commit_batch(&[insert, writes.next()]).unwrap(), [Ok(()), Ok(())]);
        let (first, second) = (writes.next(), writes.next());
        store.kv.fails.store(fails, Ordering::SeqCst);
        assert!(store.commit_batch(std::slice::from_ref(&first)).is_err());
        let done = fails == 2;
        assert_eq!(store.commit_batch(std::slice::from_ref(&second)).unwrap().iter().all(Result::is_ok), done);
        let repeated = if done { second } else { first };
        assert_eq!(store.commit_batch(&[repeated]).unwrap(), [Ok(())], "fails: {fails}");
    }
}

/// Returns the run of a deleted instance with an input, which is to be swept, and the write that
/// started it.
fn deleted(store: &KvStore<Failing>, name: &str) -> (RunId, Write) {
    let (writes, mut insert) = Writes::start(name);
    insert.rows.push(RowChange { key: RowKey::Input, value: Some(Bytes::from_static(b"input")) });
    let delete = Write {
        change: Change::Delete,
        condition: Condition::Seen(Version::from(&writes.snapshot)),
        superseded: Some(insert.run),
        ..Writes::start(name).1
    };
    assert_eq!(store.commit_batch(&[insert.clone(), delete]).unwrap(), [Ok(()), Ok(())]);
    (insert.run, insert)
}

/// Method: let the write of a sweep fail; then start once more the run whose marker is still
/// stored.
#[test]
fn marker_that_a_failed_sweep_leaves_is_looked_for() {
    let store = KvStore::over(Failing::default());
    let (_, insert) = deleted(&store, "one");
    store.kv.fails.store(1, Ordering::SeqCst);
    assert!(store.sweep_some(100).is_err());
    let again = store.commit_batch(std::slice::from_ref(&insert)).unwrap();
    assert!(matches!(again[..], [Err(Conflict { is_over: true, .. })]), "{again:?}");
    assert_eq!(store.sweep_some(100), Ok(2));
    assert!(!store.markers.load(Ordering::SeqCst), "nothing is looked for when all is swept");
}

/// Method: make the rows of the first of three runs unreadable, and readable again later.
#[test]
fn run_that_cannot_be_swept_holds_up_no_other() {
    let store = KvStore::over(Failing::default());
    let [(first, _), (second, _), (third, _)] = ["one", "two", "three"].map(|name| deleted(&store, name));
    let is_swept = |run| store.kv.memory.get(&keys::superseded(run)).unwrap().is_none();
    *store.kv.rotten.lock().unwrap() = Some(keys::rows(first));
    let calls = (0..3).filter(|_| store.sweep_some(2).is_err()).count();
    assert!(calls > 0 && is_swept(second) && is_swept(third) && !is_swept(first));
    assert!(store.markers.load(Ordering::SeqCst), "one is left");
    *store.kv.rotten.lock().unwrap() = None;
    while store.sweep_some(2).unwrap() > 0 {}
    assert!(is_swept(first));
    assert_eq!(store.kv.memory.scan(&[], &[u8::MAX], usize::MAX).unwrap(), []);
}

#[test]
fn the_instances_written_last_are_a_bounded_number() {
    let store = KvStore::over(Failing::default());
    for n in 0..20_000 {
        store.commit_batch(&[Writes::start(&n.to_string()).1]).unwrap();
    }
    assert!(store.committing.lock().unwrap().len() <= 8_192);
}

/// Method: open stores with the marker of each version. The marker of a store that format 1 can
/// read is raised by the first record written, not by opening it; a store that needs a newer
/// version is refused, and the error says so.
#[cfg(feature = "file-store")]
#[test]
fn a_store_says_which_formats_it_needs() {
    let with = |marker: &'static str| {
        let store = KvStore::over(Failing::default());
        store.kv.write(Ops::from([(keys::VERSION.to_vec(), Some(Bytes::from_static(marker.as_bytes())))])).unwrap();
        store
    };
    let marker = |store: &KvStore<Failing>| store.kv.get(keys::VERSION).unwrap().unwrap();
    for opens in ["everstep 1", "everstep 1 1 1", "everstep 1 2 2"] {
        let store = with(opens);
        store.check_layout("here", true).unwrap();
        assert_eq!(marker(&store), opens, "opened, and not written to");
        store.commit_batch(&[Writes::start("one").1]).unwrap();
        assert_eq!(marker(&store), "everstep 1 2 2");
    }
    let refused = [("everstep 1 3 3", "format 3"), ("everstep 1 2 4 7", "format 4"), ("everstep 2", "another")];
    for (refused, says) in refused {
        let error = with(refused).check_layout("here", true).unwrap_err();
        assert!(error.to_string().contains(says), "{refused}: {error}");
    }
}

/// A map that keeps deleted keys, as a log-structured one does, and counts the keys that scans
/// skip.
#[derive(Default)]
struct Tombs {
    map: Mutex<BTreeMap<Vec<u8>, Option<Bytes>>>,
    passed: AtomicU32,
}

impl Tombs {
    fn passed(&self) -> u32 {
        self.passed.swap(0, Ordering::SeqCst)
    }
}

impl Kv for Tombs {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.map.lock().unwrap().get(key).cloned().flatten())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let map = self.map.lock().unwrap();
        let mut found = Vec::new();
        let mut entries = map.range(from.to_vec()..to.to_vec());
        while found.len() < limit
            && let Some((key, value)) = entries.next()
        {
            self.passed.fetch_add(1, Ordering::SeqCst);
            found.extend(value.clone().map(|value| (key.clone().into(), value)));
        }
        Ok(found)
    }

    fn write(&self, ops: Ops) -> Result<(), StoreError> {
        self.map.lock().unwrap().extend(ops);
        Ok(())
    }

    fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(&self) {}

    fn durability(&self) -> Durability {
        Durability::ProcessCrash
    }
}

const MANY: u32 = 1_000;
const NOW: Timestamp = Timestamp::from_micros(1_000_000);

fn name(n: u32) -> String {
    format!("{n:06}")
}

/// Method: park runs and end them, in order, and sweep their rows. One run is left, with only
/// deleted keys before it. Reading an index from its front skips those once at most.
#[tokio::test]
async fn what_was_consumed_from_the_front_is_passed_by_once() {
    let store = KvStore::over(Tombs::default());
    let mut definition = None;
    for n in 0..MANY {
        let (mut writes, insert) = Writes::start(&name(n));
        assert_eq!(store.commit(&[insert, writes.next()]).await.unwrap(), [Ok(()), Ok(())]);
        let end = writes.end();
        definition = Some(writes.workflow.definition().hash());
        let version = Version::from(&writes.snapshot);
        assert_eq!(store.commit(&[end]).await.unwrap(), [Ok(())]);
        let mut delete = writes.write(Condition::Seen(version));
        (delete.change, delete.superseded) = (Change::Delete, Some(delete.run));
        assert_eq!(store.commit(&[delete]).await.unwrap(), [Ok(())]);
        store.sweep(256).await.unwrap();
    }
    assert!(store.kv.passed() <= 3 * MANY, "sweeps pass by what they delete");
    store.commit(&[Writes::start(&name(MANY)).1]).await.unwrap();
    let definition = definition.unwrap();
    for look in 0..3 {
        let most = if look == 0 { 4 * MANY } else { 8 };
        let end = Timestamp::from_micros(u64::MAX);
        assert_eq!(store.due(None, 10).await.unwrap().len(), 1);
        assert_eq!(store.ended(StatusCode::Cancelled, end, None, 10).await.unwrap(), []);
        assert_eq!(store.instances(&definition, StatusCode::Waiting, None, 10).await.unwrap().len(), 1);
        assert_eq!(store.instances(&definition, StatusCode::Paused, None, 10).await.unwrap(), []);
        assert_eq!(store.sweep(256).await.unwrap(), 0);
        let passed = store.kv.passed();
        assert!(passed <= most + 8, "look {look}: {passed}");
    }
}

/// Method: sweep a run without rows, beside deleted rows of others, and a run with so many rows
/// that it takes several sweeps.
#[tokio::test]
async fn a_sweep_passes_by_what_it_deletes_and_nothing_else() {
    let store = KvStore::over(Tombs::default());
    let runs: Vec<_> = (0..10).map(|_| RunId::generate(Timestamp::from_micros(1_000_000))).collect();
    for run in &runs {
        let rows = (0..MANY).map(|n| (keys::row(*run, &RowKey::Signal(n.into())), Some(Bytes::new())));
        store.kv.write(rows.chain([(keys::superseded(*run), Some(Bytes::new()))]).collect()).unwrap();
    }
    let mut swept = 0;
    while swept < 10 * (MANY as usize + 1) {
        let some = store.sweep(64).await.unwrap();
        assert!(some > 0);
        swept += some;
    }
    assert_eq!(store.sweep(64).await.unwrap(), 0);
    let passed = store.kv.passed();
    assert!(passed <= 11 * MANY, "{passed}");
}

/// Method: take signals from the front, one after the other, and read the rest from the oldest on.
#[tokio::test]
async fn rows_read_from_a_key_pass_by_none_before_it() {
    let store = KvStore::over(Tombs::default());
    let run = RunId::generate(NOW);
    let row = |n: u32| keys::row(run, &RowKey::Signal(n.into()));
    for n in 0..MANY {
        store.write(Ops::from([(row(n), Some(Bytes::new()))])).unwrap();
        assert_eq!(store.rows(run, RowKey::SIGNALS, Some(&RowKey::Signal(n.into()))).await.unwrap().len(), 1);
        store.write(Ops::from([(row(n), None)])).unwrap();
    }
    assert_eq!(store.kv.passed(), MANY);
}

/// Method: write an earlier time after the front was read; then write a still earlier one past the
/// store and reopen it, as when a failed store comes back with more keys than it had.
#[tokio::test]
async fn what_is_written_in_front_of_what_was_read_is_found() {
    let store = KvStore::over(Tombs::default());
    let due = |at: u64| keys::due(Timestamp::from_micros(at), &InstanceId::new("one").unwrap());
    let first = async |store: &KvStore<Tombs>| store.due(None, 1).await.unwrap().pop().map(|(at, _)| at.as_micros());
    store.write(Ops::from([(due(9), Some(Bytes::new()))])).unwrap();
    assert_eq!(first(&store).await, Some(9));
    store.write(Ops::from([(due(7), Some(Bytes::new()))])).unwrap();
    assert_eq!(first(&store).await, Some(7));
    store.kv.write(Ops::from([(due(3), Some(Bytes::new()))])).unwrap();
    store.reopen().await.unwrap();
    assert_eq!(first(&store).await, Some(3));
}

/// Method: read an index with a limit of zero, then with a limit.
#[tokio::test]
async fn a_read_of_nothing_hides_nothing() {
    let store = KvStore::over(Memory::default());
    let (at, id) = (Timestamp::from_micros(5), InstanceId::new("one").unwrap());
    store.kv.write(Ops::from([(keys::due(at, &id), Some(Bytes::new()))])).unwrap();
    assert_eq!(store.due(None, 0).await.unwrap(), []);
    assert_eq!(store.due(None, 10).await.unwrap(), [(at, id)]);
    assert_eq!(store.kv.scan(b"z", b"a", 10).unwrap(), [], "an end before the begin");
}

/// A map in which a part of the keys cannot be read, as a damaged block leaves it.
#[derive(Default)]
struct Holed {
    memory: Memory,
    hole: std::sync::Mutex<Option<Hole>>,
}

impl Holed {
    fn hides(&self, key: &[u8]) -> bool {
        self.hole.lock().unwrap().as_ref().is_some_and(|hole| hole.holds(key))
    }
}

impl Kv for Holed {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if self.hides(key) { Ok(Some(Bytes::new())) } else { self.memory.get(key) }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let all = self.memory.scan(from, to, usize::MAX)?;
        Ok(all.into_iter().filter(|(key, _)| !self.hides(key)).take(limit).collect())
    }

    fn write(&self, ops: Ops) -> Result<(), StoreError> {
        self.memory.write(ops)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(&self) {}

    fn durability(&self) -> Durability {
        Durability::ProcessCrash
    }

    fn holes(&self) -> Vec<Hole> {
        self.hole.lock().unwrap().clone().into_iter().collect()
    }
}

/// Method: hide one head in a hole before any index is listed; then quarantine the instance.
/// An entry of the due index within another hole is listed all the same.
#[tokio::test]
async fn a_hole_holds_up_no_commit_and_hides_no_entry() {
    let store = KvStore::over(Holed::default());
    let workflow = Workflow::builder_for::<u32>("w").delay("d", std::time::Duration::from_hours(1)).build().unwrap();
    let program = workflow.definition().program();
    let (limits, now) = (Limits::default(), Timestamp::from_micros(1_000_000));
    let context = Context { program, limits: &limits, now };
    for name in ["one", "two"] {
        let (instance, run) = (InstanceId::new(name).unwrap(), RunId::generate(now));
        let input = Bytes::from_static(&[1]);
        let new = NewRun { instance: instance.clone(), run, codec: 1, input, traceparent: None };
        let (snapshot, _) = machine::start(&context, new);
        let (change, stamp) = (Change::Head(machine::encode_head(program, &snapshot)), Stamp::generate());
        let (condition, rows, superseded) = (Condition::Absent, Vec::new(), None);
        let insert = Write { instance, stamp, condition, change, rows, run, superseded };
        assert_eq!(store.commit(&[insert]).await.unwrap(), [Ok(())]);
    }
    store.committing.lock().unwrap().clear();
    let (one, two) = (InstanceId::new("one").unwrap(), InstanceId::new("two").unwrap());
    *store.kv.hole.lock().unwrap() = Some(Hole { from: keys::head(&one), to: keys::head(&two) });
    let loaded = store.load(&one).await.unwrap().unwrap();
    let stamp = Stamp::generate();
    let change = Change::Quarantine(machine::encode_quarantine(&one, "rotten", stamp));
    let (condition, rows, run) = (Condition::Seen(loaded.version(&one)), Vec::new(), RunId::generate(now));
    let aside = Write { instance: one.clone(), stamp, condition, change, rows, run, superseded: None };
    assert_eq!(store.commit(&[aside]).await.unwrap(), [Ok(())]);
    assert_eq!(store.quarantined(None, 10).await.unwrap(), [one]);
    let due = store.due(None, 10).await.unwrap();
    assert_eq!(due.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>(), ["two"]);
    *store.kv.hole.lock().unwrap() = Some(Hole { from: keys::due(now, &two), to: keys::behind(keys::DUES) });
    store.hidden.forget();
    assert_eq!(store.due(None, 10).await.unwrap(), due, "made anew from the head");
    *store.kv.hole.lock().unwrap() = None;
    store.hidden.forget();
    // From the last head to the first status entry, as a block may reach: quarantine records are
    // between.
    *store.kv.hole.lock().unwrap() = Some(Hole { from: keys::head(&two), to: keys::STATUSES.to_vec() });
    assert!(store.due(None, 10).await.is_ok());
    let loaded = store.load(&two).await.unwrap().unwrap();
    let (stamp, condition) = (Stamp::generate(), Condition::Seen(loaded.version(&two)));
    let change = Change::Quarantine(machine::encode_quarantine(&two, "rotten", stamp));
    let aside = Write { instance: two.clone(), stamp, condition, change, rows: Vec::new(), run, superseded: None };
    store.committing.lock().unwrap().clear();
    assert_eq!(store.commit(&[aside]).await.unwrap(), [Ok(())]);
    assert!(store.quarantined(None, 10).await.unwrap().contains(&two));
}

/// Method: an instance is quarantined, and another one whose head cannot be read; the records of
/// both are in a hole when the store is opened. The first one is released.
#[tokio::test]
async fn quarantine_with_unreadable_record_is_inferred() {
    let store = KvStore::over(Holed::default());
    let workflow = Workflow::builder_for::<u32>("w").delay("d", std::time::Duration::from_hours(1)).build().unwrap();
    let program = workflow.definition().program();
    let (limits, now) = (Limits::default(), Timestamp::from_micros(1_000_000));
    let context = Context { program, limits: &limits, now };
    let all = ["active", "quarantined", "rotten"].map(|name| InstanceId::new(name).unwrap());
    let [_, quarantined, rotten] = &all;
    for instance in &all {
        let (run, input) = (RunId::generate(now), Bytes::from_static(&[1]));
        let new = NewRun { instance: instance.clone(), run, codec: 1, input, traceparent: None };
        let (snapshot, _) = machine::start(&context, new);
        let (change, stamp) = (Change::Head(machine::encode_head(program, &snapshot)), Stamp::generate());
        let write = |condition, change, stamp| {
            let instance = instance.clone();
            Write { instance, stamp, condition, change, rows: Vec::new(), run, superseded: None }
        };
        assert_eq!(store.commit(&[write(Condition::Absent, change, stamp)]).await.unwrap(), [Ok(())]);
        store.committing.lock().unwrap().clear();
        if instance == rotten {
            store.kv.write(Ops::from([(keys::head(rotten), Some(Bytes::from_static(b"rotten")))])).unwrap();
        }
        let seen = Condition::Seen(store.load(instance).await.unwrap().unwrap().version(instance));
        let change = Change::Quarantine(machine::encode_quarantine(instance, "why", stamp));
        if instance.as_str() != "active" {
            assert_eq!(store.commit(&[write(seen, change, stamp)]).await.unwrap(), [Ok(())]);
        }
    }
    let kv = store.kv;
    *kv.hole.lock().unwrap() = Some(Hole { from: keys::QUARANTINES.to_vec(), to: keys::behind(keys::QUARANTINES) });
    let later = KvStore::over(kv);
    let mut found = Vec::new();
    for instance in &all {
        found.push(later.load(instance).await.unwrap().unwrap().quarantine.is_some());
    }
    assert_eq!(found, [false, true, true], "before anything is listed");
    assert_eq!(later.quarantined(None, 10).await.unwrap(), [quarantined.clone(), rotten.clone()]);

    let loaded = later.load(quarantined).await.unwrap().unwrap();
    let (stamp, condition) = (Stamp::generate(), Condition::Seen(loaded.version(quarantined)));
    let (instance, change) = (quarantined.clone(), Change::Head(loaded.head.clone()));
    let run = HeadIndex::of_head(quarantined, &loaded.head).unwrap().run;
    let released = Write { instance, stamp, condition, change, rows: Vec::new(), run, superseded: None };
    assert_eq!(later.commit(&[released]).await.unwrap(), [Ok(())]);
    assert_eq!(later.quarantined(None, 10).await.unwrap(), std::slice::from_ref(rotten));
    assert!(later.load(quarantined).await.unwrap().unwrap().quarantine.is_none());
}
