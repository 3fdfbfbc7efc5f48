//! The machine side by side with the model: it gets the same events through the lifecycle and a
//! store, asks for the same effects, and is read back from its writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use everstep::bytes::Bytes;
use everstep::lifecycle::{
    Caller, Step, UpgradeError, fill_frames, fill_run, fill_values, get_resume_input, load, read_signal_id, step,
    task_result, upgrade,
};
use everstep::limits::Limits;
use everstep::machine::{AttemptId, Context, Effect, Event, NewRun, RowKey, Run, Snapshot, Wake, encode_head, start};
use everstep::store::{Change, Condition, Write};
use everstep::{
    CancellationToken, Codec, Definition, Deps, Failure, InstanceId, MemoryStore, NodeNames as _, Output as _, RunId,
    SignalOutcome, Stamp, Status, Store as _, Timestamp, Value,
};
use futures_util::FutureExt as _;

use crate::cursor::{Cursor, Doing};
use crate::plan::{Gives, What};
use crate::value::{Val, tokens};
use crate::world::{Answer, Model, Over};

pub(crate) fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros)
}

/// Returns the output of a future that is ready at once: everything here is in memory.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

/// The machine's side: a snapshot, its store, and its latest requests.
pub(crate) struct Real {
    pub(crate) definition: Arc<Definition>,
    pub(crate) limits: Limits,
    pub(crate) snapshot: Snapshot,
    store: MemoryStore,
    /// Attempts by the model's serial.
    pub(crate) runs: BTreeMap<u64, Run>,
    /// Attempts in progress.
    pub(crate) at_work: BTreeSet<u64>,
    /// The wake-up asked for, once that is known.
    asked: Option<Wake>,
}

impl Real {
    /// Starts an instance, and compares the first transition.
    pub(crate) fn start(definition: Arc<Definition>, limits: Limits, model: &mut Model<'_>, input: &str) -> Self {
        let (instance, run) = (InstanceId::new("random-1").unwrap(), RunId::from_bytes([7; 16]));
        let input = Codec::MessagePack.encode(&input, usize::MAX).unwrap();
        let new = NewRun { instance, run, codec: 1, input, traceparent: None };
        let context = Context { program: definition.program(), limits: &limits, now: at(model.world.now) };
        let (snapshot, transition) = start(&context, new);
        let write = Write {
            instance: snapshot.instance().clone(),
            stamp: Stamp::generate(),
            condition: Condition::Absent,
            change: Change::Head(encode_head(definition.program(), &snapshot)),
            rows: transition.rows,
            run,
            superseded: None,
        };
        let (store, runs, at_work) = (MemoryStore::new(), BTreeMap::new(), BTreeSet::new());
        let mut real = Self { definition, limits, snapshot, store, runs, at_work, asked: None };
        let started = Step { write: Some(write), refused: None, effects: transition.effects };
        let expected = model.answer();
        real.take(started, &expected, model, false);
        real
    }

    /// Reads the snapshot back, as a process does that activates the instance.
    pub(crate) fn restart(&mut self, fill: bool) {
        let instance = self.snapshot.instance().clone();
        let program = self.definition.program();
        let mut snapshot = now(load(&self.store, &instance)).unwrap().unwrap().snapshot;
        assert_eq!(snapshot.status(program), self.snapshot.status(program), "the status from the head alone");
        assert!(snapshot.end().is_some() || snapshot.status_code() == self.snapshot.status_code());
        now(fill_frames(&self.store, program, &mut snapshot)).unwrap();
        if fill {
            now(fill_values(&self.store, program, &mut snapshot)).unwrap();
        }
        let head = encode_head(program, &snapshot);
        assert_eq!(head, encode_head(program, &self.snapshot), "the snapshot read back");
        (self.snapshot, self.asked) = (snapshot, None);
    }

