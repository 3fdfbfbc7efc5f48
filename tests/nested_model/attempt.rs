//! The naive interpreter's leaves: events of a cursor at code, a delay or a wait.

use std::collections::BTreeSet;
use std::time::Duration;

use everstep::{AttemptFailure, FailureKind};

use crate::SECOND;
use crate::build::{is_true, key};
use crate::cursor::{Cursor, Doing, Flow};
use crate::plan::{Options, What};
use crate::value::Val;
use crate::world::World;

/// An attempt. `serial` counts attempts that were handed out, over all frames; 0 until this one is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attempt {
    pub(crate) serial: u64,
    pub(crate) number: u32,
    pub(crate) crashes: u32,
    pub(crate) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stage {
    Ready,
    Running { since: Option<u64> },
    Backoff { until: u64 },
}

/// An event of one frame.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Started,
    Withdrawn,
    Well(Val),
    Badly(AttemptFailure),
    /// Time has passed.
    Due,
    /// The pause is over.
    Ready,
    Signal(String),
    Resumed {
        alive: BTreeSet<u64>,
        process_crashed: bool,
    },
    Retry,
    Forgive,
}

/// A task execution that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) serial: u64,
    pub(crate) path: String,
    pub(crate) turns: Vec<u64>,
    pub(crate) attempt: u32,
    pub(crate) value: Val,
    pub(crate) timeout: Option<u64>,
    pub(crate) announce: bool,
    pub(crate) alone: bool,
}

