//! The machine against a naive interpreter: random linear workflows, random events, the same answers after each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everstep::machine::{
    Effect, Event, HeadIndex, NewRun, Outcome, RowKey, Setting, Snapshot, Ticket, Transition, Wake, apply, decode_head,
    encode_head, start,
};
use everstep::{
    AttemptFailure, Builder, Definition, Failure, FailureKind, Home, InstanceId, Limits, Names as _, NodePath,
    RetryPolicy, RunId, SignalOutcome, Status, TaskFailure, Timestamp, Token, Workflow, task,
};
use proptest::collection::vec;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000;
const SIGNALS_BUFFERED_MAX: u32 = 4;

// ---- what happens ------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum What {
    Finished(Which, Ended),
    Started(Which),
    Withdrawn(Which),
    Signal {
        name: &'static str,
        id: u8,
        payload: Vec<u8>,
    },
    Wake,
    Pause,
    Unpause,
    Cancel,
    Resumed {
        process_died: bool,
        alive: bool,
    },
    /// The snapshot is read back from what was written.
    Restart,
}

/// Whose attempt is reported: the one at work, or one of long ago.
#[derive(Clone, Copy, Debug)]
enum Which {
    Current,
    Old,
}

#[derive(Clone, Debug)]
enum Ended {
    Well(Vec<u8>),
    Badly(AttemptFailure),
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![9 => Just(Which::Current), 1 => Just(Which::Old)]
}

/// Small ones stay in the head, large ones go to a row.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), prop_oneof![4 => 1_usize..4, 1 => 120_usize..200]).prop_map(|(byte, length)| vec![byte; length])
}

fn failure() -> impl Strategy<Value = Ended> {
    use FailureKind::{Codec, Error, Panicked, Permanent, TimedOut};
    let kind =
        prop_oneof![6 => Just(Error), 2 => Just(TimedOut), 1 => Just(Panicked), 1 => Just(Permanent), 1 => Just(Codec)];
    (kind, proptest::option::weighted(0.2, 0_u64..4)).prop_map(|(kind, retry_after)| {
        let retry_after = retry_after.map(Duration::from_secs);
        Ended::Badly(AttemptFailure { retry_after, ..AttemptFailure::new(kind, "no") })
    })
}

/// Mostly one event; sometimes a task that takes its process with it, again and again.
fn happenings() -> impl Strategy<Value = Vec<What>> {
    let name = prop_oneof![4 => Just("a"), 3 => Just("b"), 1 => Just("c"), 1 => Just("unknown")];
    let one = prop_oneof![
        30 => (which(), payload()).prop_map(|(which, output)| What::Finished(which, Ended::Well(output))),
        8 => (which(), failure()).prop_map(|(which, failure)| What::Finished(which, failure)),
        6 => which().prop_map(What::Started),
        3 => which().prop_map(What::Withdrawn),
        25 => (name, 0_u8..24, payload()).prop_map(|(name, id, payload)| What::Signal { name, id, payload }),
        20 => Just(What::Wake),
        4 => Just(What::Pause),
        6 => Just(What::Unpause),
        1 => Just(What::Cancel),
        6 => any::<(bool, bool)>().prop_map(|(process_died, alive)| What::Resumed { process_died, alive }),
        6 => Just(What::Restart),
    ];
    let death = [What::Started(Which::Current), What::Restart, What::Resumed { process_died: true, alive: false }];
    prop_oneof![40 => one.prop_map(|one| vec![one]), 1 => (1_usize..7).prop_map(move |n| vec![death.clone(); n].concat())]
}

// ---- definitions -------------------------------------------------------------------------------------------------

