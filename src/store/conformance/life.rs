//! Instances as the machine writes them: every head and row here is of the kind that a store meets
//! in production.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::definition::{Definition, NodeNames as _, Workflow};
use crate::id::{DefinitionHash, InstanceId, RunId, Stamp};
use crate::limits::Limits;
use crate::machine::{self, Context, Event, NewRun, RowChange, RowKey, Snapshot, Transition};
use crate::status::StatusCode;
use crate::store::{Answers, Change, Condition, Conflict, HeadVersion, Loaded, Store, StoreError, Version, Write};
use crate::time::Timestamp;

/// The length of each delay of [`Plan`].
pub(super) const HOUR: Duration = Duration::from_hours(1);

/// The default start time of the instances.
pub(super) const DAWN: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// A workflow that parks its instances in each place where a store must find them.
///
/// ```text
/// start  delay "first"  delay "second"  wait "approval" for "approve"  end
///        Waiting, due   Waiting, due    AwaitingSignal, not due        Completed
/// ```
#[derive(Clone)]
pub(super) struct Plan(Arc<Definition>);

impl Plan {
    pub(super) fn new(name: &str) -> Self {
        let chain = Workflow::builder_for::<Vec<u8>>(name).delay("first", HOUR).delay("second", HOUR);
        match chain.wait_for_signal::<Vec<u8>>("approval", "approve").build() {
            Ok(workflow) => Self(Arc::clone(workflow.definition())),
            Err(errors) => panic!("the suite's workflow does not build: {errors}"),
        }
    }

    pub(super) fn hash(&self) -> DefinitionHash {
        self.0.hash()
    }

    /// Returns the key of a node's result row.
    pub(super) fn result(&self, node: u32) -> RowKey {
        match self.0.program().path(node) {
            Some(path) => RowKey::result(path.clone()),
            None => panic!("the suite's workflow has no node {node}"),
        }
    }

    /// Starts an instance in its first delay, and returns the write that inserts it.
    pub(super) fn start(&self, instance: &str, run_number: u8) -> (Life, Write) {
        self.start_at(instance, run_number, DAWN)
    }

    /// Starts an instance at time `now`: it is due an hour later.
    pub(super) fn start_at(&self, instance: &str, run_number: u8, now: Timestamp) -> (Life, Write) {
        let limits = Limits::default();
        let context = Context { program: self.0.program(), limits: &limits, now };
        let (instance, run, input) = (id(instance), run(run_number), Bytes::from_static(b"input"));
        let new = NewRun { instance, run, codec: 1, input, traceparent: None };
        let (snapshot, transition) = machine::start(&context, new);
        let mut life = Life { plan: self.clone(), snapshot, now };
        let insert = life.write(Condition::Absent, transition, Stamp::generate());
        (life, insert)
    }
}

/// One run of an instance. Each event returns the write of its transition.
#[derive(Clone)]
pub(super) struct Life {
    plan: Plan,
    snapshot: Snapshot,
    now: Timestamp,
}

impl Life {
    pub(super) fn id(&self) -> &InstanceId {
        self.snapshot.instance()
    }

    pub(super) fn run(&self) -> RunId {
        self.snapshot.run()
    }

    /// Returns the run and transition, as conditions and conflicts name them.
    pub(super) fn at(&self) -> (RunId, u64) {
        (self.snapshot.run(), self.snapshot.seq())
    }

    /// Returns the version that the run leaves in a store.
    pub(super) fn version(&self) -> Version {
        Version::from(&self.snapshot)
    }

    pub(super) fn due(&self) -> Option<Timestamp> {
        self.snapshot.due()
    }

    pub(super) fn head(&self) -> Bytes {
        machine::encode_head(self.plan.0.program(), &self.snapshot)
    }

