//! Wakes instances when they are due. Only wakes: the machine decides by the clock what is due.
//!
//! A [`Window`] holds the nearest wake-ups in memory; later ones are in the store's due index and
//! are read when the window runs low. So a hundred thousand parked instances cost no memory here,
//! and no wake-up is lost in a crash.
//!
//! ```text
//!                active ─────────────────────────> woken at once
//! window ── due ┤
//!                parked ── room? ── yes ─────────> woken at once
//!                            └───── no ── a line ─ woken when there is room
//! ```
//!
//! Active instances never wait for parked ones that find no room: their deadlines may be what makes
//! room.

use std::sync::{Arc, Weak};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use tokio::sync::{Semaphore, watch};

use super::command::Command;
use super::registry::Unsent;
use super::shared::Shared;
use super::window::{Source, Window};
use crate::clock::{Clock, sleep_until};
use crate::id::InstanceId;
use crate::machine::Wake;
use crate::panic::caught;
use crate::time::Timestamp;

/// The longest sleep before the clock is read again: the wall clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// The most wake-ups that were sent and are not handled yet. More would only be actors that wait
/// for a thread, instead of idle actors that are used again.
const UNDER_WAY_MAX: u32 = 256;
/// The most wake-ups in flight that wait for room. Further ones stay in the window.
const IN_LINE_MAX: usize = 64;
/// The delay after the store could not be read.
const RETRY_AFTER: Duration = Duration::from_millis(20);

pub(super) enum TimerMessage {
    /// Wake an instance at this time, which replaces the previous one.
    Arm { instance: InstanceId, wake: Wake },
    /// Wake an instance that was just started, unless it has an earlier wake-up: see
    /// [`Window::arm_fresh`].
    ArmFresh { instance: InstanceId, wake: Wake },
    /// Wake-ups may be due, or the window may be low. The root sends the first one, after it has
    /// started everything.
    Tick,
    /// `Tick` at the end of a pause.
    Rested,
    /// The store has failed: wake-ups in flight may be lost, so the due index is read again from
    /// its start.
    Reset,
}

struct Timers;

pub(super) struct State {
    shared: Weak<Shared>,
    clock: Arc<dyn Clock>,
    window: Window,
    /// Permits for wake-ups in flight.
    places: Arc<Semaphore>,
    /// Permits for wake-ups in flight that wait for room.
    line: Arc<Semaphore>,
    /// True while `Rested` is scheduled, because the last tick could not do all its work.
    resting: bool,
    /// The time of the next tick, for the sleeper.
    alarm: watch::Sender<Option<Timestamp>>,
}

pub(super) async fn spawn(shared: &Arc<Shared>, root: ActorCell) -> Result<ActorRef<TimerMessage>, SpawnErr> {
    let (alarm, _) = watch::channel(None);
    let state = State {
        shared: Arc::downgrade(shared),
        clock: Arc::clone(&shared.clock),
        window: Window::new(shared.limits.timer_window_max),
        places: Arc::new(Semaphore::new(UNDER_WAY_MAX as usize)),
        line: Arc::new(Semaphore::new(IN_LINE_MAX)),
        resting: false,
        alarm,
    };
    Ok(Actor::spawn_linked(None, Timers, state, root).await?.0)
}

/// Sends `Tick` at each alarm; ends with the actor.
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
                tracing::error!(panic, "the task that wakes the timers panicked; starting it again");
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
            // The wake-ups that were being sent are in the store.
            tracing::error!(panic, "the timers panicked; reading all wake-ups again");
            state.window.reset();
            state.rest(&myself, Fired::All);
        }
        let alarm = state.next_alarm();
        state.alarm.send_if_modified(|set| {
            let changed = *set != alarm;
            *set = alarm;
            // After a tick the sleeper waits for a change, so it is notified even if the alarm is
            // equal.
            changed || ticked
        });
        Ok(())
    }
}

enum Fired {
    All,
    Some,
    /// The limit of wake-ups in flight is reached.
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

    /// Returns the time of the next tick: at once if the window is low, since otherwise no tick
    /// would ever come for wake-ups beyond the horizon.
    fn next_alarm(&self) -> Option<Timestamp> {
        if self.resting {
            return None;
        }
        if self.window.is_low() {
            return Some(Timestamp::EPOCH);
        }
        self.lanes().filter_map(|source| self.window.next(source)).min()
    }

    /// Returns the sources that wake-ups may be taken from, in this order. `Stored` rows are of
    /// parked instances, or of paused ones with running attempts. Rows that find no room move to
    /// `Waiting`, so that each is tried once, and are taken again when the line is free.
    fn lanes(&self) -> impl Iterator<Item = Source> + use<> {
        let (is_line_free, is_crowded) = (self.line.available_permits() > 0, self.window.is_crowded());
        let may_take = move |source: &Source| match source {
            Source::Resident => true,
            Source::Waiting => is_line_free,
            Source::Stored => !is_crowded,
        };
        [Source::Resident, Source::Waiting, Source::Stored].into_iter().filter(may_take)
    }

    /// Fills the window and wakes instances that are due.
    async fn tick(&mut self, myself: &ActorRef<TimerMessage>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let read = self.resting || self.refill(&shared).await;
        let fired = self.fire(&shared, myself);
        if self.resting {
            return;
        }
        if matches!(fired, Fired::Enough) || (matches!(fired, Fired::All) && !read) {
            self.rest(myself, fired);
        }
    }

    /// Schedules another tick: when half of the wake-ups in flight are handled, or after a delay.
    fn rest(&mut self, myself: &ActorRef<TimerMessage>, fired: Fired) {
        self.resting = true;
        let (places, myself) = (Arc::clone(&self.places), myself.clone());
        tokio::spawn(async move {
            match fired {
                // Not one by one: each tick costs more than a wake-up. The semaphore is never
                // closed.
                Fired::Enough => drop(places.acquire_many(UNDER_WAY_MAX / 2).await),
                Fired::All | Fired::Some => tokio::time::sleep(RETRY_AFTER).await,
            }
            // Refused only while the runtime shuts down.
            let _ = myself.cast(TimerMessage::Rested);
        });
    }

    /// Reads the next rows of the due index while the window is low; false if a read failed and
    /// must be tried again.
    async fn refill(&mut self, shared: &Shared) -> bool {
        while self.window.is_low() {
            match shared.store.due(self.window.read_to(), self.window.page_rows()).await {
                Ok(page) => self.window.fill(page),
                Err(error) => {
                    tracing::warn!(%error, "the due index could not be read; trying again");
                    return false;
                }
            }
        }
        true
    }

    fn fire(&mut self, shared: &Arc<Shared>, myself: &ActorRef<TimerMessage>) -> Fired {
        let now = self.clock.now();
        for _ in 0..UNDER_WAY_MAX {
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Fired::Enough };
            let Some(due) = self.lanes().find_map(|source| self.window.take(source, now)) else { return Fired::All };
            if let Err(Unsent(wake)) = shared.registry.send(shared, &due.1, Command::Wake { _place: place }) {
                match Arc::clone(&self.line).try_acquire_owned() {
                    Ok(in_line) => {
                        let (shared, myself) = (Arc::clone(shared), myself.clone());
                        tokio::spawn(async move {
                            shared.send(&due.1, wake).await;
                            drop(in_line);
                            // Refused only while the runtime shuts down.
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
