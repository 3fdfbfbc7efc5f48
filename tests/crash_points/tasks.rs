//! What flows through the workflows here, and the tasks, which tell whoever looks that they ran.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use everstep::{Dep, LoopResult, TaskContext};
use serde::{Deserialize, Serialize};

/// A number that every task changes in its own way, so that the output tells what ran, and the key of the last one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) number: u64,
    pub(crate) key: String,
}

/// What flows: over the bound up to which values ride in the head. Its items are below it.
pub(crate) type List = Vec<Item>;

pub(crate) fn list(numbers: [u64; 2]) -> List {
    numbers.map(|number| Item { number, key: String::new() }).into()
}

/// That a task ran.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    /// The life of the process in which it did.
    pub(crate) life: usize,
    pub(crate) path: String,
    pub(crate) key: String,
    pub(crate) attempt: u32,
}

/// Notes what ran; one for each life, on the same notes.
#[derive(Clone, Default)]
pub(crate) struct Log {
    life: usize,
    ran: Arc<Mutex<Vec<Ran>>>,
}

impl Log {
    /// For this life.
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

/// A loop's last task: now and then it has enough.
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

/// One list for each of two items.
pub(crate) async fn spread(list: List, context: TaskContext, Dep(log): Dep<Log>) -> Result<Vec<List>, Infallible> {
    let mut other = log.pass(&context, &list);
    other.reverse();
    Ok(vec![list, other])
}

/// What the lists come to, place by place.
pub(crate) async fn gather(lists: Vec<List>, context: TaskContext, Dep(log): Dep<Log>) -> Result<List, Infallible> {
    let added = lists.into_iter().reduce(|left, right| {
        let add =
            |(left, right): (Item, Item)| Item { number: left.number.wrapping_add(3 * (right.number >> 2)), ..right };
        left.into_iter().zip(right).map(add).collect()
    });
    Ok(log.pass(&context, &added.unwrap_or_default()))
}
