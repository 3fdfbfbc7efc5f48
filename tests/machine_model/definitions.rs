//! Random linear workflows.

use std::sync::Arc;
use std::time::Duration;

use everstep::{Builder, Definition, RetryPolicy, SignalOutcome, Workflow, task};
use proptest::prelude::*;

/// A node; times in seconds.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Task { retries: u32, backoff: u64, timeout: Option<u64> },
    Delay(u64),
    Wait { signal: &'static str, timeout: Option<u64>, keeps: bool },
}

/// The chain of a builder so far: its type parameter, as a variant.
enum Chain {
    Plain(Builder<u64, u64>),
    Outcome(Builder<u64, SignalOutcome<u64>>),
    Pair(Builder<u64, (u64, u64)>),
    PairOutcome(Builder<u64, (u64, SignalOutcome<u64>)>),
    OutcomePair(Builder<u64, (SignalOutcome<u64>, u64)>),
    Outcomes(Builder<u64, (SignalOutcome<u64>, SignalOutcome<u64>)>),
}

/// A task that never runs: the machine only asks for it.
async fn never<T>(_: T) -> Result<u64, std::convert::Infallible> {
    Ok(0)
}

macro_rules! each {
    ($chain:expr, $builder:ident => $body:expr, $same:ident) => {
        match $chain {
            Chain::Plain($builder) => {
                let $same = Chain::Plain;
                $body
            }
            Chain::Outcome($builder) => {
                let $same = Chain::Outcome;
                $body
            }
            Chain::Pair($builder) => {
                let $same = Chain::Pair;
                $body
            }
            Chain::PairOutcome($builder) => {
                let $same = Chain::PairOutcome;
                $body
            }
            Chain::OutcomePair($builder) => {
                let $same = Chain::OutcomePair;
                $body
            }
            Chain::Outcomes($builder) => {
                let $same = Chain::Outcomes;
                $body
            }
        }
    };
}

fn add(chain: Chain, id: String, node: &mut Node) -> Chain {
    match node {
        Node::Task { retries, backoff, timeout } => {
            let retry = RetryPolicy::fixed(*retries, Duration::from_secs(*backoff));
            let timeout = timeout.map(Duration::from_secs);
            each!(chain, b => {
                let options = task(never).retry(retry);
                Chain::Plain(match timeout { Some(t) => b.then(id, options.timeout(t)), None => b.then(id, options) })
            }, _same)
        }
        Node::Delay(seconds) => each!(chain, b => same(b.delay(id, Duration::from_secs(*seconds))), same),
        Node::Wait { signal, timeout, keeps: true } => {
            let timeout = timeout.map(Duration::from_secs);
            match (chain, timeout) {
                (Chain::Plain(b), None) => Chain::Pair(b.wait_for_signal_keeping(id, *signal)),
                (Chain::Plain(b), Some(t)) => Chain::PairOutcome(b.wait_for_signal_keeping_timeout(id, *signal, t)),
                (Chain::Outcome(b), None) => Chain::OutcomePair(b.wait_for_signal_keeping(id, *signal)),
                (Chain::Outcome(b), Some(t)) => Chain::Outcomes(b.wait_for_signal_keeping_timeout(id, *signal, t)),
                (deep, _) => {
                    // Deeper types are left out: the wait does not keep its value.
                    let Node::Wait { keeps, .. } = node else { unreachable!() };
                    *keeps = false;
                    add(deep, id, node)
                }
            }
        }
        Node::Wait { signal, timeout: None, .. } => {
            each!(chain, b => Chain::Plain(b.wait_for_signal(id, *signal)), _same)
        }
        Node::Wait { signal, timeout: Some(seconds), .. } => {
            let timeout = Duration::from_secs(*seconds);
            each!(chain, b => Chain::Outcome(b.wait_for_signal_timeout(id, *signal, timeout)), _same)
        }
    }
}

/// Builds the definition. Only a workflow that starts with a task can have a deadline, as the
/// builder is.
pub(crate) fn definition(nodes: &mut [Node], deadline: Option<u64>) -> Arc<Definition> {
    let empty = Workflow::builder("random");
    let (chain, first) = match deadline {
        Some(seconds) => (empty.deadline(Duration::from_secs(seconds)).then("n0", never::<u64>), 1),
        None => (Workflow::builder_for::<u64>("random"), 0),
    };
    if first == 1 {
        nodes[0] = Node::Task { retries: 0, backoff: 0, timeout: None };
    }
    let rest = nodes.iter_mut().enumerate().skip(first);
    let chain = rest.fold(Chain::Plain(chain), |chain, (n, node)| add(chain, format!("n{n}"), node));
    each!(chain, b => Arc::clone(b.build().unwrap().definition()), _same)
}

pub(crate) fn node() -> impl Strategy<Value = Node> {
    let seconds = || proptest::option::of(1_u64..4);
    let signal = prop_oneof![3 => Just("a"), 2 => Just("b"), 1 => Just("c")];
    prop_oneof![
        3 => (0_u32..3, 0_u64..3, seconds()).prop_map(|(retries, backoff, timeout)| Node::Task { retries, backoff, timeout }),
        1 => (0_u64..4).prop_map(Node::Delay),
        3 => (signal, seconds(), any::<bool>()).prop_map(|(signal, timeout, keeps)| Node::Wait { signal, timeout, keeps }),
    ]
}
