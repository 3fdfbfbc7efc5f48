//! Events of an instance, and their frequencies.

use std::time::Duration;

use everstep::{AttemptFailure, FailureKind};
use proptest::prelude::*;

#[derive(Clone, Debug)]
pub(crate) enum What {
    Finished(Which, Ended),
    Started(Which),
    Withdrawn(Which),
    Signal {
        name: &'static str,
        id: u8,
        payload: Vec<u8>,
    },
    Wake,
    Pause,
    Unpause,
    Cancel,
    Resumed {
        process_crashed: bool,
        alive: bool,
    },
    /// The snapshot is read back from the writes.
    Restart,
}

/// The reported attempt: the one in progress, or an old one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    Current,
    Old,
}

#[derive(Clone, Debug)]
pub(crate) enum Ended {
    Well(Vec<u8>),
    Badly(AttemptFailure),
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![9 => Just(Which::Current), 1 => Just(Which::Old)]
}

/// Draws a payload: small ones stay in the head, large ones go to a row.
pub(crate) fn payload() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), prop_oneof![4 => 1_usize..4, 1 => 120_usize..200]).prop_map(|(byte, length)| vec![byte; length])
}

fn failure() -> impl Strategy<Value = Ended> {
    use FailureKind::{Codec, Error, Panicked, Permanent, TimedOut};
    let kind =
        prop_oneof![6 => Just(Error), 2 => Just(TimedOut), 1 => Just(Panicked), 1 => Just(Permanent), 1 => Just(Codec)];
    (kind, proptest::option::weighted(0.2, 0_u64..4)).prop_map(|(kind, retry_after)| {
        let retry_after = retry_after.map(Duration::from_secs);
        Ended::Badly(AttemptFailure { retry_after, ..AttemptFailure::new(kind, "no") })
    })
}

/// Draws one event mostly; sometimes a task that crashes its process, again and again.
pub(crate) fn happenings() -> impl Strategy<Value = Vec<What>> {
    let name = prop_oneof![4 => Just("a"), 3 => Just("b"), 1 => Just("c"), 1 => Just("unknown")];
    let one = prop_oneof![
        30 => (which(), payload()).prop_map(|(which, output)| What::Finished(which, Ended::Well(output))),
        8 => (which(), failure()).prop_map(|(which, failure)| What::Finished(which, failure)),
        6 => which().prop_map(What::Started),
        3 => which().prop_map(What::Withdrawn),
        25 => (name, 0_u8..24, payload()).prop_map(|(name, id, payload)| What::Signal { name, id, payload }),
        20 => Just(What::Wake),
        4 => Just(What::Pause),
        6 => Just(What::Unpause),
        1 => Just(What::Cancel),
        6 => any::<(bool, bool)>().prop_map(|(process_crashed, alive)| What::Resumed { process_crashed, alive }),
        6 => Just(What::Restart),
    ];
    let death = [What::Started(Which::Current), What::Restart, What::Resumed { process_crashed: true, alive: false }];
    prop_oneof![40 => one.prop_map(|one| vec![one]), 1 => (1_usize..7).prop_map(move |n| vec![death.clone(); n].concat())]
}
