//! Signals: accepted once per id, buffered in order, consumed in the commit of the move they cause.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::advance::received;
use super::frame::FrameId;
use super::interpreter::Interpreter;
use super::rows::{encode_signal, encode_signal_number};
use super::snapshot::Buffered;
use super::{Refusal, RowKey, Snapshot};
use crate::codec::{Place, Value};
use crate::definition::{Op, Program, WaitOp};
use crate::limits::{ROWS_PASSED_BY_MAX, SIGNAL_IDS_REMEMBERED};

/// The treatment of a signal that no frame waits for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Unawaited {
    Buffer,
    Refuse,
}

impl<'a> Interpreter<'a> {
    pub(super) fn signal(
        &mut self,
        name: &str,
        id: Arc<str>,
        payload: Bytes,
        unawaited: Unawaited,
    ) -> Result<(), Refusal> {
        if self.snapshot.signals.numbers.contains_key(&id) {
            return Ok(());
        }
        if !self.snapshot.signals.knows(&id) {
            return Err(Refusal::SignalIdNotRead);
        }
        self.refuse_if_ended()?;
        let Some(name) = self.program.signal_named(name).cloned() else {
            return Err(Refusal::UnknownSignal { name: name.into() });
        };
        // Due timeouts end before the new signal counts: a wait whose timeout has passed does not
        // get it. The timeouts stay ended even if the signal is then refused.
        self.wake();
        let refused = self.refuse_if_ended().and_then(|()| match unawaited {
            Unawaited::Refuse if !self.is_awaited(&name) => Err(Refusal::NotAwaited { name: Arc::clone(&name) }),
            _ => self.refuse_if_full(&name, payload.len()),
        });
        if let Err(refusal) = refused {
            self.refused = Some(refusal);
            return Ok(());
        }
        let number = self.remember(Arc::clone(&id));
        match self.waiting_frame(&name) {
            Some((frame, op)) => {
                self.put_remembered(number, &id);
                self.deliver(frame, op, payload);
            }
            None => self.buffer(&name, Buffered { number, id, payload, accepted_in: self.seq() }),
        }
        Ok(())
    }

    /// Returns true if a wait takes the next signal of this name, now or at the end of a pause.
    fn is_awaited(&self, name: &str) -> bool {
        self.snapshot.frames.waiting_for(name) > self.snapshot.signals.count(name)
    }

    /// Refuses a signal that would have to be buffered above the limits. A signal that a wait takes
    /// now is not limited.
    fn refuse_if_full(&self, name: &str, payload_bytes: usize) -> Result<(), Refusal> {
        let signals = &self.snapshot.signals;
        let (count_max, bytes_max) = (self.limits.signals_buffered_max, self.limits.signal_buffer_bytes_max);
        let full = signals.buffered_count >= count_max || signals.buffered_bytes + payload_bytes as u64 > bytes_max;
        if !full || self.waiting_frame(name).is_some() {
            return Ok(());
        }
        let (count, bytes) = (signals.buffered_count, signals.buffered_bytes);
        Err(Refusal::SignalBufferFull { count, bytes, count_max, bytes_max })
    }

    /// Takes a number for the signal and forgets the oldest id past the bound.
    fn remember(&mut self, id: Arc<str>) -> u64 {
        let signals = &mut self.snapshot.signals;
        let number = signals.accepted;
        // A record made to do harm may hold any number.
        signals.accepted = signals.accepted.saturating_add(1);
        signals.numbers.insert(Arc::clone(&id), number);
        signals.remembered.insert(number, id);
        self.changed = true;
        if let Some(forgotten) = number.checked_sub(SIGNAL_IDS_REMEMBERED)
            && let Some(id) = signals.remembered.remove(&forgotten)
        {
            signals.numbers.remove(&id);
            if signals.bare.remove(&forgotten) {
                signals.rows.remove(&forgotten);
                self.delete(RowKey::Signal(forgotten));
            } else if !signals.rows.contains(&forgotten) {
                self.delete(RowKey::SignalId(forgotten));
                self.delete(RowKey::SignalNumber(id));
            }
        }
        number
    }

    /// Writes the rows by which a consumed signal is remembered.
    fn put_remembered(&mut self, number: u64, id: &Arc<str>) {
        self.put(RowKey::SignalId(number), &encode_signal(id, None));
        self.put(RowKey::SignalNumber(Arc::clone(id)), &encode_signal_number(number));
    }

    /// Returns the frame that has waited longest for this signal and may take one; none in a pause
    /// or once the run has ended.
    fn waiting_frame(&self, name: &str) -> Option<(FrameId, &'a WaitOp)> {
        let program: &'a Program = self.program;
        let may_take = !self.snapshot.is_paused() && self.snapshot.end.is_none();
        let id = self.snapshot.frames.first_waiting(name).filter(|_| may_take)?;
        match program.op(self.snapshot.frames.get(id)?.position) {
            Some(Op::Wait(op)) => Some((id, op)),
            _ => None,
        }
    }

