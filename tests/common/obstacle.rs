//! An obstacle that blocks a thread until the test removes it.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use everstep::BoxFuture;

use crate::common::PATIENCE;

/// Blocks threads until the test drops the other end, which also happens when the test fails.
#[derive(Clone)]
pub(crate) struct Obstacle(Arc<Mutex<Receiver<()>>>);

pub(crate) fn obstacle() -> (Sender<()>, Obstacle) {
    let (removed, wait) = channel();
    (removed, Obstacle(Arc::new(Mutex::new(wait))))
}

impl Obstacle {
    pub(crate) fn block(&self) {
        let waited = self.0.lock().unwrap().recv_timeout(10 * PATIENCE);
        assert_eq!(waited, Err(RecvTimeoutError::Disconnected), "the test did not remove the obstacle");
    }
}

/// Returns a task that awaits for a while and then blocks its thread.
pub(crate) fn blocking(
    obstacle: &Obstacle,
    after: Duration,
) -> impl Fn(u32) -> BoxFuture<'static, Result<u32, Infallible>> + Send + Sync + use<> {
    let obstacle = obstacle.clone();
    move |n| {
        let obstacle = obstacle.clone();
        Box::pin(async move {
            tokio::time::sleep(after).await;
            obstacle.block();
            Ok(n)
        })
    }
}
