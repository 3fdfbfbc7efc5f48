//! The payload bytes of callers in flight, from when a message or start has its place until it is
//! answered.
//!
//! The other limits count messages, so 4,096 starts of 1 MiB each would be within them. A caller
//! takes its share of the bytes last: a caller that holds one waits only for commits, so shares
//! always come free.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::registry::acquire;
use crate::limits::{LimitReached, WhenBusy};

/// The size of one unit. A payload counts as whole units.
const UNIT_BYTES: usize = 1 << 10;

/// The payload bytes that may be in flight at once.
pub(super) struct PayloadBytes {
    free: Arc<Semaphore>,
    units_max: u32,
}

/// A share of these bytes. Comes free when it is dropped. Empty for a small payload, which the
/// limits on messages bound.
#[derive(Default)]
pub(crate) struct PayloadShare {
    _units: Option<OwnedSemaphorePermit>,
}

impl PayloadBytes {
    /// Allows `bytes_max` bytes, but at least one unit.
    pub(super) fn new(bytes_max: usize) -> Self {
        let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize);
        let units = bytes_max.div_ceil(UNIT_BYTES).clamp(1, most);
        Self { free: Arc::new(Semaphore::new(units)), units_max: u32::try_from(units).unwrap_or(u32::MAX) }
    }

    /// Takes the share of a large payload, or fails at once if `when_busy` says so. A payload
    /// larger than all the bytes takes all of them.
    pub(super) async fn share(&self, payload_bytes: usize, when_busy: WhenBusy) -> Result<PayloadShare, LimitReached> {
        let units = u32::try_from(payload_bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units_max);
        let taken = acquire(&self.free, units, when_busy).await.ok_or(LimitReached::PayloadBytes)?;
        Ok(PayloadShare { _units: Some(taken) })
    }
}
