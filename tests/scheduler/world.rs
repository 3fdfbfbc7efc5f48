//! The parts that outlive a scheduler: the store, the clock, the senders of signals, and a ledger
//! of the tasks that ran.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use everstep::lifecycle::{Caller, CommitError, Committer, fill, load, task_result};
use everstep::limits::PayloadLimits;
use everstep::machine::{NewRun, Snapshot};
use everstep::store::Write;
use everstep::{
    BoxError, BoxFuture, Codec, Dep, Deps, InstanceId, Limits, ManualClock, MemoryStore, NodeNames as _, RetryPolicy,
    RunId, SignalOutcome, Status, Store, StoreError, TaskContext, Timestamp, Workflow, task,
};

use crate::driver::Scheduler;

/// The attempts that tasks began, in order: node and attempt number.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Vec<(String, u32)>>);

impl Ledger {
    fn note(&self, context: &TaskContext) {
        self.0.lock().unwrap().push((context.node().to_string(), context.attempt()));
    }

    pub(crate) fn entries(&self) -> Vec<(String, u32)> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn runs_of(&self, node: &str) -> usize {
        self.entries().iter().filter(|(found, _)| found == node).count()
    }
}

type Book = Dep<Ledger>;

/// Fails once; then returns more than fits a head, so that its result is in a row of its own.
async fn price(item: u64, context: TaskContext, book: Book) -> Result<String, BoxError> {
    book.note(&context);
    if context.attempt() == 1 { Err("no price yet".into()) } else { Ok(format!("{:>200}", item * 10)) }
}

async fn reserve((price, by): (String, String), context: TaskContext, book: Book) -> Result<String, Infallible> {
    book.note(&context);
    Ok(format!("{} approved by {by}", price.trim()))
}

/// Hangs once.
async fn charge(
    ((order, note), objection): ((String, String), SignalOutcome<String>),
    context: TaskContext,
    book: Book,
) -> Result<String, Infallible> {
    book.note(&context);
    if context.attempt() == 1 {
        std::future::pending::<()>().await;
    }
    Ok(format!("{order}, {note}, {objection:?}, charged"))
}

async fn ship(
    (order, receipt): (String, SignalOutcome<String>),
    context: TaskContext,
    book: Book,
) -> Result<String, Infallible> {
    book.note(&context);
    Ok(format!("{order}, {receipt:?}, shipped"))
}

/// Returns a workflow with every kind of node, a failure and a timeout among them.
pub(crate) fn order() -> Workflow<u64, String> {
    Workflow::builder("order")
        .then("price", task(price).retry(RetryPolicy::fixed(2, Duration::from_secs(1))))
        .delay("cool off", Duration::from_hours(1))
        .wait_for_signal_keeping::<String>("approval", "approved")
        .then("reserve", reserve)
        .wait_for_signal_keeping::<String>("note", "note")
        .wait_for_signal_keeping_timeout::<String>("objection", "objected", Duration::from_mins(5))
        .then("charge", task(charge).timeout(Duration::from_secs(30)).retry(RetryPolicy::fixed(1, Duration::ZERO)))
        .wait_for_signal_keeping_timeout::<String>("receipt", "approved", Duration::from_mins(1))
        .then("ship", ship)
        .delay("hand over", Duration::from_secs(1))
        .build()
        .unwrap()
}

/// Output of [`order`] for item 7 and the messages of [`World::new`].
pub(crate) const ORDER_OUTPUT: &str = "70 approved by ana, fragile, TimedOut, charged, Received(\"bo\"), shipped";

/// A signal that its sender repeats under the same id until it is acknowledged.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) name: &'static str,
    pub(crate) id: &'static str,
    pub(crate) payload: Bytes,
    early: bool,
}

#[derive(Default)]
pub(crate) struct Inbox(Mutex<Vec<Message>>);

impl Inbox {
    fn add(&self, name: &'static str, id: &'static str, text: &str, early: bool) {
        let payload = Codec::MessagePack.encode(&text, 1_000).unwrap();
        self.0.lock().unwrap().push(Message { name, id, payload, early });
    }

    /// Returns the messages that are sent before any wait for them.
    pub(crate) fn early(&self) -> Vec<Message> {
        self.0.lock().unwrap().iter().filter(|message| message.early).cloned().collect()
    }

    pub(crate) fn first(&self, name: &str) -> Option<Message> {
        self.0.lock().unwrap().iter().find(|message| message.name == name).cloned()
    }

    pub(crate) fn acknowledge(&self, id: &str) {
        self.0.lock().unwrap().retain(|message| message.id != id);
    }
}

