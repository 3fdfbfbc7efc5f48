//! Random workflows.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::plan::{End, Options, Spec};

fn options() -> impl Strategy<Value = Options> {
    (0_u32..3, 0_u64..3, option::weighted(0.3, 1_u64..4)).prop_map(|(retries, backoff, timeout)| Options {
        retries,
        backoff,
        timeout,
    })
}

fn leaf() -> impl Strategy<Value = Spec> {
    let signal = prop_oneof![4 => Just("a"), 2 => Just("b")];
    let timeout = option::of(prop_oneof![1 => Just(0), 12 => 1_u64..4]);
    prop_oneof![
        5 => options().prop_map(Spec::Task),
        1 => (0_u64..4).prop_map(Spec::Delay),
        4 => (signal, timeout, any::<bool>())
            .prop_map(|(signal, timeout, keeps)| Spec::Wait { signal, timeout, keeps }),
    ]
}

/// Draws a node with others in it down to this depth.
pub(crate) fn spec(depth: u32) -> BoxedStrategy<Spec> {
    if depth == 0 {
        return leaf().boxed();
    }
    let inner = spec(depth - 1);
    let chain = || vec(inner.clone(), 1..3);
    let arms = vec(vec(inner.clone(), 0..3), 1..3);
    let end = prop_oneof![
        3 => options().prop_map(End::Task),
        1 => (0_u64..3).prop_map(End::TaskThenDelay),
        1 => vec(inner.clone(), 0..2).prop_map(End::Route),
    ];
    let limit = option::weighted(0.7, 1_u64..4);
    prop_oneof![
        5 => leaf(),
        2 => vec(chain(), 1..4).prop_map(Spec::Fork),
        1 => (any::<bool>(), arms, option::of(vec(inner.clone(), 0..3)))
            .prop_map(|(typed, arms, otherwise)| Spec::Route { typed, arms, otherwise }),
        2 => (limit, any::<bool>(), any::<bool>(), vec(inner.clone(), 0..3), end)
            .prop_map(|(limit, exits, drains, body, end)| Spec::Loop { limit, exits, drains, body, end }),
        2 => (option::of(1_usize..4), any::<bool>(), chain())
            .prop_map(|(concurrency, collects, body)| Spec::Map { concurrency, collects, body }),
        1 => chain().prop_map(Spec::Child),
    ]
    .boxed()
}
