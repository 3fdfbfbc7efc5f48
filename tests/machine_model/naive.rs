//! The naive interpreter: the workflow as a list, and the plainest form of each rule.

use std::collections::HashSet;

use everstep::{AttemptFailure, FailureKind};

use crate::definitions::Node;
use crate::story::{Ended, What, Which};
use crate::{SECOND, SIGNALS_BUFFERED_MAX};

/// A value as its tokens.
pub(crate) type Tokens = Vec<String>;

pub(crate) fn leaf(bytes: &[u8]) -> String {
    format!("{bytes:02x?}")
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Doing {
    /// `serial` counts attempts that were handed out; 0 until this one is.
    Task {
        serial: u64,
        attempt: u32,
        crashes: u32,
        stage: Stage,
    },
    Delay {
        until: u64,
    },
    Wait {
        until: Option<u64>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stage {
    Ready,
    Running { since: Option<u64> },
    Backoff { until: u64 },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Over {
    Completed(Tokens),
    Failed { node: usize, attempt: u32, kind: FailureKind, message: String },
    Deadline,
    Cancelled,
}

/// A task execution that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) serial: u64,
    pub(crate) node: usize,
    pub(crate) attempt: u32,
    pub(crate) value: Tokens,
    pub(crate) timeout: Option<u64>,
    pub(crate) announce: bool,
}

/// The effects of one event.
#[derive(Debug, Default, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one kind of effect")]
pub(crate) struct Answer {
    pub(crate) refused: bool,
    pub(crate) runs: Vec<Wanted>,
    pub(crate) proceed: bool,
    pub(crate) withdraw: bool,
    pub(crate) quarantine: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: u64,
    pub(crate) deadline: Option<u64>,
    pub(crate) at: usize,
    pub(crate) value: Tokens,
    pub(crate) doing: Doing,
    pub(crate) serial: u64,
    /// Name, payload and arrival of each signal that no wait has taken.
    pub(crate) buffer: Vec<(&'static str, Vec<u8>, u64)>,
    pub(crate) seen: HashSet<u8>,
    pub(crate) paused: bool,
    pub(crate) over: Option<Over>,
}

impl Model {
    pub(crate) fn new(nodes: Vec<Node>, deadline: Option<u64>, now: u64, input: &[u8], answer: &mut Answer) -> Self {
        let deadline = deadline.map(|seconds| now + seconds * SECOND);
        let doing = Doing::Delay { until: 0 };
        let (buffer, seen) = (Vec::new(), HashSet::new());
        let mut model = Self {
            nodes,
            now,
            deadline,
            at: 0,
            value: vec![],
            doing,
            serial: 0,
            buffer,
            seen,
            paused: false,
            over: None,
        };
        model.enter(0, vec![leaf(input)], answer);
        model
    }

    fn enter(&mut self, at: usize, value: Tokens, answer: &mut Answer) {
        (self.at, self.value) = (at, value);
        match self.nodes.get(at).cloned() {
            None => self.over = Some(Over::Completed(self.value.clone())),
            Some(Node::Task { .. }) => self.attempt(1, answer),
            Some(Node::Delay(0)) => self.enter(at + 1, self.value.clone(), answer),
            Some(Node::Delay(seconds)) => self.doing = Doing::Delay { until: self.now + seconds * SECOND },
            Some(Node::Wait { timeout, .. }) => {
                self.doing = Doing::Wait { until: timeout.map(|seconds| self.now + seconds * SECOND) };
                self.take(answer);
            }
        }
    }

    fn attempt(&mut self, attempt: u32, answer: &mut Answer) {
        self.doing = Doing::Task { serial: 0, attempt, crashes: 0, stage: Stage::Ready };
        self.run(answer);
    }

    /// Asks for the present attempt, unless paused.
    fn run(&mut self, answer: &mut Answer) {
        let Doing::Task { serial, stage, .. } = &mut self.doing else { unreachable!() };
        *stage = if self.paused { Stage::Ready } else { Stage::Running { since: None } };
        if !self.paused {
            self.serial += 1;
            *serial = self.serial;
            let timeout = self.timeout();
            self.want(timeout, answer);
        }
    }

    fn want(&self, timeout: Option<u64>, answer: &mut Answer) {
        let Doing::Task { serial, attempt, crashes, .. } = self.doing else { unreachable!() };
        let (node, value, announce) = (self.at, self.value.clone(), crashes > 0);
        answer.runs.push(Wanted { serial, node, attempt, value, timeout, announce });
    }

    fn timeout(&self) -> Option<u64> {
        let Node::Task { timeout, .. } = self.nodes[self.at] else { unreachable!() };
        timeout.map(|seconds| seconds * SECOND)
    }

    pub(crate) fn signal_now(&self) -> Option<&'static str> {
        match (&self.doing, self.over.is_some(), &self.nodes.get(self.at)) {
            (Doing::Wait { .. }, false, Some(Node::Wait { signal, .. })) => Some(signal),
            _ => None,
        }
    }

    /// Returns the buffered signal that the present wait may take: the first of its name, if it
    /// came in time.
    fn available(&self) -> Option<usize> {
        let (signal, Doing::Wait { until }) = (self.signal_now()?, &self.doing) else { return None };
        let first = self.buffer.iter().position(|(name, _, _)| *name == signal)?;
        until.is_none_or(|until| self.buffer[first].2 < until).then_some(first)
    }

    fn take(&mut self, answer: &mut Answer) -> bool {
        let Some(first) = self.available().filter(|_| !self.paused) else { return false };
        let (_, payload, _) = self.buffer.remove(first);
        self.leave_wait(Some(&payload), answer);
        true
    }

    fn leave_wait(&mut self, payload: Option<&[u8]>, answer: &mut Answer) {
        let Node::Wait { timeout, keeps, .. } = self.nodes[self.at] else { unreachable!() };
        let outcome = match (payload, timeout) {
            (Some(payload), None) => vec![leaf(payload)],
            (Some(payload), Some(_)) => vec!["received".into(), leaf(payload)],
            (None, _) => vec!["timed out".into()],
        };
        let kept = if keeps { [vec!["pair".into()], self.value.clone()].concat() } else { Vec::new() };
        self.enter(self.at + 1, [kept, outcome].concat(), answer);
    }

    fn fail(&mut self, failure: AttemptFailure, answer: &mut Answer) {
        let Doing::Task { attempt, .. } = self.doing else { unreachable!() };
        let Node::Task { retries, backoff, .. } = self.nodes[self.at] else { unreachable!() };
        let again = matches!(failure.kind, FailureKind::Error | FailureKind::Panicked | FailureKind::TimedOut);
        if !again || attempt > retries {
            let AttemptFailure { kind, message, .. } = failure;
            self.over = Some(Over::Failed { node: self.at, attempt, kind, message });
            return;
        }
        let wait = failure.retry_after.map_or(backoff * SECOND, |wait| wait.as_secs() * SECOND);
        let stage = Stage::Backoff { until: self.now + wait };
        self.doing = Doing::Task { serial: 0, attempt: attempt + 1, crashes: 0, stage };
        if wait == 0 {
            self.run(answer);
        }
    }

    fn wake(&mut self, answer: &mut Answer) {
        if self.over.is_some() {
            return;
        }
        if self.deadline.is_some_and(|deadline| deadline <= self.now) {
            self.over = Some(Over::Deadline);
            return;
        }
        let held = self.paused && self.available().is_some();
        match self.doing {
            Doing::Delay { until } if until <= self.now => self.enter(self.at + 1, self.value.clone(), answer),
            Doing::Wait { until: Some(until) } if until <= self.now && !held => self.leave_wait(None, answer),
            Doing::Task { stage: Stage::Backoff { until }, .. } if until <= self.now => self.run(answer),
            _ => {}
        }
    }

    pub(crate) fn next_wake(&self) -> Option<u64> {
        let own = match self.doing {
            _ if self.over.is_some() => return None,
            Doing::Delay { until } | Doing::Task { stage: Stage::Backoff { until }, .. } => Some(until),
            Doing::Wait { until } => until.filter(|_| !(self.paused && self.available().is_some())),
            Doing::Task { .. } => None,
        };
        own.into_iter().chain(self.deadline).min()
    }

    /// Returns the serial of the attempt that is handed out.
    pub(crate) fn running(&self) -> Option<u64> {
        match self.doing {
            Doing::Task { serial, stage: Stage::Running { .. }, .. } if self.over.is_none() => Some(serial),
            _ => None,
        }
    }

    pub(crate) fn apply(&mut self, what: &What, now: u64) -> Answer {
        self.now = now;
        let (mut answer, over) = (Answer::default(), self.over.is_some());
        let mine = |which: &Which| match which {
            Which::Current => self.running().is_some(),
            Which::Old => false,
        };
        let overdue = self.deadline.is_some_and(|deadline| deadline <= now);
        match what {
            What::Started(which) | What::Withdrawn(which) | What::Finished(which, _) if mine(which) && overdue => {
                self.over = Some(Over::Deadline);
            }
            What::Wake => self.wake(&mut answer),
            What::Cancel if !over => self.over = Some(Over::Cancelled),
            What::Pause if !over => {
                answer.withdraw = !self.paused && self.running().is_some();
                self.paused = true;
            }
            What::Unpause if !over && self.paused => {
                self.paused = false;
                if overdue {
                    self.over = Some(Over::Deadline);
                } else if !self.take(&mut answer) && matches!(self.doing, Doing::Task { stage: Stage::Ready, .. }) {
                    self.run(&mut answer);
                }
                self.wake(&mut answer);
            }
            What::Cancel | What::Pause | What::Unpause => answer.refused = true,
            What::Started(which) if mine(which) => self.started(&mut answer),
            What::Withdrawn(which) if mine(which) => self.run(&mut answer),
            What::Finished(which, Ended::Well(output)) if mine(which) => {
                self.enter(self.at + 1, vec![leaf(output)], &mut answer);
            }
            What::Finished(which, Ended::Badly(failure)) if mine(which) => self.fail(failure.clone(), &mut answer),
            What::Started(_) | What::Withdrawn(_) | What::Finished(..) | What::Restart => {}
            What::Signal { name, id, payload } => self.signal(name, *id, payload, &mut answer),
            What::Resumed { process_crashed, alive } => self.resume(*process_crashed, *alive, &mut answer),
        }
        answer
    }

    fn started(&mut self, answer: &mut Answer) {
        let (paused, now) = (self.paused, self.now);
        let Doing::Task { crashes, stage, .. } = &mut self.doing else { unreachable!() };
        // An attempt that waits to go ahead must not start in a pause.
        answer.proceed = !paused || *crashes == 0 || *stage != Stage::Running { since: None };
        match stage {
            Stage::Running { since } if answer.proceed => *since = since.or(Some(now)),
            _ => *stage = Stage::Ready,
        }
    }

    /// Counts an attempt that waits to go ahead as started: the attempt is still there, and its
    /// announcement may be lost.
    fn started_or_on_its_way(&mut self, answer: &mut Answer) {
        match self.doing {
            Doing::Task { crashes: 1.., stage: Stage::Running { since: None }, .. } => self.started(answer),
            _ => answer.proceed = true,
        }
    }

    fn signal(&mut self, name: &'static str, id: u8, payload: &[u8], answer: &mut Answer) {
        if self.seen.contains(&id) {
            return;
        }
        let known = self.nodes.iter().any(|node| matches!(node, Node::Wait { signal, .. } if *signal == name));
        answer.refused = self.over.is_some() || !known;
        if answer.refused {
            return;
        }
        self.wake(answer);
        let waited_for = !self.paused && self.signal_now() == Some(name);
        let full = self.buffer.len() >= SIGNALS_BUFFERED_MAX as usize && !waited_for;
        answer.refused = self.over.is_some() || full;
        if answer.refused {
            return;
        }
        self.seen.insert(id);
        if waited_for {
            self.leave_wait(Some(payload), answer);
        } else {
            self.buffer.push((name, payload.to_vec(), self.now));
        }
    }

    fn resume(&mut self, process_crashed: bool, alive: bool, answer: &mut Answer) {
        if self.over.is_some() {
            return;
        }
        if self.deadline.is_some_and(|deadline| deadline <= self.now) {
            self.over = Some(Over::Deadline);
            return;
        }
        if alive && self.running().is_some() {
            self.started_or_on_its_way(answer);
        } else if let Doing::Task { crashes, stage: Stage::Running { since }, .. } = &mut self.doing {
            let since = *since;
            if process_crashed && since.is_some() && *crashes == 4 {
                answer.quarantine = true;
                return;
            }
            if process_crashed {
                *crashes = if since.is_some() { *crashes + 1 } else { (*crashes).max(1) };
            }
            let spent = since.map_or(0, |since| self.now - since);
            let left = self.timeout().map(|timeout| timeout.saturating_sub(spent));
            match left {
                _ if self.paused => self.run(answer),
                Some(0) => {
                    let message = "timed out: its time was over when the instance was resumed";
                    self.fail(AttemptFailure::new(FailureKind::TimedOut, message), answer);
                }
                left => {
                    self.serial += 1;
                    let serial_now = self.serial;
                    let Doing::Task { serial, stage, .. } = &mut self.doing else { unreachable!() };
                    *serial = serial_now;
                    *stage = Stage::Running { since: None };
                    self.want(left, answer);
                }
            }
        }
        self.wake(answer);
    }
}
