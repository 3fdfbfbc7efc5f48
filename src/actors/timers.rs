//! Wakes instances when they are due. Wakes only: what is due is decided by the machine, by the clock.
//!
//! In memory is a window of the nearest wake-ups; those behind the horizon are in the store's due index and read when
//! the window runs low. So a hundred thousand parked instances cost no memory here, and nothing is lost with the process.
//!
//! ```text
//!        now            horizon
//!   ------|---armed------|---in the store only------->
//! ```
//!
//! A wake-up of an instance whose tasks run has no row in the store, and stays in memory wherever it lies.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use tokio::sync::{Semaphore, watch};

use super::hub::Hub;
use super::mail::Mail;
use super::registry::Full;
use crate::clock::{Clock, sleep_until};
use crate::id::InstanceId;
use crate::machine::Wake;
use crate::time::Timestamp;

/// The longest sleep: the wall clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Wake-ups that were sent and are not handled: more would only be actors that wait for a thread, where those that have left
/// can be used again.
const UNDER_WAY_MAX: u32 = 256;
/// How long to wait when the store could not be read.
const RETRY_AFTER: Duration = Duration::from_millis(20);

pub(super) enum TimerMessage {
    /// Wake an instance at this time instead of the one before.
    Arm { instance: InstanceId, wake: Wake },
    /// Wake an instance that was just started, if it has not asked for something newer. An earlier time that is known stays,
    /// a later one does not: it may be of a run that was deleted. To be woken too early does no harm.
    ArmFresh { instance: InstanceId, wake: Wake },
    /// Something may be due, or the window be low. The first comes from the root, when everything is there.
    Tick,
    /// The store has failed: wake-ups on their way may be lost, so the due index is read from the start again.
    Reset,
}

type Due = (Timestamp, InstanceId);

struct Timers;

pub(super) struct State {
    hub: Weak<Hub>,
    clock: Arc<dyn Clock>,
    window_max: usize,
    /// The nearest of those that the due index lists.
    window: BTreeSet<Due>,
    /// Those that it does not: of instances whose tasks run.
    resident: BTreeSet<Due>,
    /// Both by instance, and which of the two.
    times: HashMap<InstanceId, (Timestamp, bool)>,
    /// Rows of the due index up to here were read; `None` is before the first.
    read_to: Option<Due>,
    /// Whether there may be rows behind that.
    more: bool,
    /// Places for wake-ups under way.
    places: Arc<Semaphore>,
    /// Whether a tick is on its way after a pause, because the last one could not do all it should.
    resting: bool,
    /// When to tick next, for the sleeper.
    alarm: watch::Sender<Option<Timestamp>>,
}

pub(super) async fn spawn(hub: &Arc<Hub>, root: ActorCell) -> Result<ActorRef<TimerMessage>, SpawnErr> {
    let (alarm, _) = watch::channel(None);
    let state = State {
        hub: Arc::downgrade(hub),
        clock: Arc::clone(&hub.clock),
        window_max: hub.limits.timer_window_max.max(2),
        window: BTreeSet::new(),
        resident: BTreeSet::new(),
        times: HashMap::new(),
        read_to: None,
        more: true,
        places: Arc::new(Semaphore::new(UNDER_WAY_MAX as usize)),
        resting: false,
        alarm,
    };
    Ok(Actor::spawn_linked(None, Timers, state, root).await?.0)
}

/// Sleeps until the alarm and ticks; ends with the actor.
async fn sleeper(clock: Arc<dyn Clock>, mut alarm: watch::Receiver<Option<Timestamp>>, timers: ActorRef<TimerMessage>) {
    loop {
        let next = *alarm.borrow_and_update();
        let changed = match next {
            Some(at) if at <= clock.now() => {
                if timers.cast(TimerMessage::Tick).is_err() {
                    return;
                }
                alarm.changed().await
            }
            Some(at) => tokio::select! {
                changed = alarm.changed() => changed,
                () = sleep_until(&*clock, at, SLEEP_MAX) => Ok(()),
            },
            None => alarm.changed().await,
        };
        if changed.is_err() {
            return;
        }
    }
}

