//! All attempts by instance, each with its phase.

use std::collections::BTreeMap;

use foldhash::HashMap;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::queue::{LineKey, Queue};
use super::watchdog::PollMarks;
use super::{AttemptKey, Job, Serial};
use crate::id::{InstanceId, RunId};
use crate::machine::{Outcome, Ticket};
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

type Attempts = BTreeMap<(RunId, Ticket), Attempt>;

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
        self.instances.get(&key.instance)?.get(&(key.run, key.ticket))
    }

    pub(super) fn get_mut(&mut self, key: &AttemptKey) -> Option<&mut Attempt> {
        self.instances.get_mut(&key.instance)?.get_mut(&(key.run, key.ticket))
    }

    pub(super) fn insert(&mut self, key: &AttemptKey, attempt: Attempt) {
        let place = (key.run, key.ticket);
        if let Some(attempts) = self.instances.get_mut(&key.instance) {
            attempts.insert(place, attempt);
        } else {
            self.instances.insert(key.instance.clone(), BTreeMap::from([(place, attempt)]));
        }
    }

    /// Removes an attempt if `will_do` returns true for it.
    pub(super) fn remove_if(&mut self, key: &AttemptKey, will_do: impl Fn(&Attempt) -> bool) -> Option<Attempt> {
        let attempts = self.instances.get_mut(&key.instance)?;
        let place = (key.run, key.ticket);
        attempts.get(&place).filter(|attempt| will_do(attempt))?;
        let attempt = attempts.remove(&place);
        if attempts.is_empty() {
            self.instances.remove(&key.instance);
        }
        attempt
    }

    /// Returns the attempts of an instance that have their slot and wait to go ahead.
    pub(super) fn at_gates(&self, instance: &InstanceId) -> Vec<AttemptKey> {
        let attempts = self.instances.get(instance).into_iter().flatten();
        let waiting = attempts.filter(|(_, one)| matches!(one.phase, Phase::Running { go_ahead: Some(_), .. }));
        waiting
            .map(|((run, ticket), _)| AttemptKey { instance: instance.clone(), run: *run, ticket: *ticket })
            .collect()
    }

    /// Returns true if the attempt with this serial belongs to the instance and has ended.
    pub(super) fn is_finished(&self, instance: &InstanceId, serial: Serial) -> bool {
        let mut attempts = self.instances.get(instance).into_iter().flat_map(BTreeMap::values);
        attempts.any(|attempt| attempt.serial == serial && matches!(attempt.phase, Phase::Finished(_)))
    }

    /// Returns the attempts of an instance, of any run, except those that are kept.
    pub(super) fn others(&self, instance: &InstanceId, kept: Option<(RunId, &[Ticket])>) -> Vec<AttemptKey> {
        let Some(attempts) = self.instances.get(instance) else { return Vec::new() };
        let is_kept =
            |run, ticket| kept.is_some_and(|(of, tickets)| of == run && tickets.binary_search(&ticket).is_ok());
        let others = attempts.keys().filter(|(run, ticket)| !is_kept(*run, *ticket));
        others.map(|(run, ticket)| AttemptKey { instance: instance.clone(), run: *run, ticket: *ticket }).collect()
    }

    /// Returns all attempts that have their slot.
    pub(super) fn all_running(&self) -> Vec<AttemptKey> {
        let all =
            self.instances.iter().flat_map(|(instance, attempts)| attempts.iter().map(move |all| (instance, all)));
        let running = all.filter(|(_, (_, attempt))| matches!(attempt.phase, Phase::Running { .. }));
        running
            .map(|(instance, ((run, ticket), _))| AttemptKey { instance: instance.clone(), run: *run, ticket: *ticket })
            .collect()
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
