//! A runtime in a test, on a store in memory that outlives it, with time that the test moves.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::PATIENCE;
use crate::actors::Actors;
use crate::clock::{Clock as _, ManualClock};
use crate::handle::{InstanceHandle, ResultError};
use crate::runtime::{Runtime, RuntimeBuilder, RuntimeError};
use crate::status::Status;
use crate::store::{CrashPoint, FaultyStore, MemoryStore, StoreError};
use crate::time::Timestamp;

/// The first of January 2030.
const START: Timestamp = Timestamp::from_micros(1_893_456_000_000_000);
/// Interval at which a waiting test checks whether there is still something to do.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The parts that outlive a process: a store in memory, and a clock that stands still until the
/// test moves it. Runtimes are started on it one after the other.
///
/// ```
/// # use std::convert::Infallible;
/// # use std::time::Duration;
/// # use everstep::Workflow;
/// # use everstep::testing::TestBed;
/// # async fn remind(user: u32) -> Result<u32, Infallible> { Ok(user) }
/// # #[tokio::main(flavor = "multi_thread", worker_threads = 2)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// const MONTH: Duration = Duration::from_hours(30 * 24);
/// let builder = Workflow::builder_for::<u32>("reminder");
/// let reminder = builder.delay("a month", MONTH).then("remind", remind).build()?;
///
/// let bed = TestBed::new();
/// let runtime = bed.start(|builder| builder.register(&reminder)).await?;
/// runtime.start(&reminder, "user-7", 7).await?;
/// runtime.crash().await;
///
/// let runtime = bed.start(|builder| builder.register(&reminder)).await?;
/// let handle = runtime.handle(&reminder, "user-7").await?;
/// assert_eq!(runtime.finish(&handle).await?, 7);               // a month passes in no time
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TestBed {
    store: MemoryStore,
    clock: ManualClock,
    /// The latest runtime.
    latest: Arc<Mutex<Weak<Actors>>>,
}

impl Default for TestBed {
    fn default() -> Self {
        Self::new()
    }
}

impl TestBed {
    /// Creates a bed with an empty store, whose clock shows the first of January 2030.
    pub fn new() -> Self {
        Self { store: MemoryStore::new(), clock: ManualClock::new(START), latest: Arc::default() }
    }

    /// Returns the clock.
    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// Returns the store: everything that is durable.
    pub fn store(&self) -> &MemoryStore {
        &self.store
    }

    /// Starts a runtime; `setup` registers workflows and provides services. The previous runtime
    /// must have been shut down, crashed, or dropped with all its handles.
    ///
    /// # Errors
    /// As [`RuntimeBuilder::start`]; [`StoreError::Locked`] if the previous runtime still runs.
    pub async fn start(
        &self,
        setup: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder,
    ) -> Result<TestRuntime, RuntimeError> {
        self.start_until(None, setup).await
    }

    /// Starts a runtime whose store crashes at this point.
    pub(super) async fn start_until(
        &self,
        point: Option<CrashPoint>,
        setup: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder,
    ) -> Result<TestRuntime, RuntimeError> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if latest.is_some_and(|actors| !actors.shared().is_closing()) {
            return Err(StoreError::Locked("the store of this bed".into()).into());
        }
        let store = FaultyStore::new(self.store.clone());
        if let Some(point) = point {
            store.crash_at(point);
        }
        let builder = Runtime::builder(store.clone()).clock(self.clock.clone());
        let runtime = setup(builder).start().await?;
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = runtime.actors();
        Ok(TestRuntime { runtime, store, clock: self.clock.clone() })
    }
}

/// Error of an instance that did not end with an output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FinishError {
    /// The instance ended without an output, or does not exist.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// Nothing runs and nothing will ever be due: the instance waits for a signal, or is paused.
    #[error("the instance does not continue by itself ({0}): send its signal, or unpause it")]
    Stuck(Status),
    /// The instance is still running.
    #[error("the instance is still {0} after 30 seconds: check for a held task or a failing store")]
    StillAtWork(Status),
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A [`Runtime`] on a [`TestBed`].
#[derive(Debug)]
pub struct TestRuntime {
    runtime: Runtime,
    store: FaultyStore,
    clock: ManualClock,
}

impl Deref for TestRuntime {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        &self.runtime
    }
}

impl TestRuntime {
    /// Returns the runtime's store, which can be told to fail or to crash.
    pub fn store(&self) -> &FaultyStore {
        &self.store
    }

    /// Returns the clock of the bed.
    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// Waits until nothing happens any more unless the clock is moved or a message is sent: no task
    /// runs or is about to, and nothing is due. This includes tasks that wait for the test, so it
    /// waits forever if they do.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub async fn idle(&self) -> Result<(), StoreError> {
        while self.next_due().await?.is_none() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Waits until the runtime is [`idle`](Self::idle), and moves the clock to what is due next:
    /// the end of a delay, the timeout of a wait, a retry, a deadline. Returns that time, or `None`
    /// if nothing will ever be due.
    ///
    /// The timeout of a running task goes by the clock too, but the test must move the clock for
    /// it: hold the task ([`Stub::hold`](super::Stub::hold)), wait until it has
    /// [arrived](super::Gate::arrived), and [advance](ManualClock::advance) the clock.
    ///
    /// # Errors
    /// As [`idle`](Self::idle).
    pub async fn skip_time(&self) -> Result<Option<Timestamp>, StoreError> {
        loop {
            match self.next_due().await? {
                Some(next) => {
                    if let Some(at) = next {
                        self.clock.advance(at.since(self.clock.now()));
                    }
                    return Ok(next);
                }
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Waits until the instance has ended, skipping the time in which nothing happens. Returns its
    /// output.
    ///
    /// # Errors
    /// [`FinishError`].
    pub async fn finish<O: 'static>(&self, handle: &InstanceHandle<O>) -> Result<O, FinishError> {
        let finishing = async {
            let mut result = std::pin::pin!(handle.result());
            loop {
                tokio::select! {
                    biased;
                    result = &mut result => return Ok(result?),
                    skipped = self.skip_time() => if skipped?.is_none() {
                        let status = handle.status().await.map_err(ResultError::from)?;
                        if !status.is_terminal() {
                            return Err(FinishError::Stuck(status));
                        }
                        return Ok(result.await?);
                    },
                }
            }
        };
        if let Ok(finished) = tokio::time::timeout(PATIENCE, finishing).await {
            return finished;
        }
        Err(FinishError::StillAtWork(handle.status().await.map_err(ResultError::from)?))
    }

    /// Ends at once, as a killed process does: nothing more is written, running tasks are dropped
    /// where they await, and callers get no answer. Everything acknowledged is in the bed's store.
    /// Blocking tasks go on to their next await.
    pub async fn crash(self) {
        self.store.crash();
        self.runtime.crash().await;
    }

    /// Returns `None` while there is something to do; else the time at which something is due next,
    /// if ever.
    async fn next_due(&self) -> Result<Option<Option<Timestamp>>, StoreError> {
        self.runtime.next_due(self.clock.now()).await
    }
}
