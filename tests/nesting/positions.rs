//! Options of a task, honoured in every position.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::time::Duration;

use everstep::{
    BoxFuture, Builder, Clock as _, Concurrency, Handler, Priority, RetryPolicy, TaskContext, Workflow, task,
};
use tokio::sync::mpsc::unbounded_channel;

use crate::common::{Gate, holding, moving, within};
use crate::{World, again, waiting_in};

const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);

const POSITIONS: [&str; 6] = ["main", "branch", "arm", "body", "item", "child"];

/// Puts a piece of a workflow in a position of a chain.
fn put<I>(
    chain: Builder<I, u32>,
    position: &str,
    piece: impl FnOnce(Builder<u32, u32>) -> Builder<u32, u32>,
) -> Builder<I, u32> {
    let alone = || Workflow::builder_for::<u32>("alone");
    match position {
        "main" | "child" => chain.child("c", &piece(alone()).build().unwrap()),
        "branch" => {
            let other = |branch: Builder<u32, u32>| branch.delay("nothing", Duration::ZERO);
            let fork = chain.fork("f", |fork| fork.branch("b", piece).branch("o", other));
            fork.join("j", |(n, _): (u32, u32)| ready(Ok::<_, Infallible>(n)))
        }
        "arm" => chain.route("r", |_| true, |route| route.arm(true, piece).arm(false, |arm| arm)),
        "body" => chain.repeat_or_exit("l", 1, |body| piece(body).then("again", again)),
        "item" => chain
            .then("list", |n: u32| ready(Ok::<_, Infallible>(vec![n])))
            .map("m", Concurrency::AtMost(1), piece)
            .then("first", |list: Vec<u32>| ready(Ok::<_, Infallible>(list[0]))),
        other => panic!("unknown position {other}"),
    }
}

/// Returns a workflow of one piece in a position.
fn within_position(position: &str, piece: impl FnOnce(Builder<u32, u32>) -> Builder<u32, u32>) -> Workflow<u32, u32> {
    let chain = Workflow::builder_for(position);
    let chain = if position == "main" { piece(chain) } else { put(chain, position, piece) };
    chain.build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn timeout_and_retry_are_honoured_in_every_position() {
    // The first attempt hangs and times out after a minute, the second comes a minute later and
    // fails, the third comes after one more. Each reports its begin and its options.
    for position in POSITIONS {
        let world = World::new();
        let (start, clock) = (world.clock.now(), world.clock.clone());
        let (tell, mut told) = unbounded_channel();
        let stubborn = move |n: u32, context: TaskContext| -> BoxFuture<'static, Result<u32, &'static str>> {
            tell.send((context.clone(), clock.now().since(start))).unwrap();
            match context.attempt() {
                1 => Box::pin(pending()),
                2 => Box::pin(ready(Err("not yet"))),
                _ => Box::pin(ready(Ok(n))),
            }
        };
        let stubborn =
            task(stubborn).timeout(MINUTE).retry(RetryPolicy::fixed(2, MINUTE)).priority(Priority::High).tag("x");
        let workflow = within_position(position, |chain| chain.then("stubborn", stubborn));
        let runtime = world.runtime(&workflow).await;
        let handle = runtime.start(&workflow, "id", 7).await.unwrap();
        for (attempt, not_before) in [(1, Duration::ZERO), (2, 2 * MINUTE), (3, 3 * MINUTE)] {
            let (context, at) = moving(&world.clock, 5 * SECOND, told.recv()).await.unwrap();
            assert_eq!(context.attempt(), attempt, "{position}");
            assert!(at >= not_before, "{position}: attempt {attempt} began after {at:?}");
            let deadline = context.deadline().unwrap().since(start);
            assert!(deadline >= not_before + MINUTE && deadline <= at + MINUTE, "{position}: {deadline:?} at {at:?}");
            let options = context.options();
            assert_eq!((options.priority(), options.tags()), (Priority::High, &["x".to_owned()][..]), "{position}");
            assert!(context.node().as_str().ends_with("stubborn"), "{position}");
        }
        assert_eq!(within(handle.result()).await, Ok(7), "{position}");
        assert!(told.try_recv().is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn priority_is_honoured_in_every_position() {
    // Another instance holds the one slot while a task in each position gets ready, the least
    // urgent first: they run by their priority.
    let (gate, (tell, mut told)) = (Gate::new(), unbounded_channel());
    let urgent = [Priority::Minimal, Priority::Low, Priority::Normal, Priority::High, Priority::Critical];
    let workflow = Workflow::builder_for::<u32>("w")
        .fork_by_name("all", |fork| {
            urgent.into_iter().zip(&POSITIONS[1..]).fold(fork, |fork, (priority, position)| {
                let tell = tell.clone();
                let step = task(move |n: u32| {
                    tell.send(priority).unwrap();
                    ready(Ok::<_, Infallible>(n))
                });
                let piece = |chain| piece(chain, position, step.priority(priority));
                fork.branch(*position, |branch| put(branch, position, piece))
            })
        })
        .join("join", |_| ready(Ok::<_, Infallible>(0)))
        .build()
        .unwrap();
    let holder = Workflow::builder("holder").then("hold", holding::<u32>(&gate)).build().unwrap();
    let world = World::new();
    let mut limits = everstep::Limits::default();
    limits.tasks_running_max = 1;
    let runtime = world.builder(&workflow).register(&holder).limits(limits).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 7).await.unwrap();
    waiting_in(&handle, 5).await;
    runtime.start(&holder, "holder", 1).await.unwrap();
    gate.entered().await;
    for position in &POSITIONS[1..] {
        handle.signal(position, &1_u32).await.unwrap();
    }
    gate.open(1);
    within(handle.result()).await.unwrap();
    let order: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
    assert!(order.iter().eq(urgent.iter().rev()), "{order:?}");
}

/// Adds a wait for a signal named as the position, and the task.
fn piece<M, H: Handler<M, u32, Output = u32>>(chain: Builder<u32, u32>, position: &str, step: H) -> Builder<u32, u32> {
    chain.wait_for_signal::<u32>("wait", position).then("step", step)
}
