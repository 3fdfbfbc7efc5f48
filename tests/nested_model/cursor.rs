//! The naive interpreter's walk: a tree of cursors, as the plan is a tree of nodes. A held cursor
//! stays at its node; a failure goes up to the node that collects it, and leaves everything else
//! unchanged.

use std::collections::VecDeque;

use everstep::{FailureKind, NodePath, TaskFailure};

use crate::SECOND;
use crate::attempt::{Act, Attempt};
use crate::plan::{Chain, Node, What};
use crate::value::Val;
use crate::world::World;

/// The result of a walk: held, at an end with a value, or failed for good.
pub(crate) type Flow = Result<Option<Val>, TaskFailure>;

/// A place in a chain.
#[derive(Clone)]
pub(crate) struct Cursor<'p> {
    pub(crate) chain: &'p Chain,
    pub(crate) at: usize,
    pub(crate) value: Val,
    /// The number of its branch; an inner cursor may have the same one.
    pub(crate) frame: u64,
    /// The iteration of each loop and the index in each map around it.
    pub(crate) turns: Vec<u64>,
    pub(crate) indices: Vec<u32>,
    pub(crate) doing: Doing<'p>,
}

#[derive(Clone)]
pub(crate) enum Doing<'p> {
    /// On its way, or at the end of its chain.
    Fresh,
    /// A task, a route's key, a map's list, or the conversion for a child.
    Code(Attempt),
    Delay {
        until: u64,
    },
    Wait {
        until: Option<u64>,
        since: u64,
    },
    /// In an arm or a child.
    Inside(Box<Cursor<'p>>),
    Body {
        iteration: u64,
        body: Box<Cursor<'p>>,
    },
    Fork(Vec<Branch<'p>>),
    Map {
        items: Vec<Val>,
        branches: Vec<Branch<'p>>,
    },
}

#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "a test's")]
pub(crate) enum Branch<'p> {
    Live(Cursor<'p>),
    Done(Val),
}

impl<'p> Cursor<'p> {
    pub(crate) fn new(chain: &'p Chain, value: Val, frame: u64, turns: Vec<u64>, indices: Vec<u32>) -> Self {
        Self { chain, at: 0, value, frame, turns, indices, doing: Doing::Fresh }
    }

    fn same_frame(&self, chain: &'p Chain, value: Val) -> Self {
        Self::new(chain, value, self.frame, self.turns.clone(), self.indices.clone())
    }

    pub(crate) fn node(&self) -> &'p Node {
        &self.chain.nodes[self.at]
    }

    pub(crate) fn failure(&self, attempt: u32, kind: FailureKind, message: impl Into<String>) -> TaskFailure {
        TaskFailure { task: NodePath::new(&self.node().path), attempt, kind, message: message.into() }
    }

    /// Walks on until a node holds the cursor.
    pub(crate) fn walk(&mut self, world: &mut World) -> Flow {
        while self.at < self.chain.nodes.len() {
            match self.enter(world)? {
                Some(value) => self.pass(value),
                None => return Ok(None),
            }
        }
        Ok(Some(self.value.clone()))
    }

    fn pass(&mut self, value: Val) {
        (self.value, self.at, self.doing) = (value, self.at + 1, Doing::Fresh);
    }

    fn enter(&mut self, world: &mut World) -> Flow {
        let value = self.value.clone();
        match &self.node().what {
            What::Delay(0) => return Ok(Some(value)),
            What::Delay(seconds) => self.doing = Doing::Delay { until: world.now + seconds * SECOND },
            What::Wait { signal, timeout, .. } => {
                let until = timeout.map(|seconds| world.now + seconds * SECOND);
                self.doing = Doing::Wait { until, since: world.step };
                world.waiting.insert((signal, world.step, self.frame));
                return Ok(self.wait(world));
            }
            What::Task { .. } | What::Route { .. } | What::Map { .. } | What::Child { converts: true, .. } => {
                self.begin(world);
            }
            What::Child { nodes, .. } => return self.inside(world, nodes, value),
            What::Fork { branches, .. } => {
                let live = branches.iter().map(|(_, chain)| {
                    let mut branch = self.same_frame(chain, value.clone());
                    branch.frame = world.new_frame();
                    Branch::Live(branch)
                });
                self.doing = Doing::Fork(live.collect());
                return self.fork(world);
            }
            What::Loop { body, .. } => {
                let mut body = self.same_frame(body, value);
                body.turns.push(1);
                self.doing = Doing::Body { iteration: 1, body: Box::new(body) };
                let Doing::Body { body, .. } = &mut self.doing else { unreachable!() };
                let flow = body.walk(world);
                return self.turn(world, flow);
            }
        }
        Ok(None)
    }

    /// Walks on within the same frame.
    pub(crate) fn inside(&mut self, world: &mut World, chain: &'p Chain, value: Val) -> Flow {
        let mut inner = self.same_frame(chain, value);
        let flow = inner.walk(world);
        self.doing = Doing::Inside(Box::new(inner));
        flow
    }

    /// Walks each branch as far as it goes before the next one.
    fn fork(&mut self, world: &mut World) -> Flow {
        let Doing::Fork(branches) = &mut self.doing else { unreachable!() };
        for branch in branches {
            if let Branch::Live(cursor) = branch
                && let Some(value) = cursor.walk(world)?
            {
                *branch = Branch::Done(value);
            }
        }
        Ok(self.gathered())
    }

    /// Returns the branches' results, once all have one.
    fn gathered(&self) -> Option<Val> {
        let (Doing::Fork(branches) | Doing::Map { branches, .. }) = &self.doing else { unreachable!() };
        let complete = !matches!(&self.doing, Doing::Map { items, .. } if items.len() > branches.len());
        let gave = branches.iter().map(|branch| match branch {
            Branch::Done(value) => Some(value.clone()),
            Branch::Live(_) => None,
        });
        gave.collect::<Option<Vec<_>>>().filter(|_| complete).map(Val::List)
    }

    /// Handles the result of a loop's body: one more iteration, or on to the node after the loop.
    fn turn(&mut self, world: &mut World, mut flow: Flow) -> Flow {
        let What::Loop { limit, exits, drains, .. } = self.node().what else { unreachable!() };
        let limit = limit.map(|limit| limit + world.more_iterations);
        loop {
            let is_left = drains.is_some_and(|signal| world.is_unclaimed(signal));
            let at_limit = |limit: u64| {
                let next = limit + 1;
                let message = format!("the loop asked for iteration {next}: its limit is {limit}");
                self.failure(1, FailureKind::LoopLimit, message)
            };
            match (flow?, limit) {
                (None, _) => return Ok(None),
                (Some(Val::Done(value)), _) if !is_left => return Ok(Some(*value)),
                (Some(Val::Done(value) | Val::Again(value)), limit) => {
                    let failure = limit.map(at_limit);
                    let Doing::Body { iteration, body } = &mut self.doing else { unreachable!() };
                    if limit.is_some_and(|limit| *iteration >= limit) {
                        return if exits { Ok(Some(*value)) } else { Err(failure.unwrap()) };
                    }
                    *iteration += 1;
                    let mut turns = body.turns.clone();
                    *turns.last_mut().unwrap() = *iteration;
                    **body = Cursor::new(body.chain, *value, body.frame, turns, body.indices.clone());
                    flow = body.walk(world);
                }
                (other, _) => unreachable!("a body returns Again or Done, not {other:?}"),
            }
        }
    }

    /// Starts a map's first items: its list is known.
    pub(crate) fn split(&mut self, world: &mut World, items: Vec<Val>) -> Flow {
        self.doing = Doing::Map { items, branches: Vec::new() };
        self.start_items(world)
    }

    /// Starts items in their order while there is room, each as far as it goes before the next one.
    fn start_items(&mut self, world: &mut World) -> Flow {
        let What::Map { concurrency, body, .. } = &self.node().what else { unreachable!() };
        let mut started = VecDeque::new();
        loop {
            let (turns, indices) = (self.turns.clone(), self.indices.clone());
            let Doing::Map { items, branches } = &mut self.doing else { unreachable!() };
            let mut live = branches.iter().filter(|branch| matches!(branch, Branch::Live(_))).count();
            while branches.len() < items.len() && concurrency.is_none_or(|limit| live < limit) {
                let index = branches.len();
                let turns = turns.iter().copied().chain([index as u64]).collect();
                let indices = indices.iter().copied().chain([u32::try_from(index).unwrap()]).collect();
                let item = Cursor::new(body, items[index].clone(), world.new_frame(), turns, indices);
                branches.push(Branch::Live(item));
                started.push_back(index);
                live += 1;
            }
            let Some(index) = started.pop_front() else { return Ok(self.gathered()) };
            let Branch::Live(item) = &mut branches[index] else { unreachable!() };
            let flow = item.walk(world);
            self.item(world, index, flow)?;
        }
    }

    /// Handles the progress of an item: stores its result, or its failure if the map collects
    /// failures.
    fn item(&mut self, world: &mut World, index: usize, flow: Flow) -> Result<(), TaskFailure> {
        let What::Map { collects, .. } = self.node().what else { unreachable!() };
        let Doing::Map { branches, .. } = &self.doing else { unreachable!() };
        let bytes: usize =
            branches.iter().map(|branch| if let Branch::Done(gave) = branch { gave.bytes() } else { 0 }).sum();
        let max = world.list_bytes_max;
        let flow = match flow {
            Ok(Some(value)) if bytes + value.bytes() > max => {
                let message = format!("the map's results are over their limit of {max} bytes (Limits::list_bytes_max)");
                Err(self.failure(1, FailureKind::Codec, message))
            }
            flow => flow,
        };
        let gave = match flow {
            Ok(None) => return Ok(()),
            Ok(Some(value)) if collects => Val::Good(Box::new(value)),
            Ok(Some(value)) => value,
            Err(failure) if collects => {
                let full = "left out: the list of results is at its limit (Limits::list_bytes_max)";
                let has_room = bytes + Val::Bad(failure.clone()).bytes() <= max;
                Val::Bad(if has_room { failure } else { TaskFailure { message: full.into(), ..failure } })
            }
            Err(failure) => return Err(failure),
        };
        let Doing::Map { branches, .. } = &mut self.doing else { unreachable!() };
        if let Branch::Live(item) = &branches[index] {
            item.leaves().into_iter().for_each(|leaf| world.forget(leaf));
        }
        branches[index] = Branch::Done(gave);
        Ok(())
    }

    /// Applies an event to a frame. Returns none if the frame is not within.
    pub(crate) fn at(&mut self, world: &mut World, frame: u64, act: &Act) -> Option<Flow> {
        let within = |branches: &mut Vec<Branch<'p>>, world: &mut World| {
            branches.iter_mut().enumerate().find_map(|(index, branch)| match branch {
                Branch::Live(cursor) => Some((index, cursor.at(world, frame, act)?)),
                Branch::Done(_) => None,
            })
        };
        let flow = match &mut self.doing {
            Doing::Inside(inner) => inner.at(world, frame, act)?,
            Doing::Body { body, .. } => {
                let flow = body.at(world, frame, act)?;
                self.turn(world, flow)
            }
            Doing::Fork(branches) => match within(branches, world)? {
                (index, Ok(Some(value))) => {
                    branches[index] = Branch::Done(value);
                    Ok(self.gathered())
                }
                (_, flow) => flow,
            },
            Doing::Map { branches, .. } => {
                let (index, flow) = within(branches, world)?;
                self.item(world, index, flow).and_then(|()| self.start_items(world))
            }
            Doing::Fresh if self.frame == frame => return Some(self.walk(world)),
            _ if self.frame == frame => self.act(world, act),
            _ => return None,
        };
        Some(flow.and_then(|flow| match flow {
            Some(value) => {
                self.pass(value);
                self.walk(world)
            }
            None => Ok(None),
        }))
    }

    /// Returns the cursors that a node holds, and those that are ready to walk on.
    pub(crate) fn leaves(&self) -> Vec<&Self> {
        match &self.doing {
            Doing::Inside(inner) => inner.leaves(),
            Doing::Body { body, .. } => body.leaves(),
            Doing::Fork(branches) | Doing::Map { branches, .. } => {
                let live = branches.iter().filter_map(|branch| match branch {
                    Branch::Live(cursor) => Some(cursor.leaves()),
                    Branch::Done(_) => None,
                });
                live.flatten().collect()
            }
            _ => vec![self],
        }
    }
}
