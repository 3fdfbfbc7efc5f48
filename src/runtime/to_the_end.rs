//! What was begun is brought to its end, whoever gives up waiting for it.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use crate::clock::BoxFuture;

/// A future that goes on in a task of its own when it is dropped. Until then whoever waits for it drives it, which spares the
/// task.
pub(super) struct ToTheEnd<T: Send + 'static> {
    /// None once it has ended.
    future: Option<BoxFuture<'static, T>>,
    /// Where it goes on; also entered to drive it, since who waits may be on another runtime, or on none.
    tokio: Handle,
}

impl<T: Send + 'static> ToTheEnd<T> {
    pub(super) fn new(tokio: Handle, future: impl Future<Output = T> + Send + 'static) -> Self {
        Self { future: Some(Box::pin(future)), tokio }
    }
}

impl<T: Send + 'static> Future for ToTheEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let _tokio = this.tokio.enter();
        let Some(future) = &mut this.future else { return Poll::Pending };
        let polled = future.as_mut().poll(context);
        if polled.is_ready() {
            this.future = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for ToTheEnd<T> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            self.tokio.spawn(async move { drop(future.await) });
        }
    }
}
