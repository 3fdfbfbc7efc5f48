//! All attempts by instance, each with its phase.

use std::collections::BTreeMap;

use foldhash::HashMap;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::queue::{LineKey, Queue};
use super::watchdog::PollMarks;
use super::{AttemptKey, Job, Serial};
use crate::id::{InstanceId, RunId};
use crate::machine::{AttemptId, Outcome};
use crate::time::Timestamp;

pub(super) struct Table {
    pub(super) running: usize,
    /// Threads taken from the pool for blocking work, including those of attempts that were given
    /// up.
    pub(super) threads: usize,
    pub(super) queue: Queue,
    /// Attempts to be run alone that wait for their turn, in order of arrival.
    pub(super) alone: BTreeMap<Serial, Job>,
    /// The attempt whose turn it is to run alone. The turn lasts until its outcome is recorded:
    /// otherwise a crash caused by the next attempt would also count against this one.
    pub(super) turn: Option<Serial>,
    pub(super) marks: PollMarks,
    pub(super) closed: bool,
    serials: u64,
    /// Attempts by instance, so that all of one instance are found at once. No entry is empty.
    instances: HashMap<InstanceId, Attempts>,
}

/// The attempts of one instance. Most instances have one at a time, which needs no allocation.
#[derive(Default)]
struct Attempts {
    first: Option<(Place, Attempt)>,
    others: BTreeMap<Place, Attempt>,
}

type Place = (RunId, AttemptId);

pub(super) struct Attempt {
    pub(super) serial: Serial,
    pub(super) phase: Phase,
}

/// Phase of an attempt.
///
/// ```text
/// Queued ──slot──> Running ──> Finished ──forget──> gone
///    \──withdraw────\──stop───────────────────────^
/// ```
///
/// An attempt that is stopped is gone at once, although it holds its slot until its future is
/// dropped.
pub(super) enum Phase {
    Queued(LineKey),
    Running {
        token: CancellationToken,
        go_ahead: Option<oneshot::Sender<()>>,
    },
    /// Keeps the outcome until the instance has committed it, so that it is not lost with an actor.
    Finished(Outcome),
}

impl Attempts {
    fn get(&self, place: Place) -> Option<&Attempt> {
        match &self.first {
            Some((first, attempt)) if *first == place => Some(attempt),
            _ => self.others.get(&place),
        }
    }

    fn get_mut(&mut self, place: Place) -> Option<&mut Attempt> {
        match &mut self.first {
            Some((first, attempt)) if *first == place => Some(attempt),
            _ => self.others.get_mut(&place),
        }
    }

    /// Adds an attempt, or replaces the one at this place.
    fn insert(&mut self, place: Place, attempt: Attempt) {
        match &mut self.first {
            Some((first, replaced)) if *first == place => *replaced = attempt,
            None if self.others.is_empty() => self.first = Some((place, attempt)),
            _ => {
                self.others.insert(place, attempt);
            }
        }
    }

    fn remove(&mut self, place: Place) -> Option<Attempt> {
        let first = self.first.take_if(|(first, _)| *first == place).map(|(_, attempt)| attempt);
        first.or_else(|| self.others.remove(&place))
    }

    fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = (Place, &Attempt)> {
        let first = self.first.iter().map(|(place, attempt)| (*place, attempt));
        first.chain(self.others.iter().map(|(place, attempt)| (*place, attempt)))
    }
}

impl AttemptKey {
    fn at(instance: &InstanceId, (run, attempt_id): Place) -> Self {
        Self { instance: instance.clone(), run, attempt_id }
    }

    fn place(&self) -> Place {
        (self.run, self.attempt_id)
    }
}

impl Table {
    pub(super) fn new(queue: Queue) -> Self {
        Self {
            running: 0,
            threads: 0,
            queue,
            alone: BTreeMap::new(),
            turn: None,
            marks: PollMarks::default(),
            closed: false,
            serials: 0,
            instances: HashMap::default(),
        }
    }

    pub(super) fn new_serial(&mut self) -> Serial {
        self.serials += 1;
        Serial(self.serials)
    }

    pub(super) fn get(&self, key: &AttemptKey) -> Option<&Attempt> {
        self.instances.get(&key.instance)?.get(key.place())
    }

    pub(super) fn get_mut(&mut self, key: &AttemptKey) -> Option<&mut Attempt> {
        self.instances.get_mut(&key.instance)?.get_mut(key.place())
    }

    /// Adds an attempt, or replaces it: one that was queued is running now.
    pub(super) fn insert(&mut self, key: &AttemptKey, attempt: Attempt) {
        if let Some(attempts) = self.instances.get_mut(&key.instance) {
            attempts.insert(key.place(), attempt);
        } else {
            let only = Attempts { first: Some((key.place(), attempt)), others: BTreeMap::new() };
            self.instances.insert(key.instance.clone(), only);
        }
    }

    /// Removes an attempt if `will_do` returns true for it.
    pub(super) fn remove_if(&mut self, key: &AttemptKey, will_do: impl Fn(&Attempt) -> bool) -> Option<Attempt> {
        let attempts = self.instances.get_mut(&key.instance)?;
        attempts.get(key.place()).filter(|attempt| will_do(attempt))?;
        let attempt = attempts.remove(key.place());
        if attempts.is_empty() {
            self.instances.remove(&key.instance);
        }
        attempt
    }

