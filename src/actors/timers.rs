//! Wakes instances when they are due. Wakes only: what is due is decided by the machine, by the clock.
//!
//! In memory is a [`Window`] of the nearest wake-ups; those behind it are in the store's due index and read when it runs low. So a
//! hundred thousand parked instances cost no memory here, and nothing is lost with the process.
//!
//! ```text
//!                awake ──────────────────────────> woken at once
//! window ── due ┤
//!                asleep ── room? ── yes ─────────> woken at once
//!                            └───── no ── a line ─ woken when there is room
//! ```
//!
//! Instances that are awake never wait behind those for which there is no room: their deadlines may be what makes room.

use std::sync::{Arc, Weak};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use tokio::sync::{Semaphore, watch};

use super::hub::Hub;
use super::mail::Mail;
use super::registry::Full;
use super::window::{Source, Window};
use crate::clock::{Clock, sleep_until};
use crate::id::InstanceId;
use crate::machine::Wake;
use crate::panic::caught;
use crate::time::Timestamp;

/// The longest sleep: the wall clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Wake-ups that were sent and are not handled: more would only be actors that wait for a thread, where those that have left
/// can be used again.
const UNDER_WAY_MAX: u32 = 256;
/// Those among them that wait for room. Further ones stay in the window.
const IN_LINE_MAX: usize = 64;
/// How long to wait when the store could not be read.
const RETRY_AFTER: Duration = Duration::from_millis(20);

pub(super) enum TimerMessage {
    /// Wake an instance at this time instead of the one before.
    Arm { instance: InstanceId, wake: Wake },
    /// Wake an instance that was just started, if it has not asked for something newer: see [`Window::arm_fresh`].
    ArmFresh { instance: InstanceId, wake: Wake },
    /// Something may be due, or the window be low. The first comes from the root, when everything is there.
    Tick,
    /// The same, when a pause is over.
    Rested,
    /// The store has failed: wake-ups on their way may be lost, so the due index is read from the start again.
    Reset,
}

struct Timers;

pub(super) struct State {
    hub: Weak<Hub>,
    clock: Arc<dyn Clock>,
    window: Window,
    /// Places for wake-ups under way.
    places: Arc<Semaphore>,
    /// Places for those among them that wait for room.
    line: Arc<Semaphore>,
    /// Whether `Rested` is on its way, because the last tick could not do all it should.
    resting: bool,
    /// When to tick next, for the sleeper.
    alarm: watch::Sender<Option<Timestamp>>,
}

