//! The callers that wait for a result or watch a status, kept beside the registry. They keep no
//! instance active.
//!
//! Subscribers are notified that something may have changed, and read from the store what is
//! durable. Only the end of a run is sent to them as it was committed, so that it is not read back
//! at once.

use std::sync::Arc;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use tokio::sync::watch;

use crate::id::{InstanceId, RunId};
use crate::machine::Snapshot;

/// The durable end of a run, if that is the news.
type News = Option<Arc<Snapshot>>;

type Channels = DashMap<InstanceId, watch::Sender<News>, RandomState>;

#[derive(Default)]
pub(super) struct Waiters {
    channels: Arc<Channels>,
}

/// One subscriber of an instance. The last one to be dropped removes the channel.
pub(crate) struct Subscription {
    instance: InstanceId,
    /// `None` only during the drop.
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

    /// Notifies the subscribers of an instance that its state may have changed.
    pub(super) fn tell(&self, instance: &InstanceId) {
        if let Some(channel) = self.channels.get(instance) {
            channel.send_replace(None);
        }
    }

    /// Sends the durable end of a run to the subscribers of its instance.
    pub(super) fn tell_end(&self, snapshot: &Snapshot) {
        if let Some(channel) = self.channels.get(snapshot.instance()) {
            channel.send_replace(Some(Arc::new(snapshot.clone())));
        }
    }

    /// Notifies the subscribers of an instance that its actor has left. Keeps the end of the run as
    /// the news if the run is over.
    pub(super) fn tell_left(&self, instance: &InstanceId, is_over: bool) {
        if let Some(channel) = self.channels.get(instance) {
            channel.send_modify(|news| drop(news.take_if(|_| !is_over)));
        }
    }

    /// Notifies all subscribers: after a failure of the store, any of them may have missed a
    /// change.
    pub(super) fn tell_all(&self) {
        for channel in self.channels.iter() {
            channel.send_replace(None);
        }
    }
}

impl Subscription {
    /// Waits until something may have changed since the last call; several changes count as one.
    pub(crate) async fn changed(&mut self) {
        let changed = match self.receiver.as_mut() {
            Some(receiver) => receiver.changed().await,
            None => return,
        };
        if changed.is_err() {
            // Never reached: the channel lives as long as its subscribers.
            std::future::pending::<()>().await;
        }
    }

    /// Returns the end of this run, if it is the latest news.
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
