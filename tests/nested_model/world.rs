//! The naive interpreter: a tree of cursors, the signals that no wait has taken, and the plainest
//! form of each rule.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use everstep::TaskFailure;

use crate::attempt::{Act, Attempt, Stage, Wanted};
use crate::cursor::{Cursor, Doing};
use crate::plan::{Chain, What};
use crate::value::{Val, encode};
use crate::{SECOND, SIGNALS_BUFFERED_MAX};

/// All state but the tree.
pub(crate) struct World {
    pub(crate) now: u64,
    /// Number of events.
    pub(crate) step: u64,
    pub(crate) paused: bool,
    pub(crate) deadline: Option<u64>,
    /// Name, number and payload of each signal that no wait has taken.
    pub(crate) buffer: Vec<(&'static str, u64, String)>,
    accepted: u64,
    pub(crate) seen: HashSet<u32>,
    /// Waits for signals: name, the step since which they wait, and frame.
    pub(crate) waiting: BTreeSet<(&'static str, u64, u64)>,
    frames: u64,
    pub(crate) serial: u64,
    pub(crate) more_iterations: u64,
    pub(crate) list_bytes_max: usize,
    /// The latest result of each task, by path and map indices; none if its item is not in the
    /// latest list of a map around it.
    pub(crate) results: BTreeMap<(String, Vec<u32>), Option<Val>>,
    pub(crate) answer: Answer,
}

/// The effects of one event.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) refused: bool,
    pub(crate) runs: Vec<Wanted>,
    pub(crate) proceed: BTreeSet<u64>,
    pub(crate) withdraw: BTreeSet<u64>,
    pub(crate) quarantine: bool,
    /// The numbers of signals in the order in which they were buffered or taken.
    pub(crate) signals: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Over {
    Completed(Val),
    Failed(TaskFailure),
    Deadline,
    Cancelled,
}

impl World {
    pub(crate) fn new_frame(&mut self) -> u64 {
        self.frames += 1;
        self.frames
    }

    /// Returns how many frames wait longer for a signal than this one, and how many signals are
    /// buffered.
    pub(crate) fn queue(&self, signal: &'static str, since: u64, frame: u64) -> (usize, usize) {
        let ahead = self.waiting.iter().filter(|one| one.0 == signal && (one.1, one.2) < (since, frame)).count();
        (ahead, self.buffer.iter().filter(|one| one.0 == signal).count())
    }

    /// Returns true if a signal is buffered that no present wait will take.
    pub(crate) fn is_unclaimed(&self, signal: &str) -> bool {
        let waiting = self.waiting.iter().filter(|one| one.0 == signal).count();
        self.buffer.iter().filter(|one| one.0 == signal).count() > waiting
    }

    pub(crate) fn take(&mut self, signal: &str) -> String {
        let first = self.buffer.iter().position(|one| one.0 == signal).unwrap();
        let (_, number, payload) = self.buffer.remove(first);
        self.answer.signals.push(number);
        payload
    }

    /// Handles a new list of a map: results of items past its end are gone, and those of the other
    /// items are unknown.
    pub(crate) fn split(&mut self, map: &str, around: &[u32], items: usize) {
        let within = format!("{map}/");
        self.results.retain(|(path, indices), result| {
            let is_item = path.starts_with(&within) && indices.starts_with(around);
            let Some(index) = indices.get(around.len()).filter(|_| is_item) else { return true };
            if *index as usize >= items {
                *result = None;
            }
            result.is_some() || *index as usize >= items
        });
    }

    /// Ends the wait of a cursor.
    pub(crate) fn forget(&mut self, cursor: &Cursor<'_>) {
        if let (Doing::Wait { since, .. }, What::Wait { signal, .. }) = (&cursor.doing, cursor.what()) {
            self.waiting.remove(&(*signal, *since, cursor.frame));
        }
    }

    fn first_waiting(&self, signal: &str) -> Option<u64> {
        self.waiting.iter().find(|one| one.0 == signal).map(|one| one.2).filter(|_| !self.paused)
    }
}

impl<'p> Cursor<'p> {
    /// Returns the node at the cursor; at a chain's end one that holds no cursor.
    pub(crate) fn what(&self) -> &'p What {
        self.chain.nodes.get(self.at).map_or(&What::Delay(0), |node| &node.what)
    }
}

pub(crate) struct Model<'p> {
    pub(crate) root: Cursor<'p>,
    pub(crate) world: World,
    pub(crate) over: Option<Over>,
    signals: HashSet<&'static str>,
}

