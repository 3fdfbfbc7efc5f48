//! One attempt, from its slot to its outcome.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{AttemptKey, Executor, Job, PollMark};
use crate::clock::{BoxFuture, Clock};
use crate::definition::{AttemptFailure, FailureKind};
use crate::machine::Outcome;
use crate::panic::caught;
use crate::time::Timestamp;

/// How long an attempt with a timeout may run before its start is recorded. A shorter one is not worth a commit: lost
/// with the process, it starts anew with its whole timeout, at most this much too long.
const RECORD_START_AFTER: Duration = Duration::from_millis(50);

/// The right to run, given back however the attempt ends.
pub(super) struct Slot {
    executor: Arc<Executor>,
    pub(super) key: AttemptKey,
    /// Whether it ran to its end, as against being dropped.
    pub(super) ended: bool,
    /// For the watchdog.
    pub(super) mark: Arc<PollMark>,
}

impl Slot {
    pub(super) fn new(executor: Arc<Executor>, key: AttemptKey, mark: Arc<PollMark>) -> Self {
        Self { executor, key, ended: false, mark }
    }

    /// The attempt, as a future small enough to be spawned for each: what only some need is boxed.
    pub(super) fn run(
        self,
        job: Job,
        token: CancellationToken,
        gate: Option<oneshot::Receiver<()>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let plain = gate.is_none() && job.run.timeout.is_none() && !is_blocking(&job);
        let work = if plain {
            let call = call(job, self.executor.clock.now(), &token);
            Box::pin(async move { until_cancelled(call, &token).await }) as BoxFuture<'static, _>
        } else {
            Box::pin(watched(Arc::clone(&self.executor), job, token, gate))
        };
        async move {
            let mut slot = self;
            let ended = {
                let mut working = pin!(caught(work));
                poll_fn(|context| {
                    let _polling = slot.mark.poll(&slot.executor.ticks);
                    working.as_mut().poll(context)
                })
                .await
            };
            // A panic here is one of user code that is dropped: a future, or what it holds.
            let outcome = ended.unwrap_or_else(|panic| Some(Err(AttemptFailure::new(FailureKind::Panicked, panic))));
            if let Some(outcome) = outcome {
                slot.executor.finish(&slot.key, outcome);
            }
            slot.ended = true;
        }
    }
}

fn is_blocking(job: &Job) -> bool {
    job.caller.options(&job.run).is_some_and(|options| options.blocking)
}

fn call(job: Job, started_at: Timestamp, token: &CancellationToken) -> impl Future<Output = Outcome> + Send + use<> {
    job.caller.call(&job.key.instance, job.key.run, job.run, started_at, token.clone())
}

/// Runs a future to its end, or until the token is cancelled: then there is nothing.
pub(crate) async fn until_cancelled<T>(future: impl Future<Output = T> + Send, token: &CancellationToken) -> Option<T> {
    let (mut future, mut cancelled) = (pin!(future), pin!(token.cancelled()));
    poll_fn(|context| {
        if token.is_cancelled() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(done) = future.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        // Only now: one that is ready at once, as many are, need not be entered with the token.
        cancelled.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// One whose start may have to be recorded, which has a timeout, or which blocks. The outcome, or nothing if the attempt was
/// cancelled.
async fn watched(
    executor: Arc<Executor>,
    job: Job,
    token: CancellationToken,
    gate: Option<oneshot::Receiver<()>>,
) -> Option<Outcome> {
    let (clock, key) = (&*executor.clock, job.key.clone());
    if let Some(gate) = gate {
        executor.sink.started(&key, first_start(&job, clock.now()));
        tokio::select! {
            gone = gate => if gone.is_err() { return None },
            () = token.cancelled() => return None,
        }
    }
    let started_at = clock.now();
    let first_start = first_start(&job, started_at);
    let (timeout, announced, blocking) = (job.run.timeout, job.run.announce, is_blocking(&job));
    let call = Box::pin(call(job, started_at, &token));
    let ended = attempt(clock, call, timeout, blocking, &token);
    if announced || timeout.is_none_or(|timeout| timeout <= RECORD_START_AFTER) {
        return ended.await;
    }
    let mut ended = pin!(ended);
    // The start of one that has a timeout and takes a while is reported meanwhile.
    tokio::select! {
        biased;
        outcome = &mut ended => return outcome,
        () = clock.sleep(RECORD_START_AFTER) => executor.sink.started(&key, first_start),
    }
    // Whom this has woken, the instance's actor, waits in a place of this thread that no other one takes tasks from
    // (tokio's LIFO slot): should the attempt block now, it would wait as long.
    tokio::task::yield_now().await;
    ended.await
}

/// When the attempt would have started had it not been interrupted: what is left of its timeout says so.
fn first_start(job: &Job, now: Timestamp) -> Timestamp {
    let whole = job.caller.options(&job.run).and_then(|options| options.timeout);
    match (whole, job.run.timeout) {
        (Some(whole), Some(left)) => now.before(whole.saturating_sub(left)),
        _ => now,
    }
}

/// Runs an attempt to its end, its timeout, or its cancellation, for which there is no outcome.
pub(crate) async fn attempt(
    clock: &dyn Clock,
    call: BoxFuture<'static, Outcome>,
    timeout: Option<Duration>,
    blocking: bool,
    token: &CancellationToken,
) -> Option<Outcome> {
    let call = if blocking { on_blocking_pool(call, token.clone()) } else { call };
    let timed_out = async {
        match timeout {
            Some(timeout) => clock.sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = token.cancelled() => None,
        outcome = call => Some(outcome),
        () = timed_out => {
            token.cancel();
            let message = format!("timed out after {:?}", timeout.unwrap_or_default());
            Some(Err(AttemptFailure::new(FailureKind::TimedOut, message)))
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.executor.release(self);
    }
}

/// Moves an attempt to the pool for blocking work. Dropping the future it gives does not stop a thread, so the token is
/// watched there too.
fn on_blocking_pool(call: BoxFuture<'static, Outcome>, token: CancellationToken) -> BoxFuture<'static, Outcome> {
    let handle = tokio::runtime::Handle::current();
    let outcome = tokio::task::spawn_blocking(move || {
        handle.block_on(async {
            tokio::select! {
                biased;
                () = token.cancelled() => None,
                outcome = call => Some(outcome),
            }
        })
    });
    Box::pin(async move {
        match outcome.await {
            Ok(Some(outcome)) => outcome,
            // Cancelled: whoever cancelled it has dropped this future. Or the pool is shutting down with the process.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    })
}
