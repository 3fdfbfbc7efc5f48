//! Long workflows, whose values are all of one size.

use std::convert::Infallible;

use everstep::{Concurrency, Dep, LoopLimit, LoopResult, Workflow};

use crate::common::Gate;

pub(crate) const STEPS: usize = 10_000;

/// A number in so many digits, always the same.
pub(crate) type Text = String;

pub(crate) fn text(number: usize, digits: usize) -> Text {
    format!("{number:0digits$}")
}

fn number(text: &Text) -> usize {
    text.parse().unwrap()
}

/// Adds one; at the gate, if there is one.
async fn step(value: Text, Dep(gate): Dep<Option<Gate>>) -> Result<Text, Infallible> {
    if let Some(gate) = &*gate {
        gate.pass().await;
    }
    Ok(text(number(&value) + 1, value.len()))
}

async fn turn(value: Text, gate: Dep<Option<Gate>>) -> Result<LoopResult<Text, Text>, Infallible> {
    let value = step(value, gate).await?;
    Ok(if number(&value) == STEPS { LoopResult::Done(value) } else { LoopResult::Again(value) })
}

pub(crate) fn chain() -> Workflow<Text, Text> {
    let start = Workflow::builder_for("chain");
    (0..STEPS).fold(start, |chain, n| chain.then(format!("step {n:05}"), step)).build().unwrap()
}

pub(crate) fn looping() -> Workflow<Text, Text> {
    Workflow::builder_for("loop").repeat("loop", LoopLimit::Unlimited, |body| body.then("turn", turn)).build().unwrap()
}

pub(crate) fn mapping(concurrency: Concurrency) -> Workflow<Vec<Text>, Vec<Text>> {
    Workflow::builder_for("map").map("each", concurrency, |item| item.then("step", step)).build().unwrap()
}