    /// Lets time pass without an event.
    pub(super) fn rest(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    /// Lets time pass until the run is due: its delay ends.
    pub(super) fn wake(&mut self) -> Write {
        self.now = self.due().unwrap_or(self.now);
        self.apply(Event::Wake)
    }

    /// Applies a signal, which is buffered, or ends the wait at the end.
    pub(super) fn signal(&mut self, id: &str, payload: &'static [u8]) -> Write {
        let payload = Bytes::from_static(payload);
        self.apply(Event::Signal { name: "approve".into(), id: id.into(), payload })
    }

    pub(super) fn pause(&mut self) -> Write {
        self.apply(Event::Pause { reason: "lunch".into(), by: "ana".into() })
    }

    pub(super) fn unpause(&mut self) -> Write {
        self.apply(Event::Unpause)
    }

    pub(super) fn cancel(&mut self) -> Write {
        self.apply(Event::Cancel { reason: "changed my mind".into(), by: "ana".into() })
    }

    /// Returns the write that quarantines the instance.
    pub(super) fn quarantine(&self, reason: &str) -> Write {
        let stamp = Stamp::generate();
        let record = machine::encode_quarantine(self.id(), reason, stamp);
        self.bare(Condition::Seen(self.version()), Change::Quarantine(record), stamp)
    }

    /// Returns the write that deletes the instance at its version, and ends its run.
    pub(super) fn delete(&self) -> Write {
        let delete = self.bare(Condition::Seen(self.version()), Change::Delete, Stamp::generate());
        Write { superseded: Some(self.run()), ..delete }
    }

    /// Returns the write that replaces version `old` by this run, and ends the old run.
    pub(super) fn replace(&mut self, old: Version) -> Write {
        let replacing = self.put(old);
        Write { superseded: old.run(), ..replacing }
    }

    /// Returns the write that puts this run's head in the place of version `seen`.
    pub(super) fn put(&mut self, seen: Version) -> Write {
        let stamp = Stamp::generate();
        self.snapshot.set_stamp(stamp);
        self.bare(Condition::Seen(seen), Change::Head(self.head()), stamp)
    }

    fn apply(&mut self, event: Event) -> Write {
        let seen = self.version();
        let limits = Limits::default();
        let context = Context { program: self.plan.0.program(), limits: &limits, now: self.now };
        match machine::apply(&context, &mut self.snapshot, event) {
            Ok(transition) => self.write(Condition::Seen(seen), transition, Stamp::generate()),
            Err(refusal) => panic!("the suite's instance refused an event: {refusal}"),
        }
    }

    fn write(&mut self, condition: Condition, transition: Transition, stamp: Stamp) -> Write {
        self.snapshot.set_stamp(stamp);
        Write { rows: transition.rows, ..self.bare(condition, Change::Head(self.head()), stamp) }
    }

    fn bare(&self, condition: Condition, change: Change, stamp: Stamp) -> Write {
        let instance = self.id().clone();
        Write { instance, stamp, condition, change, rows: Vec::new(), run: self.run(), superseded: None }
    }
}

impl Write {
    /// Adds a row to the write, or the deletion of one.
    pub(super) fn row(mut self, key: RowKey, value: Option<&'static [u8]>) -> Self {
        self.rows.push(RowChange { key, value: value.map(Bytes::from_static) });
        self
    }

    pub(super) fn under(self, condition: Condition) -> Self {
        Self { condition, ..self }
    }
}

/// Returns a condition on a state of an instance that no write has left.
pub(super) fn unseen(run: RunId, seq: u64) -> Condition {
    Condition::Seen(Version { head: HeadVersion::At { run, seq, stamp: Stamp::generate() }, quarantined: false })
}

/// Returns the version of a head that cannot be read.
pub(super) fn unreadable(head: &Bytes) -> Version {
    Loaded { head: head.clone(), quarantine: None }.version(&id("any"))
}

/// Returns the answer to a write whose condition did not hold.
pub(super) fn conflict(found: Option<(RunId, u64)>) -> Conflict {
    Conflict { found, is_over: false }
}

pub(super) fn id(text: &str) -> InstanceId {
    match InstanceId::new(text) {
        Ok(id) => id,
        Err(error) => panic!("the suite's instance id is refused: {error}"),
    }
}

/// Returns the run id with this number; ids are ordered by number.
pub(super) fn run(number: u8) -> RunId {
    RunId::from_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number])
}

/// Unwraps the result of a call: no call of the suite may fail.
#[track_caller]
pub(super) fn done<T>(result: Result<T, StoreError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the store could not do what every store must: {error}"),
    }
}

/// Commits a batch and returns its answers.
pub(super) async fn commit(store: &Arc<dyn Store>, batch: &[Write]) -> Answers {
    let answers = done(store.commit(batch).await);
    assert_eq!(answers.len(), batch.len(), "a batch has one answer for each of its writes");
    answers
}

/// Commits a batch whose conditions all hold.
pub(super) async fn commit_all(store: &Arc<dyn Store>, batch: &[Write]) {
    let answers = commit(store, batch).await;
    assert!(answers.iter().all(Result::is_ok), "every condition held, but the store answered {answers:?}");
}

