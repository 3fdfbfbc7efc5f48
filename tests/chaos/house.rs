//! The store of a round: faults at every call, panics, and damaged heads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use everstep::store::{Answers, Call, Fault, FaultyStore, Loaded, Write};
use everstep::{BoxFuture, FileStore, InstanceId, Limits, MemoryStore, Store as _, StoreError};
use tempfile::TempDir;

use crate::dice::Dice;
use crate::through::{Hooks, Through};

/// The longest that one call may take before it counts as one that hangs. Never a measure of speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

const PLANNED: &str = "a planned panic of the store";

/// The store and the limits of a round.
pub(crate) struct House {
    pub(crate) store: FaultyStore,
    pub(crate) storm: Storm,
    pub(crate) limits: Limits,
    /// Exists until the round is over.
    dir: Option<TempDir>,
}

/// A switch for the store's faults. Clones share it.
#[derive(Clone)]
pub(crate) struct Storm {
    is_on: Arc<AtomicBool>,
    dice: Dice,
    panics: bool,
}

/// Hooks that damage some of the heads that are read, while the storm is on.
struct Rot(Storm);

impl House {
    /// Draws a store and its limits. If `rots`, the store is in memory and some heads come back
    /// damaged.
    pub(crate) async fn draw(dice: &Dice, rots: bool) -> Self {
        let storm = Storm { is_on: Arc::default(), dice: dice.clone(), panics: dice.one_in(2) };
        let mut limits = Limits::default();
        limits.resident_max = dice.limit(1, 8);
        limits.tasks_running_max = dice.limit(1, 4);
        limits.timer_window_max = dice.limit(2, 64);
        let (faulty, dir) = if dice.one_in(2) {
            let dir = tempfile::tempdir().unwrap();
            (FaultyStore::new(FileStore::open(dir.path()).await.unwrap()), Some(dir))
        } else if rots {
            let rot = Arc::new(Rot(storm.clone()));
            (FaultyStore::new(Through::new(&MemoryStore::new(), &rot)), None)
        } else {
            (FaultyStore::new(MemoryStore::new()), None)
        };
        let plan = storm.clone();
        faulty.plan(move |_, call| plan.fault(call));
        Self { store: faulty, storm, limits, dir }
    }
}

impl std::fmt::Display for House {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Limits { resident_max, tasks_running_max, timer_window_max, .. } = &self.limits;
        let store = if self.dir.is_some() { "files" } else { "memory" };
        let panics = self.storm.panics;
        write!(f, "{store}, room {resident_max}, slots {tasks_running_max}, window {timer_window_max}, panics {panics}")
    }
}

impl Storm {
    pub(crate) fn begin(&self) {
        self.is_on.store(true, Ordering::SeqCst);
    }

    pub(crate) fn end(&self) {
        self.is_on.store(false, Ordering::SeqCst);
    }

    fn is_on(&self) -> bool {
        self.is_on.load(Ordering::SeqCst)
    }

    fn fault(&self, call: &Call<'_>) -> Fault {
        if !self.is_on() {
            return Fault::None;
        }
        let often = match call {
            Call::Commit(_) => 150,
            Call::Reopen => 3,
            Call::Due | Call::Instances | Call::Ended | Call::Sweep => 20,
            _ => 400,
        };
        if self.panics {
            assert!(!self.dice.one_in(often * 4), "{PLANNED}");
        }
        if !self.dice.one_in(often) {
            return if self.dice.one_in(30) { slow() } else { Fault::None };
        }
        let error =
            if self.dice.one_in(2) { StoreError::Fatal("chaos".into()) } else { StoreError::Transient("chaos".into()) };
        if self.dice.one_in(2) { Fault::FailBefore(error) } else { Fault::FailAfter(error) }
    }
}

fn slow() -> Fault {
    Fault::Wait(Box::pin(async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        Fault::None
    }))
}

impl Hooks for Rot {
    fn commit<'a>(&'a self, store: &'a MemoryStore, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        store.commit(batch)
    }

    fn loaded(&self, _: &InstanceId, found: Option<Loaded>) -> Option<Loaded> {
        let mut found = found?;
        if self.0.is_on() && self.0.dice.one_in(300) {
            let mut head = found.head.to_vec();
            let at = self.0.dice.limit(0, head.len() - 1);
            head[at] ^= 1;
            found.head = Bytes::from(head);
        }
        Some(found)
    }
}

/// Keeps the panics that the storm plans out of the test's output.
pub(crate) fn silence_planned_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let text = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
            if !text.starts_with(PLANNED) {
                others(panic);
            }
        }));
    });
}