/// The number of lifecycle calls that a scheduler may make before its process crashes.
pub(crate) struct Power {
    calls_max: u64,
    calls: AtomicU64,
}

impl Power {
    pub(crate) fn of(calls_max: u64) -> Self {
        Self { calls_max, calls: AtomicU64::new(0) }
    }

    /// Counts one call; called after each.
    pub(crate) fn spend(&self) -> Result<(), BoxError> {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if calls >= self.calls_max { Err("the process crashed".into()) } else { Ok(()) }
    }

    pub(crate) fn spent(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

/// The commit at which the process crashes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum CrashesAt {
    Never,
    Before(u64),
    /// The write is durable, but its caller does not learn it.
    After(u64),
}

/// A committer that counts commits, and fails every one after the process has crashed.
pub(crate) struct Cable {
    store: MemoryStore,
    crashes_at: CrashesAt,
    pub(crate) commits: AtomicU64,
}

impl Cable {
    pub(crate) fn new(store: &MemoryStore, crashes_at: CrashesAt) -> Self {
        Self { store: store.clone(), crashes_at, commits: AtomicU64::new(0) }
    }
}

impl Committer for Cable {
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<(), CommitError>> {
        let nth = self.commits.fetch_add(1, Ordering::Relaxed) + 1;
        let dead = || StoreError::Transient("the process crashed".into()).into();
        Box::pin(async move {
            match self.crashes_at {
                CrashesAt::Before(n) if nth >= n => Err(dead()),
                CrashesAt::After(n) if nth > n => Err(dead()),
                crashes_at => {
                    Committer::commit(&self.store, write).await?;
                    if crashes_at == CrashesAt::After(nth) { Err(dead()) } else { Ok(()) }
                }
            }
        })
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }
}

/// Everything but the process.
pub(crate) struct World {
    pub(crate) workflow: Workflow<u64, String>,
    pub(crate) store: MemoryStore,
    pub(crate) clock: ManualClock,
    pub(crate) ledger: Arc<Ledger>,
    inbox: Inbox,
}

impl World {
    pub(crate) fn new() -> Self {
        let inbox = Inbox::default();
        inbox.add("note", "n1", "fragile", true);
        inbox.add("approved", "a1", "ana", false);
        inbox.add("approved", "a2", "bo", false);
        let clock = ManualClock::new(Timestamp::from_micros(1_800_000_000_000_000));
        Self { workflow: order(), store: MemoryStore::new(), clock, ledger: Arc::default(), inbox }
    }

    /// Runs one process, from its start to its end or its crash.
    pub(crate) async fn process(&self, power: &Power, committer: &dyn Committer) -> Result<Status, BoxError> {
        let mut deps = Deps::new();
        deps.provide(Arc::clone(&self.ledger));
        let scheduler = Scheduler {
            caller: Caller {
                definition: Arc::clone(self.workflow.definition()),
                deps: Arc::new(deps),
                codec: Codec::MessagePack,
                limits: PayloadLimits { payload_bytes_max: 1_000, list_items_max: 10, list_bytes_max: 1_000 },
            },
            instance: instance(),
            limits: Limits::default(),
            clock: self.clock.clone(),
            committer,
            inbox: &self.inbox,
            power,
        };
        scheduler.run(new_run(RunId::generate(everstep::Clock::now(&self.clock)), 7)).await
    }

    pub(crate) async fn snapshot(&self) -> Option<Snapshot> {
        let mut snapshot = load(&self.store, &instance()).await.unwrap()?.snapshot;
        fill(&self.store, self.workflow.definition().program(), &mut snapshot).await.unwrap();
        Some(snapshot)
    }

    pub(crate) async fn output(&self) -> String {
        let snapshot = self.snapshot().await.unwrap();
        self.workflow.decode_output(snapshot.output().unwrap(), &Codec::MessagePack).unwrap()
    }

    /// Returns the nodes whose results are stored.
    pub(crate) async fn recorded(&self) -> Vec<String> {
        let Some(snapshot) = self.snapshot().await else { return Vec::new() };
        let manifest = self.workflow.definition().manifest();
        let mut recorded = Vec::new();
        for path in (0..).map_while(|node| manifest.path(node)) {
            if task_result(&self.store, manifest, &snapshot, path.as_str(), &[]).await.unwrap().is_some() {
                recorded.push(path.to_string());
            }
        }
        recorded
    }
}

pub(crate) fn instance() -> InstanceId {
    InstanceId::new("order-7").unwrap()
}

pub(crate) fn new_run(run: RunId, input: u64) -> NewRun {
    let input = Codec::MessagePack.encode(&input, 1_000).unwrap();
    NewRun { instance: instance(), run, codec: Codec::MessagePack.id(), input, traceparent: None }
}
