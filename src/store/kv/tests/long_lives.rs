//! Tests that the cost of reading a run does not grow with the rows that it has deleted.

use std::convert::Infallible;

use super::*;
use crate::codec::{LoopResult, Token, Value};
use crate::definition::LoopLimit;
use crate::lifecycle;

async fn next(_: (u32, u32)) -> Result<LoopResult<u32, u32>, Infallible> {
    Ok(LoopResult::Again(0))
}

/// A loop whose body waits for two signals in two branches.
struct Rounds {
    workflow: Workflow<u32, u32>,
    limits: Limits,
    store: KvStore<Tombs>,
    snapshot: machine::Snapshot,
    signals: u32,
}

impl Rounds {
    fn start() -> Self {
        let builder = Workflow::builder_for::<u32>("w").repeat("round", LoopLimit::Unlimited, |body| {
            body.fork("both", |fork| {
                fork.branch("a", |b| b.wait_for_signal::<u32>("wait", "a"))
                    .branch("b", |b| b.wait_for_signal::<u32>("wait", "b"))
            })
            .join("next", next)
        });
        let (workflow, limits) = (builder.build().unwrap(), Limits::default());
        let instance = InstanceId::new("one").unwrap();
        let (run, input) = (RunId::generate(NOW), Bytes::from_static(&[1]));
        let new = NewRun { instance, run, codec: 1, input, traceparent: None };
        let context = Context { program: workflow.definition().program(), limits: &limits, now: NOW };
        let (snapshot, transition) = machine::start(&context, new);
        let store = KvStore::over(Tombs::default());
        let mut started = Self { workflow, limits, store, snapshot, signals: 0 };
        started.write(Condition::Absent, transition.rows);
        started
    }

    fn write(&mut self, condition: Condition, rows: Vec<RowChange>) {
        let stamp = Stamp::generate();
        self.snapshot.set_stamp(stamp);
        let head = machine::encode_head(self.workflow.definition().program(), &self.snapshot);
        let (instance, run) = (self.snapshot.instance().clone(), self.snapshot.run());
        let write = Write { instance, stamp, condition, change: Change::Head(head), rows, run, superseded: None };
        assert_eq!(self.store.commit_batch(&[write]).unwrap(), [Ok(())]);
    }

    fn happen(&mut self, event: Event) {
        let seen = Condition::Seen(Version::from(&self.snapshot));
        let context = Context { program: self.workflow.definition().program(), limits: &self.limits, now: NOW };
        let transition = machine::apply(&context, &mut self.snapshot, event).unwrap();
        self.write(seen, transition.rows);
    }

    async fn signal(&mut self, name: &str) {
        self.signals += 1;
        let id = format!("{}", self.signals).into();
        lifecycle::read_signal_id(&self.store, &mut self.snapshot, &id).await.unwrap();
        self.happen(Event::Signal { name: name.into(), id, payload: Bytes::from_static(&[1]) });
    }

    /// Ends both branches and begins the next round: one signal comes before it is waited for.
    async fn go_round(&mut self) {
        self.signal("b").await;
        self.signal("a").await;
        let attempt_id = self.snapshot.running().next().unwrap();
        let again = Value::from(Bytes::from_static(&[1])).behind(Token::Again);
        self.happen(Event::AttemptFinished { attempt_id, outcome: Ok(again) });
    }

    /// Reads the run through a new store over the same map; returns the number of keys skipped for
    /// that.
    async fn taken_up(&mut self) -> u32 {
        let map = std::mem::take(&mut *self.store.kv.map.lock().unwrap());
        self.store = KvStore::over(Tombs { map: Mutex::new(map), passed: AtomicU32::new(0) });
        self.store.kv.passed();
        let mut stored = lifecycle::load(&self.store, self.snapshot.instance()).await.unwrap().unwrap();
        lifecycle::fill_frames(&self.store, self.workflow.definition().program(), &mut stored.snapshot).await.unwrap();
        assert_eq!(stored.snapshot.buffered_signals(), self.snapshot.buffered_signals());
        assert_eq!(stored.snapshot.next_wake(), self.snapshot.next_wake());
        self.snapshot = stored.snapshot;
        self.store.kv.passed()
    }
}

/// Method: in each round buffer and take a signal, and write and end a branch; one signal stays.
/// After each 100 rounds, read the run through a store that has no marks yet.
#[tokio::test]
async fn reading_a_run_passes_by_as_much_behind_more_rounds() {
    let mut rounds = Rounds::start();
    rounds.signal("a").await;
    rounds.signal("a").await;
    for rounds_behind in 1..=MANY {
        rounds.go_round().await;
        if rounds_behind % 100 == 0 {
            let passed = rounds.taken_up().await;
            assert!(passed <= 200, "behind {rounds_behind} rounds: {passed} keys");
        }
    }
}
