//! Compares the window with a plain map of due instances.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// The instances in the model: more than the largest window holds.
const INSTANCES: u8 = 24;

#[derive(Clone, Debug)]
enum Act {
    /// The instance commits: it is due `after` from now, with a row or without, or is not due at
    /// all.
    Commit { instance: u8, after: Option<u64>, stored: bool, is_fresh: bool },
    /// The oldest message to the timers arrives.
    Arrive,
    /// All messages arrive.
    ArriveAll,
    /// Time passes, `reads` pages are read before a read fails, and the window wakes what is due.
    Tick { seconds: u64, reads: usize },
    /// Ticks until nothing is left to be done now; all reads succeed.
    Settle,
    /// A woken instance checks the clock, and arms its timer again.
    Handle,
    /// The store fails: messages and wake-ups in flight are lost, and the window is reset.
    Fail,
}

fn act() -> impl Strategy<Value = Act> {
    let after = prop_oneof![4 => (0_u64..40).prop_map(Some), 1 => Just(None)];
    prop_oneof![
        8 => (0..INSTANCES, after, prop::bool::weighted(0.8), prop::bool::weighted(0.2)).prop_map(
            |(instance, after, stored, is_fresh)| Act::Commit { instance, after, stored, is_fresh }
        ),
        4 => Just(Act::Arrive),
        2 => Just(Act::ArriveAll),
        4 => (0_u64..6, 0_usize..4).prop_map(|(seconds, reads)| Act::Tick { seconds, reads }),
        2 => Just(Act::Settle),
        4 => Just(Act::Handle),
        1 => Just(Act::Fail),
    ]
}

const ALL: [Source; 3] = [Source::Resident, Source::Waiting, Source::Stored];

enum Message {
    Arm(Wake),
    ArmFresh(Wake),
}

struct Model {
    window: Window,
    now: u64,
    /// The wake-up of each instance, and whether it is a row.
    truth: BTreeMap<InstanceId, (Timestamp, bool)>,
    messages: VecDeque<(InstanceId, Message)>,
    /// Instances that were woken and have not handled it yet.
    woken: VecDeque<InstanceId>,
}

fn id(instance: u8) -> InstanceId {
    InstanceId::new(&format!("i{instance}")).unwrap()
}

impl Model {
    fn new(rows_max: usize) -> Self {
        let (truth, messages) = (BTreeMap::new(), VecDeque::new());
        Self { window: Window::new(rows_max), now: 100, truth, messages, woken: VecDeque::new() }
    }

