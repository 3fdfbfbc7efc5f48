//! One attempt, from its slot to its outcome.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::blocking::{Thread, on_thread};
use super::waits::{Polled, polled};
use super::watchdog::{PollMark, Seat};
use super::{AttemptKey, Executor, Job, Serial};
use crate::clock::{BoxFuture, Clock};
use crate::definition::{AttemptFailure, FailureKind};
use crate::machine::Outcome;
use crate::panic::caught;
use crate::time::Timestamp;

/// Time that an attempt with a timeout may run before its start is recorded. The start of a shorter
/// one is not worth a commit: after a crash the attempt starts again with its whole timeout, which
/// is at most this much too long.
const RECORD_START_AFTER: Duration = Duration::from_millis(50);

/// The right to run, given back however the attempt ends.
pub(super) struct Slot {
    executor: Arc<Executor>,
    key: AttemptKey,
    serial: Serial,
    /// True once the attempt ran to its end; false if its future was dropped.
    has_ended: bool,
    /// Read by the watchdog.
    seat: Seat,
}

impl Slot {
    pub(super) fn new(executor: Arc<Executor>, key: AttemptKey, serial: Serial, seat: Seat) -> Self {
        Self { executor, key, serial, has_ended: false, seat }
    }

    pub(super) fn key(&self) -> &AttemptKey {
        &self.key
    }

    pub(super) fn serial(&self) -> Serial {
        self.serial
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub(super) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Returns the attempt as a future that is small, since each attempt spawns one: the parts that
    /// only some attempts need are boxed.
    pub(super) fn run(
        self,
        job: Job,
        token: CancellationToken,
        gate: Option<oneshot::Receiver<()>>,
        thread: Option<Thread>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let plain = gate.is_none() && job.run.timeout.is_none() && thread.is_none();
        let work = if plain {
            let call = call(job, self.executor.clock.now(), &token);
            Box::pin(async move { until_cancelled(call, &token).await }) as BoxFuture<'static, _>
        } else {
            Box::pin(watched(
                Arc::clone(&self.executor),
                self.serial,
                job,
                token,
                gate,
                thread,
                Arc::clone(self.seat.mark()),
            ))
        };
        async move {
            let mut slot = self;
            let ended = {
                let mut working = pin!(caught(work));
                poll_fn(|context| {
                    let _polling = slot.seat.poll(&slot.executor.ticks);
                    let _polled = Polled::begin(slot.seat.mark());
                    working.as_mut().poll(context)
                })
                .await
            };
            let outcome = match ended {
                Ok(Some(outcome)) => outcome,
                // The attempt was stopped, so no actor needs this outcome. Report one all the same:
                // an instance must never wait forever.
                Ok(None) => {
                    Err(AttemptFailure::new(FailureKind::Error, "the attempt was stopped before it returned a result"))
                }
                // A drop in user code panicked: that of a future, or of a value it held.
                Err(panic) => Err(AttemptFailure::new(FailureKind::Panicked, panic)),
            };
            slot.executor.finish(&slot.key, slot.serial, outcome);
            slot.has_ended = true;
        }
    }
}

fn call(job: Job, started_at: Timestamp, token: &CancellationToken) -> impl Future<Output = Outcome> + Send + use<> {
    job.caller.call(&job.key.instance, job.key.run, job.run, started_at, token.clone())
}

/// Runs a future to its end. Returns `None` once the token is cancelled.
pub(crate) async fn until_cancelled<T>(future: impl Future<Output = T> + Send, token: &CancellationToken) -> Option<T> {
    let (mut future, mut cancelled) = (pin!(future), pin!(token.cancelled()));
    poll_fn(|context| {
        if token.is_cancelled() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(done) = future.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        // Polled last: a future that is ready at once, as many are, need not be registered with the
        // token.
        cancelled.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// Runs an attempt whose start may have to be recorded, which has a timeout, or which blocks.
/// Returns `None` if the attempt was cancelled.
async fn watched(
    executor: Arc<Executor>,
    serial: Serial,
    job: Job,
    token: CancellationToken,
    gate: Option<oneshot::Receiver<()>>,
    thread: Option<Thread>,
    mark: Arc<PollMark>,
) -> Option<Outcome> {
    let (clock, key) = (Arc::clone(&executor.clock), job.key.clone());
    if let Some(gate) = gate {
        executor.sink.started(&key, serial, clock.now().before(passed(&job)));
        tokio::select! {
            gone = gate => if gone.is_err() { return None },
            () = token.cancelled() => return None,
        }
    }
    let (timeout, announced, passed) = (job.run.timeout, job.run.announce, passed(&job));
    let (call, started_at) = match thread {
        Some(thread) => {
            let (calling, calling_token) = (Arc::clone(&clock), token.clone());
            let begin = move || {
                let _polled = Polled::begin(&mark);
                let (call, started_at) = begin(job, &*calling, &calling_token);
                (Box::pin(polled(Arc::clone(&mark), call)) as BoxFuture<'static, _>, started_at)
            };
            on_thread(begin, Some(thread), token.clone()).await?
        }
        None => begin(job, &*clock, &token),
    };
    let ended = attempt(&*clock, call, timeout, &token);
    if announced || timeout.is_none_or(|timeout| timeout <= RECORD_START_AFTER) {
        return ended.await;
    }
    let mut ended = pin!(ended);
    // Report the start of an attempt that has a timeout and takes longer.
    tokio::select! {
        biased;
        outcome = &mut ended => return outcome,
        () = clock.sleep(RECORD_START_AFTER) => executor.sink.started(&key, serial, started_at.before(passed)),
    }
    // Reporting the start put the instance actor into this worker's LIFO slot, from which other
    // workers cannot steal. Yield, so that a blocking attempt cannot delay it.
    tokio::task::yield_now().await;
    ended.await
}

fn begin(job: Job, clock: &dyn Clock, token: &CancellationToken) -> (BoxFuture<'static, Outcome>, Timestamp) {
    let now = clock.now();
    (Box::pin(call(job, now, token)), now)
}

/// Returns the part of its timeout that the attempt used up before a crash or a shutdown
/// interrupted it.
fn passed(job: &Job) -> Duration {
    let whole = job.caller.options(&job.run).and_then(|options| options.timeout);
    match (whole, job.run.timeout) {
        (Some(whole), Some(left)) => whole.saturating_sub(left),
        _ => Duration::ZERO,
    }
}

/// Runs an attempt to its end or its timeout. Returns `None` if it was cancelled.
pub(crate) async fn attempt(
    clock: &dyn Clock,
    call: BoxFuture<'static, Outcome>,
    timeout: Option<Duration>,
    token: &CancellationToken,
) -> Option<Outcome> {
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
