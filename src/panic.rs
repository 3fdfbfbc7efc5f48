//! Turns panics into values.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// Runs a future to its end, or returns the message of its panic. After a panic the future is never
/// polled again, and values it borrowed must not be used again either.
pub(crate) async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    std::future::poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(said(panic))),
    })
    .await
}

/// Returns the message of a panic, and drops its payload.
pub(crate) fn said(panic: Box<dyn Any + Send>) -> String {
    let said = text(&*panic);
    drop_quietly(panic);
    said
}

/// Drops the payload of a panic. Dropping it may panic again; the payload of that panic is leaked.
fn drop_quietly(panic: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(again);
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("no message"))
}
