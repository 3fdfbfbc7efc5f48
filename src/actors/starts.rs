//! Places for starts in flight. Their number bounds what starts have queued to be written, as the
//! number of messages does for instances.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::registry::acquire;
use crate::limits::WhenBusy;

/// The resources that a start waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartKind {
    /// Only the store.
    New,
    /// The store, and room for the actor of the run that is replaced.
    Replacement,
}

/// The places for each kind, so that new starts never wait for the room that replacements wait for.
/// Clones share them.
#[derive(Clone)]
pub(super) struct StartPlaces {
    new: Arc<Semaphore>,
    replacements: Arc<Semaphore>,
}

/// A place among the starts of its kind. Comes free when it is dropped.
pub(crate) struct StartPlace {
    pub(crate) kind: StartKind,
    _permit: OwnedSemaphorePermit,
}

impl StartPlaces {
    pub(super) fn new(each: usize) -> Self {
        Self { new: Arc::new(Semaphore::new(each)), replacements: Arc::new(Semaphore::new(each)) }
    }

    /// Takes a place of this kind; `None` if there is none and `when_busy` says not to wait.
    pub(super) async fn take(&self, kind: StartKind, when_busy: WhenBusy) -> Option<StartPlace> {
        let places = match kind {
            StartKind::New => &self.new,
            StartKind::Replacement => &self.replacements,
        };
        let permit = acquire(places, 1, when_busy).await?;
        Some(StartPlace { kind, _permit: permit })
    }
}
