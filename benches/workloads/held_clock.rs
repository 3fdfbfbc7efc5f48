//! A stopped clock that later runs as real time does, so that many instances are due at one
//! instant, however long it takes to start them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use everstep::{BoxFuture, Clock, Timestamp};
use tokio::sync::watch;

#[derive(Clone)]
pub(crate) struct HeldClock {
    base: Timestamp,
    /// The time since which it runs.
    running: Arc<watch::Sender<Option<Instant>>>,
}

impl HeldClock {
    pub(crate) fn new(base: Timestamp) -> Self {
        Self { base, running: Arc::new(watch::channel(None).0) }
    }

    pub(crate) fn let_go(&self) {
        self.running.send_replace(Some(Instant::now()));
    }
}

impl Clock for HeldClock {
    fn now(&self) -> Timestamp {
        let elapsed = self.running.borrow().map_or(Duration::ZERO, |since| since.elapsed());
        self.base.after(elapsed)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut running = self.running.subscribe();
        Box::pin(async move {
            // An error means that the clock is gone: it never runs again.
            if running.wait_for(Option::is_some).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(duration).await;
        })
    }
}