/// Commits one write that must be refused, and returns the run and transition that were found.
pub(super) async fn refused(store: &Arc<dyn Store>, write: Write) -> Option<(RunId, u64)> {
    match commit(store, &[write]).await.pop() {
        Some(Err(conflict)) => conflict.found,
        answer => panic!("the condition did not hold, but the store answered {answer:?}"),
    }
}

/// Collects the entries of a paged call, in pages of `limit`, each after the last entry of the
/// previous page.
pub(super) async fn paged<T: Clone, Page>(limit: usize, page: impl Fn(Option<T>) -> Page) -> Vec<T>
where
    Page: Future<Output = Result<Vec<T>, StoreError>>,
{
    let mut all: Vec<T> = Vec::new();
    for _ in 0..1_000 {
        let next = done(page(all.last().cloned()).await);
        assert!(next.len() <= limit, "a page of {} where {limit} were asked for", next.len());
        let is_last = next.len() < limit;
        all.extend(next);
        if is_last {
            return all;
        }
    }
    panic!("pages of {limit} repeat themselves: 1,000 of them and no end");
}

/// Sweeps until nothing can be left, even if a call sweeps little.
pub(super) async fn sweep_all(store: &Arc<dyn Store>) {
    for _ in 0..20 {
        done(store.sweep(1_000).await);
    }
}

/// Returns the ids of a status, all in one page.
pub(super) async fn listed(store: &Arc<dyn Store>, plan: &Plan, status: StatusCode) -> Vec<InstanceId> {
    done(store.instances(&plan.hash(), status, None, 10_000).await)
}

/// Returns all instances that ended in a status.
pub(super) async fn all_ended(store: &Arc<dyn Store>, status: StatusCode) -> Vec<(Timestamp, InstanceId)> {
    done(store.ended(status, Timestamp::from_micros(u64::MAX), None, 10_000).await)
}

/// Returns the entries of a plan's instances in all indexes: by status, due time and end.
pub(super) async fn everywhere(store: &Arc<dyn Store>, plan: &Plan) -> Vec<InstanceId> {
    let mut found: Vec<_> = done(store.due(None, 10_000).await).into_iter().map(|(_, instance)| instance).collect();
    for status in StatusCode::ALL {
        found.extend(listed(store, plan, status).await);
        found.extend(all_ended(store, status).await.into_iter().map(|(_, instance)| instance));
    }
    found
}

/// All that a store returns about some writes, to be compared before and after.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Image {
    instances: Vec<(InstanceId, Option<Loaded>)>,
    rows: Vec<(RunId, RowKey, Option<Bytes>)>,
    signals: Vec<(RunId, Vec<(u64, Bytes)>)>,
    listed: Vec<(DefinitionHash, StatusCode, Vec<InstanceId>)>,
    due: Vec<(Timestamp, InstanceId)>,
    ended: Vec<(StatusCode, Vec<(Timestamp, InstanceId)>)>,
    quarantined: Vec<InstanceId>,
}

/// Returns a run's signal rows by number.
pub(super) async fn signal_rows(store: &Arc<dyn Store>, run: RunId) -> Vec<(u64, Bytes)> {
    let number = |key: &Bytes| key.get(1..).and_then(|number| Some(u64::from_be_bytes(number.try_into().ok()?)));
    let rows = done(store.rows(run, RowKey::SIGNALS, None).await);
    rows.into_iter().filter_map(|(key, row)| Some((number(&key)?, row))).collect()
}

impl Image {
    pub(super) async fn of(store: &Arc<dyn Store>, writes: &[Write]) -> Self {
        let (mut instances, mut rows, mut signals, mut listed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for write in writes {
            instances.push((write.instance.clone(), done(store.load(&write.instance).await)));
            signals.push((write.run, signal_rows(store, write.run).await));
            for RowChange { key, .. } in &write.rows {
                rows.push((write.run, key.clone(), done(store.row(write.run, key).await)));
            }
        }
        let mut definitions = done(store.definitions().await);
        definitions.sort();
        for definition in definitions {
            for status in StatusCode::ALL {
                let ids = done(store.instances(&definition, status, None, 10_000).await);
                listed.push((definition, status, ids));
            }
        }
        let due = done(store.due(None, 10_000).await);
        let mut ended = Vec::new();
        for status in StatusCode::ALL {
            ended.push((status, all_ended(store, status).await));
        }
        let quarantined = done(store.quarantined(None, 10_000).await);
        Self { instances, rows, signals, listed, due, ended, quarantined }
    }
}
