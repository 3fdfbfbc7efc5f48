//! Runs a workflow in memory, through the same machine: no store, no actors, and nothing survives a
//! crash.

mod attempts;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::clock::{BoxFuture, Clock, SystemClock, sleep_until};
use crate::codec::{Codec, CodecError};
use crate::definition::{Deps, MissingDep, Workflow};
use crate::executor::{attempt, on_thread};
use crate::id::{InstanceId, NodePath, RunId};
use crate::lifecycle::Caller;
use crate::limits::{Limits, PayloadLimits};
use crate::machine::{Context, Effect, End, Event, NewRun, Outcome, Run, Snapshot, apply, start};
use crate::status::{Failure, Status};
use crate::time::Timestamp;

use attempts::{Attempt, Attempts};

/// Error of a run in memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunOnceError {
    /// The workflow failed.
    #[error(transparent)]
    Failed(Failure),
    /// The workflow waits for a signal without a timeout, and a run in memory receives none.
    #[error("the workflow waits for a signal at `{node}`, but a run in memory receives none: use a Runtime")]
    NeedsSignal {
        /// The node that waits.
        node: NodePath,
    },
    /// Tasks need services that were not provided.
    #[error("services are missing, pass them to RunOnce::provide: {}", crate::definition::list(.0))]
    MissingDeps(Vec<MissingDep>),
    /// The input does not encode, or the output does not decode.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// A run in memory, with services and a clock.
pub struct RunOnce<'a, I, O> {
    workflow: &'a Workflow<I, O>,
    deps: Deps,
    clock: Arc<dyn Clock>,
    codec: Codec,
    limits: Limits,
}

impl<I: Serialize, O: 'static> Workflow<I, O> {
    /// Runs the workflow in memory: for tests, scripts, and work that need not be durable. Waits
    /// for delays and backoffs; tasks run in the calling task, so dropping the future stops
    /// everything.
    ///
    /// ```
    /// use everstep::Workflow;
    ///
    /// async fn double(n: u32) -> Result<u32, std::convert::Infallible> {
    ///     Ok(2 * n)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let builder = Workflow::builder("four times");
    /// let workflow = builder.then("first", double).then("second", double).build()?;
    /// assert_eq!(workflow.run_once(3).await?, 12);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RunOnceError`].
    pub async fn run_once(&self, input: I) -> Result<O, RunOnceError> {
        RunOnce::new(self).run(input).await
    }
}

impl<'a, I: Serialize, O: 'static> RunOnce<'a, I, O> {
    /// Creates a run with no services and the machine's clock.
    pub fn new(workflow: &'a Workflow<I, O>) -> Self {
        Self {
            workflow,
            deps: Deps::new(),
            clock: Arc::new(SystemClock),
            codec: Codec::MessagePack,
            limits: Limits::default(),
        }
    }

    /// Provides a service.
    pub fn provide<T: Send + Sync + 'static>(self, service: T) -> Self {
        self.provide_arc(Arc::new(service))
    }

    /// Provides a service that is already shared, or a trait object.
    pub fn provide_arc<T: ?Sized + Send + Sync + 'static>(mut self, service: Arc<T>) -> Self {
        self.deps.provide(service);
        self
    }

    /// Sets the codec of the payloads. The default is MessagePack.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets the limits on payloads and lists. Limits on queues do not apply to a single run.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits.clamped();
        self
    }

    /// Sets the clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Runs the workflow.
    ///
    /// # Errors
    /// [`RunOnceError`].
    pub async fn run(self, input: I) -> Result<O, RunOnceError> {
        let definition = self.workflow.definition();
        let missing = definition.missing_deps(&self.deps);
        if !missing.is_empty() {
            return Err(RunOnceError::MissingDeps(missing));
        }
        let caller = Caller {
            definition: Arc::clone(definition),
            deps: Arc::new(self.deps),
            codec: self.codec.clone(),
            limits: PayloadLimits::from(&self.limits),
        };
        let now = self.clock.now();
        let new = NewRun {
            instance: InstanceId::new("run once").unwrap_or_else(|_| unreachable!("the id is valid")),
            run: RunId::generate(now),
            codec: self.codec.id(),
            input: self.workflow.encode_input(&input, &self.codec, self.limits.payload_bytes_max)?,
            traceparent: None,
        };
        let driver = Driver { caller, clock: self.clock, limits: self.limits };
        let snapshot = driver.drive(new).await?;
        let names = definition.program();
        match (snapshot.end(), snapshot.status(names)) {
            (Some(End::Completed { output }), _) => Ok(self.workflow.decode_output(output, &self.codec)?),
            (_, Status::Failed { failure }) => Err(RunOnceError::Failed(failure)),
            (_, Status::AwaitingSignal { node, .. }) => Err(RunOnceError::NeedsSignal { node }),
            (_, status) => unreachable!("a run in memory is never cancelled or paused: {status}"),
        }
    }
}