/// A node; times in seconds.
#[derive(Clone, Debug)]
enum Node {
    Task { retries: u32, backoff: u64, timeout: Option<u64> },
    Delay(u64),
    Wait { signal: &'static str, timeout: Option<u64>, keeps: bool },
}

/// What a builder's chain carries so far: its type parameter, as a variant.
enum Chain {
    Plain(Builder<u64, u64>),
    Outcome(Builder<u64, SignalOutcome<u64>>),
    Pair(Builder<u64, (u64, u64)>),
    PairOutcome(Builder<u64, (u64, SignalOutcome<u64>)>),
    OutcomePair(Builder<u64, (SignalOutcome<u64>, u64)>),
    Outcomes(Builder<u64, (SignalOutcome<u64>, SignalOutcome<u64>)>),
}

/// No task runs here: the machine only asks for it.
async fn never<T>(_: T) -> Result<u64, std::convert::Infallible> {
    Ok(0)
}

macro_rules! each {
    ($chain:expr, $builder:ident => $body:expr, $same:ident) => {
        match $chain {
            Chain::Plain($builder) => {
                let $same = Chain::Plain;
                $body
            }
            Chain::Outcome($builder) => {
                let $same = Chain::Outcome;
                $body
            }
            Chain::Pair($builder) => {
                let $same = Chain::Pair;
                $body
            }
            Chain::PairOutcome($builder) => {
                let $same = Chain::PairOutcome;
                $body
            }
            Chain::OutcomePair($builder) => {
                let $same = Chain::OutcomePair;
                $body
            }
            Chain::Outcomes($builder) => {
                let $same = Chain::Outcomes;
                $body
            }
        }
    };
}

fn add(chain: Chain, id: String, node: &mut Node) -> Chain {
    match node {
        Node::Task { retries, backoff, timeout } => {
            let retry = RetryPolicy::fixed(*retries, Duration::from_secs(*backoff));
            let timeout = timeout.map(Duration::from_secs);
            each!(chain, b => {
                let options = task(never).retry(retry);
                Chain::Plain(match timeout { Some(t) => b.then(id, options.timeout(t)), None => b.then(id, options) })
            }, _same)
        }
        Node::Delay(seconds) => each!(chain, b => same(b.delay(id, Duration::from_secs(*seconds))), same),
        Node::Wait { signal, timeout, keeps: true } => {
            let timeout = timeout.map(Duration::from_secs);
            match (chain, timeout) {
                (Chain::Plain(b), None) => Chain::Pair(b.wait_for_signal_keeping(id, *signal)),
                (Chain::Plain(b), Some(t)) => Chain::PairOutcome(b.wait_for_signal_keeping_timeout(id, *signal, t)),
                (Chain::Outcome(b), None) => Chain::OutcomePair(b.wait_for_signal_keeping(id, *signal)),
                (Chain::Outcome(b), Some(t)) => Chain::Outcomes(b.wait_for_signal_keeping_timeout(id, *signal, t)),
                (deep, _) => {
                    // Types this deep are left out: the wait does not keep.
                    let Node::Wait { keeps, .. } = node else { unreachable!() };
                    *keeps = false;
                    add(deep, id, node)
                }
            }
        }
        Node::Wait { signal, timeout: None, .. } => {
            each!(chain, b => Chain::Plain(b.wait_for_signal(id, *signal)), _same)
        }
        Node::Wait { signal, timeout: Some(seconds), .. } => {
            let timeout = Duration::from_secs(*seconds);
            each!(chain, b => Chain::Outcome(b.wait_for_signal_timeout(id, *signal, timeout)), _same)
        }
    }
}

/// Only a workflow that starts with a task can have a deadline, as the builder stands.
fn definition(nodes: &mut [Node], deadline: Option<u64>) -> Arc<Definition> {
    let empty = Workflow::builder("random");
    let (chain, first) = match deadline {
        Some(seconds) => (empty.deadline(Duration::from_secs(seconds)).then("n0", never::<u64>), 1),
        None => (Workflow::builder_for::<u64>("random"), 0),
    };
    if first == 1 {
        nodes[0] = Node::Task { retries: 0, backoff: 0, timeout: None };
    }
    let rest = nodes.iter_mut().enumerate().skip(first);
    let chain = rest.fold(Chain::Plain(chain), |chain, (n, node)| add(chain, format!("n{n}"), node));
    each!(chain, b => Arc::clone(b.build().unwrap().definition()), _same)
}

// ---- the naive interpreter ---------------------------------------------------------------------------------------

/// A value as its tokens.
type Tokens = Vec<String>;

fn leaf(bytes: &[u8]) -> String {
    format!("{bytes:02x?}")
}

#[derive(Clone, Debug, PartialEq)]
enum Doing {
    /// `serial` counts what was handed out; 0 while this attempt was not.
    Task {
        serial: u64,
        attempt: u32,
        deaths: u32,
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
enum Stage {
    Ready,
    Running { since: Option<u64> },
    Backoff { until: u64 },
}

#[derive(Clone, Debug, PartialEq)]
enum Over {
    Completed(Tokens),
    Failed { node: usize, attempt: u32, kind: FailureKind, message: String },
    Deadline,
    Cancelled,
}

/// A task execution that is asked for.
#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    serial: u64,
    node: usize,
    attempt: u32,
    value: Tokens,
    timeout: Option<u64>,
    announce: bool,
}

/// What one event comes to.
#[derive(Debug, Default, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one kind of effect")]
struct Answer {
    refused: bool,
    runs: Vec<Wanted>,
    proceed: bool,
    withdraw: bool,
    quarantine: bool,
}

#[derive(Clone, Debug)]
struct Model {
    nodes: Vec<Node>,
    now: u64,
    deadline: Option<u64>,
    at: usize,
    value: Tokens,
    doing: Doing,
    serial: u64,
    /// Name, payload and arrival of each signal that nobody has taken.
    buffer: Vec<(&'static str, Vec<u8>, u64)>,
    seen: HashSet<u8>,
    paused: bool,
    over: Option<Over>,
}

impl Model {
    fn new(nodes: Vec<Node>, deadline: Option<u64>, now: u64, input: &[u8], answer: &mut Answer) -> Self {
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
        self.doing = Doing::Task { serial: 0, attempt, deaths: 0, stage: Stage::Ready };
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
        let Doing::Task { serial, attempt, deaths, .. } = self.doing else { unreachable!() };
        let (node, value, announce) = (self.at, self.value.clone(), deaths > 0);
        answer.runs.push(Wanted { serial, node, attempt, value, timeout, announce });
    }

