//! From a plan to a definition, through the typed builder.

use std::convert::Infallible;
use std::fmt::Debug;
use std::slice::Iter;
use std::sync::Arc;
use std::time::Duration;

use everstep::{
    Builder, Concurrency, Definition, DefinitionHash, LoopLimit, LoopResult, Output, RetryPolicy, Route, RouteKey,
    SignalOutcome, Task, Workflow, task,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::plan::{self, Gives, Node, Options, Shape, What};

/// The chain of a builder so far: its type parameter, as a variant.
pub(crate) enum Chain<I> {
    Text(Builder<I, String>),
    Outcome(Builder<I, SignalOutcome<String>>),
    Both(Builder<I, (String, SignalOutcome<String>)>),
    List(Builder<I, Vec<String>>),
}

/// A type that flows.
pub(crate) trait Flow: Output + Serialize + DeserializeOwned + Debug + Clone + Send + Sync + 'static {
    fn wrap<I>(builder: Builder<I, Self>) -> Chain<I>;
    fn unwrap<I>(chain: Chain<I>) -> Builder<I, Self>;
    fn text(&self) -> &str;
    fn of(text: String) -> Self;
}

macro_rules! flow {
    ($flow:ty, $variant:ident, $self:ident => $text:expr, $made:ident => $of:expr) => {
        impl Flow for $flow {
            fn wrap<I>(builder: Builder<I, Self>) -> Chain<I> {
                Chain::$variant(builder)
            }

            fn unwrap<I>(chain: Chain<I>) -> Builder<I, Self> {
                match chain {
                    Chain::$variant(builder) => builder,
                    _ => unreachable!("the plan says which type flows"),
                }
            }

            fn text(&$self) -> &str {
                $text
            }

            fn of($made: String) -> Self {
                $of
            }
        }
    };
}

flow!(String, Text, self => self, text => text);
flow!(SignalOutcome<String>, Outcome, self => match self {
    Self::Received(text) => text,
    Self::TimedOut => "",
}, text => Self::Received(text));
flow!((String, SignalOutcome<String>), Both, self => &self.0, text => (text, SignalOutcome::TimedOut));
flow!(Vec<String>, List, self => self.first().map_or("", String::as_str), text => vec![text]);

/// Returns the key of a route for a text: its first letter.
pub(crate) fn key(text: &str) -> String {
    text.chars().next().map_or_else(|| "none".into(), String::from)
}

pub(crate) fn is_true(text: &str) -> bool {
    text < "c"
}

/// Returns the debug text of a task's input; the story then replaces the result.
async fn show<T: Debug>(input: T) -> Result<String, Infallible> {
    Ok(format!("{input:?}"))
}

async fn spread<T: Debug>(input: T) -> Result<Vec<String>, Infallible> {
    Ok(vec![format!("{input:?}")])
}

async fn turn<T: Debug, A, D: Flow>(input: T) -> Result<LoopResult<A, D>, Infallible> {
    Ok(LoopResult::Done(D::of(format!("{input:?}"))))
}

fn tuned<H>(function: H, options: &Options) -> Task<H> {
    let task = task(function).retry(RetryPolicy::fixed(options.retries, Duration::from_secs(options.backoff)));
    match options.timeout {
        Some(seconds) => task.timeout(Duration::from_secs(seconds)),
        None => task,
    }
}

/// Differences between deploys: loop limits, and the version.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tuning {
    pub(crate) more_iterations: u64,
    /// A later version upgrades the previous one, and has that many more nodes at its front: no
    /// node has its number of before.
    pub(crate) version: u32,
    pub(crate) older: Option<DefinitionHash>,
}

pub(crate) fn definition(plan: &plan::Chain, deadline: Option<u64>, tuning: Tuning) -> Arc<Definition> {
    let empty = Workflow::builder("random").version(tuning.version.to_string());
    let empty = match tuning.older {
        Some(older) => empty.upgrades_from(older),
        None => empty,
    };
    let empty = match deadline {
        Some(seconds) => empty.deadline(Duration::from_secs(seconds)),
        None => empty,
    };
    let front = |builder: Builder<String, String>, n| builder.delay(format!("front {n}"), Duration::from_secs(1));
    let builder = (0..tuning.version).fold(empty.taking::<String>(), front);
    match tuning.all(Chain::Text(builder), &plan.nodes) {
        Chain::Text(builder) => Arc::clone(builder.build().unwrap().definition()),
        Chain::Outcome(builder) => Arc::clone(builder.build().unwrap().definition()),
        Chain::Both(_) | Chain::List(_) => unreachable!("a plan ends narrow"),
    }
}

