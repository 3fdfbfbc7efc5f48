//! Room for actors: so many places, and two lines for them.
//!
//! Callers stand in one line, the runtime in the other: wake-ups, instances that are taken up, acknowledged starts. A place that
//! is given back goes to the two in turn, so that neither keeps the other waiting, however many stand in it. Within a line it is
//! first come, first served. A semaphore has one line only.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Which line to stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Callers,
    Runtime,
}

#[derive(Clone)]
pub(super) struct Room(Arc<Mutex<Places>>);

/// A place for one actor; given back when it is dropped.
pub(super) struct Resident {
    /// None once it has been handed on.
    room: Option<Room>,
}

struct Places {
    free: usize,
    callers: Waiting,
    runtime: Waiting,
    /// The line that gets the next place, if anybody stands in it.
    turn: Line,
}

#[derive(Default)]
struct Waiting {
    senders: VecDeque<oneshot::Sender<Resident>>,
    /// How many there may be before those that have given up are cleared away.
    clear_at: usize,
}

/// The fewest that are cleared away.
const CLEAR_MIN: usize = 64;

impl Waiting {
    /// Those that have given up are at most as many as those that wait, but for a few.
    fn push(&mut self, sender: oneshot::Sender<Resident>) {
        if self.senders.len() >= self.clear_at.max(CLEAR_MIN) {
            self.senders.retain(|sender| !sender.is_closed());
            self.clear_at = 2 * self.senders.len();
        }
        self.senders.push_back(sender);
    }
}

impl Places {
    fn line(&mut self, line: Line) -> &mut Waiting {
        match line {
            Line::Callers => &mut self.callers,
            Line::Runtime => &mut self.runtime,
        }
    }

    /// Takes whoever gets the next place.
    fn next(&mut self) -> Option<oneshot::Sender<Resident>> {
        let turn = self.turn;
        let other = turn.other();
        if let Some(sender) = self.line(turn).senders.pop_front() {
            self.turn = other;
            return Some(sender);
        }
        self.line(other).senders.pop_front()
    }
}

impl Line {
    fn other(self) -> Self {
        match self {
            Self::Callers => Self::Runtime,
            Self::Runtime => Self::Callers,
        }
    }
}

impl Room {
    pub(super) fn new(places: usize) -> Self {
        let (callers, runtime) = (Waiting::default(), Waiting::default());
        Self(Arc::new(Mutex::new(Places { free: places, callers, runtime, turn: Line::Runtime })))
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if one is free: then nobody waits for it.
    pub(super) fn try_take(&self) -> Option<Resident> {
        let mut places = self.lock();
        places.free = places.free.checked_sub(1)?;
        Some(Resident { room: Some(self.clone()) })
    }

    /// A place, as soon as there is one. Whoever drops this while it waits has left the line.
    pub(super) async fn take(&self, line: Line) -> Option<Resident> {
        let receiver = {
            let mut places = self.lock();
            if let Some(free) = places.free.checked_sub(1) {
                places.free = free;
                return Some(Resident { room: Some(self.clone()) });
            }
            let (sender, receiver) = oneshot::channel();
            places.line(line).push(sender);
            receiver
        };
        // Its sender is dropped with the room only.
        receiver.await.ok()
    }

    /// Hands a place on to whoever is next.
    fn give_back(&self) {
        let mut resident = Resident { room: Some(self.clone()) };
        loop {
            let next = {
                let mut places = self.lock();
                let next = places.next();
                if next.is_none() {
                    places.free += 1;
                }
                next
            };
            let Some(next) = next else { break };
            match next.send(resident) {
                Ok(()) => return,
                // It has given up.
                Err(again) => resident = again,
            }
        }
        resident.room = None;
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            room.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// Method: one place, and two lines of callers of which some give up; the order in which the place comes round.
    #[test]
    fn room_goes_to_the_two_lines_in_turn() {
        let room = Room::new(1);
        let mut held = room.try_take();
        let mut waiting: Vec<_> = [Line::Callers, Line::Callers, Line::Callers, Line::Runtime, Line::Runtime]
            .map(|line| Box::pin(room.take(line)))
            .into_iter()
            .enumerate()
            .collect();
        assert!(waiting.iter_mut().all(|(_, take)| take.as_mut().now_or_never().is_none()));
        // The second of the callers.
        drop(waiting.remove(1));
        let mut order = Vec::new();
        while !waiting.is_empty() {
            assert!(room.try_take().is_none());
            drop(held.take());
            waiting.retain_mut(|(number, take)| match take.as_mut().now_or_never() {
                Some(resident) => {
                    order.push(*number);
                    held = resident;
                    false
                }
                None => true,
            });
        }
        assert_eq!(order, [3, 0, 4, 2]);
        drop(held);
        assert!(room.try_take().is_some());
    }

    /// Method: callers stand in line and give up, ten thousand times.
    #[test]
    fn callers_that_give_up_leave_nothing_in_line() {
        let room = Room::new(1);
        let held = room.try_take();
        for _ in 0..10_000 {
            assert!(room.take(Line::Callers).now_or_never().is_none());
        }
        assert!(room.lock().callers.senders.len() <= CLEAR_MIN);
        drop(held);
        assert!(room.try_take().is_some());
    }
}
