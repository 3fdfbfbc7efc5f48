//! Attempts that block a thread. They run in tokio's pool for blocking work, whose own limit makes
//! excess work wait silently. The executor therefore has a lower limit of its own, and an attempt
//! begins only once it has its thread.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Executor;
use super::table::Table;
use crate::clock::BoxFuture;
use crate::definition::{AttemptFailure, FailureKind};
use crate::machine::Outcome;
use crate::time::Timestamp;

/// The right to a thread of the pool, given back when the thread is free. An attempt that timed out
/// may hold it much longer.
pub(crate) struct Thread(Arc<Executor>);

impl Thread {
    pub(super) fn take(executor: &Arc<Executor>, table: &mut Table) -> Self {
        table.threads += 1;
        Self(Arc::clone(executor))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.0.release_thread();
    }
}

/// Begins an attempt on a thread of the pool for blocking work, and waits until it has begun.
/// Returns a future of its outcome and the time it began, or `None` if it was cancelled before
/// that. Dropping a future does not stop a thread, so the thread watches the token too.
pub(crate) async fn on_thread(
    begin: impl FnOnce() -> (BoxFuture<'static, Outcome>, Timestamp) + Send + 'static,
    thread: Option<Thread>,
    token: CancellationToken,
) -> Option<(BoxFuture<'static, Outcome>, Timestamp)> {
    let (tokio, on_thread) = (tokio::runtime::Handle::current(), token.clone());
    let (tell_begun, has_begun) = oneshot::channel();
    let outcome = tokio::task::spawn_blocking(move || {
        let _thread = thread;
        if on_thread.is_cancelled() {
            return None;
        }
        let (call, started_at) = begin();
        // The receiver may be gone: then the attempt was cancelled, and its token stops it.
        let _ = tell_begun.send(started_at);
        tokio.block_on(async {
            tokio::select! {
                biased;
                () = on_thread.cancelled() => None,
                outcome = call => Some(outcome),
            }
        })
    });
    let started_at = tokio::select! {
        biased;
        () = token.cancelled() => return None,
        // An error means that the attempt panicked before it began, which its outcome reports, or
        // that the pool is shutting down.
        at = has_begun => at.unwrap_or(Timestamp::EPOCH),
    };
    let outcome = async move {
        match outcome.await {
            Ok(Some(outcome)) => outcome,
            Err(panic) if panic.is_panic() => {
                let failure = crate::panic::said(panic.into_panic());
                Err(AttemptFailure::new(FailureKind::Panicked, failure))
            }
            // The attempt was cancelled, and this future with it; or the pool shuts down with the
            // process.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    };
    Some((Box::pin(outcome), started_at))
}
