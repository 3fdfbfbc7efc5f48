//! Events of an instance, and their frequencies.

use std::time::Duration;

use everstep::{AttemptFailure, FailureKind};
use proptest::prelude::*;

use crate::cursor::Cursor;
use crate::plan::{Gives, Shape, What};
use crate::value::Val;

#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// An attempt ends; after a failure of the run, the run is retried instead.
    Well(Which, Output),
    Badly(Which, AttemptFailure),
    Started(Which),
    Withdrawn(Which),
    Signal {
        name: &'static str,
        id: u32,
        payload: String,
    },
    Wake,
    Pause,
    Unpause,
    Cancel,
    Retry(Option<u64>),
    /// Activated again; the bits say which attempts are still in progress.
    Resumed {
        process_crashed: bool,
        alive: u8,
    },
    Released,
    /// The snapshot is read back from the writes, with or without the values that flow.
    Restart {
        fill: bool,
    },
    /// A new process upgrades the instance to a newer definition.
    Upgraded,
    /// As a restart, and the new process allows loops more iterations, and longer lists.
    Redeploy,
}

/// The reported attempt: one in progress, or an old one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    Current(usize),
    Old(usize),
}

/// The result of a task of any type.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) texts: Vec<String>,
    pub(crate) again: bool,
}

impl Output {
    /// Returns the result for the node at this cursor.
    pub(crate) fn of(&self, cursor: &Cursor<'_>) -> Val {
        let text = |n: usize| Val::Text(self.texts.get(n).cloned().unwrap_or_else(|| "a".into()));
        let shaped = |shape| match shape {
            Shape::Text => text(0),
            Shape::Outcome if self.texts.len() == 1 => Val::TimedOut.carried(),
            Shape::Outcome => Val::Received(Box::new(text(0))).carried(),
            Shape::Both | Shape::List | Shape::Turn => unreachable!("no body carries these on"),
        };
        cursor.outcome(|| match cursor.what() {
            What::Task { gives: Gives::List, .. } => Val::List((0..self.texts.len()).map(text).collect()).carried(),
            What::Task { gives: Gives::Turn { again, .. }, .. } if self.again => Val::Again(Box::new(shaped(*again))),
            What::Task { gives: Gives::Turn { done, .. }, .. } => Val::Done(Box::new(shaped(*done))),
            _ => text(0),
        })
    }
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![19 => (0_usize..6).prop_map(Which::Current), 1 => any::<usize>().prop_map(Which::Old)]
}

/// Draws a text: small ones stay where they are carried, large ones go to a row of their own.
pub(crate) fn text() -> impl Strategy<Value = String> {
    ("[a-d]", prop_oneof![5 => 1_usize..4, 1 => 120_usize..200]).prop_map(|(letter, length)| letter.repeat(length))
}

fn output() -> impl Strategy<Value = Output> {
    (proptest::collection::vec(text(), 0..5), any::<bool>()).prop_map(|(texts, again)| Output { texts, again })
}

fn failure() -> impl Strategy<Value = AttemptFailure> {
    use FailureKind::{Codec, Error, Panicked, Permanent, TimedOut};
    let kind =
        prop_oneof![6 => Just(Error), 2 => Just(TimedOut), 1 => Just(Panicked), 1 => Just(Permanent), 1 => Just(Codec)];
    (kind, proptest::option::weighted(0.2, 0_u64..4)).prop_map(|(kind, retry_after)| {
        let retry_after = retry_after.map(Duration::from_secs);
        AttemptFailure { retry_after, ..AttemptFailure::new(kind, "no") }
    })
}

/// Draws one event mostly; sometimes tasks that crash their process, again and again.
pub(crate) fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let name = prop_oneof![6 => Just("a"), 3 => Just("b"), 1 => Just("unknown")];
    let alive = prop_oneof![Just(0), Just(255), any::<u8>()];
    let one = prop_oneof![
        60 => (which(), output()).prop_map(|(which, output)| Happening::Well(which, output)),
        6 => (which(), failure()).prop_map(|(which, failure)| Happening::Badly(which, failure)),
        5 => which().prop_map(Happening::Started),
        3 => which().prop_map(Happening::Withdrawn),
        25 => (name, 0_u32..40, text()).prop_map(|(name, id, payload)| Happening::Signal { name, id, payload }),
        12 => Just(Happening::Wake),
        4 => Just(Happening::Pause),
        6 => Just(Happening::Unpause),
        1 => proptest::option::of(1_u64..30).prop_map(Happening::Retry),
        6 => (any::<bool>(), alive).prop_map(|(process_crashed, alive)| Happening::Resumed { process_crashed, alive }),
        1 => Just(Happening::Released),
        6 => any::<bool>().prop_map(|fill| Happening::Restart { fill }),
        1 => Just(Happening::Redeploy),
        3 => Just(Happening::Upgraded),
    ];
    let death = [
        Happening::Started(Which::Current(0)),
        Happening::Started(Which::Current(1)),
        Happening::Restart { fill: false },
        Happening::Resumed { process_crashed: true, alive: 0 },
    ];
    prop_oneof![
        120 => one.prop_map(|one| vec![one]),
        2 => (1_usize..7).prop_map(move |n| vec![death.clone(); n].concat()),
        1 => Just(vec![Happening::Cancel]),
    ]
}
