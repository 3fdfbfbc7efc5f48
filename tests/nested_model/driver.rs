//! The driver of both sides: it sends them the same events.

use std::collections::BTreeSet;
use std::sync::Arc;

use everstep::limits::Limits;
use everstep::machine::Event;

use crate::attempt::Act;
use crate::build::{Tuning, definition};
use crate::cursor::Doing;
use crate::plan::{Chain, What};
use crate::real::{Real, at};
use crate::story::{Happening, Output, Which};
use crate::world::{Model, Over, sent};
use crate::{SECOND, SIGNALS_BUFFERED_MAX};

/// The start of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Begin {
    pub(crate) deadline: Option<u64>,
    /// Limit on lists, which may be so small that results outgrow it. Then every restart reads
    /// everything: the machine does not count the bytes of values that were not read.
    pub(crate) list_bytes_max: Option<usize>,
    pub(crate) input: String,
}

pub(crate) struct Driver<'p> {
    plan: &'p Chain,
    begin: Begin,
    real: Real,
    pub(crate) model: Model<'p>,
    tuning: Tuning,
}

fn list_bytes_max(begin: &Begin) -> usize {
    begin.list_bytes_max.unwrap_or(Limits::default().list_bytes_max)
}

impl<'p> Driver<'p> {
    pub(crate) fn new(plan: &'p Chain, begin: Begin) -> Self {
        let mut limits = Limits::default();
        limits.signals_buffered_max = SIGNALS_BUFFERED_MAX;
        limits.list_bytes_max = list_bytes_max(&begin);
        let now = 1_800_000_000 * SECOND;
        let mut model = Model::new(plan, begin.deadline, limits.list_bytes_max, now, begin.input.clone());
        let definition = definition(plan, begin.deadline, Tuning::default());
        let real = Real::start(definition, limits, &mut model, &begin.input);
        Self { plan, begin, real, model, tuning: Tuning::default() }
    }

    fn serial(&self, which: Which) -> Option<u64> {
        let running = self.model.running();
        match which {
            Which::Current(n) => running.keys().nth(n % running.len().max(1)).copied(),
            Which::Old(n) => {
                let old = self.real.runs.keys().filter(|serial| !running.contains_key(serial));
                let old: Vec<_> = old.collect();
                old.get(n % old.len().max(1)).copied().copied()
            }
        }
    }

    /// Lets time pass without a wake-up.
    pub(crate) fn pass(&mut self, seconds: u64) {
        self.model.world.now += seconds * SECOND;
    }

    pub(crate) fn happen(&mut self, what: &Happening) {
        self.model.world.step += 1;
        let was_over = self.model.over.is_some();
        let failed = matches!(self.model.over, Some(Over::Failed(_) | Over::Deadline));
        let event = match what {
            Happening::Restart { fill } => return self.real.restart(*fill || self.begin.list_bytes_max.is_some()),
            Happening::Redeploy => return self.redeploy(),
            Happening::Upgraded => match self.upgrade() {
                Some(event) => event,
                None => return,
            },
            Happening::Well(..) if failed => self.retry(Some(20)),
            Happening::Retry(deadline) => self.retry(*deadline),
            Happening::Released if was_over => return,
            happening => match self.event(happening) {
                Some(event) => event,
                None => return,
            },
        };
        // A retry is a new beginning, even if it fails at once.
        let was_over = was_over && !matches!(event, Event::Retry { .. });
        self.real.tell(event, &mut self.model, was_over);
    }

    fn retry(&mut self, deadline: Option<u64>) -> Event {
        // Only a workflow with a deadline gets one.
        let deadline = deadline.filter(|_| self.begin.deadline.is_some());
        self.model.retry(deadline);
        Event::Retry { deadline: deadline.map(std::time::Duration::from_secs) }
    }

