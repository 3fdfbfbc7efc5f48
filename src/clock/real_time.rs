//! Sleeps that paused time does not shorten: on the timer of a tokio runtime of their own, whose
//! time cannot be paused.
//!
//! The runtime is built on first use, which happens only in tests with paused time.

use std::future::pending;
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};

static RUNTIME: OnceLock<Option<Handle>> = OnceLock::new();

/// Sleeps for this much real time. If the system has no thread to spare, a thread of the caller's
/// blocking pool sleeps instead.
pub(super) async fn sleep(duration: Duration) {
    match RUNTIME.get_or_init(start) {
        Some(runtime) => {
            let sleep = {
                let _entered = runtime.enter();
                tokio::time::sleep(duration)
            };
            sleep.await;
        }
        // An error means that the caller's runtime ends.
        None => drop(tokio::task::spawn_blocking(move || std::thread::sleep(duration)).await),
    }
}

/// Builds the tokio runtime, on its own thread: dropping one within another panics, and there may
/// be no thread for it.
fn start() -> Option<Handle> {
    let (ready, started) = sync_channel(1);
    let drive = move || {
        let Ok(runtime) = Builder::new_current_thread().enable_time().build() else { return };
        if ready.send(runtime.handle().clone()).is_ok() {
            runtime.block_on(pending::<()>());
        }
    };
    std::thread::Builder::new().name("everstep-time".into()).spawn(drive).ok()?;
    started.recv().ok()
}
