//! The limit on nesting.

use std::future::ready;

use everstep::{BuildError, Builder, Concurrency, Workflow};

use crate::common::{Gate, holding, within};
use crate::{World, again};

/// Adds a task within `depth` nodes, of every kind in turn.
fn nest(chain: Builder<u32, u32>, depth: usize, gate: &Gate) -> Builder<u32, u32> {
    if depth == 0 {
        return chain.then("hold", holding::<u32>(gate));
    }
    let inner = |chain: Builder<u32, u32>| nest(chain, depth - 1, gate);
    match depth % 5 {
        0 => chain
            .fork("f", |fork| fork.branch("a", inner).branch("b", |branch| branch.then("n", crate::common::inc)))
            .join("j", |(a, _): (u32, u32)| ready(Ok::<_, String>(a + 1))),
        1 => chain.route("r", |_| true, |route| route.arm(true, inner).arm(false, |arm| arm)),
        2 => chain.repeat_or_exit("l", 1, |body| inner(body).then("again", again)),
        3 => chain
            .then("list", |n: u32| ready(Ok::<_, String>(vec![n])))
            .map("m", Concurrency::AtMost(1), inner)
            .then("first", |list: Vec<u32>| ready(Ok::<_, String>(list[0] + 1))),
        _ => chain.child("c", &inner(Workflow::builder_for("child")).build().unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_levels_of_every_kind_run_and_survive_a_restart() {
    // The runtime is dropped in the innermost task.
    let gate = Gate::new();
    let workflow = nest(Workflow::builder_for("w"), 64, &gate).build().unwrap();
    let world = World::new();
    let runtime = world.runtime(&workflow).await;
    runtime.start(&workflow, "id", 0).await.unwrap();
    gate.entered().await;
    drop(runtime);
    let runtime = world.runtime(&workflow).await;
    gate.entered().await;
    gate.open(1);
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(25), "twelve forks and thirteen maps, each adding one");
    assert_eq!(world.branches(&handle).await, 0);
}

#[test]
fn sixty_five_levels_do_not_build() {
    // One level too many, with a fork, a route, a loop and a map as the outermost node; and a child
    // that fits alone but not where it is used.
    let gate = Gate::new();
    let nested = |depth| nest(Workflow::builder_for("w"), depth, &gate);
    for outermost in 65..=68 {
        let errors = nested(outermost).build().map(drop).unwrap_err().0;
        assert!(matches!(&errors[..], [BuildError::TooDeep { .. }]), "{outermost}: {errors:?}");
    }
    let child = nested(64).build().unwrap();
    let errors = Workflow::builder_for::<u32>("w").child("c", &child).build().map(drop).unwrap_err().0;
    assert!(matches!(&errors[..], [BuildError::TooDeep { .. }]), "{errors:?}");
}
