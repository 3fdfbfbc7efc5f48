//! The parent's knowledge of one instance: acknowledgements, possible effects, and the expected
//! outcome.

use crate::child::{Answer, State, What};
use crate::kill::Random;
use crate::kinds::{Kind, SIGNALS, is_paused_at_times};

/// A request that has an effect for good or for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Never,
    /// Requested; the answer was lost with the process or is still to come.
    Asked,
    /// Acknowledged in this process.
    Since(u32),
}

/// A pause from its acknowledgement until its end was requested: no task begins in the processes
/// between.
pub(crate) struct Pause {
    pub(crate) since_life: u32,
    pub(crate) until: Option<u64>,
}

pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) number: u32,
    start: Request,
    /// Starts requested before one was acknowledged.
    tries: u32,
    /// Signals that were acknowledged.
    pub(crate) signalled: usize,
    pub(crate) cancel: Request,
    pause: Request,
    pub(crate) pauses: Vec<Pause>,
    pub(crate) end: Option<State>,
    /// True if the instance was known to have ended at the last request.
    ended_before: bool,
    /// The pause as known at the last request.
    paused_before: Request,
    /// True if an answer is awaited in this process.
    pub(crate) asked: bool,
    pub(crate) awaited: bool,
}

impl Instance {
    pub(crate) fn new(id: String, kind: Kind, number: u32) -> Self {
        let never = Request::Never;
        let (start, cancel, pause) = (never, never, never);
        let (signalled, pauses, end) = (0, Vec::new(), None);
        let (ended_before, paused_before, asked, awaited) = (false, never, false, false);
        let tries = 0;
        Self {
            id,
            kind,
            number,
            start,
            tries,
            signalled,
            cancel,
            pause,
            pauses,
            end,
            ended_before,
            paused_before,
            asked,
            awaited,
        }
    }

    pub(crate) fn signals(&self) -> [u32; SIGNALS] {
        std::array::from_fn(|n| self.number.wrapping_mul(7) % 1_000 + 1_000 * (n as u32 + 1))
    }

    fn signal(&self, n: usize) -> What {
        What::Signal { id: format!("s{n}"), value: self.signals()[n] }
    }

    /// Returns the next request, if any; `in_peace` only requests that bring the instance to its
    /// end.
    pub(crate) fn next(&mut self, random: &mut Random, now: u64, in_peace: bool) -> Option<What> {
        if !matches!(self.start, Request::Since(_)) {
            if self.asked {
                return None;
            }
            self.asked = true;
            self.tries += 1;
            self.start = Request::Asked;
            return Some(What::Start(self.number));
        }
        if !self.awaited {
            self.awaited = true;
            return Some(What::Await);
        }
        if self.asked {
            return None;
        }
        (self.ended_before, self.paused_before) = (self.end.is_some(), self.pause);
        let again = [What::Start(self.number), What::Cancel, What::Pause, What::Unpause];
        let what =
            if self.ended_before { again[random.below(4) as usize].clone() } else { self.choose(random, in_peace)? };
        match what {
            _ if self.ended_before => {}
            What::Cancel if self.cancel == Request::Never => self.cancel = Request::Asked,
            What::Pause if self.pause == Request::Never => self.pause = Request::Asked,
            What::Unpause => {
                if let Some(pause) = self.pauses.last_mut().filter(|pause| pause.until.is_none()) {
                    pause.until = Some(now);
                }
                self.pause = Request::Asked;
            }
            _ => {}
        }
        self.asked = true;
        Some(what)
    }

