//! Values of the workflows here, and their tasks, which record that they ran.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use everstep::{Dep, LoopResult, TaskContext};
use serde::{Deserialize, Serialize};

/// A number that every task changes in its own way, so that the output shows which tasks ran, and
/// the key of the last one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) number: u64,
    pub(crate) key: String,
}

/// The value that flows: over the limit up to which values are stored in the head. Its items are
/// below it.
pub(crate) type List = Vec<Item>;

pub(crate) fn list(numbers: [u64; 2]) -> List {
    numbers.map(|number| Item { number, key: String::new() }).into()
}

/// One run of a task.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    /// The process in which it ran.
    pub(crate) life: usize,
    pub(crate) path: String,
    pub(crate) key: String,
    pub(crate) attempt: u32,
}

/// Records of tasks that ran; one for each process, all with the same list.
#[derive(Clone, Default)]
pub(crate) struct Log {
    life: usize,
    ran: Arc<Mutex<Vec<Ran>>>,
}

impl Log {
    /// Returns the records for this process.
    pub(crate) fn of(&self, life: usize) -> Self {
        Self { life, ran: Arc::clone(&self.ran) }
    }

    pub(crate) fn ran(&self) -> Vec<Ran> {
        self.ran.lock().unwrap().clone()
    }

    fn enter(&self, context: &TaskContext) {
        let (path, key, attempt) = (context.node().to_string(), context.idempotency_key(), context.attempt());
        self.ran.lock().unwrap().push(Ran { life: self.life, path, key, attempt });
    }

    fn pass(&self, context: &TaskContext, list: &[Item]) -> List {
        self.enter(context);
        list.iter().map(|item| changed(item, context)).collect()
    }
}

fn changed(item: &Item, context: &TaskContext) -> Item {
    let path = context.node().as_str().bytes();
    let number = path.fold(item.number, |number, byte| number.wrapping_mul(1_000_003) ^ u64::from(byte));
    Item { number, key: context.idempotency_key() }
}

fn sum(list: &List) -> u64 {
    list.iter().fold(0, |sum, item| sum.wrapping_add(item.number))
}

pub(crate) fn is_even(list: &List) -> bool {
    sum(list).is_multiple_of(2)
}

pub(crate) async fn step(list: List, context: TaskContext, Dep(log): Dep<Log>) -> Result<List, Infallible> {
    Ok(log.pass(&context, &list))
}

pub(crate) async fn step_one(item: Item, context: TaskContext, Dep(log): Dep<Log>) -> Result<Item, Infallible> {
    log.enter(&context);
    Ok(changed(&item, &context))
}

/// Ends a loop's body; ends the loop now and then.
pub(crate) async fn turn(
    list: List,
    context: TaskContext,
    Dep(log): Dep<Log>,
) -> Result<LoopResult<List, List>, Infallible> {
    let list = log.pass(&context, &list);
    Ok(if sum(&list).is_multiple_of(4) { LoopResult::Done(list) } else { LoopResult::Again(list) })
}

pub(crate) async fn join(both: (List, List), context: TaskContext, log: Dep<Log>) -> Result<List, Infallible> {
    gather(vec![both.0, both.1], context, log).await
}

pub(crate) async fn turn_join(
    both: (List, List),
    context: TaskContext,
    log: Dep<Log>,
) -> Result<LoopResult<List, List>, Infallible> {
    Ok(LoopResult::Again(join(both, context, log).await?))
}

/// Returns a list for each of two items.
pub(crate) async fn spread(list: List, context: TaskContext, Dep(log): Dep<Log>) -> Result<Vec<List>, Infallible> {
    let mut other = log.pass(&context, &list);
    other.reverse();
    Ok(vec![list, other])
}

/// Adds the lists up, item by item.
pub(crate) async fn gather(lists: Vec<List>, context: TaskContext, Dep(log): Dep<Log>) -> Result<List, Infallible> {
    let added = lists.into_iter().reduce(|left, right| {
        let add =
            |(left, right): (Item, Item)| Item { number: left.number.wrapping_add(3 * (right.number >> 2)), ..right };
        left.into_iter().zip(right).map(add).collect()
    });
    Ok(log.pass(&context, &added.unwrap_or_default()))
}