impl<'p> Model<'p> {
    pub(crate) fn new(plan: &'p Chain, deadline: Option<u64>, list_bytes_max: usize, now: u64, input: String) -> Self {
        let world = World {
            now,
            step: 1,
            paused: false,
            deadline: deadline.map(|seconds| now + seconds * SECOND),
            buffer: Vec::new(),
            accepted: 0,
            seen: HashSet::new(),
            waiting: BTreeSet::new(),
            frames: 0,
            serial: 0,
            more_iterations: 0,
            list_bytes_max,
            results: BTreeMap::new(),
            answer: Answer::default(),
        };
        let root = Cursor::new(plan, Val::Text(input), 0, Vec::new(), Vec::new());
        let mut signals = HashSet::new();
        plan.declared(&mut signals);
        let mut model = Self { root, world, over: None, signals };
        // A cursor on its way continues at any event.
        model.act(0, &Act::Retry);
        model
    }

    /// Applies an event to a frame.
    fn act(&mut self, frame: u64, act: &Act) {
        if self.over.is_some() {
            return;
        }
        match self.root.at(&mut self.world, frame, act) {
            Some(Ok(Some(output))) => self.over = Some(Over::Completed(output)),
            Some(Err(failure)) => self.over = Some(Over::Failed(failure)),
            Some(Ok(None)) | None => {}
        }
    }

    /// Applies an event to every frame, in their order.
    fn act_all(&mut self, act: &Act) {
        for frame in self.frames() {
            self.act(frame, act);
        }
    }

    fn frames(&self) -> BTreeSet<u64> {
        self.root.leaves().iter().map(|leaf| leaf.frame).collect()
    }