impl Actor for Timers {
    type Msg = TimerMessage;
    type State = State;
    type Arguments = State;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, state: State) -> Result<State, ActorProcessingErr> {
        tokio::spawn(sleeper(Arc::clone(&state.clock), state.alarm.subscribe(), myself));
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: TimerMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let ticked = matches!(message, TimerMessage::Tick);
        let alarm = match message {
            TimerMessage::Arm { instance, wake } => {
                state.arm(instance, wake);
                state.next_alarm()
            }
            TimerMessage::ArmFresh { instance, wake } => {
                let known = state.times.get(&instance).map(|(at, _)| *at);
                if known.is_none_or(|known| wake.at.is_some_and(|at| at < known)) {
                    state.arm(instance, wake);
                }
                state.next_alarm()
            }
            TimerMessage::Reset => {
                (state.read_to, state.more) = (None, true);
                myself.cast(TimerMessage::Tick)?;
                return Ok(());
            }
            TimerMessage::Tick => {
                let Some(hub) = state.hub.upgrade() else { return Ok(()) };
                let read = state.refill(&hub).await;
                let fired = state.fire(&hub);
                state.resting = match fired {
                    Fired::All => !read,
                    Fired::Some => false,
                    Fired::Enough | Fired::NoRoom(..) => true,
                };
                if state.resting {
                    let places = Arc::clone(&state.places);
                    tokio::spawn(async move {
                        match fired {
                            Fired::Enough => {
                                drop(hub);
                                // Not one by one: each tick costs more than a wake-up. Never closed.
                                drop(places.acquire_many(UNDER_WAY_MAX / 2).await);
                            }
                            // In line with callers: who only looked now and then whether there is room would find none
                            // while there is always somebody who waits for it.
                            Fired::NoRoom(instance, wake) => hub.send(&instance, wake).await,
                            Fired::All | Fired::Some => tokio::time::sleep(RETRY_AFTER).await,
                        }
                        // Refused only while the runtime goes down.
                        let _ = myself.cast(TimerMessage::Tick);
                    });
                }
                state.next_alarm()
            }
        };
        state.alarm.send_if_modified(|set| {
            let changed = *set != alarm;
            *set = alarm;
            // After a tick the sleeper waits for this, even if it is the same.
            changed || ticked
        });
        Ok(())
    }
}

enum Fired {
    All,
    Some,
    /// As many are under way as may be.
    Enough,
    /// For this one, which is not armed any more.
    NoRoom(InstanceId, Mail),
}

impl State {
    /// When to tick next: at once if the window is low, or nothing would ever tick for what is behind the horizon.
    fn next_alarm(&self) -> Option<Timestamp> {
        if self.resting {
            return None;
        }
        if self.is_low() { Some(Timestamp::EPOCH) } else { self.next().map(|(at, _)| *at) }
    }

    fn next(&self) -> Option<&Due> {
        self.window.first().into_iter().chain(self.resident.first()).min()
    }

    /// Whether the due index should be read on.
    fn is_low(&self) -> bool {
        self.more && self.window.len() < self.window_max / 2
    }

    fn is_behind_horizon(&self, due: &Due) -> bool {
        self.more && self.read_to.as_ref().is_none_or(|read_to| due > read_to)
    }

    fn arm(&mut self, instance: InstanceId, Wake { at, stored }: Wake) {
        self.disarm(&instance);
        let Some(at) = at else { return };
        let due = (at, instance);
        if stored && self.is_behind_horizon(&due) {
            return;
        }
        self.insert(due, stored);
        if self.window.len() > 2 * self.window_max {
            self.shrink();
        }
    }

    fn insert(&mut self, due: Due, stored: bool) {
        self.times.insert(due.1.clone(), (due.0, stored));
        let set = if stored { &mut self.window } else { &mut self.resident };
        set.insert(due);
    }

    fn disarm(&mut self, instance: &InstanceId) {
        if let Some((at, stored)) = self.times.remove(instance) {
            let set = if stored { &mut self.window } else { &mut self.resident };
            set.remove(&(at, instance.clone()));
        }
    }

    /// Forgets the farthest wake-ups that the store lists, and draws the horizon in before them.
    fn shrink(&mut self) {
        let Some(first_behind) = self.window.iter().nth(self.window_max).cloned() else { return };
        for (_, instance) in self.window.split_off(&first_behind) {
            self.times.remove(&instance);
        }
        let kept_to = self.window.last().cloned();
        // Never forward: rows between the two were not read.
        self.read_to = if self.more { kept_to.min(self.read_to.take()) } else { kept_to };
        self.more = true;
    }

    /// Reads on in the due index when the window is low; false if that failed and must be tried again.
    async fn refill(&mut self, hub: &Hub) -> bool {
        while self.is_low() {
            let page = match hub.store.due(self.read_to.as_ref(), self.window_max).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "the due index could not be read; trying again");
                    return false;
                }
            };
            self.more = page.len() == self.window_max;
            if let Some(last) = page.last() {
                self.read_to = Some(last.clone());
            }
            for due in page {
                // What was armed since is newer than the page.
                if !self.times.contains_key(&due.1) {
                    self.insert(due, true);
                }
            }
        }
        true
    }

    fn fire(&mut self, hub: &Arc<Hub>) -> Fired {
        let now = self.clock.now();
        for _ in 0..UNDER_WAY_MAX {
            let Some((_, instance)) = self.next().filter(|(at, _)| *at <= now).cloned() else { return Fired::All };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Fired::Enough };
            self.disarm(&instance);
            if let Err(Full(wake)) = hub.registry.send(hub, &instance, Mail::Wake { _place: place }) {
                return Fired::NoRoom(instance, wake);
            }
        }
        Fired::Some
    }
}