pub(super) async fn spawn(hub: &Arc<Hub>, root: ActorCell) -> Result<ActorRef<TimerMessage>, SpawnErr> {
    let (alarm, _) = watch::channel(None);
    let state = State {
        hub: Arc::downgrade(hub),
        clock: Arc::clone(&hub.clock),
        window: Window::new(hub.limits.timer_window_max),
        places: Arc::new(Semaphore::new(UNDER_WAY_MAX as usize)),
        line: Arc::new(Semaphore::new(IN_LINE_MAX)),
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
        let (clock, alarm) = (Arc::clone(&state.clock), state.alarm.subscribe());
        tokio::spawn(async move {
            while let Err(panic) = caught(sleeper(Arc::clone(&clock), alarm.clone(), myself.clone())).await {
                tracing::error!(panic, "the clock of the timers failed; trying again");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        });
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: TimerMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let ticked = matches!(message, TimerMessage::Tick);
        if let Err(panic) = caught(state.handle(message, &myself)).await {
            // Whatever it was about to wake is in the store.
            tracing::error!(panic, "the timers failed; reading all wake-ups again");
            state.window.reset();
            state.rest(&myself, Fired::All);
        }
        let alarm = state.next_alarm();
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
}

impl State {
    async fn handle(&mut self, message: TimerMessage, myself: &ActorRef<TimerMessage>) {
        match message {
            TimerMessage::Arm { instance, wake } => self.window.arm(instance, wake),
            TimerMessage::ArmFresh { instance, wake } => self.window.arm_fresh(instance, wake),
            TimerMessage::Reset => self.window.reset(),
            TimerMessage::Tick => self.tick(myself).await,
            TimerMessage::Rested => {
                self.resting = false;
                self.tick(myself).await;
            }
        }
    }

    /// When to tick next: at once if the window is low, or nothing would ever tick for what is behind the horizon.
    fn next_alarm(&self) -> Option<Timestamp> {
        if self.resting {
            return None;
        }
        if self.window.is_low() {
            return Some(Timestamp::EPOCH);
        }
        self.lanes().filter_map(|source| self.window.next(source)).min()
    }

    /// Where wake-ups may be taken from, in this order. Rows are of instances that sleep, but for paused ones that run: those
    /// that find no room are set apart, so that each is looked at once, until more of them may stand in line.
    fn lanes(&self) -> impl Iterator<Item = Source> + use<> {
        let (is_line_free, is_crowded) = (self.line.available_permits() > 0, self.window.is_crowded());
        let may_take = move |source: &Source| match source {
            Source::Resident => true,
            Source::Waiting => is_line_free,
            Source::Stored => !is_crowded,
        };
        [Source::Resident, Source::Waiting, Source::Stored].into_iter().filter(may_take)
    }

    /// Reads what is missing, and wakes what is due.
    async fn tick(&mut self, myself: &ActorRef<TimerMessage>) {
        let Some(hub) = self.hub.upgrade() else { return };
        let read = self.resting || self.refill(&hub).await;
        let fired = self.fire(&hub, myself);
        if self.resting {
            return;
        }
        if matches!(fired, Fired::Enough) || (matches!(fired, Fired::All) && !read) {
            self.rest(myself, fired);
        }
    }

    /// Ticks again later: when half of those under way are handled, or after a pause.
    fn rest(&mut self, myself: &ActorRef<TimerMessage>, fired: Fired) {
        self.resting = true;
        let (places, myself) = (Arc::clone(&self.places), myself.clone());
        tokio::spawn(async move {
            match fired {
                // Not one by one: each tick costs more than a wake-up. Never closed.
                Fired::Enough => drop(places.acquire_many(UNDER_WAY_MAX / 2).await),
                Fired::All | Fired::Some => tokio::time::sleep(RETRY_AFTER).await,
            }
            // Refused only while the runtime goes down.
            let _ = myself.cast(TimerMessage::Rested);
        });
    }

    /// Reads on in the due index when the window is low; false if that failed and must be tried again.
    async fn refill(&mut self, hub: &Hub) -> bool {
        while self.window.is_low() {
            match hub.store.due(self.window.read_to(), self.window.page_rows()).await {
                Ok(page) => self.window.fill(page),
                Err(error) => {
                    tracing::warn!(%error, "the due index could not be read; trying again");
                    return false;
                }
            }
        }
        true
    }

    fn fire(&mut self, hub: &Arc<Hub>, myself: &ActorRef<TimerMessage>) -> Fired {
        let now = self.clock.now();
        for _ in 0..UNDER_WAY_MAX {
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Fired::Enough };
            let Some(due) = self.lanes().find_map(|source| self.window.take(source, now)) else { return Fired::All };
            if let Err(Full(wake)) = hub.registry.send(hub, &due.1, Mail::Wake { _place: place }) {
                match Arc::clone(&self.line).try_acquire_owned() {
                    Ok(in_line) => {
                        let (hub, myself) = (Arc::clone(hub), myself.clone());
                        tokio::spawn(async move {
                            hub.send(&due.1, wake).await;
                            drop(in_line);
                            // Refused only while the runtime goes down.
                            let _ = myself.cast(TimerMessage::Tick);
                        });
                    }
                    Err(_) => self.window.put_back(due),
                }
            }
        }
        Fired::Some
    }
}