struct Driver {
    caller: Caller,
    clock: Arc<dyn Clock>,
    limits: Limits,
}

impl Driver {
    fn context(&self) -> Context<'_> {
        Context { program: self.caller.definition.program(), limits: &self.limits, now: self.clock.now() }
    }

    /// Runs to the end, or until only a signal could make the run go on.
    async fn drive(&self, new: NewRun) -> Result<Snapshot, RunOnceError> {
        let mut context = self.context();
        let (mut snapshot, transition) = start(&context, new);
        let mut attempts = Attempts::default();
        let mut effects = transition.effects;
        loop {
            for effect in effects.drain(..) {
                match effect {
                    Effect::Run(run) => self.begin(&snapshot, run, context.now, &mut attempts),
                    Effect::Stop { attempt_id } => attempts.stop(attempt_id),
                    // Wake-ups are read from the snapshot below; the other effects do not occur, or
                    // need nothing here.
                    _ => {}
                }
            }
            if snapshot.end().is_some() {
                return Ok(snapshot);
            }
            let Some(event) = self.next(snapshot.next_wake(), &mut attempts).await else { return Ok(snapshot) };
            context = self.context();
            let applied = apply(&context, &mut snapshot, event);
            let transition =
                applied.unwrap_or_else(|refusal| unreachable!("a run in memory is not refused: {refusal}"));
            effects = transition.effects;
        }
    }

    fn begin<'a>(&'a self, snapshot: &Snapshot, run: Run, now: Timestamp, attempts: &mut Attempts<'a>) {
        let (attempt_id, timeout, token) = (run.attempt_id, run.timeout, CancellationToken::new());
        let blocking = self.caller.options(&run).is_some_and(|options| options.is_blocking());
        let (caller, instance, run_id) = (&self.caller, snapshot.instance(), snapshot.run());
        let call: BoxFuture<'a, Option<Outcome>> = if blocking {
            let (caller, instance, clock) = (caller.clone(), instance.clone(), Arc::clone(&self.clock));
            let (token, calling) = (token.clone(), token.clone());
            let begin = move || -> (BoxFuture<'static, Outcome>, Timestamp) {
                let now = clock.now();
                (Box::pin(caller.call(&instance, run_id, run, now, calling)), now)
            };
            Box::pin(async move {
                let (call, _) = on_thread(begin, None, token.clone()).await?;
                attempt(&*self.clock, call, timeout, &token).await
            })
        } else {
            let call = caller.call(instance, run_id, run, now, token.clone());
            if timeout.is_none() {
                Box::pin(call.map(Some))
            } else {
                let token = token.clone();
                Box::pin(async move { attempt(&*self.clock, Box::pin(call), timeout, &token).await })
            }
        };
        attempts.begin(Attempt { id: attempt_id, token, call });
    }

    /// Waits for the next event. Returns `None` if only a signal could cause one.
    async fn next(&self, wake: Option<Timestamp>, attempts: &mut Attempts<'_>) -> Option<Event> {
        let finished = |(attempt_id, outcome)| Event::AttemptFinished { attempt_id, outcome };
        let Some(at) = wake else { return attempts.next().await.map(finished) };
        tokio::select! {
            biased;
            Some(ended) = attempts.next() => Some(finished(ended)),
            () = sleep_until(&*self.clock, at, Duration::MAX) => Some(Event::Wake),
        }
    }
}

impl<I, O: 'static> std::fmt::Debug for RunOnce<'_, I, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunOnce({:?})", self.workflow)
    }
}
