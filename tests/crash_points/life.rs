//! One process: a runtime, and a caller that starts the instance, moves the clock, and sends the
//! awaited signals.

use std::fmt::Debug;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use everstep::{
    Clock as _, ConflictPolicy, InstanceHandle, ManualClock, MemoryStore, MessageError, RunId, Runtime, Status,
    Workflow,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::common::{moving, with, within};
use crate::doom::{Doom, Durable, End};
use crate::tasks::{List, Log, list};
use crate::through::Through;

const SECOND: Duration = Duration::from_secs(1);

/// The instance's status in a refusal, or the answer that came in place of one.
pub(crate) type Told = Result<Status, Result<(), MessageError>>;

/// The caller's knowledge, from all processes.
#[derive(Default)]
pub(crate) struct Caller {
    /// The run whose start was answered.
    pub(crate) run: Option<RunId>,
    /// Signals that were acknowledged.
    pub(crate) sent: u32,
    /// True if the next signal was sent and its outcome is unknown.
    pub(crate) in_doubt: bool,
    /// Signals to send before any wait for them.
    pub(crate) early: u32,
    /// Answers to calls that must be refused, each with its process.
    pub(crate) told: Arc<Mutex<Vec<(usize, Told)>>>,
}

/// The parts that outlive a process.
pub(crate) struct World<'a> {
    pub(crate) workflow: &'a Workflow<List, List>,
    pub(crate) store: MemoryStore,
    pub(crate) clock: ManualClock,
    pub(crate) log: Log,
}

struct Life<'a> {
    number: usize,
    world: &'a World<'a>,
    doom: Arc<Doom>,
    runtime: Runtime,
    pokes: JoinSet<()>,
}

impl World<'_> {
    /// Runs until the end, or until the instance has ended; returns its output, and the durable
    /// state.
    pub(crate) async fn live(&self, life: usize, end: Option<End>, caller: &mut Caller) -> (Option<List>, Durable) {
        let doom = Doom::new(self.workflow.definition(), end);
        let store = Through::new(&self.store, &doom);
        let builder = Runtime::builder(store).register(self.workflow).clock(self.clock.clone());
        let runtime = builder.provide(self.log.of(life)).start().await.unwrap();
        let mut life = Life { number: life, world: self, doom: Arc::clone(&doom), runtime, pokes: JoinSet::new() };
        let output = tokio::select! {
            biased;
            output = life.go_on(caller) => output,
            () = doom.over.cancelled() => None,
        };
        doom.pokes.lock().unwrap().take();
        if output.is_none() {
            // An answer may come after the end and is no less true. Calls that have not been made
            // by then get none.
            settle().await;
            life.pokes.abort_all();
        }
        while within(life.pokes.join_next()).await.is_some() {}
        drop(life);
        let durable = doom.durable.lock().unwrap().clone();
        (output, durable)
    }
}

/// Lets other tasks run as far as they can.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

impl Life<'_> {
    /// Continues the instance; returns none if the process has ended.
    async fn go_on(&mut self, caller: &mut Caller) -> Option<List> {
        let handle = self.find_or_start(caller).await?;
        self.poke(&handle, caller);
        while caller.in_doubt || caller.sent < caller.early {
            self.send(&handle, caller).await?;
        }
        let mut commits = self.doom.commits.subscribe();
        loop {
            commits.borrow_and_update();
            match self.alive(handle.status().await)? {
                Status::InProgress => within(commits.changed()).await.unwrap(),
                Status::Waiting { wake_at, .. } => {
                    let clock = &self.world.clock;
                    clock.advance(wake_at.since(clock.now()));
                    moving(clock, SECOND, commits.changed()).await.unwrap();
                }
                Status::AwaitingSignal { .. } => self.send(&handle, caller).await?,
                Status::Completed => return self.alive(handle.result().await),
                status => panic!("{} is {status}", self.world.workflow.definition().info().name()),
            }
        }
    }

    async fn find_or_start(&self, caller: &mut Caller) -> Option<InstanceHandle<List>> {
        let workflow = self.world.workflow;
        if let Some(run) = caller.run {
            // Its start was acknowledged.
            let handle = self.alive(self.runtime.handle(workflow, "id").await)?;
            assert_eq!(handle.run_id(), run);
            return Some(handle);
        }
        let started = self.runtime.start_with(workflow, "id", list([1, 2]), with(ConflictPolicy::UseExisting)).await;
        let handle = self.alive(started)?.handle;
        caller.run = Some(handle.run_id());
        Some(handle)
    }

    async fn send(&self, handle: &InstanceHandle<List>, caller: &mut Caller) -> Option<()> {
        caller.in_doubt = true;
        let sent = handle.signal_with_id("go", &list([7, 8]), &format!("signal {}", caller.sent)).await;
        self.alive(sent)?;
        (caller.sent, caller.in_doubt) = (caller.sent + 1, false);
        Some(())
    }

    /// Before each commit makes a call that the instance must refuse with its status.
    fn poke(&mut self, handle: &InstanceHandle<List>, caller: &Caller) {
        let (sender, mut asked) = mpsc::unbounded_channel::<tokio::sync::oneshot::Sender<()>>();
        *self.doom.pokes.lock().unwrap() = Some(sender);
        let (number, handle, told) = (self.number, handle.clone(), Arc::clone(&caller.told));
        self.pokes.spawn(async move {
            let mut answers = JoinSet::new();
            while let Some(sent) = asked.recv().await {
                let (handle, told) = (handle.clone(), Arc::clone(&told));
                answers.spawn(async move {
                    let mut asking = pin!(handle.unpause());
                    let mut sent = Some(sent);
                    let answer = poll_fn(|context| {
                        let polled = asking.as_mut().poll(context);
                        sent.take().map(|sent| sent.send(()));
                        if polled.is_pending() { Poll::Pending } else { polled }
                    });
                    match answer.await {
                        Err(MessageError::NotPaused(status) | MessageError::AlreadyTerminal(status)) => {
                            told.lock().unwrap().push((number, Ok(status)));
                        }
                        Err(MessageError::OutcomeUnknown(_)) => {}
                        other => told.lock().unwrap().push((number, Err(other))),
                    }
                });
            }
            answers.join_all().await;
        });
    }

    /// Returns an answer that was given while the process ran. Only its end excuses an error.
    fn alive<T, E: Debug>(&self, answer: Result<T, E>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(_) if self.doom.over.is_cancelled() => None,
            Err(error) => panic!("{}: {error:?}", self.world.workflow.definition().info().name()),
        }
    }
}
