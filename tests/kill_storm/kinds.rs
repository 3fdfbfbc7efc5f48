//! The workflows of the storm, and the expected outcome of an instance of each: which tasks, in
//! which order, with which delays.
//!
//! The value that flows is a trail: the instance's number, then a mark of each task. So a task's
//! node and its input tell its place, also in loops and maps, and the output tells every task that
//! was passed, in order.

use std::time::Duration;

use everstep::{BoxFuture, Concurrency, Dep, LoopLimit, LoopResult, RetryPolicy, Task, TaskContext, Workflow, task};
use serde::{Deserialize, Serialize};

use crate::ledger::{Ledger, Mark};

pub(crate) type Trail = Vec<u32>;

/// Signals that an instance of [`Kind::Wait`] takes, all of one name.
pub(crate) const SIGNALS: usize = 3;
/// The backoff after a failed attempt.
pub(crate) const BACKOFF: Duration = Duration::from_millis(2);
const DELAY: Duration = Duration::from_millis(4);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Chain,
    Fork,
    Loop,
    Map,
    Wait,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Chain, Self::Fork, Self::Loop, Self::Map, Self::Wait];

    pub(crate) fn workflow(self) -> Workflow<Trail, Trail> {
        let first = Workflow::builder(format!("{self:?}")).then("one", step(1));
        let built = match self {
            Self::Chain => {
                let two = first.delay("before two", DELAY).then("two", flaky(2));
                two.delay("before three", DELAY).then("three", step(3)).build()
            }
            Self::Fork => first
                .fork("fork", |fork| {
                    fork.branch("left", |left| left.then("a", step(10)).delay("before b", DELAY).then("b", step(11)))
                        .branch("right", |right| right.then("c", flaky(12)))
                })
                .join("join", join)
                .build(),
            Self::Loop => first
                .repeat("loop", LoopLimit::AtMost(10), |body| body.delay("before turn", DELAY).then("turn", turn))
                .build(),
            Self::Map => first
                .then("list", list)
                .map("map", Concurrency::AtMost(2), |item| {
                    item.then("look", flaky(20)).delay("before take", DELAY).then("take", step(21))
                })
                .then("sum", sum)
                .build(),
            Self::Wait => (0..SIGNALS)
                .fold(first, |chain, n| {
                    chain.wait_for_signal_keeping::<u32>(format!("wait {n}"), "go").then(format!("take {n}"), take)
                })
                .build(),
        };
        built.unwrap()
    }

    /// Returns the expected outcome of an instance: its output, and the tasks that run for it.
    pub(crate) fn plan(self, number: u32, signals: [u32; SIGNALS]) -> Plan {
        let mut plan = Plan { steps: Vec::new(), output: Vec::new() };
        let mut main = Cursor { trail: vec![number], after: Vec::new(), delay: Duration::ZERO };
        plan.step(&mut main, "one", 1, 0);
        match self {
            Self::Chain => {
                main.delay = DELAY;
                plan.step(&mut main, "two", 2, failures(number));
                main.delay = DELAY;
                plan.step(&mut main, "three", 3, 0);
            }
            Self::Fork => {
                let (mut left, mut right) = (main.clone(), main.clone());
                plan.step(&mut left, "fork/left/a", 10, 0);
                left.delay = DELAY;
                plan.step(&mut left, "fork/left/b", 11, 0);
                plan.step(&mut right, "fork/right/c", 12, failures(number));
                main = Cursor::joined([left, right]);
                plan.step(&mut main, "join", 13, 0);
            }
            Self::Loop => {
                while main.trail.len() < turns(number) {
                    main.delay = DELAY;
                    plan.step(&mut main, "loop/turn", 30, 0);
                }
            }
            Self::Map => {
                plan.step(&mut main, "list", 0, 0);
                let items = (0..items(number)).map(|item| {
                    let mut cursor = Cursor { trail: vec![item], ..main.clone() };
                    plan.step(&mut cursor, "map/look", 20, failures(item));
                    cursor.delay = DELAY;
                    plan.step(&mut cursor, "map/take", 21, 0);
                    cursor
                });
                let items: Vec<_> = items.collect();
                main = Cursor::joined(items);
                plan.step(&mut main, "sum", 22, 0);
            }
            Self::Wait => {
                for (n, signal) in signals.into_iter().enumerate() {
                    plan.step(&mut main, &format!("take {n}"), signal, 0);
                }
            }
        }
        plan.output = main.trail;
        plan
    }
}

/// The expected outcome of an instance.
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) output: Trail,
}

/// A task that runs once, from the instance's point of view.
pub(crate) struct Step {
    /// Its node, and its input.
    pub(crate) place: (String, Trail),
    /// The steps before it.
    pub(crate) after: Vec<usize>,
    /// The least time between these and it.
    pub(crate) delay: Duration,
    /// Attempts that fail before one succeeds.
    pub(crate) failures: u32,
}