    /// Applies an event to the model, and returns it for the machine; none if it has no target.
    fn event(&mut self, what: &Happening) -> Option<Event> {
        let (reason, by) = (Arc::from("why"), Arc::from("who"));
        let model = &mut self.model;
        Some(match what {
            Happening::Well(which, output) => {
                let serial = self.serial(*which)?;
                let outcome = self.ended(serial, output);
                let attempt_id = self.real.runs[&serial].attempt_id;
                Event::AttemptFinished { attempt_id, outcome: Ok(outcome) }
            }
            Happening::Badly(which, failure) => {
                let serial = self.serial(*which)?;
                self.real.at_work.remove(&serial);
                self.model.attempt(serial, &Act::Badly(failure.clone()));
                Event::AttemptFinished { attempt_id: self.real.runs[&serial].attempt_id, outcome: Err(failure.clone()) }
            }
            Happening::Started(which) => {
                let serial = self.serial(*which)?;
                self.model.attempt(serial, &Act::Started);
                Event::AttemptStarted { attempt_id: self.real.runs[&serial].attempt_id, at: at(self.model.world.now) }
            }
            Happening::Withdrawn(which) => {
                let serial = self.serial(*which)?;
                self.real.at_work.remove(&serial);
                self.model.attempt(serial, &Act::Withdrawn);
                Event::AttemptWithdrawn { attempt_id: self.real.runs[&serial].attempt_id }
            }
            Happening::Signal { name, id, payload } => {
                model.signal(name, *id, payload.clone());
                Event::Signal { name: (*name).into(), id: format!("id {id}").into(), payload: sent(payload) }
            }
            Happening::Wake => {
                model.wake();
                Event::Wake
            }
            Happening::Pause => {
                model.pause();
                Event::Pause { reason, by }
            }
            Happening::Unpause => {
                model.unpause();
                Event::Unpause
            }
            Happening::Cancel => {
                model.cancel();
                Event::Cancel { reason, by }
            }
            Happening::Resumed { process_crashed, alive } => {
                let running = self.model.running().into_keys().enumerate();
                let alive: BTreeSet<_> =
                    running.filter(|(n, _)| alive & (1 << (n % 8)) != 0).map(|(_, serial)| serial).collect();
                self.real.at_work.retain(|serial| alive.contains(serial));
                let attempt_ids = alive.iter().map(|serial| self.real.runs[serial].attempt_id).collect();
                self.model.resume(alive, *process_crashed);
                Event::Resumed { alive: attempt_ids, process_crashed: *process_crashed }
            }
            Happening::Released => {
                self.real.at_work.clear();
                model.release();
                Event::Released
            }
            Happening::Retry(_) | Happening::Restart { .. } | Happening::Redeploy | Happening::Upgraded => {
                unreachable!("handled before")
            }
        })
    }

    /// Ends an attempt well, or an old one once more.
    fn ended(&mut self, serial: u64, output: &Output) -> everstep::Value {
        self.real.at_work.remove(&serial);
        let running = self.model.running();
        let Some(cursor) = running.get(&serial) else { return sent("late").into() };
        let gives = output.of(cursor);
        let outcome = self.real.call(serial, cursor, &gives);
        self.model.attempt(serial, &Act::Well(gives));
        outcome
    }

    fn redeploy(&mut self) {
        self.model.world.more_iterations += 2;
        self.model.world.list_bytes_max *= 2;
        self.real.limits.list_bytes_max *= 2;
        self.tuning.more_iterations = self.model.world.more_iterations;
        let definition = definition(self.plan, self.begin.deadline, self.tuning);
        assert_eq!(definition.hash(), self.real.definition.hash(), "limits are no part of a definition's hash");
        self.real.definition = definition;
        self.real.restart(self.begin.list_bytes_max.is_some());
    }

    /// Upgrades the instance to a newer definition in another process, if it has the instance's
    /// place: nothing else changes.
    fn upgrade(&mut self) -> Option<Event> {
        if matches!(self.model.over, Some(Over::Completed(_) | Over::Cancelled)) {
            return None;
        }
        let older = Some(self.real.definition.hash());
        let tuning = Tuning { version: self.tuning.version + 1, older, ..self.tuning };
        let newer = definition(self.plan, self.begin.deadline, tuning);
        if !self.real.upgrade(newer, at(self.model.world.now), self.begin.list_bytes_max.is_some()) {
            return None;
        }
        self.tuning = tuning;
        self.real.at_work.clear();
        self.model.resume(BTreeSet::new(), false);
        Some(Event::Resumed { alive: Vec::new(), process_crashed: false })
    }

    /// Brings the instance to its end: every task succeeds, every loop ends, every signal comes.
    pub(crate) fn bring_to_its_end(&mut self) {
        self.real.check_values(&self.model);
        let output = Output { texts: vec!["a".into(), "b".into()], again: false };
        let (mut retries, mut signal) = (0, 1_000);
        for _ in 0..2_000 {
            match &self.model.over {
                Some(Over::Completed(_) | Over::Cancelled) => return self.real.check_values(&self.model),
                // The key of a route stays the same.
                Some(_) if retries == 8 => return,
                Some(_) => {
                    retries += 1;
                    self.happen(&Happening::Redeploy);
                    self.happen(&Happening::Retry(Some(1_000)));
                    continue;
                }
                None => {}
            }
            let now = self.model.world.now;
            let wants = self.model.root.leaves().into_iter().find_map(|leaf| match (&leaf.doing, leaf.what()) {
                (Doing::Wait { .. }, What::Wait { signal, .. }) => Some(*signal),
                _ => None,
            });
            let what = if self.model.world.paused {
                Happening::Unpause
            } else if !self.model.running().is_empty() {
                Happening::Well(Which::Current(usize::from(signal % 2 == 0)), output.clone())
            } else if let Some(name) = wants {
                signal += 1;
                Happening::Signal { name, id: signal, payload: "a".into() }
            } else if let Some(wake) = self.model.next_wake() {
                self.pass(wake.saturating_sub(now).div_ceil(SECOND));
                Happening::Wake
            } else {
                unreachable!("the instance is stuck");
            };
            self.happen(&what);
        }
        panic!("the instance does not end");
    }
}