impl Tuning {
    fn all<I: Flow>(self, chain: Chain<I>, nodes: &[Node]) -> Chain<I> {
        let (mut chain, mut nodes) = (chain, nodes.iter());
        while let Some(node) = nodes.next() {
            chain = match chain {
                Chain::Text(builder) => self.add(builder, node, &mut nodes),
                Chain::Outcome(builder) => self.add(builder, node, &mut nodes),
                Chain::Both(builder) => self.add(builder, node, &mut nodes),
                Chain::List(builder) => self.add(builder, node, &mut nodes),
            };
        }
        chain
    }

    /// Adds a whole chain from `I` to `O`.
    fn inner<I: Flow, O: Flow>(self, builder: Builder<I, I>, chain: &plan::Chain) -> Builder<I, O> {
        O::unwrap(self.all(I::wrap(builder), &chain.nodes))
    }

    /// Adds a node, and after it the task that takes in a type which does not flow on.
    fn add<I: Flow, O: Flow>(self, builder: Builder<I, O>, node: &Node, rest: &mut Iter<'_, Node>) -> Chain<I> {
        let id = node.id.as_str();
        match &node.what {
            What::Task { options, gives: Gives::List, .. } => {
                Chain::List(builder.then(id, tuned(spread::<O>, options)))
            }
            What::Task { options, .. } => Chain::Text(builder.then(id, tuned(show::<O>, options))),
            What::Delay(seconds) => O::wrap(builder.delay(id, Duration::from_secs(*seconds))),
            What::Wait { signal, timeout, keeps } => {
                Self::wait(builder, id, (*signal, timeout.map(Duration::from_secs), *keeps), rest)
            }
            What::Fork { branches, gives } => Chain::Text(self.fork(builder, id, branches, *gives, rest)),
            What::Route { gives: Shape::Text, .. } => Chain::Text(self.route(builder, node, Self::inner)),
            What::Route { .. } => Chain::Outcome(self.route(builder, node, Self::inner)),
            What::Loop { limit, exits: true, body, .. } => {
                O::wrap(
                    builder.repeat_or_exit(id, limit.unwrap() + self.more_iterations, |chain| self.body(chain, body)),
                )
            }
            What::Loop { limit, drains, body, .. } => {
                let limit = limit.map_or(LoopLimit::Unlimited, |limit| LoopLimit::AtMost(limit + self.more_iterations));
                if let Some(signal) = drains {
                    return O::wrap(builder.repeat_draining(id, limit, *signal, |chain| self.body(chain, body)));
                }
                Chain::Text(builder.repeat(id, limit, |chain| self.body(chain, body)))
            }
            What::Map { gives: Shape::Text, .. } => self.map::<I, String>(Flow::unwrap(O::wrap(builder)), node, rest),
            What::Map { .. } => self.map::<I, SignalOutcome<String>>(Flow::unwrap(O::wrap(builder)), node, rest),
            What::Child { nodes, gives: Shape::Text, .. } => {
                let child = self.inner::<O, String>(Workflow::builder_for("child"), nodes).build().unwrap();
                Chain::Text(builder.child(id, &child))
            }
            What::Child { nodes, .. } => {
                let child =
                    self.inner::<O, SignalOutcome<String>>(Workflow::builder_for("child"), nodes).build().unwrap();
                Chain::Outcome(builder.child(id, &child))
            }
        }
    }

    fn wait<I: Flow, O: Flow>(
        builder: Builder<I, O>,
        id: &str,
        (signal, timeout, keeps): (&str, Option<Duration>, bool),
        rest: &mut Iter<'_, Node>,
    ) -> Chain<I> {
        match (keeps, timeout) {
            (false, None) => Chain::Text(builder.wait_for_signal(id, signal)),
            (false, Some(timeout)) => Chain::Outcome(builder.wait_for_signal_timeout(id, signal, timeout)),
            (true, None) => Chain::Text(fold(builder.wait_for_signal_keeping::<String>(id, signal), rest)),
            (true, Some(timeout)) => match O::wrap(builder) {
                Chain::Text(builder) => Chain::Both(builder.wait_for_signal_keeping_timeout(id, signal, timeout)),
                other => Chain::Text(fold(
                    O::unwrap(other).wait_for_signal_keeping_timeout::<String>(id, signal, timeout),
                    rest,
                )),
            },
        }
    }

    fn fork<I: Flow, O: Flow>(
        self,
        builder: Builder<I, O>,
        id: &str,
        branches: &[(String, plan::Chain)],
        gives: Option<Shape>,
        rest: &mut Iter<'_, Node>,
    ) -> Builder<I, String> {
        let (join, options) = next_task(rest);
        match gives {
            Some(Shape::Text) => builder
                .fork_by_name::<String>(id, |fork| {
                    let add = |fork: everstep::NamedFork<_, _>, (name, chain): &(String, plan::Chain)| {
                        fork.branch(name, |branch| self.inner(branch, chain))
                    };
                    branches.iter().fold(fork, add)
                })
                .join(join, tuned(show, options)),
            Some(_) => builder
                .fork_by_name::<SignalOutcome<String>>(id, |fork| {
                    let add = |fork: everstep::NamedFork<_, _>, (name, chain): &(String, plan::Chain)| {
                        fork.branch(name, |branch| self.inner(branch, chain))
                    };
                    branches.iter().fold(fork, add)
                })
                .join(join, tuned(show, options)),
            None => {
                let [(left, left_chain), (right, right_chain)] = branches else { unreachable!("a pair of branches") };
                builder
                    .fork(id, |fork| {
                        fork.branch(left, |branch| self.inner::<O, String>(branch, left_chain))
                            .branch(right, |branch| self.inner::<O, SignalOutcome<String>>(branch, right_chain))
                    })
                    .join(join, tuned(show, options))
            }
        }
    }