#[derive(Clone)]
struct Cursor {
    trail: Trail,
    after: Vec<usize>,
    delay: Duration,
}

impl Cursor {
    fn joined(cursors: impl IntoIterator<Item = Self>) -> Self {
        let mut joined = Self { trail: Vec::new(), after: Vec::new(), delay: Duration::ZERO };
        for cursor in cursors {
            joined.trail.extend(cursor.trail);
            joined.after.extend(cursor.after);
        }
        joined
    }
}

impl Plan {
    fn step(&mut self, cursor: &mut Cursor, node: &str, mark: u32, failures: u32) {
        let place = (node.to_owned(), cursor.trail.clone());
        let after = std::mem::replace(&mut cursor.after, vec![self.steps.len()]);
        let delay = std::mem::take(&mut cursor.delay);
        self.steps.push(Step { place, after, delay, failures });
        cursor.trail.push(mark);
    }
}

/// Returns true if an instance is paused now and then.
pub(crate) fn is_paused_at_times(number: u32) -> bool {
    number % 4 == 1
}

/// Returns the number of failing attempts of a flaky task.
fn failures(number: u32) -> u32 {
    number % 3
}

/// Returns the length of the trail at the end of a loop.
fn turns(number: u32) -> usize {
    3 + number as usize % 4
}

fn items(number: u32) -> u32 {
    1 + number % 4
}

/// Runs a task that writes to the ledger when it begins and when it ends, with a moment between the
/// two.
async fn on_the_record(ledger: &Ledger, context: &TaskContext, trail: &[u32], fails: bool) -> Result<(), String> {
    ledger.write(Mark::Begin, context, trail);
    // Of different lengths, so that kills hit all phases; longest where there are pauses.
    let ms = u64::from(trail.iter().sum::<u32>() % 4) + if is_paused_at_times(trail[0]) { 20 } else { 0 };
    tokio::time::sleep(Duration::from_millis(ms)).await;
    ledger.write(if fails { Mark::Fail } else { Mark::End }, context, trail);
    if fails { Err("as planned".into()) } else { Ok(()) }
}

type Given<O> = BoxFuture<'static, Result<O, String>>;

fn step(mark: u32) -> impl Fn(Trail, TaskContext, Dep<Ledger>) -> Given<Trail> + Send + Sync {
    move |mut trail, context, Dep(ledger)| {
        Box::pin(async move {
            on_the_record(&ledger, &context, &trail, false).await?;
            trail.push(mark);
            Ok(trail)
        })
    }
}

fn flaky(mark: u32) -> Task<impl Fn(Trail, TaskContext, Dep<Ledger>) -> Given<Trail> + Send + Sync> {
    let function = move |mut trail: Trail, context: TaskContext, Dep(ledger): Dep<Ledger>| -> Given<Trail> {
        Box::pin(async move {
            let fails = context.attempt() <= failures(trail[0]);
            on_the_record(&ledger, &context, &trail, fails).await?;
            trail.push(mark);
            Ok(trail)
        })
    };
    task(function).retry(RetryPolicy::fixed(5, BACKOFF))
}

async fn join((left, right): (Trail, Trail), context: TaskContext, ledger: Dep<Ledger>) -> Result<Trail, String> {
    sum_up(vec![left, right], &context, &ledger.0, 13).await
}

async fn sum(trails: Vec<Trail>, context: TaskContext, ledger: Dep<Ledger>) -> Result<Trail, String> {
    sum_up(trails, &context, &ledger.0, 22).await
}

async fn sum_up(trails: Vec<Trail>, context: &TaskContext, ledger: &Ledger, mark: u32) -> Result<Trail, String> {
    let mut trail = trails.concat();
    on_the_record(ledger, context, &trail, false).await?;
    trail.push(mark);
    Ok(trail)
}

async fn turn(mut trail: Trail, context: TaskContext, ledger: Dep<Ledger>) -> Result<LoopResult<Trail, Trail>, String> {
    on_the_record(&ledger.0, &context, &trail, false).await?;
    trail.push(30);
    let done = trail.len() >= turns(trail[0]);
    Ok(if done { LoopResult::Done(trail) } else { LoopResult::Again(trail) })
}

async fn list(trail: Trail, context: TaskContext, ledger: Dep<Ledger>) -> Result<Vec<Trail>, String> {
    on_the_record(&ledger.0, &context, &trail, false).await?;
    Ok((0..items(trail[0])).map(|item| vec![item]).collect())
}

async fn take((mut trail, signal): (Trail, u32), context: TaskContext, ledger: Dep<Ledger>) -> Result<Trail, String> {
    on_the_record(&ledger.0, &context, &trail, false).await?;
    trail.push(signal);
    Ok(trail)
}
