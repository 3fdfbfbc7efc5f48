//! A workflow for each kind of node within each other, at each position.

use std::time::Duration;

use everstep::{Builder, Concurrency, LoopResult, Workflow};

use crate::tasks::{Item, List, gather, is_even, join, spread, step, step_one, turn, turn_join};

const MINUTE: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Task,
    Delay,
    Signal,
    Fork,
    Route,
    Loop,
    Map,
    Child,
}

pub(crate) const KINDS: [Kind; 8] =
    [Kind::Task, Kind::Delay, Kind::Signal, Kind::Fork, Kind::Route, Kind::Loop, Kind::Map, Kind::Child];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Position {
    First,
    Middle,
    Last,
}

pub(crate) const POSITIONS: [Position; 3] = [Position::First, Position::Middle, Position::Last];

/// Returns a workflow with `inner` at a position of the chain within `outer`. If `outer` has no
/// chains, it is the other nodes of the main chain; the outer node, too, is first, in the middle,
/// or last.
pub(crate) fn workflow(outer: Kind, inner: Kind, position: Position) -> Workflow<List, List> {
    let name = format!("{outer:?} {inner:?} {position:?}");
    let start = Workflow::builder_for::<List>(name);
    if matches!(outer, Kind::Task | Kind::Delay | Kind::Signal) {
        return chain(start, outer, inner, position).build().unwrap();
    }
    let start = if position == Position::First { start } else { start.then("before", step) };
    let placed = |within: Builder<List, List>| chain(within, Kind::Task, inner, position);
    let around = match outer {
        Kind::Fork => start
            .fork("outer", |fork| fork.branch("in", placed).branch("beside", |branch| branch.then("step", step)))
            .join("join", join),
        Kind::Route => start.route("outer", |_| true, |route| route.arm(true, placed).arm(false, |arm| arm)),
        Kind::Loop => start.repeat_or_exit("outer", 2, |body| body_chain(body, inner, position)),
        Kind::Map => start.then("spread", spread).map("outer", concurrency(position), placed).then("gather", gather),
        _ => start.child("outer", &placed(Workflow::builder_for("child")).build().unwrap()),
    };
    let end = if position == Position::Last { around } else { around.then("after", step) };
    end.build().unwrap()
}

fn concurrency(position: Position) -> Concurrency {
    if position == Position::Middle { Concurrency::AtMost(1) } else { Concurrency::Unlimited }
}

/// Adds three nodes.
fn chain<I>(start: Builder<I, List>, others: Kind, inner: Kind, position: Position) -> Builder<I, List> {
    let at = |here, chain, id| {
        if position == here { node(chain, inner, "inner", position) } else { node(chain, others, id, position) }
    };
    let first = at(Position::First, start, "first");
    let second = at(Position::Middle, first, "second");
    at(Position::Last, second, "third")
}

/// Adds three nodes as a loop's body, with the `LoopResult` at its end.
fn body_chain(body: Builder<List, List>, inner: Kind, position: Position) -> Builder<List, LoopResult<List, List>> {
    match position {
        Position::First => node(body, inner, "inner", position).then("step", step).then("turn", turn),
        Position::Middle => node(body.then("step", step), inner, "inner", position).then("turn", turn),
        Position::Last => last_of_body(body.then("step", step), inner),
    }
}

fn node<I>(chain: Builder<I, List>, kind: Kind, id: &str, position: Position) -> Builder<I, List> {
    match kind {
        Kind::Task => chain.then(id, step),
        Kind::Delay => chain.delay(id, MINUTE),
        Kind::Signal => chain.wait_for_signal::<List>(id, "go"),
        Kind::Fork => chain.fork(id, |fork| fork.branch("a", one).branch("b", two)).join(format!("{id} join"), join),
        Kind::Route => chain.route(id, is_even, |route| route.arm(true, one).arm(false, two)),
        Kind::Loop => chain.repeat_or_exit(id, 2, |body| body.then("step", step).then("turn", turn)),
        Kind::Map => chain.map(id, concurrency(position), |item: Builder<Item, Item>| item.then("step", step_one)),
        Kind::Child => chain.child(id, &two(Workflow::builder_for("inner child")).build().unwrap()),
    }
}

/// Ends a loop's body: with a node of this kind if it can return the `LoopResult`, else with a task
/// after it.
fn last_of_body(body: Builder<List, List>, kind: Kind) -> Builder<List, LoopResult<List, List>> {
    let turns = |chain: Builder<List, List>| chain.then("turn", turn);
    match kind {
        Kind::Task => body.then("inner", turn),
        Kind::Delay => turns(body).delay("inner", MINUTE),
        Kind::Fork => body.fork("inner", |fork| fork.branch("a", one).branch("b", two)).join("inner join", turn_join),
        Kind::Route => body.route("inner", is_even, |route| route.arm(true, turns).arm(false, |arm| turns(two(arm)))),
        Kind::Child => body.child("inner", &turns(two(Workflow::builder_for("inner child"))).build().unwrap()),
        Kind::Signal | Kind::Loop | Kind::Map => turns(node(body, kind, "inner", Position::Last)),
    }
}

fn one(chain: Builder<List, List>) -> Builder<List, List> {
    chain.then("step", step)
}

fn two(chain: Builder<List, List>) -> Builder<List, List> {
    one(chain).then("more", step)
}
