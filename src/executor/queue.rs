//! Attempts that wait for a slot: highest priority first; within a priority, the instances take
//! turns.
//!
//! ```text
//! lines, by (instance, priority)            fronts, by place
//!   a map's items   [3] [4] [5] ...  ──1──> (12:00:00 + 3 x aging, arrival 7)
//!   another task                     ──1──> (12:00:01 + 3 x aging, arrival 8)
//! ```
//!
//! Only the first job of a line has a place, and gets it on becoming the first: so an instance with
//! 100,000 attempts has one turn, like any other. Waiting raises an attempt by one priority per
//! `aging`; sorting by the points in time above gives the same order.

use std::collections::BTreeMap;
use std::time::Duration;

use foldhash::HashMap;

use super::{Job, Serial};
use crate::definition::Priority;
use crate::id::InstanceId;
use crate::time::Timestamp;

/// Time elapsed by the wall clock, never running backwards. Attempts in the queue age by it.
#[derive(Default)]
pub(super) struct Elapsed {
    read_at: Option<Timestamp>,
    total: Duration,
}

impl Elapsed {
    /// Returns the time elapsed so far, given the wall clock's reading. If the clock was set back,
    /// only the time since the last reading is lost.
    fn at(&mut self, now: Timestamp) -> Duration {
        let passed = self.read_at.map_or(Duration::ZERO, |last| now.since(last));
        self.read_at = Some(now);
        self.total = self.total.saturating_add(passed);
        self.total
    }
}

/// Identifies the line in which a job waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LineKey {
    pub(super) instance: InstanceId,
    pub(super) priority: Priority,
    /// True if the job needs a thread of its own.
    pub(super) blocking: bool,
}

impl LineKey {
    pub(super) fn of(job: &Job) -> Self {
        let options = job.caller.options(&job.run);
        Self {
            instance: job.key.instance.clone(),
            priority: options.map_or(Priority::default(), |options| options.priority),
            blocking: job.is_blocking(),
        }
    }
}

type Place = (Duration, u64);

/// The jobs of one line: the place of the first, and the jobs after it.
struct Line {
    place: Place,
    behind: BTreeMap<Serial, Job>,
}

pub(super) struct Queue {
    aging: Duration,
    elapsed: Elapsed,
    arrivals: u64,
    /// The first job of each line. Jobs that need a thread are kept apart: there may be free slots
    /// and no free thread.
    fronts: [BTreeMap<Place, (Serial, Job)>; 2],
    lines: HashMap<LineKey, Line>,
}

impl Queue {
    pub(super) fn new(aging: Duration) -> Self {
        Self {
            aging,
            elapsed: Elapsed::default(),
            arrivals: 0,
            fronts: [BTreeMap::new(), BTreeMap::new()],
            lines: HashMap::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(super) fn has_blocking(&self) -> bool {
        let [_, blocking] = &self.fronts;
        !blocking.is_empty()
    }

    /// Adds a job to the end of its line.
    pub(super) fn push(&mut self, now: Timestamp, serial: Serial, job: Job) {
        let key = LineKey::of(&job);
        if let Some(line) = self.lines.get_mut(&key) {
            line.behind.insert(serial, job);
            return;
        }
        let place = self.place(now, key.priority);
        self.front(key.blocking).insert(place, (serial, job));
        self.lines.insert(key, Line { place, behind: BTreeMap::new() });
    }

    /// Takes the job whose turn it is. Takes a job that blocks only if there is a thread for it.
    pub(super) fn pop(&mut self, now: Timestamp, has_thread: bool) -> Option<(Serial, Job)> {
        let [plain, blocking] = &self.fronts;
        let first = |front: &BTreeMap<Place, _>| front.first_key_value().map(|(place, _)| *place);
        let blocking = first(blocking).filter(|_| has_thread);
        let is_blocking = match (first(plain), blocking) {
            (Some(plain), Some(blocking)) => blocking < plain,
            (plain, _) => plain.is_none(),
        };
        if is_blocking && blocking.is_none() {
            return None;
        }
        let (_, (serial, job)) = self.front(is_blocking).pop_first()?;
        self.advance(now, &LineKey::of(&job));
        Some((serial, job))
    }

    /// Takes a job out of its line.
    pub(super) fn remove(&mut self, now: Timestamp, key: &LineKey, serial: Serial) -> Option<Job> {
        let line = self.lines.get_mut(key)?;
        if let Some(job) = line.behind.remove(&serial) {
            return Some(job);
        }
        let place = line.place;
        let front = self.front(key.blocking);
        if front.get(&place).is_none_or(|(first, _)| *first != serial) {
            return None;
        }
        let (_, job) = front.remove(&place)?;
        self.advance(now, key);
        Some(job)
    }

    /// Empties the queue.
    pub(super) fn take_all(&mut self) -> Vec<(Serial, Job)> {
        let fronts = self.fronts.iter_mut().flat_map(|front| std::mem::take(front).into_values());
        let behind = self.lines.drain().flat_map(|(_, line)| line.behind);
        fronts.chain(behind).collect()
    }

    /// Makes the next job of a line its first, placed after those of other instances with the same
    /// priority.
    fn advance(&mut self, now: Timestamp, key: &LineKey) {
        let Some(line) = self.lines.get_mut(key) else { return };
        let Some((serial, job)) = line.behind.pop_first() else {
            self.lines.remove(key);
            return;
        };
        let place = self.place(now, key.priority);
        self.front(key.blocking).insert(place, (serial, job));
        if let Some(line) = self.lines.get_mut(key) {
            line.place = place;
        }
    }

    fn place(&mut self, now: Timestamp, priority: Priority) -> Place {
        self.arrivals += 1;
        let waits_from = self.elapsed.at(now);
        (waits_from.saturating_add(self.aging.saturating_mul(u32::from(priority as u8))), self.arrivals)
    }

    fn front(&mut self, blocking: bool) -> &mut BTreeMap<Place, (Serial, Job)> {
        let [plain, threads] = &mut self.fronts;
        if blocking { threads } else { plain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn elapsed_survives_setting_the_clock_ahead_and_back() {
        // Method: set the clock a day ahead, back again, and on: time counts again from there at
        // once.
        let mut elapsed = Elapsed::default();
        assert_eq!(elapsed.at(at(100)), Duration::ZERO);
        let ahead = elapsed.at(at(100 + 86_400));
        assert_eq!(elapsed.at(at(101)), ahead);
        assert_eq!(elapsed.at(at(102)), ahead + Duration::from_secs(1));
    }
}