    fn wake(&self, instance: &InstanceId) -> Wake {
        let due = self.truth.get(instance);
        Wake { at: due.map(|(at, _)| *at), stored: due.is_none_or(|(_, stored)| *stored) }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Commit { instance, after, stored, is_fresh } => {
                let (instance, is_known) = (id(instance), self.truth.contains_key(&id(instance)));
                match after {
                    Some(after) => {
                        let at = Timestamp::from_micros(self.now + after);
                        self.truth.insert(instance.clone(), (at, stored));
                    }
                    None => drop(self.truth.remove(&instance)),
                }
                let wake = self.wake(&instance);
                // A fresh run is parked at once, with a row; an earlier wake-up of its id belongs
                // to a deleted run.
                let is_fresh = is_fresh && stored && after.is_some() && !is_known;
                let message = if is_fresh { Message::ArmFresh(wake) } else { Message::Arm(wake) };
                self.messages.push_back((instance, message));
            }
            Act::Arrive => self.arrive(),
            Act::ArriveAll => {
                while !self.messages.is_empty() {
                    self.arrive();
                }
            }
            Act::Tick { seconds, reads } => {
                self.now += seconds;
                self.tick(reads);
            }
            Act::Settle => self.settle(),
            Act::Handle => {
                if let Some(instance) = self.woken.pop_front() {
                    self.handle(instance);
                }
            }
            Act::Fail => {
                self.messages.clear();
                self.woken.clear();
                // Recovery activates instances with running attempts, which arm their timers again.
                let resident: Vec<_> =
                    self.truth.iter().filter(|(_, (_, stored))| !stored).map(|(id, _)| id.clone()).collect();
                for instance in resident {
                    self.messages.push_back((instance.clone(), Message::Arm(self.wake(&instance))));
                }
                self.window.reset();
            }
        }
    }

    fn arrive(&mut self) {
        match self.messages.pop_front() {
            Some((instance, Message::Arm(wake))) => self.window.arm(instance, wake),
            Some((instance, Message::ArmFresh(wake))) => self.window.arm_fresh(instance, wake),
            None => {}
        }
    }

    /// Handles a wake-up: removes the instance if it is due, otherwise arms its timer again.
    fn handle(&mut self, instance: InstanceId) {
        if self.truth.get(&instance).is_some_and(|(at, _)| at.as_micros() <= self.now) {
            self.truth.remove(&instance);
        }
        let wake = self.wake(&instance);
        self.messages.push_back((instance, Message::Arm(wake)));
    }

    /// Reads at most `reads` pages, since the next read fails, and wakes what is due.
    fn tick(&mut self, reads: usize) {
        for _ in 0..reads {
            if !self.window.is_low() {
                break;
            }
            let rows: BTreeSet<Due> = self.rows().collect();
            let behind = rows.into_iter().filter(|due| self.window.read_to().is_none_or(|read_to| due > read_to));
            let page: Vec<_> = behind.take(self.window.page_rows()).collect();
            self.window.fill(page);
        }
        let now = Timestamp::from_micros(self.now);
        for source in ALL {
            while let Some(due) = self.window.take(source, now) {
                // As if some found no room, until they are taken again.
                if source == Source::Stored && due.0.as_micros() % 3 == 0 && !self.window.is_crowded() {
                    self.window.put_back(due);
                } else {
                    self.woken.push_back(due.1);
                }
            }
        }
    }

    fn settle(&mut self) {
        let now = Timestamp::from_micros(self.now);
        let is_due = |window: &Window| {
            let next = ALL.into_iter().filter_map(|source| window.next(source)).min();
            window.is_low() || next.is_some_and(|at| at <= now)
        };
        while is_due(&self.window) {
            self.tick(1);
        }
        for (instance, (at, _)) in &self.truth {
            assert!(*at > now || self.is_under_way(instance), "{instance} was due at {at:?}, and is not woken");
        }
    }

    fn is_under_way(&self, instance: &InstanceId) -> bool {
        self.woken.contains(instance) || self.messages.iter().any(|(of, _)| of == instance)
    }

    fn rows(&self) -> impl Iterator<Item = Due> {
        self.truth.iter().filter(|(_, (_, stored))| *stored).map(|(instance, (at, _))| (*at, instance.clone()))
    }

    fn check(&self) {
        let window = &self.window;
        assert!(window.stored.len() <= 3 * window.rows_max, "{} rows in memory", window.stored.len());
        assert_eq!(window.times.len(), window.stored.len() + window.resident.len() + window.waiting.len());
        for (instance, (at, source)) in &window.times {
            assert!(window.of(*source).contains(&(*at, instance.clone())), "{instance} is not where it should be");
        }
        for (instance, (at, stored)) in &self.truth {
            let in_memory = window.times.get(instance).is_some_and(|(known, _)| known <= at);
            let behind = *stored && window.is_behind_horizon(&(*at, instance.clone()));
            assert!(
                self.is_under_way(instance) || in_memory || behind,
                "{instance} is due at {at:?}, and would never be woken"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Method: random acts in windows of 2 to 6 rows; no row may be forgotten after any of them,
    /// and at the end all due instances were woken.
    #[test]
    fn every_due_row_is_in_memory_or_beyond_the_horizon(rows_max in 2_usize..7, acts in vec(act(), 0..120)) {
        let mut model = Model::new(rows_max);
        for act in acts {
            model.act(&act);
            model.check();
        }
        model.now += 1_000;
        for _ in 0..3 {
            model.act(&Act::ArriveAll);
            model.settle();
            while !model.woken.is_empty() {
                model.act(&Act::Handle);
            }
        }
        prop_assert!(model.truth.is_empty(), "still due: {:?}", model.truth);
    }
}
