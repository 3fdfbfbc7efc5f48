//! Instances that wait for a point of the wall clock, and the times at which they continue.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use everstep::lifecycle::load;
use everstep::{
    Clock as _, Failure, InstanceHandle, InstanceId, ManualClock, MemoryStore, ResultError, RetryPolicy, Runtime,
    SignalOutcome, Status, StatusCode, TaskContext, Timestamp, Workflow, task,
};

use crate::common::{backing_off, reach_code, same, still_clock, within};
use crate::{HOUR, LOOK};

/// The reason of a wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Delay,
    Timeout,
    Backoff,
    Deadline,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Delay, Kind::Timeout, Kind::Backoff, Kind::Deadline];

/// The times by the wall clock at which each instance continued.
#[derive(Clone, Default)]
pub(crate) struct Ledger(pub(crate) Arc<Mutex<BTreeMap<String, Vec<Timestamp>>>>);

impl Ledger {
    pub(crate) fn note(&self, context: &TaskContext, clock: &ManualClock) {
        let id = context.instance().to_string();
        self.0.lock().unwrap().entry(id).or_default().push(clock.now());
    }

    pub(crate) fn of(&self, id: &str) -> Vec<Timestamp> {
        self.0.lock().unwrap().get(id).cloned().unwrap_or_default()
    }
}

pub(crate) fn workflow(kind: Kind, length: Duration, ledger: &Ledger, clock: &ManualClock) -> Workflow<u32, u32> {
    let name = format!("{kind:?} {}", length.as_secs());
    let (ledger, clock) = (ledger.clone(), clock.clone());
    let goes_on = {
        let (ledger, clock) = (ledger.clone(), clock.clone());
        move |n: u32, context: TaskContext| {
            ledger.note(&context, &clock);
            std::future::ready(Ok::<_, std::convert::Infallible>(n))
        }
    };
    let timed_out = {
        let (ledger, clock) = (ledger.clone(), clock.clone());
        move |(n, outcome): (u32, SignalOutcome<u32>), context: TaskContext| {
            assert_eq!(outcome, SignalOutcome::TimedOut);
            ledger.note(&context, &clock);
            std::future::ready(Ok::<_, std::convert::Infallible>(n))
        }
    };
    let second_time = move |n: u32, context: TaskContext| {
        if context.attempt() == 1 {
            return std::future::ready(Err("once more"));
        }
        ledger.note(&context, &clock);
        std::future::ready(Ok(n))
    };
    let built = match kind {
        Kind::Delay => Workflow::builder_for::<u32>(&name).delay("delay", length).then("goes on", goes_on).build(),
        Kind::Timeout => Workflow::builder_for::<u32>(&name)
            .wait_for_signal_keeping_timeout::<u32>("wait", "go", length)
            .then("timed out", timed_out)
            .build(),
        Kind::Backoff => {
            let retried = task(second_time).retry(RetryPolicy::fixed(1, length));
            Workflow::builder(&name).then("retried", retried).build()
        }
        Kind::Deadline => Workflow::builder(&name)
            .deadline(length)
            .then("same", same::<u32>)
            .wait_for_signal::<u32>("wait", "go")
            .build(),
    };
    built.unwrap()
}

pub(crate) struct World {
    pub(crate) store: MemoryStore,
    pub(crate) clock: ManualClock,
    pub(crate) ledger: Ledger,
    pub(crate) workflows: Vec<(Kind, Duration, Workflow<u32, u32>)>,
    pub(crate) runtime: Option<Runtime>,
}

/// An instance that waits, and the point of the wall clock that ends the wait.
pub(crate) struct Waiting {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) due: Timestamp,
    pub(crate) handle: InstanceHandle<u32>,
}

impl World {
    pub(crate) async fn new(lengths: &[Duration]) -> Self {
        let (store, clock, ledger) = (MemoryStore::new(), still_clock(), Ledger::default());
        let each = KINDS.iter().flat_map(|kind| lengths.iter().map(|length| (*kind, *length)));
        let workflows = each.map(|(kind, length)| (kind, length, workflow(kind, length, &ledger, &clock))).collect();
        let mut world = Self { store, clock, ledger, workflows, runtime: None };
        world.restart().await;
        world
    }

    /// Starts another runtime on the same store, as after a crash.
    pub(crate) async fn restart(&mut self) {
        drop(self.runtime.take());
        let builder = Runtime::builder(self.store.clone()).clock(self.clock.clone());
        let builder = self.workflows.iter().fold(builder, |builder, (_, _, workflow)| builder.register(workflow));
        self.runtime = Some(within(builder.start()).await.unwrap());
    }

    /// Starts an instance, and returns once it waits.
    pub(crate) async fn start(&self, workflow: usize, id: String) -> Waiting {
        let (kind, length, workflow) = &self.workflows[workflow];
        let due = self.clock.now().after(*length);
        let handle = within(self.runtime.as_ref().unwrap().start(workflow, id.clone(), 7)).await.unwrap();
        match kind {
            Kind::Delay => drop(reach_code(&handle, StatusCode::Waiting).await),
            Kind::Timeout | Kind::Deadline => drop(reach_code(&handle, StatusCode::AwaitingSignal).await),
            Kind::Backoff => backing_off(&self.store, &id, self.clock.now()).await,
        }
        Waiting { kind: *kind, id, due, handle }
    }

    /// Lets the timers look at the wall clock once more.
    pub(crate) fn look(&self) {
        self.clock.advance(LOOK);
    }

    /// Checks that the instance ends, and did so at its time, once.
    pub(crate) async fn ends(&self, waiting: &Waiting) {
        let Waiting { kind, id, due, handle } = waiting;
        let result = within(handle.result()).await;
        let went_on = if *kind == Kind::Deadline {
            assert_eq!(result, Err(ResultError::Failed(Failure::DeadlineExceeded)), "{id}");
            let stored = load(&self.store, &InstanceId::new(id).unwrap()).await.unwrap().unwrap();
            stored.snapshot.ended_at().into_iter().collect()
        } else {
            assert_eq!(result, Ok(7), "{id}");
            self.ledger.of(id)
        };
        assert_eq!(went_on.len(), 1, "{id} continued at {went_on:?}");
        assert!(went_on[0] >= *due, "{id} continued at {:?}, due at {due:?}", went_on[0]);
    }

    pub(crate) async fn still_waits(&self, waiting: &Waiting) {
        let status = within(waiting.handle.status()).await.unwrap();
        let waits = match waiting.kind {
            Kind::Delay => matches!(status, Status::Waiting { wake_at, .. } if wake_at == waiting.due),
            Kind::Timeout | Kind::Deadline => matches!(status, Status::AwaitingSignal { .. }),
            Kind::Backoff => status == Status::InProgress,
        };
        assert!(
            waits && self.ledger.of(&waiting.id).is_empty(),
            "{}: {status:?}, due at {:?}",
            waiting.id,
            waiting.due
        );
    }
}

/// Starts one instance of each kind, all due in an hour.
pub(crate) async fn an_hour() -> (World, Vec<Waiting>) {
    let world = World::new(&[HOUR]).await;
    let mut waiting = Vec::new();
    for workflow in 0..KINDS.len() {
        waiting.push(world.start(workflow, format!("{workflow}")).await);
    }
    (world, waiting)
}
