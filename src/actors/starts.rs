//! Places for starts under way: what they have written is bounded by their number, as what instances queue is by theirs.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::registry::acquire;
use crate::limits::WhenBusy;

/// What a start has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartKind {
    /// The store alone.
    New,
    /// Room for the actor of the run that is replaced, too.
    Replacement,
}

/// The places of each kind, so that no start waits for the room that replacements wait for. Clones share them.
#[derive(Clone)]
pub(super) struct StartPlaces {
    new: Arc<Semaphore>,
    replacements: Arc<Semaphore>,
}

/// A place among the starts of its kind; given back when it is dropped.
pub(crate) struct StartPlace {
    pub(crate) kind: StartKind,
    _permit: OwnedSemaphorePermit,
}

impl StartPlaces {
    pub(super) fn new(each: usize) -> Self {
        Self { new: Arc::new(Semaphore::new(each)), replacements: Arc::new(Semaphore::new(each)) }
    }

    /// A place of this kind; none if it is not to be waited for.
    pub(super) async fn take(&self, kind: StartKind, when_busy: WhenBusy) -> Option<StartPlace> {
        let places = match kind {
            StartKind::New => &self.new,
            StartKind::Replacement => &self.replacements,
        };
        let permit = acquire(places, 1, when_busy).await?;
        Some(StartPlace { kind, _permit: permit })
    }
}
