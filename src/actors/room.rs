//! Room for actors: a fixed number of places, and two lines that wait for them.
//!
//! Callers stand in one line, the runtime in the other: wake-ups, activations, acknowledged starts.
//! Places that come free go to the two lines in turn, so that neither starves the other, however
//! long it is. Within a line, first come is first served. A semaphore has one line only.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A line that waits for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Callers,
    Runtime,
}

#[derive(Clone)]
pub(super) struct Room(Arc<Mutex<Places>>);

/// A place for one actor. Comes free when it is dropped.
pub(super) struct Resident {
    /// `None` after the place was handed on.
    room: Option<Room>,
}

struct Places {
    free: usize,
    callers: Waiting,
    runtime: Waiting,
    /// The line that gets the next place, if it is not empty.
    turn: Line,
}

#[derive(Default)]
struct Waiting {
    senders: VecDeque<oneshot::Sender<Resident>>,
    /// The length at which senders that have given up are removed.
    clear_at: usize,
}

/// The least length at which senders that have given up are removed.
const CLEAR_MIN: usize = 64;

impl Waiting {
    /// Adds a sender. Keeps at most as many senders that have given up as waiting ones, plus a few.
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

    /// Takes the sender that gets the next place.
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

    /// Takes a place if one is free, in which case both lines are empty.
    pub(super) fn try_take(&self) -> Option<Resident> {
        let mut places = self.lock();
        places.free = places.free.checked_sub(1)?;
        Some(Resident { room: Some(self.clone()) })
    }

    /// Takes a place, as soon as there is one. The caller stands in line when this returns;
    /// dropping the future leaves the line.
    pub(super) fn take(&self, line: Line) -> impl Future<Output = Option<Resident>> + Send + use<> {
        let taken = self.take_or_stand(line);
        async move {
            match taken {
                Ok(resident) => Some(resident),
                // The sender is dropped only with the room.
                Err(receiver) => receiver.await.ok(),
            }
        }
    }

    fn take_or_stand(&self, line: Line) -> Result<Resident, oneshot::Receiver<Resident>> {
        let mut places = self.lock();
        if let Some(free) = places.free.checked_sub(1) {
            places.free = free;
            return Ok(Resident { room: Some(self.clone()) });
        }
        let (sender, receiver) = oneshot::channel();
        places.line(line).push(sender);
        Err(receiver)
    }

    /// Hands a place on to the next sender.
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
                // The receiver has given up.
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

    /// Method: one place and two lines; one caller gives up; checks the order in which the
    /// place goes round.
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
        // The second caller.
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

    /// Method: ten thousand callers stand in line and give up.
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
