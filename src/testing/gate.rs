//! Holding a task where it is.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Semaphore;

use super::PATIENCE;

/// A closed gate: who comes to it waits until the test lets them go. Clones are the same gate.
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
    /// A closed gate.
    pub fn new() -> Self {
        Self { arrived: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)), count: Arc::default() }
    }

    /// For the task: arrives, and waits to be let go.
    pub async fn pass(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.arrived.add_permits(1);
        // The semaphore is never closed.
        if let Ok(permit) = self.open.acquire().await {
            permit.forget();
        }
    }

    /// For the test: waits until one more has arrived.
    ///
    /// # Panics
    /// After 30 seconds of tokio's time, with the caller's line.
    #[track_caller]
    pub fn arrived(&self) -> impl Future<Output = ()> + use<> {
        let (arrived, asked_at) = (Arc::clone(&self.arrived), Location::caller());
        async move {
            let Ok(permit) = tokio::time::timeout(PATIENCE, arrived.acquire()).await else {
                panic!("nobody came to the gate within {PATIENCE:?}, asked at {asked_at}")
            };
            permit.into_iter().for_each(tokio::sync::SemaphorePermit::forget);
        }
    }

    /// For the test: lets this many go, those that are there first.
    pub fn open(&self, attempts: usize) {
        self.open.add_permits(attempts);
    }

    /// For the test: lets everyone go from now on.
    pub fn open_for_good(&self) {
        self.open.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// How many have arrived so far.
    pub fn arrivals(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }
}