    fn timeout(&self) -> Option<u64> {
        let Node::Task { timeout, .. } = self.nodes[self.at] else { unreachable!() };
        timeout.map(|seconds| seconds * SECOND)
    }

    fn signal_now(&self) -> Option<&'static str> {
        match (&self.doing, self.over.is_some(), &self.nodes.get(self.at)) {
            (Doing::Wait { .. }, false, Some(Node::Wait { signal, .. })) => Some(signal),
            _ => None,
        }
    }

    /// The buffered signal that the present wait may have: the first of its name, if it came in time.
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
        self.doing = Doing::Task { serial: 0, attempt: attempt + 1, deaths: 0, stage };
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

    fn next_wake(&self) -> Option<u64> {
        let own = match self.doing {
            _ if self.over.is_some() => return None,
            Doing::Delay { until } | Doing::Task { stage: Stage::Backoff { until }, .. } => Some(until),
            Doing::Wait { until } => until.filter(|_| !(self.paused && self.available().is_some())),
            Doing::Task { .. } => None,
        };
        own.into_iter().chain(self.deadline).min()
    }

    /// The serial of the attempt that is handed out.
    fn running(&self) -> Option<u64> {
        match self.doing {
            Doing::Task { serial, stage: Stage::Running { .. }, .. } if self.over.is_none() => Some(serial),
            _ => None,
        }
    }

