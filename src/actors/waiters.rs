//! Who waits for a result or watches a status. They live beside the registry and keep nobody awake.
//!
//! They are told that something may have changed, never what: what is so, they read from the store, where it is durable.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::watch;

use crate::id::InstanceId;

type Channels = DashMap<InstanceId, watch::Sender<()>>;

#[derive(Default)]
pub(super) struct Waiters {
    channels: Arc<Channels>,
}

/// One listener; the channel goes with the last.
pub(crate) struct Subscription {
    instance: InstanceId,
    /// Taken when it is dropped.
    receiver: Option<watch::Receiver<()>>,
    channels: Arc<Channels>,
}

impl Waiters {
    pub(super) fn subscribe(&self, instance: &InstanceId) -> Subscription {
        let channel = self.channels.entry(instance.clone()).or_insert_with(|| watch::channel(()).0);
        let receiver = Some(channel.subscribe());
        drop(channel);
        Subscription { instance: instance.clone(), receiver, channels: Arc::clone(&self.channels) }
    }

    /// Tells the listeners of an instance, if there are any.
    pub(super) fn tell(&self, instance: &InstanceId) {
        if let Some(channel) = self.channels.get(instance) {
            channel.send_replace(());
        }
    }

    /// Tells everyone: after a failure of the store nobody knows who would have been told.
    pub(super) fn tell_all(&self) {
        for channel in self.channels.iter() {
            channel.send_replace(());
        }
    }
}

impl Subscription {
    /// Waits until something may have changed since this was last called; coalesces.
    pub(crate) async fn changed(&mut self) {
        let changed = match self.receiver.as_mut() {
            Some(receiver) => receiver.changed().await,
            None => return,
        };
        if changed.is_err() {
            // The channel lives as long as its listeners: this is not reached.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        drop(self.receiver.take());
        self.channels.remove_if(&self.instance, |_, channel| channel.receiver_count() == 0);
    }
}