    /// Returns the attempts that are handed out, with their cursors.
    pub(crate) fn running(&self) -> BTreeMap<u64, &Cursor<'p>> {
        let running = self.root.leaves().into_iter().filter_map(|leaf| match leaf.doing {
            Doing::Code(Attempt { serial, stage: Stage::Running { .. }, .. }) => Some((serial, leaf)),
            _ => None,
        });
        running.filter(|_| self.over.is_none()).collect()
    }

    pub(crate) fn next_wake(&self) -> Option<u64> {
        let own = self.root.leaves().into_iter().filter_map(|leaf| leaf.until(&self.world));
        own.chain(self.world.deadline).min().filter(|_| self.over.is_none())
    }

    /// Handles the passing of time.
    pub(crate) fn wake(&mut self) {
        if self.over.is_none() && self.world.deadline.is_some_and(|deadline| deadline <= self.world.now) {
            self.over = Some(Over::Deadline);
        }
        let due = |leaf: &&Cursor<'p>| leaf.until(&self.world).is_some_and(|until| until <= self.world.now);
        let due: BTreeSet<_> = self.root.leaves().into_iter().filter(due).map(|leaf| leaf.frame).collect();
        for frame in due {
            self.act(frame, &Act::Due);
        }
    }

    /// Hands buffered signals to waits, the longest waiting first.
    fn serve(&mut self) {
        let names: BTreeSet<_> = self.world.buffer.iter().map(|one| one.0).collect();
        for name in names {
            while let Some(frame) = self.world.first_waiting(name).filter(|_| self.over.is_none())
                && self.world.buffer.iter().any(|one| one.0 == name)
            {
                let payload = self.world.take(name);
                self.act(frame, &Act::Signal(payload));
            }
        }
    }

    /// Returns the effects of the last event. An attempt that ended with it was never asked for.
    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = std::mem::take(&mut self.world.answer);
        let running: BTreeSet<_> = self.running().into_keys().collect();
        answer.runs.retain(|run| running.contains(&run.serial));
        answer
    }

    /// Applies an event to one attempt that is handed out.
    pub(crate) fn attempt(&mut self, serial: u64, act: &Act) {
        let frame = self.running().get(&serial).map(|leaf| leaf.frame);
        if frame.is_some() && self.world.deadline.is_some_and(|deadline| deadline <= self.world.now) {
            self.over = Some(Over::Deadline);
        } else if let Some(frame) = frame {
            self.act(frame, act);
        }
    }

    pub(crate) fn pause(&mut self) {
        if self.over.is_none() && !self.world.paused {
            self.world.answer.withdraw = self.running().into_keys().collect();
            self.world.paused = true;
        }
        self.world.answer.refused = self.over.is_some();
    }

    pub(crate) fn unpause(&mut self) {
        self.world.answer.refused = self.over.is_some() || !self.world.paused;
        if !self.world.answer.refused {
            self.world.paused = false;
            if self.world.deadline.is_some_and(|deadline| deadline <= self.world.now) {
                self.over = Some(Over::Deadline);
                return;
            }
            self.serve();
            self.act_all(&Act::Ready);
            self.wake();
        }
    }

    pub(crate) fn cancel(&mut self) {
        self.world.answer.refused = self.over.is_some();
        self.over.get_or_insert(Over::Cancelled);
    }

    pub(crate) fn signal(&mut self, name: &'static str, id: u32, payload: String) {
        if self.world.seen.contains(&id) {
            return;
        }
        self.world.answer.refused = self.over.is_some() || !self.signals.contains(name);
        if self.world.answer.refused {
            return;
        }
        self.wake();
        let waited_for = self.world.first_waiting(name).is_some();
        let is_full = self.world.buffer.len() >= SIGNALS_BUFFERED_MAX as usize && !waited_for;
        self.world.answer.refused = self.over.is_some() || is_full;
        if !self.world.answer.refused {
            self.world.seen.insert(id);
            let number = self.world.accepted;
            self.world.accepted += 1;
            self.world.buffer.push((name, number, payload));
            if waited_for {
                self.serve();
            } else {
                self.world.answer.signals.push(number);
            }
        }
    }

    pub(crate) fn resume(&mut self, alive: BTreeSet<u64>, process_crashed: bool) {
        if self.over.is_none() && self.world.deadline.is_some_and(|deadline| deadline <= self.world.now) {
            self.over = Some(Over::Deadline);
            return;
        }
        let kills = |(serial, leaf): (&u64, &&Cursor<'p>)| {
            let Doing::Code(Attempt { crashes, stage: Stage::Running { since: Some(_) }, .. }) = leaf.doing else {
                return false;
            };
            process_crashed && crashes == 4 && !alive.contains(serial)
        };
        self.world.answer.quarantine = self.running().iter().any(kills);
        if self.over.is_none() && !self.world.answer.quarantine {
            self.act_all(&Act::Resumed { alive, process_crashed });
            self.wake();
        }
    }

    pub(crate) fn release(&mut self) {
        self.act_all(&Act::Forgive);
        self.resume(BTreeSet::new(), false);
    }

    pub(crate) fn retry(&mut self, deadline: Option<u64>) {
        let failed = matches!(self.over, Some(Over::Failed(_) | Over::Deadline));
        let deadline = deadline.map(|seconds| self.world.now + seconds * SECOND).or(self.world.deadline);
        self.world.answer.refused = !failed || deadline.is_some_and(|deadline| deadline <= self.world.now);
        if self.world.answer.refused {
            return;
        }
        (self.world.deadline, self.over) = (deadline, None);
        self.world.paused = false;
        self.act_all(&Act::Retry);
        self.serve();
        self.wake();
    }

    /// Returns the cursor that decides the status: work first, then the nearest wake-up, then the
    /// first by path.
    pub(crate) fn deciding(&self) -> &Cursor<'p> {
        let rank = |leaf: &&Cursor<'p>| {
            let class = match leaf.doing {
                Doing::Code(_) => (0, 0),
                Doing::Delay { until } | Doing::Wait { until: Some(until), .. } => (1, until),
                Doing::Wait { until: None, .. } => (2, 0),
                _ => (3, 0),
            };
            (class, leaf.path(), leaf.frame)
        };
        self.root.leaves().into_iter().min_by_key(rank).unwrap()
    }
}

impl<'p> Cursor<'p> {
    pub(crate) fn path(&self) -> &'p str {
        self.chain.nodes.get(self.at).map_or("", |node| &node.path)
    }
}

/// Returns a payload as it is sent.
pub(crate) fn sent(payload: &str) -> everstep::bytes::Bytes {
    encode(&payload)
}