    /// Upgrades the stored instance to a newer definition; returns true if that has the instance's
    /// place.
    pub(crate) fn upgrade(&mut self, newer: Arc<Definition>, time: Timestamp, fill: bool) -> bool {
        let id = self.snapshot.instance().clone();
        now(self.store.save_manifest(&self.definition.hash(), self.definition.manifest().encode())).unwrap();
        let before = now(self.store.load(&id)).unwrap().unwrap();
        let snapshot = now(load(&self.store, &id)).unwrap().unwrap().snapshot;
        let context = Context { program: newer.program(), limits: &self.limits, now: time };
        let upgraded = now(upgrade(&self.store, &context, &newer, &newer.upgrades_from()[0], snapshot));
        let after = now(self.store.load(&id)).unwrap().unwrap();
        match upgraded {
            Ok(snapshot) => {
                assert!(after.head.len() < before.head.len().max(1_000) + 20, "a head of {} bytes", after.head.len());
                (self.snapshot, self.definition) = (snapshot, newer);
                self.restart(fill);
                true
            }
            Err(UpgradeError::NoPlace(_)) => {
                assert_eq!(after, before, "an instance that cannot be upgraded is unchanged");
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Applies the model's event to the machine, and compares the results.
    pub(crate) fn tell(&mut self, event: Event, model: &mut Model<'_>, was_over: bool) {
        let expected = model.answer();
        let (seq, definition) = (self.snapshot.seq(), Arc::clone(&self.definition));
        let head = encode_head(definition.program(), &self.snapshot);
        if let Event::Signal { id, .. } = &event {
            now(read_signal_id(&self.store, &mut self.snapshot, id)).unwrap();
        }
        let context = Context { program: definition.program(), limits: &self.limits, now: at(model.world.now) };
        match step(&context, &mut self.snapshot, event) {
            Ok(done) => {
                assert_eq!(self.snapshot.seq(), seq + u64::from(done.write.is_some()), "one number per change");
                let same = encode_head(definition.program(), &self.snapshot) == head;
                assert!(done.write.is_some() || same, "a change is never silent");
                self.take(done, &expected, model, was_over);
            }
            Err(refusal) => {
                assert!(expected.refused, "{refusal}");
                assert_eq!(encode_head(definition.program(), &self.snapshot), head, "a refusal changes nothing");
            }
        }
    }

    /// Commits a step, carries out its requests, and compares them.
    fn take(&mut self, done: Step, expected: &Answer, model: &Model<'_>, was_over: bool) {
        let mut ours = Answer { refused: done.refused.is_some(), ..Answer::default() };
        if let Some(write) = done.write {
            let signals = write.rows.iter().filter_map(|row| match row.key {
                RowKey::Signal(number) | RowKey::SignalId(number) => Some(number),
                _ => None,
            });
            ours.signals = signals.collect();
            // A consumed signal leaves its buffered row for that of its id.
            ours.signals.dedup();
            let largest = write.rows.iter().filter(|row| matches!(row.key, RowKey::Frame(_)));
            let largest = largest.filter_map(|row| row.value.as_ref().map(Bytes::len)).max();
            assert!(largest.is_none_or(|bytes| bytes < 1_500), "a record of {largest:?} bytes");
            let Change::Head(head) = &write.change else { unreachable!("only heads are written") };
            assert!(head.len() < 1_500, "a head of {} bytes", head.len());
            assert_eq!(now(self.store.commit(&[write])).unwrap(), [Ok(())]);
        }
        let serial = |real: &Self, attempt_id: AttemptId| {
            real.runs.iter().find(|(_, run)| run.attempt_id == attempt_id).map(|(serial, _)| *serial)
        };
        let (mut runs, mut stopped, mut ended) = (Vec::new(), Vec::new(), false);
        for effect in done.effects {
            match effect {
                Effect::Run(run) => runs.push(run),
                Effect::Stop { attempt_id } => {
                    runs.retain(|run| run.attempt_id != attempt_id);
                    stopped.push(attempt_id);
                }
                Effect::Proceed { attempt_id } => drop(ours.proceed.insert(serial(self, attempt_id).unwrap())),
                Effect::Withdraw { attempt_id } => drop(ours.withdraw.insert(serial(self, attempt_id).unwrap())),
                Effect::WakeAt(wake) => self.asked = Some(wake),
                Effect::Ended => ended = true,
                Effect::Quarantine { .. } => ours.quarantine = true,
            }
        }
        self.at_work.retain(|serial| !stopped.contains(&self.runs[serial].attempt_id));
        assert_eq!(runs.len(), expected.runs.len(), "{runs:?} asked for, not {:?}", expected.runs);
        for (mut run, wanted) in runs.into_iter().zip(&expected.runs) {
            now(fill_run(&self.store, self.definition.program(), &self.snapshot, &mut run)).unwrap();
            let path = self.definition.program().path(run.node).unwrap();
            assert_eq!((path.as_str(), &*run.execution_path), (&*wanted.path, &*wanted.turns), "the task that runs");
            assert_eq!(tokens(&run.value), wanted.value.tokens(), "the input of `{path}`");
            let timeout = run.timeout.map(|timeout| u64::try_from(timeout.as_micros()).unwrap());
            let asked = (run.attempt, timeout, run.announce, run.alone);
            assert_eq!(
                asked,
                (wanted.attempt, wanted.timeout, wanted.announce, wanted.alone),
                "the options of `{path}`"
            );
            assert!(serial(self, run.attempt_id).is_none(), "a attempt_id is given once: {:?}", run.attempt_id);
            self.runs.insert(wanted.serial, run);
            self.at_work.insert(wanted.serial);
        }
        ours.runs.clone_from(&expected.runs);
        assert_eq!(&ours, expected, "(the machine's, the model's)");
        assert_eq!(ended, model.over.is_some() && !was_over, "the end of the run");
        let running: BTreeSet<_> = model.running().into_keys().collect();
        assert!(self.at_work.is_subset(&running), "unwanted attempts are stopped: {:?}", self.at_work);
        self.check(model);
    }

    fn check(&self, model: &Model<'_>) {
        let program = self.definition.program();
        assert_eq!(self.snapshot.status(program), status(model));
        // Recovery finds instances in progress; only their time finds all others.
        let in_progress = !model.running().is_empty() && !model.world.paused;
        let wake = Wake { at: model.next_wake().map(at), stored: model.next_wake().is_none() || !in_progress };
        assert_eq!(self.snapshot.wake(), wake);
        assert!(self.asked.is_none_or(|asked| asked == wake), "asked for {:?}, not {wake:?}", self.asked);
        let due = wake.at.filter(|_| !in_progress).map(|at| (at, self.snapshot.instance().clone()));
        assert_eq!(now(self.store.due(None, 2)).unwrap(), due.into_iter().collect::<Vec<_>>(), "the store's list");
        assert_eq!(self.snapshot.is_paused(), model.world.paused && model.over.is_none());
        if let Some(Over::Completed(output)) = &model.over {
            assert_eq!(self.snapshot.output().map(|output| self.read(output)), Some(output.tokens()), "the output");
        }
        let waits: Vec<_> = self.snapshot.waits(program);
        let mut leaves = model.root.leaves();
        leaves.sort_by_key(|leaf| leaf.frame);
        let expected = leaves.into_iter().filter(|_| model.over.is_none()).filter_map(waiting);
        assert_eq!(waits, expected.collect::<Vec<_>>(), "the waits");
    }

    /// Checks state that only an instance with all its values read can show.
    pub(crate) fn check_values(&self, model: &Model<'_>) {
        let mut snapshot = self.snapshot.clone();
        now(fill_values(&self.store, self.definition.program(), &mut snapshot)).unwrap();
        if model.over.is_none() && !model.world.paused {
            let input = get_resume_input(&snapshot).unwrap();
            assert_eq!(tokens(&input), model.deciding().value.tokens(), "the value to continue with");
        }
        for ((path, indices), value) in &model.world.results {
            let result = task_result(&self.store, self.definition.manifest(), &snapshot, path, indices);
            let (found, expected) = (now(result).unwrap().as_ref().map(tokens), value.as_ref().map(Val::tokens));
            assert_eq!(found, expected, "the result of `{path}` at {indices:?}");
        }
    }

    fn read(&self, value: &Value) -> Vec<everstep::Token> {
        let attempt_id = AttemptId { frame: 0, issued: 0 };
        let (value, execution_path) = (value.clone(), [].into());
        let (attempt, node, task, timeout, announce, alone) = (1, 0, 0, None, false, false);
        let mut run = Run { attempt_id, attempt, node, task, value, execution_path, timeout, announce, alone };
        now(fill_run(&self.store, self.definition.program(), &self.snapshot, &mut run)).unwrap();
        tokens(&run.value)
    }

    /// Calls the code of an attempt for real. A task returns its input as text, which the story's
    /// result then replaces.
    pub(crate) fn call(&self, serial: u64, cursor: &Cursor<'_>, gives: &Val) -> Value {
        let caller = Caller {
            definition: Arc::clone(&self.definition),
            deps: Arc::new(Deps::new()),
            codec: Codec::MessagePack,
            limits: (&Limits::default()).into(),
        };
        let (instance, run) = (self.snapshot.instance(), self.runs[&serial].clone());
        let attempt = caller.call(instance, self.snapshot.run(), run, at(0), CancellationToken::new());
        let shown = now(attempt).unwrap();
        match cursor.what() {
            What::Task { gives: form, reads, .. } => {
                assert_eq!(text(form, &shown), cursor.value.shown(reads), "the input of `{}`", cursor.path());
                Value::from_tokens(gives.tokens())
            }
            What::Route { .. } => shown,
            _ => {
                assert_eq!(tokens(&shown), gives.tokens(), "the result of `{}`", cursor.path());
                shown
            }
        }
    }
}

/// Returns the text that a task returned in its own form.
fn text(gives: &Gives, shown: &Value) -> String {
    let payload = Value::from_tokens(shown.tokens().last().cloned().into_iter().collect());
    let codec = Codec::MessagePack;
    match gives {
        Gives::List => Vec::<String>::decode(&payload, &codec).unwrap().remove(0),
        _ => String::decode(&payload, &codec)
            .or_else(|_| match SignalOutcome::<String>::decode(&payload, &codec)? {
                SignalOutcome::Received(text) => Ok(text),
                SignalOutcome::TimedOut => unreachable!("a task shows its input"),
            })
            .unwrap_or_else(|error: everstep::CodecError| panic!("{error}")),
    }
}

fn waiting(leaf: &Cursor<'_>) -> Option<Status> {
    let node = everstep::NodePath::new(leaf.path());
    match (&leaf.doing, leaf.what()) {
        (Doing::Delay { until }, _) => Some(Status::Waiting { wake_at: at(*until), delay: node }),
        (Doing::Wait { until, .. }, What::Wait { signal, .. }) => {
            Some(Status::AwaitingSignal { node, signal: (*signal).into(), wake_at: until.map(at) })
        }
        _ => None,
    }
}

fn status(model: &Model<'_>) -> Status {
    match &model.over {
        Some(Over::Completed(_)) => Status::Completed,
        Some(Over::Deadline) => Status::Failed { failure: Failure::DeadlineExceeded },
        Some(Over::Cancelled) => Status::Cancelled { reason: "why".into(), by: "who".into() },
        Some(Over::Failed(failure)) => Status::Failed { failure: Failure::Task(failure.clone()) },
        None if model.world.paused => Status::Paused { reason: "why".into(), by: "who".into() },
        None => waiting(model.deciding()).unwrap_or(Status::InProgress),
    }
}