impl Cursor<'_> {
    fn attempt(&mut self) -> &mut Attempt {
        match &mut self.doing {
            Doing::Code(attempt) => attempt,
            _ => unreachable!("no code runs here"),
        }
    }

    fn options(&self) -> Options {
        match &self.node().what {
            What::Task { options, .. } => *options,
            _ => Options::default(),
        }
    }

    /// Begins with the code of a node.
    pub(crate) fn begin(&mut self, world: &mut World) {
        self.doing = Doing::Code(Attempt { serial: 0, number: 1, crashes: 0, stage: Stage::Ready });
        self.hand_out(world);
    }

    /// Asks for the present attempt, unless paused.
    fn hand_out(&mut self, world: &mut World) {
        let timeout = self.options().timeout.map(|seconds| seconds * SECOND);
        self.hand_out_for(world, timeout);
    }

    fn hand_out_for(&mut self, world: &mut World, timeout: Option<u64>) {
        if world.paused {
            self.attempt().stage = Stage::Ready;
            return;
        }
        world.serial += 1;
        (self.attempt().serial, self.attempt().stage) = (world.serial, Stage::Running { since: None });
        let Attempt { serial, number, crashes, .. } = *self.attempt();
        world.answer.runs.push(Wanted {
            serial,
            path: self.node().path.clone(),
            turns: self.turns.clone(),
            attempt: number,
            value: self.value.clone(),
            timeout,
            announce: crashes > 0,
            alone: crashes >= 3,
        });
    }

    /// Passes a wait, or stays there.
    pub(crate) fn wait(&mut self, world: &mut World) -> Option<Val> {
        let (Doing::Wait { until, since }, What::Wait { signal, .. }) = (&self.doing, &self.node().what) else {
            unreachable!()
        };
        let (ahead, buffered) = world.queue(signal, *since, self.frame);
        if ahead == 0 && buffered > 0 && !world.paused {
            let payload = world.take(signal);
            return Some(self.leave_wait(world, Some(payload)));
        }
        // A signal that came in time is for this wait, as soon as it may take it.
        let is_held = ahead < buffered;
        (until.is_some_and(|until| until <= world.now) && !is_held).then(|| self.leave_wait(world, None))
    }

    fn leave_wait(&mut self, world: &mut World, payload: Option<String>) -> Val {
        world.forget(self);
        let What::Wait { timeout, keeps, .. } = self.node().what else { unreachable!() };
        let outcome = match payload {
            Some(payload) => {
                let payload = Val::Text(payload);
                if timeout.is_some() { Val::Received(Box::new(payload)) } else { payload }
            }
            None => Val::TimedOut,
        };
        if keeps { Val::Pair(Box::new(self.value.clone()), Box::new(outcome)) } else { outcome }
    }

    /// Returns the time at which this cursor moves.
    pub(crate) fn until(&self, world: &World) -> Option<u64> {
        match (&self.doing, self.what()) {
            (Doing::Delay { until } | Doing::Code(Attempt { stage: Stage::Backoff { until }, .. }), _) => Some(*until),
            (Doing::Wait { until, since }, What::Wait { signal, .. }) => {
                let (ahead, buffered) = world.queue(signal, *since, self.frame);
                until.filter(|_| ahead >= buffered)
            }
            _ => None,
        }
    }

    pub(crate) fn act(&mut self, world: &mut World, act: &Act) -> Flow {
        match (act, &self.doing) {
            (Act::Due, Doing::Delay { until }) if *until <= world.now => return Ok(Some(self.value.clone())),
            (Act::Due, Doing::Wait { .. }) => return Ok(self.wait(world)),
            (Act::Due, Doing::Code(Attempt { stage: Stage::Backoff { until }, .. })) if *until <= world.now => {
                self.hand_out(world);
            }
            (Act::Signal(payload), Doing::Wait { .. }) => {
                return Ok(Some(self.leave_wait(world, Some(payload.clone()))));
            }
            (Act::Ready, Doing::Code(Attempt { stage: Stage::Ready, .. })) | (Act::Withdrawn, Doing::Code(_)) => {
                self.hand_out(world);
            }
            (Act::Started, Doing::Code(_)) => self.started(world),
            (Act::Well(value), Doing::Code(_)) => return self.well(world, value.clone()),
            (Act::Badly(failure), Doing::Code(_)) => return self.badly(world, failure.clone()),
            (Act::Resumed { alive, process_crashed }, Doing::Code(_)) => {
                return self.resumed(world, alive, *process_crashed);
            }
            (Act::Retry, Doing::Code(_)) => self.begin(world),
            (Act::Forgive, Doing::Code(_)) => self.forgive(),
            _ => {}
        }
        Ok(None)
    }

    /// Forgets the crashes of a quarantined run: an attempt that ran begins anew.
    fn forgive(&mut self) {
        let attempt = self.attempt();
        attempt.crashes = 0;
        if let Stage::Running { since } = &mut attempt.stage {
            *since = None;
        }
    }

    fn started(&mut self, world: &mut World) {
        let attempt = self.attempt();
        match attempt.stage {
            // An attempt that waits to go ahead must not start in a pause.
            Stage::Running { since: None } if world.paused && attempt.crashes > 0 => attempt.stage = Stage::Ready,
            Stage::Running { since } => {
                attempt.stage = Stage::Running { since: since.or(Some(world.now)) };
                world.answer.proceed.insert(attempt.serial);
            }
            _ => unreachable!("only a running attempt is reported"),
        }
    }

    /// Returns the result of this node's code: the story's for a task, else the one that follows
    /// from the value.
    pub(crate) fn outcome(&self, of_task: impl FnOnce() -> Val) -> Val {
        match &self.node().what {
            What::Task { .. } => of_task(),
            What::Route { typed: true, .. } => Val::Text(is_true(self.value.text()).to_string()),
            What::Route { .. } => Val::Text(key(self.value.text())),
            What::Map { .. } => Val::List(self.value.items()),
            _ => self.value.clone().carried(),
        }
    }

    fn well(&mut self, world: &mut World, value: Val) -> Flow {
        match &self.node().what {
            What::Task { .. } => {
                world.results.insert((self.node().path.clone(), self.indices.clone()), Some(value.clone()));
                Ok(Some(value))
            }
            What::Child { nodes, .. } => {
                self.value = value.clone();
                self.inside(world, nodes, value)
            }
            What::Map { .. } => {
                world.split(&self.node().path, &self.indices, value.items().len());
                self.split(world, value.items())
            }
            What::Route { arms, otherwise, .. } => {
                let own = arms.iter().find(|(name, _)| name == value.text()).map(|(_, arm)| arm);
                if let Some(arm) = own.or(otherwise.as_ref()) {
                    return self.inside(world, arm, self.value.clone());
                }
                let number = self.attempt().number;
                let message = format!("the route has no arm for key `{}` and no default arm: add one", value.text());
                Err(self.failure(number, FailureKind::UnknownKey, message))
            }
            _ => unreachable!("no code runs here"),
        }
    }

    fn badly(&mut self, world: &mut World, failure: AttemptFailure) -> Flow {
        let (Options { retries, backoff, .. }, number) = (self.options(), self.attempt().number);
        let again = matches!(failure.kind, FailureKind::Error | FailureKind::Panicked | FailureKind::TimedOut);
        if !again || number > retries {
            return Err(self.failure(number, failure.kind, failure.message));
        }
        let wait = failure.retry_after.unwrap_or(Duration::from_secs(backoff)).as_secs() * SECOND;
        let stage = Stage::Backoff { until: world.now + wait };
        self.doing = Doing::Code(Attempt { serial: 0, number: number + 1, crashes: 0, stage });
        if wait == 0 {
            self.hand_out(world);
        }
        Ok(None)
    }

    fn resumed(&mut self, world: &mut World, alive: &BTreeSet<u64>, process_crashed: bool) -> Flow {
        let timeout = self.options().timeout.map(|seconds| seconds * SECOND);
        let attempt = self.attempt();
        let Stage::Running { since } = attempt.stage else {
            if attempt.stage == Stage::Ready {
                self.hand_out(world);
            }
            return Ok(None);
        };
        if alive.contains(&attempt.serial) {
            // An attempt that waits to go ahead may have lost its announcement, so it counts as
            // started now.
            if attempt.crashes > 0 && since.is_none() {
                self.started(world);
            } else {
                world.answer.proceed.insert(attempt.serial);
            }
            return Ok(None);
        }
        if process_crashed {
            attempt.crashes = if since.is_some() { attempt.crashes + 1 } else { attempt.crashes.max(1) };
        }
        let left = timeout.map(|timeout| timeout.saturating_sub(since.map_or(0, |since| world.now - since)));
        if left == Some(0) && !world.paused {
            let message = "timed out: its time was over when the instance was resumed";
            return self.badly(world, AttemptFailure::new(FailureKind::TimedOut, message));
        }
        self.hand_out_for(world, left);
        Ok(None)
    }
}
