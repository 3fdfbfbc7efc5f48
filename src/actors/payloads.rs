//! The bytes of callers' payloads that are under way: from when a message or start has its place until it is answered.
//!
//! The other bounds count messages, so 4,096 starts of 1 MiB each would be within them. A share of the bytes is the last thing
//! a caller waits for: whoever holds one waits for commits only, so shares always come free.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::registry::acquire;
use crate::limits::{Bound, WhenBusy};

/// Bytes in one unit. A payload counts whole units.
const UNIT_BYTES: usize = 1 << 10;

/// The bytes that may be under way at once.
pub(super) struct PayloadBytes {
    free: Arc<Semaphore>,
    units_max: u32,
}

/// A part of these bytes, given back when it is dropped; none for a small payload, which the bounds on messages hold.
#[derive(Default)]
pub(crate) struct PayloadShare {
    _units: Option<OwnedSemaphorePermit>,
}

impl PayloadBytes {
    /// Allows so many bytes, at least one unit.
    pub(super) fn new(bytes_max: usize) -> Self {
        let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize);
        let units = bytes_max.div_ceil(UNIT_BYTES).clamp(1, most);
        Self { free: Arc::new(Semaphore::new(units)), units_max: u32::try_from(units).unwrap_or(u32::MAX) }
    }

    /// Waits for the share of a payload that counts, or is refused. A payload larger than all of them takes all of them.
    pub(super) async fn share(&self, payload_bytes: usize, when_busy: WhenBusy) -> Result<PayloadShare, Bound> {
        let units = u32::try_from(payload_bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units_max);
        let taken = acquire(&self.free, units, when_busy).await.ok_or(Bound::PayloadBytes)?;
        Ok(PayloadShare { _units: Some(taken) })
    }
}