    fn deliver(&mut self, id: FrameId, op: &WaitOp, payload: Bytes) {
        let Some(place) = self.snapshot.frames.get(id).map(|frame| self.place(frame)) else { return };
        let payload = self.payload_value(place, payload);
        self.pass(id, |flowed_in| received(op, flowed_in, payload));
    }

    fn buffer(&mut self, name: &Arc<str>, signal: Buffered) {
        let body = encode_signal(&signal.id, Some((name, &signal.payload)));
        self.put(RowKey::Signal(signal.number), &body);
        self.snapshot.push_signal(name, signal);
    }

    /// Takes the first buffered signal of a wait. It came in time: due timeouts end before a signal
    /// is buffered.
    pub(super) fn take_buffered(&mut self, op: &WaitOp, place: Place) -> Option<Value> {
        let signal = self.snapshot.pop_signal(&op.signal)?;
        self.builds_on = self.builds_on.max(signal.accepted_in);
        self.delete(RowKey::Signal(signal.number));
        if self.snapshot.signals.remembered.contains_key(&signal.number) {
            self.put_remembered(signal.number, &signal.id);
        }
        self.changed = true;
        Some(self.payload_value(place, signal.payload))
    }

    /// Gives buffered signals to waiting frames, the longest waiting first: after a pause, or at
    /// the retry of a run that failed at the end of its pause.
    pub(super) fn consume_buffered(&mut self) {
        let mut names: Vec<_> = self.snapshot.signals.buffered.keys().cloned().collect();
        names.sort_unstable();
        for name in names {
            while let Some((id, op)) = self.waiting_frame(&name)
                && let Some(place) = self.snapshot.frames.get(id).map(|frame| self.place(frame))
                && let Some(payload) = self.take_buffered(op, place)
            {
                self.pass(id, |flowed_in| received(op, flowed_in, payload));
            }
        }
    }
}

impl Snapshot {
    /// Returns the transition that accepted the first buffered signal of this name that no waiting
    /// frame will take. While the instance is paused, frames may wait although signals are buffered
    /// for them.
    pub(super) fn first_unclaimed(&self, signal: &str) -> Option<u64> {
        let queue = self.signals.buffered.get(signal)?;
        queue.get(self.frames.waiting_for(signal)).map(|signal| signal.accepted_in)
    }

    /// Adds a buffered signal after the others of its name.
    pub(super) fn push_signal(&mut self, name: &Arc<str>, signal: Buffered) {
        self.signals.push(Arc::clone(name), signal);
        self.frames.set_buffered(name, self.signals.count(name));
    }

    fn pop_signal(&mut self, name: &Arc<str>) -> Option<Buffered> {
        let signal = self.signals.pop(name)?;
        self.frames.set_buffered(name, self.signals.count(name));
        Some(signal)
    }
}

impl super::snapshot::Signals {
    fn push(&mut self, name: Arc<str>, signal: Buffered) {
        self.buffered_count += 1;
        self.buffered_bytes += signal.payload.len() as u64;
        self.rows.insert(signal.number);
        self.buffered.entry(name).or_default().push_back(signal);
    }

    fn pop(&mut self, name: &str) -> Option<Buffered> {
        let queue = self.buffered.get_mut(name)?;
        let signal = queue.pop_front()?;
        if queue.is_empty() {
            self.buffered.remove(name);
        }
        self.buffered_count -= 1;
        self.buffered_bytes -= signal.payload.len() as u64;
        self.rows.remove(&signal.number);
        let first = self.rows.first().map_or(self.accepted, |first| *first);
        // Passing a few deleted rows is cheaper than writing and reading a number.
        if first >= self.from.saturating_add(ROWS_PASSED_BY_MAX) {
            self.from = first;
        }
        Some(signal)
    }

    /// Notes a signal that is remembered only by a row of the buffered kind.
    pub(super) fn add_bare(&mut self, number: u64) {
        self.bare.insert(number);
        self.rows.insert(number);
    }

    /// Returns the number of the oldest signal that is remembered.
    pub(super) fn oldest(&self) -> u64 {
        self.accepted.saturating_sub(SIGNAL_IDS_REMEMBERED)
    }

    /// Remembers an id, if it is not too old.
    pub(super) fn know(&mut self, number: u64, id: &Arc<str>) {
        if number >= self.oldest() {
            self.numbers.insert(Arc::clone(id), number);
            self.remembered.insert(number, Arc::clone(id));
        }
    }

    /// Returns true if it is known without the store whether a signal with this id is a repeated
    /// one.
    pub(super) fn knows(&self, id: &Arc<str>) -> bool {
        let all = self.remembered.len() as u64 == self.accepted - self.oldest();
        all || self.numbers.contains_key(id) || self.absent.as_ref() == Some(id)
    }

    /// Returns how many signals of this name are buffered.
    pub(super) fn count(&self, name: &str) -> usize {
        self.buffered.get(name).map_or(0, VecDeque::len)
    }
}
