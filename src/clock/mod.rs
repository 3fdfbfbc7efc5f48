//! Sources of time: the machine's clock, or one that a test moves.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::time::Timestamp;

mod real_time;

/// A boxed future, as object-safe traits here return them.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A source of time for a runtime.
///
/// The runtime needs two kinds of time: wall-clock time for durable waits (delays, deadlines,
/// backoff), and elapsed time for waits that end with the process (a running attempt's timeout).
pub trait Clock: Send + Sync + 'static {
    /// Returns the wall-clock time.
    fn now(&self) -> Timestamp;

    /// Returns a future that resolves once this much time has elapsed, even if the wall clock is
    /// set in between.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Time that may pass between reading the clock and beginning a sleep computed from that reading.
const LOOK_TOLERANCE: Duration = Duration::from_millis(1);

/// Sleeps until the wall clock shows `at`, or for `at_most`: the clock may be set during the sleep.
pub(crate) async fn sleep_until(clock: &dyn Clock, at: Timestamp, at_most: Duration) {
    loop {
        let now = clock.now();
        let sleep = clock.sleep(at.since(now).min(at_most));
        // If the clock was moved in between, this sleep would be too long.
        if clock.now().since(now) <= LOOK_TOLERANCE {
            return sleep.await;
        }
    }
}

/// The machine's clock. Sleeps take real time even if a test has paused tokio's time.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let until = Instant::now().checked_add(duration);
        let sleep = tokio::time::sleep(duration);
        Box::pin(async move {
            sleep.await;
            // Woken early only in a test that has paused tokio's time, where sleeps take no time.
            let left = until.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default();
            if left > LOOK_TOLERANCE {
                real_time::sleep(left).await;
            }
        })
    }
}

/// A clock that stands still until it is moved, for tests of workflows with delays and timeouts.
/// Clones share the same time.
///
/// A delay is measured from the moment it is reached. So wait until the instance is parked before
/// you move the clock, and move it once per delay. Tokio's paused time moves neither this clock nor
/// [`SystemClock`].
///
/// ```
/// # use std::convert::Infallible;
/// # use std::time::Duration;
/// # use everstep::{ManualClock, MemoryStore, Runtime, Status, Timestamp, Workflow};
/// # async fn remind(user: u32) -> Result<u32, Infallible> { Ok(user) }
/// # #[tokio::main(flavor = "multi_thread", worker_threads = 2)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// const DAY: Duration = Duration::from_hours(24);
/// let builder = Workflow::builder_for::<u32>("reminder");
/// let workflow = builder.delay("a day", DAY).then("remind", remind).build()?;
/// let clock = ManualClock::new(Timestamp::EPOCH);
/// let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
/// let runtime = builder.start().await?;
///
/// let handle = runtime.start(&workflow, "user-7", 7).await?;
/// let mut watch = handle.watch().await?;
/// while !matches!(watch.next().await, Some(Status::Waiting { .. })) {}
/// clock.advance(DAY);
/// assert_eq!(handle.result().await?, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    inner: Arc<ManualInner>,
}

#[derive(Debug)]
struct ManualInner {
    /// Offset of the wall clock; changed only by [`ManualClock::set_wall`].
    wall_base_micros: Mutex<u64>,
    /// Microseconds elapsed since the clock was made; sleepers watch this.
    elapsed_micros: watch::Sender<u64>,
}

impl ManualClock {
    /// Creates a clock that shows `start`.
    pub fn new(start: Timestamp) -> Self {
        let (elapsed_micros, _) = watch::channel(0);
        let wall_base_micros = Mutex::new(start.as_micros());
        Self { inner: Arc::new(ManualInner { wall_base_micros, elapsed_micros }) }
    }

    /// Moves both kinds of time forward, and wakes the sleepers whose time has come.
    pub fn advance(&self, by: Duration) {
        let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.inner.elapsed_micros.send_modify(|elapsed| *elapsed = elapsed.saturating_add(micros));
    }

    /// Sets the wall clock, forward or back, without letting time elapse.
    pub fn set_wall(&self, to: Timestamp) {
        let elapsed = *self.inner.elapsed_micros.borrow();
        *self.inner.wall_base_micros.lock().unwrap_or_else(PoisonError::into_inner) =
            to.as_micros().saturating_sub(elapsed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let base = *self.inner.wall_base_micros.lock().unwrap_or_else(PoisonError::into_inner);
        Timestamp::from_micros(base.saturating_add(*self.inner.elapsed_micros.borrow()))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut elapsed = self.inner.elapsed_micros.subscribe();
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let until = elapsed.borrow_and_update().saturating_add(micros);
        Box::pin(async move {
            // An error means that the clock is gone: nothing will ever move it again.
            if elapsed.wait_for(|now| *now >= until).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}
