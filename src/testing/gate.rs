//! Gates that hold a task in a test.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Semaphore;

use super::PATIENCE;

/// A closed gate: a task that arrives waits until the test opens it. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    arrived: Arc<Semaphore>,
    open: Arc<Semaphore>,
    count: Arc<AtomicU32>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// Creates a closed gate.
    pub fn new() -> Self {
        Self { arrived: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)), count: Arc::default() }
    }

    /// Arrives at the gate and waits until the test opens it. Called by the task.
    pub async fn pass(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.arrived.add_permits(1);
        // The semaphore is never closed.
        if let Ok(permit) = self.open.acquire().await {
            permit.forget();
        }
    }

    /// Waits until one more task has arrived. Called by the test.
    ///
    /// # Panics
    /// After 30 seconds of tokio's time, with the caller's line.
    #[track_caller]
    pub fn arrived(&self) -> impl Future<Output = ()> + use<> {
        let (arrived, asked_at) = (Arc::clone(&self.arrived), Location::caller());
        async move {
            let Ok(permit) = tokio::time::timeout(PATIENCE, arrived.acquire()).await else {
                panic!("no task arrived at the gate within {PATIENCE:?}, awaited at {asked_at}")
            };
            permit.into_iter().for_each(tokio::sync::SemaphorePermit::forget);
        }
    }

    /// Lets this many attempts pass, those that arrived first before others. Called by the test.
    pub fn open(&self, attempts: usize) {
        self.open.add_permits(attempts);
    }

    /// Lets all attempts pass from now on. Called by the test.
    pub fn open_for_good(&self) {
        self.open.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// Returns the number of arrivals so far.
    pub fn arrivals(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }
}
