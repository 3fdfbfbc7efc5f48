//! The scheduler: how a service drives an instance by itself, with `lifecycle` alone.

use std::collections::VecDeque;

use everstep::lifecycle::{
    Caller, Committer, Ending, PrepareRunOutcome, ResumeOutcome, check_existing_instance, fill, finalize_execution,
    get_resume_input, load, prepare_resume, prepare_run, read_signal_id, step,
};
use everstep::machine::{Context, Effect, Event, NewRun, Outcome, Run, Snapshot};
use everstep::{
    AttemptFailure, BoxError, Clock as _, ConflictPolicy, FailureKind, InstanceId, Limits, ManualClock, Status, Value,
};
use tokio_util::sync::CancellationToken;

use crate::world::{Inbox, Message, Power};

/// One process that drives one instance. No part of it outlives the process; `power` counts its
/// calls and ends it where a test wants that.
pub(crate) struct Scheduler<'a> {
    pub(crate) caller: Caller,
    pub(crate) instance: InstanceId,
    pub(crate) limits: Limits,
    pub(crate) clock: ManualClock,
    pub(crate) committer: &'a dyn Committer,
    pub(crate) inbox: &'a Inbox,
    pub(crate) power: &'a Power,
}

impl Scheduler<'_> {
    /// Starts the instance, or loads the existing one, and drives it until it has ended or only a
    /// person can move it.
    pub(crate) async fn run(&self, new: NewRun) -> Result<Status, BoxError> {
        let (definition, policy) = (&*self.caller.definition, ConflictPolicy::UseExisting);
        let existing = check_existing_instance(self.committer, definition, &self.instance, policy).await?;
        self.power.spend()?;
        let prepared = prepare_run(self.committer, &self.context(), definition, new, policy, existing).await?;
        self.power.spend()?;
        if let PrepareRunOutcome::Fresh { snapshot, effects } = prepared {
            self.drive(*snapshot, effects).await?;
        }
        for message in self.inbox.early() {
            self.send(message).await?;
        }
        // Only the first look can find an attempt that a crashed process left running.
        let mut process_crashed = true;
        loop {
            let outcome = prepare_resume(self.committer, definition, &self.instance, self.clock.now()).await?;
            self.power.spend()?;
            match outcome {
                ResumeOutcome::Ready { snapshot, input } => self.resume(*snapshot, &input, process_crashed).await?,
                ResumeOutcome::NotReady(status) => self.wait(&status).await?,
                ResumeOutcome::NotFound => unreachable!("it was started above"),
                ResumeOutcome::AlreadyTerminal(status)
                | ResumeOutcome::Paused(status)
                | ResumeOutcome::Quarantined(status) => return Ok(status),
            }
            process_crashed = false;
        }
    }

    async fn resume(&self, mut snapshot: Snapshot, input: &Value, process_crashed: bool) -> Result<(), BoxError> {
        assert_eq!(get_resume_input(&snapshot).as_ref(), Ok(input), "both return the value to continue with");
        self.power.spend()?;
        let effects = self.step(&mut snapshot, Event::Resumed { alive: Vec::new(), process_crashed }).await?;
        self.drive(snapshot, effects).await
    }

    /// Waits until the instance can continue: sends the signal that it waits for, or lets time
    /// pass.
    async fn wait(&self, status: &Status) -> Result<(), BoxError> {
        if let Status::AwaitingSignal { signal, .. } = status
            && let Some(message) = self.inbox.first(signal)
        {
            return self.send(message).await;
        }
        let stored = load(self.committer.store(), &self.instance).await?;
        let wake = stored.and_then(|stored| stored.snapshot.next_wake());
        let Some(at) = wake else { panic!("{status}, and no message is left") };
        self.clock.advance(at.since(self.clock.now()));
        Ok(())
    }

    async fn send(&self, message: Message) -> Result<(), BoxError> {
        let Some(stored) = load(self.committer.store(), &self.instance).await? else { return Ok(()) };
        let mut snapshot = stored.snapshot;
        fill(self.committer.store(), self.caller.definition.program(), &mut snapshot).await?;
        let id = message.id.into();
        read_signal_id(self.committer.store(), &mut snapshot, &id).await?;
        let event = Event::Signal { name: message.name.into(), id, payload: message.payload };
        let effects = self.step(&mut snapshot, event).await?;
        self.inbox.acknowledge(message.id);
        self.drive(snapshot, effects).await
    }

    /// Carries out effects until none is left: then the instance has ended or is parked.
    async fn drive(&self, mut snapshot: Snapshot, effects: Vec<Effect>) -> Result<(), BoxError> {
        let mut todo = VecDeque::from(effects);
        while let Some(effect) = todo.pop_front() {
            let Effect::Run(run) = effect else { continue };
            let attempt_id = run.attempt_id;
            if run.announce {
                // Durable before the task runs, so that a crash during the task can be counted.
                let started = Event::AttemptStarted { attempt_id, at: self.clock.now() };
                let answer = self.step(&mut snapshot, started).await?;
                if !answer.iter().any(|effect| matches!(effect, Effect::Proceed { .. })) {
                    continue;
                }
            }
            let outcome = self.call(&snapshot, run).await;
            self.power.spend()?;
            todo.extend(self.finalize(&mut snapshot, Ending::Task { attempt_id, outcome }).await?);
        }
        self.finalize(&mut snapshot, Ending::Parked).await.map(drop)
    }

    /// Runs one attempt. Time moves only when nothing else does: a task that is not done at once
    /// hangs until its timeout.
    async fn call(&self, snapshot: &Snapshot, run: Run) -> Outcome {
        let (timeout, token) = (run.timeout, CancellationToken::new());
        let call = self.caller.call(&self.instance, snapshot.run(), run, self.clock.now(), token);
        let hangs = async {
            let timeout = timeout.expect("a task of this test that hangs has a timeout");
            self.clock.advance(timeout);
            Err(AttemptFailure::new(FailureKind::TimedOut, format!("timed out after {timeout:?}")))
        };
        tokio::select! { biased; outcome = call => outcome, outcome = hangs => outcome }
    }

    async fn step(&self, snapshot: &mut Snapshot, event: Event) -> Result<Vec<Effect>, BoxError> {
        let done = step(&self.context(), snapshot, event).expect("no event of this scheduler is out of place");
        self.power.spend()?;
        if let Some(write) = done.write {
            self.committer.commit(write).await?;
        }
        Ok(done.effects)
    }

    async fn finalize(&self, snapshot: &mut Snapshot, ending: Ending) -> Result<Vec<Effect>, BoxError> {
        let finalized = finalize_execution(self.committer, &self.context(), snapshot, ending).await?;
        self.power.spend()?;
        Ok(finalized.effects)
    }

    fn context(&self) -> Context<'_> {
        Context { program: self.caller.definition.program(), limits: &self.limits, now: self.clock.now() }
    }
}
