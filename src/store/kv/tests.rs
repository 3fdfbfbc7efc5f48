//! What a store over a map of bytes promises beyond the conformance suite.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::definition::Workflow;
use crate::id::RunId;
use crate::limits::Limits;
use crate::machine::{self, Event, NewRun, Setting};
use crate::store::memory::Memory;
use crate::store::{Change, Condition, MemoryStore, Version};

/// Heads rot where they stand: one that is due, and one that has ended. Their index entries, which nothing names any
/// more, go with them.
#[tokio::test]
async fn a_deleted_instance_whose_head_has_rotted_leaves_no_index_entry() {
    let hour = std::time::Duration::from_hours(1);
    let workflow = Workflow::builder_for::<u32>("w").delay("d", hour).build().unwrap();
    let program = workflow.definition().program();
    let (limits, now) = (Limits::default(), Timestamp::from_micros(1_000_000));
    let setting = Setting { program, limits: &limits, now };
    for has_ended in [false, true] {
        let (store, instance, run) = (MemoryStore::new(), InstanceId::new("one").unwrap(), RunId::generate(now));
        let reads_it_again = || store.committing.lock().unwrap().clear();
        let input = Bytes::from_static(&[1]);
        let (mut snapshot, _) =
            machine::start(&setting, NewRun { instance: instance.clone(), run, codec: 1, input, traceparent: None });
        if has_ended {
            machine::apply(&setting, &mut snapshot, Event::Cancel { reason: "".into(), by: "".into() }).unwrap();
        }
        let head = machine::encode_head(program, &snapshot);
        let write = |condition, change| Write {
            instance: instance.clone(),
            stamp: Stamp::generate(),
            condition,
            change,
            rows: Vec::new(),
            run,
            superseded: None,
        };
        let insert = write(Condition::Absent, Change::Head(head.clone()));
        assert_eq!(store.commit(&[insert]).await.unwrap(), [Ok(())]);
        assert_eq!(store.kv.scan(&[], &[], 10).unwrap().len(), 3, "the head, its status, and its time");
        store.kv.write(Ops::from([(keys::head(&instance), Some(head.slice(1..)))])).unwrap();
        let seen = store.load(&instance).await.unwrap().unwrap().version(&instance);
        reads_it_again();
        assert_eq!(store.commit(&[write(Condition::Seen(seen), Change::Delete)]).await.unwrap(), [Ok(())]);
        assert_eq!(store.kv.scan(&[], &[], 10).unwrap(), [], "has ended: {has_ended}");
    }
}

/// A map whose writes fail on demand, before or after they are done; and which counts reads.
#[derive(Default)]
struct Failing {
    memory: Memory,
    fails: AtomicU32,
    reads: AtomicU32,
}

impl Kv for Failing {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.memory.get(key)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.memory.scan(prefix, from, limit)
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
        let setting = Setting { program: workflow.definition().program(), limits: &limits, now };
        let (snapshot, _) = machine::start(&setting, new);
        let mut writes = Self { workflow, limits, snapshot };
        let write = writes.write(Condition::Absent);
        (writes, write)
    }

    fn next(&mut self) -> Write {
        let condition = Condition::Seen(Version::from(&self.snapshot));
        let now = Timestamp::from_micros(1_000_000);
        let setting = Setting { program: self.workflow.definition().program(), limits: &self.limits, now };
        let pauses = self.snapshot.seq().is_multiple_of(2);
        let event = if pauses { Event::Unpause } else { Event::Pause { reason: "".into(), by: "".into() } };
        machine::apply(&setting, &mut self.snapshot, event).unwrap();
        self.write(condition)
    }

    fn write(&mut self, condition: Condition) -> Write {
        let stamp = Stamp::generate();
        self.snapshot.stamp = stamp;
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

/// Method: a write fails before or after it was done, and the instance is then written by who knows which it was.
#[test]
fn after_a_failed_write_conditions_are_held_against_what_is_stored() {
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

#[test]
fn the_instances_written_last_are_a_bounded_number() {
    let store = KvStore::over(Failing::default());
    for n in 0..20_000 {
        store.commit_batch(&[Writes::start(&n.to_string()).1]).unwrap();
    }
    assert!(store.committing.lock().unwrap().len() <= 8_192);
}