    fn apply(&mut self, what: &What, now: u64) -> Answer {
        self.now = now;
        let (mut answer, over) = (Answer::default(), self.over.is_some());
        let mine = |which: &Which| match which {
            Which::Current => self.running().is_some(),
            Which::Old => false,
        };
        match what {
            What::Wake => self.wake(&mut answer),
            What::Cancel if !over => self.over = Some(Over::Cancelled),
            What::Pause if !over => {
                answer.withdraw = !self.paused && self.running().is_some();
                self.paused = true;
            }
            What::Unpause if !over && self.paused => {
                self.paused = false;
                if !self.take(&mut answer) && matches!(self.doing, Doing::Task { stage: Stage::Ready, .. }) {
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
            What::Resumed { process_died, alive } => self.resume(*process_died, *alive, &mut answer),
        }
        answer
    }

    fn started(&mut self, answer: &mut Answer) {
        let (paused, now) = (self.paused, self.now);
        let Doing::Task { deaths, stage, .. } = &mut self.doing else { unreachable!() };
        // One that waits to go ahead must not start in a pause.
        answer.proceed = !paused || *deaths == 0 || *stage != Stage::Running { since: None };
        match stage {
            Stage::Running { since } if answer.proceed => *since = since.or(Some(now)),
            _ => *stage = Stage::Ready,
        }
    }

    /// The attempt lives on; one that waits to go ahead may have lost its announcement, so it counts as started now.
    fn started_or_on_its_way(&mut self, answer: &mut Answer) {
        match self.doing {
            Doing::Task { deaths: 1.., stage: Stage::Running { since: None }, .. } => self.started(answer),
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

    fn resume(&mut self, process_died: bool, alive: bool, answer: &mut Answer) {
        if self.over.is_some() {
            return;
        }
        if alive && self.running().is_some() {
            self.started_or_on_its_way(answer);
        } else if let Doing::Task { deaths, stage: Stage::Running { since }, .. } = &mut self.doing {
            let since = *since;
            if process_died && since.is_some() && *deaths == 4 {
                answer.quarantine = true;
                return;
            }
            if process_died {
                *deaths = if since.is_some() { *deaths + 1 } else { (*deaths).max(1) };
            }
            let spent = since.map_or(0, |since| self.now - since);
            let left = self.timeout().map(|timeout| timeout.saturating_sub(spent));
            match left {
                _ if self.paused => self.run(answer),
                Some(0) => {
                    let message = "timed out: its time had passed when the process was back";
                    self.fail(AttemptFailure::new(FailureKind::TimedOut, message), answer);
                }
                left => {
                    self.serial += 1;
                    let serial_now = self.serial;
                    let Doing::Task { serial, .. } = &mut self.doing else { unreachable!() };
                    *serial = serial_now;
                    self.want(left, answer);
                }
            }
        }
        self.wake(answer);
    }
}

// ---- side by side ------------------------------------------------------------------------------------------------

fn node() -> impl Strategy<Value = Node> {
    let seconds = || proptest::option::of(1_u64..4);
    let signal = prop_oneof![3 => Just("a"), 2 => Just("b"), 1 => Just("c")];
    prop_oneof![
        3 => (0_u32..3, 0_u64..3, seconds()).prop_map(|(retries, backoff, timeout)| Node::Task { retries, backoff, timeout }),
        1 => (0_u64..4).prop_map(Node::Delay),
        3 => (signal, seconds(), any::<bool>()).prop_map(|(signal, timeout, keeps)| Node::Wait { signal, timeout, keeps }),
    ]
}

/// The machine's side: a snapshot, the rows it wrote, and what it asked for.
struct Real {
    definition: Arc<Definition>,
    limits: Limits,
    snapshot: Snapshot,
    rows: HashMap<RowKey, Bytes>,
    /// Tickets by the model's serial.
    tickets: HashMap<u64, Ticket>,
    /// The wake-up asked for, once that is known.
    asked: Option<Wake>,
}

fn tokens(value: &everstep::Value) -> Tokens {
    let token = |token: &Token| match token {
        Token::Leaf(found) => leaf(&found.bytes),
        Token::Received => "received".into(),
        Token::TimedOut => "timed out".into(),
        Token::Pair => "pair".into(),
        Token::Stored(_) => "not read".into(),
    };
    value.tokens().iter().map(token).collect()
}

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros)
}

impl Real {
    fn head(&self) -> Bytes {
        encode_head(self.definition.program(), &self.snapshot)
    }

    /// Reads the snapshot back, as `lifecycle::load` and `fill` do.
    fn read_back(&self) -> Snapshot {
        let mut snapshot = decode_head(self.snapshot.instance(), &self.head()).unwrap();
        let open = |home| {
            let key = match home {
                Home::Input => RowKey::Input,
                Home::Node(node) => RowKey::Result(self.path(node).clone()),
            };
            (home, snapshot.open_row(&key, &self.rows[&key]).unwrap())
        };
        let read = snapshot.unread().into_iter().map(open).collect();
        snapshot.fill(&read).unwrap();
        if snapshot.has_signals() {
            let signals = self.rows.iter().filter_map(|(key, row)| match key {
                RowKey::Signal(number) => Some((*number, row)),
                _ => None,
            });
            let mut signals: Vec<_> = signals.collect();
            signals.sort_by_key(|(number, _)| *number);
            for (number, row) in signals {
                snapshot.take_signal_row(number, row).unwrap();
            }
        }
        snapshot
    }

    fn path(&self, node: u32) -> &NodePath {
        self.definition.program().path(node).unwrap()
    }

    fn ticket(&self, which: Which, model: &Model) -> Ticket {
        let current = model.running();
        let serial = match which {
            Which::Current => current.or(self.tickets.keys().max().copied()),
            Which::Old => self.tickets.keys().filter(|serial| Some(**serial) != current).max().copied(),
        };
        serial.map_or(Ticket { frame: 0, issued: 0 }, |serial| self.tickets[&serial])
    }

    fn event(&self, what: &What, model: &Model) -> Event {
        let (reason, by): (Arc<str>, Arc<str>) = ("why".into(), "who".into());
        match what.clone() {
            What::Finished(which, ended) => {
                let outcome: Outcome = match ended {
                    Ended::Well(output) => Ok(output.into()),
                    Ended::Badly(failure) => Err(failure),
                };
                Event::AttemptFinished { ticket: self.ticket(which, model), outcome }
            }
            What::Started(which) => Event::AttemptStarted { ticket: self.ticket(which, model), at: at(model.now) },
            What::Withdrawn(which) => Event::AttemptWithdrawn { ticket: self.ticket(which, model) },
            What::Signal { name, id, payload } => {
                Event::Signal { name: name.into(), id: format!("id {id}").into(), payload: payload.into() }
            }
            What::Wake => Event::Wake,
            What::Pause => Event::Pause { reason, by },
            What::Unpause => Event::Unpause,
            What::Cancel => Event::Cancel { reason, by },
            What::Resumed { process_died, alive } => {
                let alive = if alive { self.snapshot.running().collect() } else { Vec::new() };
                Event::Resumed { alive, process_died }
            }
            What::Restart => unreachable!("handled before"),
        }
    }

    /// Takes in a transition, and gives what it asks for in the model's words.
    fn take(&mut self, transition: Transition, model: &Model) -> (Answer, bool) {
        let (mut answer, mut ended) = (Answer { refused: transition.refused.is_some(), ..Answer::default() }, false);
        for row in transition.rows {
            match row.value {
                Some(value) => self.rows.insert(row.key, value),
                None => self.rows.remove(&row.key),
            };
        }
        for effect in transition.effects {
            match effect {
                Effect::Run(run) => {
                    let known =
                        self.tickets.iter().find(|(_, ticket)| **ticket == run.ticket).map(|(serial, _)| *serial);
                    // Within one transition there is at most one new attempt, and it is the model's latest.
                    let serial = known.unwrap_or(model.serial);
                    assert_eq!(*self.tickets.entry(serial).or_insert(run.ticket), run.ticket, "one ticket per attempt");
                    answer.runs.push(Wanted {
                        serial,
                        node: run.node as usize,
                        attempt: run.attempt,
                        value: tokens(&run.value),
                        timeout: run.timeout.map(|timeout| u64::try_from(timeout.as_micros()).unwrap()),
                        announce: run.announce,
                    });
                }
                Effect::Proceed { .. } => answer.proceed = true,
                Effect::Withdraw { .. } => answer.withdraw = true,
                // Stopping an attempt that is not there does no harm.
                Effect::Stop { .. } => {}
                Effect::WakeAt(wake) => self.asked = Some(wake),
                Effect::Ended => ended = true,
                Effect::Quarantine { .. } => answer.quarantine = true,
            }
        }
        (answer, ended)
    }

    fn happen(&mut self, what: &What, model: &mut Model, now: u64) {
        if matches!(what, What::Restart) {
            self.snapshot = self.read_back();
            self.asked = None;
            return;
        }
        model.now = now;
        let (event, was_over) = (self.event(what, model), model.over.is_some());
        let (before, seq) = (self.head(), self.snapshot.seq());
        let expected = model.apply(what, now);
        let program = self.definition.program();
        let setting = Setting { program, limits: &self.limits, now: at(now) };
        match apply(&setting, &mut self.snapshot, event) {
            Ok(transition) => {
                let changed = transition.changed;
                assert_eq!(self.snapshot.seq(), seq + u64::from(changed), "one number per change");
                assert!(changed || (self.head() == before && transition.rows.is_empty()), "a change is never silent");
                let (answer, ended) = self.take(transition, model);
                assert_eq!((answer, ended), (expected, model.over.is_some() && !was_over), "(ours, whether it ended)");
                let wake = model.next_wake().map(at);
                let wake = Wake { at: wake, stored: wake.is_none() || model.running().is_none() };
                assert!(self.asked.is_none_or(|asked| asked == wake), "asked for {:?}, not {wake:?}", self.asked);
            }
            Err(refusal) => {
                assert!(expected.refused, "{refusal}");
                assert_eq!(self.head(), before, "a refusal leaves the snapshot as it is");
            }
        }
        self.check(model);
    }

    fn check(&self, model: &Model) {
        let program = self.definition.program();
        assert_eq!(self.snapshot.status(program), self.status(model));
        assert_eq!(self.snapshot.next_wake(), model.next_wake().map(at));
        assert_eq!(self.snapshot.is_running(), model.running().is_some());
        assert_eq!(self.snapshot.is_paused(), model.paused && model.over.is_none());
        if model.over.is_none() && !model.paused {
            let input = everstep::lifecycle::get_resume_input(&self.snapshot).unwrap();
            assert_eq!(tokens(&input), model.value, "what it goes on with");
        }
        if let Some(Over::Completed(output)) = &model.over {
            assert_eq!(Some(output), self.snapshot.output().map(tokens).as_ref());
        }
        let head = self.head();
        assert!(head.len() < 2_000, "a head of {} bytes", head.len());
        let index = HeadIndex::of_head(self.snapshot.instance(), &head).unwrap();
        let due = if model.running().is_some() { None } else { model.next_wake().map(at) };
        assert_eq!((index.seq, index.due), (self.snapshot.seq(), due));
        assert_eq!(encode_head(program, &self.read_back()), head, "read back it is the same");
    }

    fn status(&self, model: &Model) -> Status {
        let node = |at: usize| self.path(u32::try_from(at).unwrap()).clone();
        match (&model.over, &model.doing) {
            (Some(Over::Completed(_)), _) => Status::Completed,
            (Some(Over::Deadline), _) => Status::Failed { failure: Failure::DeadlineExceeded },
            (Some(Over::Cancelled), _) => Status::Cancelled { reason: "why".into(), by: "who".into() },
            (Some(Over::Failed { node: failed, attempt, kind, message }), _) => {
                let (task, message) = (node(*failed), message.clone());
                let failure = TaskFailure { task, attempt: *attempt, kind: *kind, message };
                Status::Failed { failure: Failure::Task(failure) }
            }
            _ if model.paused => Status::Paused { reason: "why".into(), by: "who".into() },
            (None, Doing::Task { .. }) => Status::InProgress,
            (None, Doing::Delay { until }) => Status::Waiting { wake_at: at(*until), delay: node(model.at) },
            (None, Doing::Wait { until }) => Status::AwaitingSignal {
                node: node(model.at),
                signal: model.signal_now().unwrap().into(),
                wake_at: until.map(at),
            },
        }
    }
}

fn begin(mut nodes: Vec<Node>, deadline: Option<u64>, input: &[u8]) -> (Real, Model) {
    let definition = definition(&mut nodes, deadline);
    let mut limits = Limits::default();
    limits.signals_buffered_max = SIGNALS_BUFFERED_MAX;
    let now = 1_800_000_000 * SECOND;
    let mut expected = Answer::default();
    let model = Model::new(nodes, deadline, now, input, &mut expected);
    let instance = InstanceId::new("random-1").unwrap();
    let run = RunId::from_bytes([7; 16]);
    let new = NewRun { instance, run, codec: 1, input: input.to_vec().into(), traceparent: None };
    let setting = Setting { program: definition.program(), limits: &limits, now: at(now) };
    let (snapshot, transition) = start(&setting, new);
    let (rows, tickets) = (HashMap::new(), HashMap::new());
    let mut real = Real { definition, limits, snapshot, rows, tickets, asked: None };
    assert!(transition.changed && real.snapshot.seq() == 1);
    assert_eq!(real.take(transition, &model), (expected, model.over.is_some()));
    real.check(&model);
    (real, model)
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000);
    let seeds = proptest::test_runner::FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(seeds)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_machine_moves_as_the_naive_interpreter_does(
        nodes in vec(node(), 1..12),
        deadline in proptest::option::weighted(0.2, 3_u64..30),
        input in payload(),
        story in vec((prop_oneof![3 => Just(0_u64), 2 => 1_u64..3, 1 => 3_u64..6], happenings()), 0..60),
    ) {
        // Both are told the same story; after each event they must give the same answer and stand at the same place.
        let (mut real, mut model) = begin(nodes, deadline, &input);
        for (seconds, events) in story {
            let now = model.now + seconds * SECOND;
            for what in &events {
                real.happen(what, &mut model, now);
            }
        }
    }
}
