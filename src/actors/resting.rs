//! Instances that stay in memory for a while when they are no longer active, because reading them
//! again would cost much.
//!
//! ```text
//!          ┌────── a message, and a place ──────┐
//!          v                                    │
//! ──> active ── nothing to do ── much to read ──┴── rests ── too long, or too many bytes ──> leaves
//!                    └────────── little to read ──────────────────────────────────────────────^
//! ```
//!
//! An instance at rest has given its place ([`room`](super::room)) back, and counts as parked. The
//! memory of all instances at rest is bounded. The registry entry of the instance says that it
//! rests, and changes under the entry's lock. The rest ends with that state, or when the registry
//! removes the entry and notifies the actor afterwards: the actor has nothing to write, and gets no
//! more messages.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::shared::Shared;
use crate::clock::sleep_until;
use crate::id::InstanceId;
use crate::limits::Limits;
use crate::time::Timestamp;

/// The longest sleep before the clock is read again: the wall clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Identifies one rest of one instance. Later rests have higher numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rest(u64);

/// All instances at rest. The lock is taken under the lock of a registry entry, never the other way
/// round.
pub(super) struct Resting {
    bytes_max: usize,
    longest: Duration,
    all: Mutex<All>,
    /// Notified when the first instance begins to rest.
    begun: Arc<Notify>,
}

#[derive(Default)]
struct All {
    /// The longest rest first.
    rests: BTreeMap<Rest, AtRest>,
    bytes: usize,
    next: u64,
}

struct AtRest {
    instance: InstanceId,
    bytes: usize,
    until: Timestamp,
}

impl Resting {
    pub(super) fn new(limits: &Limits) -> Self {
        let (bytes_max, longest) = (limits.resting_bytes_max, Duration::from_secs(limits.resting_seconds));
        Self { bytes_max, longest, all: Mutex::default(), begun: Arc::default() }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if an instance of this size may rest.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        !self.longest.is_zero() && bytes <= self.bytes_max
    }

    /// Adds an instance that begins to rest.
    pub(super) fn begin(&self, instance: InstanceId, bytes: usize, now: Timestamp) -> Rest {
        let mut all = self.all();
        let rest = Rest(all.next);
        all.next += 1;
        all.bytes += bytes;
        if all.rests.is_empty() {
            self.begun.notify_one();
        }
        all.rests.insert(rest, AtRest { instance, bytes, until: now.after(self.longest) });
        rest
    }

    /// Removes a rest, if it is not over.
    pub(super) fn end(&self, rest: Rest) {
        self.all().take(rest);
    }

    /// Removes and returns the longest rest, if all of them take too many bytes.
    pub(super) fn take_above_bound(&self) -> Option<(Rest, InstanceId)> {
        let mut all = self.all();
        let rest = *all.rests.first_key_value().filter(|_| all.bytes > self.bytes_max)?.0;
        Some((rest, all.take(rest)?))
    }

    /// Removes and returns the longest rest, if it is over, or if the clock was set back since it
    /// began.
    fn take_expired(&self, now: Timestamp) -> Option<(Rest, InstanceId)> {
        let latest = now.after(self.longest);
        let mut all = self.all();
        let rest = *all.rests.first_key_value().filter(|(_, one)| one.until <= now || one.until > latest)?.0;
        Some((rest, all.take(rest)?))
    }

    /// Returns the time at which the first rest is over.
    fn next(&self) -> Option<Timestamp> {
        self.all().rests.first_key_value().map(|(_, one)| one.until)
    }
}

impl All {
    fn take(&mut self, rest: Rest) -> Option<InstanceId> {
        let AtRest { instance, bytes, .. } = self.rests.remove(&rest)?;
        self.bytes -= bytes;
        Some(instance)
    }
}

/// Lets instances leave when their rest is over, until the runtime is gone.
pub(super) async fn run(shared: Weak<Shared>) {
    loop {
        let Some(alive) = shared.upgrade() else { return };
        let resting = alive.registry.resting();
        while let Some((rest, instance)) = resting.take_expired(alive.clock.now()) {
            alive.registry.end_rest(rest, &instance);
        }
        let (next, begun) = (resting.next(), Arc::clone(&resting.begun));
        let (clock, closing) = (Arc::clone(&alive.clock), alive.closing());
        drop(alive);
        let wait = async {
            match next {
                Some(at) => sleep_until(&*clock, at, SLEEP_MAX).await,
                None => begun.notified().await,
            }
        };
        tokio::select! {
            () = closing.cancelled() => return,
            () = wait => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Method: a rest of five seconds begins; the clock moves on by less, by more, and is set back
    /// by an hour.
    #[test]
    fn rest_ends_when_it_is_over_or_the_clock_was_set_back() {
        let hour = Duration::from_hours(1);
        let (begun, resting) = (Timestamp::EPOCH.after(2 * hour), Resting::new(&Limits::default()));
        let after = |seconds| begun.after(Duration::from_secs(seconds));
        for (now, is_over) in [(after(4), false), (after(5), true), (Timestamp::EPOCH.after(hour), true)] {
            let rest = resting.begin(InstanceId::new("id").unwrap(), 1, begun);
            assert_eq!(resting.take_expired(now).is_some(), is_over, "{now:?}");
            resting.end(rest);
        }
        assert_eq!(resting.all().bytes, 0);
        assert_eq!(resting.next(), None);
    }
}