    fn choose(&self, random: &mut Random, in_peace: bool) -> Option<What> {
        let roll = random.below(100);
        let misses_signals = self.kind == Kind::Wait && self.signalled < SIGNALS;
        Some(match (in_peace, self.pause) {
            (true, Request::Asked | Request::Since(_)) => What::Unpause,
            (true, Request::Never) if misses_signals => self.signal(self.signalled),
            (false, Request::Asked | Request::Since(_)) if roll < 20 => What::Unpause,
            // Only some are cancelled, or hardly any would run to their end.
            (false, _) if (20..23).contains(&roll) && self.number.is_multiple_of(10) => What::Cancel,
            (false, _) if (23..29).contains(&roll) && is_paused_at_times(self.number) => What::Pause,
            (false, _) if (29..33).contains(&roll) => What::Unpause,
            (false, _) if (33..38).contains(&roll) => What::Start(self.number),
            // A repetition with the same id.
            (false, _) if (38..45).contains(&roll) && self.signalled > 0 => {
                self.signal(random.below(self.signalled as u64) as usize)
            }
            (false, _) if roll < 75 && misses_signals => self.signal(self.signalled),
            _ => return None,
        })
    }

    /// Forgets the requests in progress, whose answers are lost.
    pub(crate) fn process_crashed(&mut self) {
        (self.asked, self.awaited) = (false, false);
    }

    pub(crate) fn answered(&mut self, what: &What, answer: &Answer, life: u32) -> Result<(), String> {
        if *what != What::Await {
            self.asked = false;
        }
        match (what, answer) {
            (_, Answer::Wrong(error)) => return Err(error.clone()),
            (What::Cancel | What::Pause | What::Unpause, Answer::Done) if self.ended_before => {
                return Err("done although it had ended".into());
            }
            (What::Start(_), Answer::Done) if matches!(self.start, Request::Since(_)) => {
                return Err("started a second time".into());
            }
            (What::Start(_), Answer::Refused(_)) if self.start == Request::Asked && self.tries == 1 => {
                return Err("there before it was started".into());
            }
            (What::Start(_), _) => self.start = Request::Since(life),
            (What::Signal { id, .. }, Answer::Done) => {
                if *id == format!("s{}", self.signalled) {
                    self.signalled += 1;
                }
            }
            (What::Cancel, Answer::Done) => self.cancel = Request::Since(life),
            (What::Pause, Answer::Done) => {
                self.pause = Request::Since(life);
                if self.pauses.last().is_none_or(|pause| pause.until.is_some()) {
                    self.pauses.push(Pause { since_life: life, until: None });
                }
            }
            (What::Unpause, _) => self.pause = Request::Never,
            (What::Await | What::Signal { .. } | What::Cancel | What::Pause, _) => {}
        }
        let (Answer::Refused(state) | Answer::Ended(state)) = answer else { return Ok(()) };
        self.agrees(what, state)?;
        if matches!(state, State::Cancelled | State::Completed(_)) {
            self.ends(state)?;
        }
        Ok(())
    }

    /// Returns an error if a refusal contradicts an earlier acknowledgement.
    fn agrees(&self, what: &What, state: &State) -> Result<(), String> {
        let paused = self.paused_before;
        let ended = matches!(state, State::Cancelled | State::Completed(_));
        let allowed = match what {
            What::Start(_) => {
                ended || !self.ended_before && (*state == State::Paused || !matches!(paused, Request::Since(_)))
            }
            // A repeated request is acknowledged again.
            What::Signal { id, .. } => ended && *id == format!("s{}", self.signalled),
            What::Await | What::Cancel | What::Pause => ended,
            What::Unpause => ended || *state == State::Unfinished && !matches!(paused, Request::Since(_)),
        };
        if allowed { Ok(()) } else { Err(format!("{what:?} refused because {state:?}, paused: {paused:?}")) }
    }

    fn ends(&mut self, state: &State) -> Result<(), String> {
        let plan = self.kind.plan(self.number, self.signals());
        match (state, &self.end) {
            (State::Completed(_), _) if matches!(self.cancel, Request::Since(_)) => {
                Err("completed, but was cancelled".into())
            }
            (State::Completed(_), Some(State::Cancelled)) | (State::Cancelled, Some(State::Completed(_))) => {
                Err(format!("ended as {state:?} and as {:?}", self.end))
            }
            (State::Cancelled, _) if self.cancel == Request::Never => Err("cancelled without a request".into()),
            (State::Completed(Some(output)), _) if *output != plan.output => {
                Err(format!("returned {output:?} instead of {:?}", plan.output))
            }
            _ => {
                self.end = Some(state.clone());
                Ok(())
            }
        }
    }
}
