//! The machine side by side with the model: it gets the same events, asks for the same effects, and
//! is read back from its writes.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use everstep::machine::{
    AttemptId, Context, Effect, Event, HeadIndex, NewRun, Outcome, RowKey, Snapshot, Transition, Wake, apply,
    decode_head, encode_head, start,
};
use everstep::{
    Definition, Failure, Home, InstanceId, Limits, NodeNames as _, NodePath, RunId, Status, TaskFailure, Timestamp,
    Token, Value,
};

use crate::definitions::{Node, definition};
use crate::naive::{Answer, Doing, Model, Over, Tokens, Wanted, leaf};
use crate::story::{Ended, What, Which};
use crate::{SECOND, SIGNALS_BUFFERED_MAX};

/// The machine's side: a snapshot, the rows it wrote, and its latest requests.
pub(crate) struct Real {
    definition: Arc<Definition>,
    limits: Limits,
    snapshot: Snapshot,
    rows: HashMap<RowKey, Bytes>,
    /// Attempt ids by the model's serial.
    attempt_ids: HashMap<u64, AttemptId>,
    /// The wake-up asked for, once that is known.
    asked: Option<Wake>,
}

fn tokens(value: &Value) -> Tokens {
    let token = |token: &Token| match token {
        Token::Leaf(found) => leaf(&found.bytes),
        Token::Received => "received".into(),
        Token::TimedOut => "timed out".into(),
        Token::Pair => "pair".into(),
        Token::Stored(_) => "not read".into(),
        other => unreachable!("a chain has no {other:?}"),
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
            let key = match &home {
                Home::Input => RowKey::Input,
                Home::Result(place) => RowKey::result(self.path(place.node).clone()),
                other => unreachable!("a chain has no {other:?}"),
            };
            (home, snapshot.open_value(&key, &self.rows[&key]).unwrap().tokens().to_vec())
        };
        let read = snapshot.unread().into_iter().map(open).collect();
        snapshot.fill(&read);
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

    fn attempt_id(&self, which: Which, model: &Model) -> AttemptId {
        let current = model.running();
        let serial = match which {
            Which::Current => current.or(self.attempt_ids.keys().max().copied()),
            Which::Old => self.attempt_ids.keys().filter(|serial| Some(**serial) != current).max().copied(),
        };
        serial.map_or(AttemptId { frame: 0, issued: 0 }, |serial| self.attempt_ids[&serial])
    }

    fn event(&self, what: &What, model: &Model) -> Event {
        let (reason, by): (Arc<str>, Arc<str>) = ("why".into(), "who".into());
        match what.clone() {
            What::Finished(which, ended) => {
                let outcome: Outcome = match ended {
                    Ended::Well(output) => Ok(Bytes::from(output).into()),
                    Ended::Badly(failure) => Err(failure),
                };
                Event::AttemptFinished { attempt_id: self.attempt_id(which, model), outcome }
            }
            What::Started(which) => {
                Event::AttemptStarted { attempt_id: self.attempt_id(which, model), at: at(model.now) }
            }
            What::Withdrawn(which) => Event::AttemptWithdrawn { attempt_id: self.attempt_id(which, model) },
            What::Signal { name, id, payload } => {
                Event::Signal { name: name.into(), id: format!("id {id}").into(), payload: payload.into() }
            }
            What::Wake => Event::Wake,
            What::Pause => Event::Pause { reason, by },
            What::Unpause => Event::Unpause,
            What::Cancel => Event::Cancel { reason, by },
            What::Resumed { process_crashed, alive } => {
                let alive = if alive { self.snapshot.running().collect() } else { Vec::new() };
                Event::Resumed { alive, process_crashed }
            }
            What::Restart => unreachable!("handled before"),
        }
    }

    /// Stores a transition, and returns its requests in the model's words.
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
                    let known = self
                        .attempt_ids
                        .iter()
                        .find(|(_, attempt_id)| **attempt_id == run.attempt_id)
                        .map(|(serial, _)| *serial);
                    // Within one transition there is at most one new attempt, and it is the model's
                    // latest.
                    let serial = known.unwrap_or(model.serial);
                    assert_eq!(
                        *self.attempt_ids.entry(serial).or_insert(run.attempt_id),
                        run.attempt_id,
                        "one attempt_id per attempt"
                    );
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

    pub(crate) fn happen(&mut self, what: &What, model: &mut Model, now: u64) {
        if matches!(what, What::Restart) {
            self.snapshot = self.read_back();
            self.asked = None;
            return;
        }
        model.now = now;
        let (event, was_over) = (self.event(what, model), model.over.is_some());
        let (before, seq) = (self.head(), self.snapshot.seq());
        let expected = model.apply(what, now);
        if let Event::Signal { id, .. } = &event {
            for key in self.snapshot.unread_signal_rows(id) {
                self.snapshot.take_remembered(&key, self.rows.get(&key)).unwrap();
            }
        }
        let program = self.definition.program();
        let context = Context { program, limits: &self.limits, now: at(now) };
        match apply(&context, &mut self.snapshot, event) {
            Ok(transition) => {
                let changed = transition.changed;
                assert_eq!(self.snapshot.seq(), seq + u64::from(changed), "one number per change");
                assert!(changed || (self.head() == before && transition.rows.is_empty()), "a change is never silent");
                let (answer, ended) = self.take(transition, model);
                assert_eq!(
                    (answer, ended),
                    (expected, model.over.is_some() && !was_over),
                    "(the answer, the end of the run)"
                );
                let wake = model.next_wake().map(at);
                let wake = Wake { at: wake, stored: wake.is_none() || model.running().is_none() || model.paused };
                assert!(self.asked.is_none_or(|asked| asked == wake), "asked for {:?}, not {wake:?}", self.asked);
            }
            Err(refusal) => {
                assert!(expected.refused, "{refusal}");
                assert_eq!(self.head(), before, "a refusal changes nothing");
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
            assert_eq!(tokens(&input), model.value, "the value to continue with");
        }
        if let Some(Over::Completed(output)) = &model.over {
            assert_eq!(Some(output), self.snapshot.output().map(tokens).as_ref());
        }
        let head = self.head();
        assert!(head.len() < 2_000, "a head of {} bytes", head.len());
        let index = HeadIndex::of_head(self.snapshot.instance(), &head).unwrap();
        let due = if model.running().is_some() && !model.paused { None } else { model.next_wake().map(at) };
        assert_eq!((index.seq, index.due), (self.snapshot.seq(), due));
        assert_eq!(index.ended.is_some(), model.over.is_some(), "the time of the end is recorded");
        assert_eq!(index.ended, self.snapshot.ended_at());
        assert_eq!(encode_head(program, &self.read_back()), head, "the snapshot read back");
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

pub(crate) fn begin(mut nodes: Vec<Node>, deadline: Option<u64>, input: &[u8]) -> (Real, Model) {
    let definition = definition(&mut nodes, deadline);
    let mut limits = Limits::default();
    limits.signals_buffered_max = SIGNALS_BUFFERED_MAX;
    let now = 1_800_000_000 * SECOND;
    let mut expected = Answer::default();
    let model = Model::new(nodes, deadline, now, input, &mut expected);
    let instance = InstanceId::new("random-1").unwrap();
    let run = RunId::from_bytes([7; 16]);
    let new = NewRun { instance, run, codec: 1, input: input.to_vec().into(), traceparent: None };
    let context = Context { program: definition.program(), limits: &limits, now: at(now) };
    let (snapshot, transition) = start(&context, new);
    let (rows, attempt_ids) = (HashMap::new(), HashMap::new());
    let mut real = Real { definition, limits, snapshot, rows, attempt_ids, asked: None };
    assert!(transition.changed && real.snapshot.seq() == 1);
    assert_eq!(real.take(transition, &model), (expected, model.over.is_some()));
    real.check(&model);
    (real, model)
}