    fn route<I: Flow, O: Flow, X: Send + 'static>(
        self,
        builder: Builder<I, O>,
        node: &Node,
        chain: impl Fn(Self, Builder<O, O>, &plan::Chain) -> Builder<O, X>,
    ) -> Builder<I, X> {
        let What::Route { typed, arms, otherwise, .. } = &node.what else { unreachable!("a route") };
        let id = node.id.as_str();
        let chain = |arm, plan: &plan::Chain| chain(self, arm, plan);
        if *typed {
            let key = |name: &str| name == "true";
            builder.route(
                id,
                |input: &O| is_true(input.text()),
                |route| add_arms(route, arms, otherwise.as_ref(), key, chain),
            )
        } else {
            let own = |name: &str| name.to_owned();
            builder.route(
                id,
                |input: &O| key(input.text()),
                |route| add_arms(route, arms, otherwise.as_ref(), own, chain),
            )
        }
    }

    fn map<I: Flow, X: Flow>(
        self,
        builder: Builder<I, Vec<String>>,
        node: &Node,
        rest: &mut Iter<'_, Node>,
    ) -> Chain<I> {
        let What::Map { concurrency, collects, body, gives } = &node.what else { unreachable!("a map") };
        let (id, at_once) = (node.id.as_str(), concurrency.map_or(Concurrency::Unlimited, Concurrency::AtMost));
        if *collects {
            return Chain::Text(fold(builder.map_collect::<X>(id, at_once, |item| self.inner(item, body)), rest));
        }
        if *gives == Shape::Text {
            return Chain::List(builder.map::<String>(id, at_once, |item| self.inner(item, body)));
        }
        Chain::Text(fold(builder.map::<X>(id, at_once, |item| self.inner(item, body)), rest))
    }

    /// Adds a loop's body: its chain, and its end.
    fn body<O: Flow, A: Flow, D: Flow>(
        self,
        builder: Builder<O, O>,
        body: &plan::Chain,
    ) -> Builder<O, LoopResult<A, D>> {
        let (front, end) = body.nodes.split_at(body.end);
        match self.all(O::wrap(builder), front) {
            Chain::Text(builder) => self.end(builder, end),
            Chain::Outcome(builder) => self.end(builder, end),
            Chain::Both(builder) => self.end(builder, end),
            Chain::List(builder) => self.end(builder, end),
        }
    }

    fn end<I: Flow, O: Flow, A: Flow, D: Flow>(
        self,
        builder: Builder<I, O>,
        end: &[Node],
    ) -> Builder<I, LoopResult<A, D>> {
        let (first, delays) = end.split_first().unwrap();
        let builder = match &first.what {
            What::Task { options, .. } => builder.then(&first.id, tuned(turn::<O, A, D>, options)),
            _ => self.route(builder, first, Self::body),
        };
        delays.iter().fold(builder, |builder, node| match node.what {
            What::Delay(seconds) => builder.delay(&node.id, Duration::from_secs(seconds)),
            _ => unreachable!("only a delay passes a loop's result on"),
        })
    }
}

fn add_arms<O: Flow, K: RouteKey, X: Send + 'static>(
    route: Route<O, K, X>,
    arms: &[(String, plan::Chain)],
    otherwise: Option<&plan::Chain>,
    key: impl Fn(&str) -> K,
    chain: impl Fn(Builder<O, O>, &plan::Chain) -> Builder<O, X>,
) -> Route<O, K, X> {
    let route = arms.iter().fold(route, |route, (name, plan)| route.arm(key(name), |arm| chain(arm, plan)));
    match otherwise {
        Some(plan) => route.otherwise(|arm| chain(arm, plan)),
        None => route,
    }
}

fn next_task<'a>(rest: &mut Iter<'a, Node>) -> (&'a str, &'a Options) {
    match rest.next() {
        Some(Node { id, what: What::Task { options, .. }, .. }) => (id, options),
        other => unreachable!("a task comes next, not {other:?}"),
    }
}

fn fold<I, O: Debug + Send + 'static>(builder: Builder<I, O>, rest: &mut Iter<'_, Node>) -> Builder<I, String> {
    let (id, options) = next_task(rest);
    builder.then(id, tuned(show, options))
}
