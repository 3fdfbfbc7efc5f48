//! Long workflows, whose values are all of one size.

use std::convert::Infallible;

use everstep::{Builder, Concurrency, Dep, LoopLimit, LoopResult, Workflow};

use crate::common::{Gate, same};

pub(crate) const STEPS: usize = 10_000;

/// A number with a fixed count of digits.
pub(crate) type Text = String;

pub(crate) fn text(number: usize, digits: usize) -> Text {
    format!("{number:0digits$}")
}

fn number(text: &Text) -> usize {
    text.parse().unwrap()
}

/// Adds one; waits at the gate, if there is one.
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

/// Returns a loop that maps a list of many items, and of few in its next iteration.
pub(crate) fn shrinking(few: usize) -> Workflow<Vec<Text>, Vec<Text>> {
    let turn = move |items: Vec<Text>, Dep(gate): Dep<Option<Gate>>| async move {
        if let Some(gate) = &*gate {
            gate.pass().await;
        }
        let is_last = items.len() == few;
        let items: Vec<Text> = items.into_iter().take(few).collect();
        Ok::<_, Infallible>(if is_last { LoopResult::Done(items) } else { LoopResult::Again(items) })
    };
    let body = |body: Builder<Vec<Text>, Vec<Text>>| {
        body.map("each", Concurrency::Unlimited, |item| item.then("same", same::<Text>)).then("turn", turn)
    };
    Workflow::builder_for("shrinking").repeat("loop", LoopLimit::Unlimited, body).build().unwrap()
}