    /// Ends the run of an attempt with this serial. Returns true if its outcome is kept; otherwise
    /// the attempt is gone.
    pub(super) fn end_run(&mut self, key: &AttemptKey, serial: Serial) -> bool {
        match self.get(key).filter(|attempt| attempt.serial == serial) {
            Some(Attempt { phase: Phase::Finished(_), .. }) => true,
            Some(_) => {
                self.remove_if(key, |_| true);
                false
            }
            None => false,
        }
    }

    /// Returns the attempts of an instance that have their slot and wait to go ahead.
    pub(super) fn at_gates(&self, instance: &InstanceId) -> Vec<AttemptKey> {
        let waiting =
            self.of(instance).filter(|(_, one)| matches!(one.phase, Phase::Running { go_ahead: Some(_), .. }));
        waiting.map(|(place, _)| AttemptKey::at(instance, place)).collect()
    }

    /// Returns true if the attempt with this serial belongs to the instance and has ended.
    pub(super) fn is_finished(&self, instance: &InstanceId, serial: Serial) -> bool {
        self.of(instance).any(|(_, one)| one.serial == serial && matches!(one.phase, Phase::Finished(_)))
    }

    /// Returns the attempts of an instance, of any run, except those that are kept.
    pub(super) fn others(&self, instance: &InstanceId, kept: Option<(RunId, &[AttemptId])>) -> Vec<AttemptKey> {
        let is_kept = |run, attempt_id| {
            kept.is_some_and(|(of, attempt_ids)| of == run && attempt_ids.binary_search(&attempt_id).is_ok())
        };
        let others = self.of(instance).filter(|((run, attempt_id), _)| !is_kept(*run, *attempt_id));
        others.map(|(place, _)| AttemptKey::at(instance, place)).collect()
    }

    fn of(&self, instance: &InstanceId) -> impl Iterator<Item = (Place, &Attempt)> {
        self.instances.get(instance).into_iter().flat_map(Attempts::iter)
    }

    /// Returns all attempts that have their slot.
    pub(super) fn all_running(&self) -> Vec<AttemptKey> {
        let all =
            self.instances.iter().flat_map(|(instance, attempts)| attempts.iter().map(move |one| (instance, one)));
        let running = all.filter(|(_, (_, attempt))| matches!(attempt.phase, Phase::Running { .. }));
        running.map(|(instance, (place, _))| AttemptKey::at(instance, place)).collect()
    }

    /// Takes back an attempt that waits for its slot or its turn. Returns false if it did neither.
    pub(super) fn unqueue(&mut self, now: Timestamp, key: &AttemptKey) -> bool {
        let is_queued = |attempt: &Attempt| matches!(attempt.phase, Phase::Queued(_));
        let Some(Attempt { serial, phase }) = self.remove_if(key, is_queued) else { return false };
        if let Phase::Queued(line) = phase
            && self.alone.remove(&serial).is_none()
        {
            self.queue.remove(now, &line, serial);
        }
        self.end_turn(now, serial);
        true
    }

    /// Ends the turn of this attempt, if it had the turn to run alone. The next one gets the turn,
    /// and queues for a slot like any other.
    pub(super) fn end_turn(&mut self, now: Timestamp, serial: Serial) {
        if self.turn != Some(serial) {
            return;
        }
        self.turn = None;
        if let Some((next, job)) = self.alone.pop_first() {
            self.turn = Some(next);
            self.queue.push(now, next, job);
        }
    }

    pub(super) fn close(&mut self) -> Vec<(Serial, Job)> {
        self.closed = true;
        let mut queued = self.queue.take_all();
        queued.extend(std::mem::take(&mut self.alone));
        queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Method: insert, replace and remove attempts at three places in every order of four steps,
    /// and compare with a plain map after each step.
    #[test]
    fn attempts_of_one_instance_are_kept_as_in_a_map() {
        let place = |issued| (RunId::from_bytes([1; 16]), AttemptId { frame: 0, issued });
        let (places, steps) = (3_u64, 4);
        for order in 0..(2 * places).pow(steps) {
            let (mut attempts, mut expected) = (Attempts::default(), BTreeMap::new());
            for step in 0..steps {
                let choice = order / (2 * places).pow(step) % (2 * places);
                let (at, serial) = (place(choice % places), Serial(u64::from(step)));
                if choice < places {
                    attempts.insert(at, Attempt { serial, phase: Phase::Finished(Err(failure())) });
                    expected.insert(at, serial);
                } else {
                    assert_eq!(attempts.remove(at).map(|one| one.serial), expected.remove(&at));
                }
                let kept: BTreeMap<_, _> = attempts.iter().map(|(at, one)| (at, one.serial)).collect();
                assert_eq!(kept, expected, "order {order}, step {step}");
                assert_eq!(attempts.iter().count(), expected.len());
                assert_eq!(attempts.is_empty(), expected.is_empty());
                for at in (0..places).map(place) {
                    let found = (attempts.get(at).map(|one| one.serial), expected.get(&at).copied());
                    assert_eq!(found.0, found.1);
                    assert_eq!(attempts.get_mut(at).map(|one| one.serial), found.1);
                }
            }
        }
    }

    fn failure() -> crate::definition::AttemptFailure {
        crate::definition::AttemptFailure::new(crate::definition::FailureKind::Error, "failed")
    }
}
