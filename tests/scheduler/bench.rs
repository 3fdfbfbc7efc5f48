//! One instance on a bench: it gets one event at a time and is read back from the store each time,
//! as after a crash.

use bytes::Bytes;
use everstep::lifecycle::{
    Committer, Existing, PrepareRunOutcome, ResumeError, ResumeOutcome, Stored, fill, load, prepare_resume,
    prepare_run, read_signal_id, step, task_result,
};
use everstep::machine::{Context, Effect, Event, NewRun, Outcome, Refusal, Snapshot};
use everstep::{
    AttemptFailure, Codec, ConflictPolicy, FailureKind, Limits, MemoryStore, RunId, StatusCode, Timestamp, Value,
    Workflow,
};
use serde::Serialize;

use crate::world::instance;

/// The time of the clock.
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

pub(crate) struct Bench<I, O> {
    pub(crate) workflow: Workflow<I, O>,
    pub(crate) store: MemoryStore,
    pub(crate) limits: Limits,
    pub(crate) now: Timestamp,
}

pub(crate) fn encoded(value: &impl Serialize) -> Bytes {
    Codec::MessagePack.encode(value, 10_000).unwrap()
}

pub(crate) fn new_run(number: u8, input: &impl Serialize) -> NewRun {
    let run = RunId::from_bytes([number; 16]);
    NewRun { instance: instance(), run, codec: Codec::MessagePack.id(), input: encoded(input), traceparent: None }
}

impl<I: Serialize, O: 'static> Bench<I, O> {
    pub(crate) fn new(workflow: Workflow<I, O>) -> Self {
        Self { workflow, store: MemoryStore::new(), limits: Limits::default(), now: NOW }
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context { program: self.workflow.definition().program(), limits: &self.limits, now: self.now }
    }

    pub(crate) async fn start(&self, input: I) -> Vec<Effect> {
        let (new, policy) = (new_run(1, &input), ConflictPolicy::Fail);
        let definition = self.workflow.definition();
        let started = prepare_run(&self.store, &self.context(), definition, new, policy, Existing::Free).await;
        let PrepareRunOutcome::Fresh { effects, .. } = started.unwrap() else { panic!("the store is empty") };
        effects
    }

    pub(crate) async fn stored(&self) -> Stored {
        load(&self.store, &instance()).await.unwrap().unwrap()
    }

    pub(crate) async fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.stored().await.snapshot;
        fill(&self.store, self.workflow.definition().program(), &mut snapshot).await.unwrap();
        snapshot
    }

    pub(crate) async fn resume(&self) -> Result<ResumeOutcome, ResumeError> {
        prepare_resume(&self.store, self.workflow.definition(), &instance(), self.now).await
    }

    /// Reads the instance, applies one event and commits.
    pub(crate) async fn apply(&self, event: Event) -> Result<Vec<Effect>, Refusal> {
        let mut snapshot = self.snapshot().await;
        if let Event::Signal { id, .. } = &event {
            read_signal_id(&self.store, &mut snapshot, id).await.unwrap();
        }
        let done = step(&self.context(), &mut snapshot, event)?;
        if let Some(write) = done.write {
            Committer::commit(&self.store, write).await.unwrap();
        }
        Ok(done.effects)
    }

    async fn end_attempt(&self, outcome: Outcome) {
        let attempt_id = self.stored().await.snapshot.running().next().unwrap();
        self.apply(Event::AttemptFinished { attempt_id, outcome }).await.unwrap();
    }

    pub(crate) async fn finish_task(&self, output: u64) {
        self.end_attempt(Ok(encoded(&output).into())).await;
    }

    pub(crate) async fn fail_task(&self, kind: FailureKind) {
        self.end_attempt(Err(AttemptFailure::new(kind, "no"))).await;
    }

    pub(crate) async fn signal(&self, id: &str, payload: u64) {
        let event = Event::Signal { name: "go".into(), id: id.into(), payload: encoded(&payload) };
        self.apply(event).await.unwrap();
    }

    /// Returns the code of its end, as `prepare_resume` reports it.
    pub(crate) async fn terminal(&self) -> StatusCode {
        match self.resume().await {
            Ok(ResumeOutcome::AlreadyTerminal(status)) => status.code(),
            other => panic!("it has not ended: {other:?}"),
        }
    }

    pub(crate) async fn result(&self, node: &str) -> Option<Value> {
        let manifest = self.workflow.definition().manifest();
        task_result(&self.store, manifest, &self.stored().await.snapshot, node, &[]).await.unwrap()
    }
}
