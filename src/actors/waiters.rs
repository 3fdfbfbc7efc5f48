//! Who waits for a result or watches a status. They live beside the registry and keep nobody awake.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::watch;

use crate::id::{InstanceId, RunId};
use crate::status::Status;

/// The last status that was committed while somebody was listening.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Published {
    pub(crate) run: RunId,
    pub(crate) status: Status,
}

#[derive(Default)]
pub(super) struct Waiters {
    channels: Arc<DashMap<InstanceId, watch::Sender<Option<Published>>>>,
}

/// One listener; the channel goes with the last.
pub(crate) struct Subscription {
    instance: InstanceId,
    /// Taken when it is dropped.
    receiver: Option<watch::Receiver<Option<Published>>>,
    channels: Arc<DashMap<InstanceId, watch::Sender<Option<Published>>>>,
}

impl Waiters {
    pub(super) fn subscribe(&self, instance: &InstanceId) -> Subscription {
        let channel = self.channels.entry(instance.clone()).or_insert_with(|| watch::channel(None).0);
        let receiver = Some(channel.subscribe());
        drop(channel);
        Subscription { instance: instance.clone(), receiver, channels: Arc::clone(&self.channels) }
    }

    /// Tells the listeners, if there are any. Called only with what is durable.
    pub(super) fn publish(&self, instance: &InstanceId, published: impl FnOnce() -> Published) {
        if let Some(channel) = self.channels.get(instance) {
            channel.send_replace(Some(published()));
        }
    }
}

impl Subscription {
    /// Waits for the next status published after the last one seen; coalesces. None when the runtime is gone.
    pub(crate) async fn changed(&mut self) -> Option<Published> {
        let receiver = self.receiver.as_mut()?;
        receiver.changed().await.ok()?;
        receiver.borrow_and_update().clone()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        drop(self.receiver.take());
        self.channels.remove_if(&self.instance, |_, channel| channel.receiver_count() == 0);
    }
}
