//! Who waits for a result or watches a status. They live beside the registry and keep nobody awake.
//!
//! They are told that something may have changed, not what: what is so, they read from the store, where it is durable. But
//! the end of a run is given to them as it was committed, so that nobody reads back what was just written.

use std::sync::Arc;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use tokio::sync::watch;

use crate::id::{InstanceId, RunId};
use crate::machine::Snapshot;

/// The durable end of a run, if that is known.
type News = Option<Arc<Snapshot>>;

type Channels = DashMap<InstanceId, watch::Sender<News>, RandomState>;

#[derive(Default)]
pub(super) struct Waiters {
    channels: Arc<Channels>,
}

/// One listener; the channel goes with the last.
pub(crate) struct Subscription {
    instance: InstanceId,
    /// Taken when it is dropped.
    receiver: Option<watch::Receiver<News>>,
    channels: Arc<Channels>,
}

impl Waiters {
    pub(super) fn subscribe(&self, instance: &InstanceId) -> Subscription {
        let channel = self.channels.entry(instance.clone()).or_insert_with(|| watch::channel(None).0);
        let receiver = Some(channel.subscribe());
        drop(channel);
        Subscription { instance: instance.clone(), receiver, channels: Arc::clone(&self.channels) }
    }

    /// Tells the listeners of an instance, if there are any, that they must look.
    pub(super) fn tell(&self, instance: &InstanceId) {
        if let Some(channel) = self.channels.get(instance) {
            channel.send_replace(None);
        }
    }

    /// Tells the listeners of an instance, if there are any, that its run has ended, durably.
    pub(super) fn tell_end(&self, snapshot: &Snapshot) {
        if let Some(channel) = self.channels.get(snapshot.instance()) {
            channel.send_replace(Some(Arc::new(snapshot.clone())));
        }
    }

    /// Tells those who count on an actor to tell them more that it has left: behind the end of the run, or not.
    pub(super) fn tell_left(&self, instance: &InstanceId, is_over: bool) {
        if let Some(channel) = self.channels.get(instance) {
            channel.send_modify(|news| drop(news.take_if(|_| !is_over)));
        }
    }

    /// Tells everyone: after a failure of the store nobody knows who would have been told.
    pub(super) fn tell_all(&self) {
        for channel in self.channels.iter() {
            channel.send_replace(None);
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

    /// The end of this run, if that is what was told last.
    pub(crate) fn end_of(&self, run: RunId) -> Option<Arc<Snapshot>> {
        let news = self.receiver.as_ref()?.borrow().clone();
        news.filter(|snapshot| snapshot.run() == run)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        drop(self.receiver.take());
        self.channels.remove_if(&self.instance, |_, channel| channel.receiver_count() == 0);
    }
}
