//! The idempotency key of a position within loops and maps.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::ready;
use std::time::Duration;

use everstep::{BoxFuture, Builder, Concurrency, RetryPolicy, TaskContext, Workflow, task};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::common::{Gate, within};
use crate::{World, again};

/// The carried value, the attempt, and the key.
type Told = (u32, u32, String);

/// Returns a task that reports, waits at the gate, and fails the first time.
fn telling(
    gate: &Gate,
    tell: UnboundedSender<Told>,
) -> impl Fn(u32, TaskContext) -> BoxFuture<'static, Result<u32, &'static str>> + Send + Sync + 'static {
    let gate = gate.clone();
    move |n, context| {
        tell.send((n, context.attempt(), context.idempotency_key())).unwrap();
        let gate = gate.clone();
        Box::pin(async move {
            gate.pass().await;
            if context.attempt() == 1 { Err("again") } else { Ok(n) }
        })
    }
}

/// Returns the keys by carried value, each with its attempts; checks that one value has one key.
fn by_value(told: &mut UnboundedReceiver<Told>) -> BTreeMap<u32, (String, Vec<u32>)> {
    let mut by_value = BTreeMap::<u32, (String, Vec<u32>)>::new();
    while let Ok((n, attempt, key)) = told.try_recv() {
        let (known, attempts) = by_value.entry(n).or_insert_with(|| (key.clone(), Vec::new()));
        assert_eq!(*known, key, "the key changed at {n} in attempt {attempt}");
        attempts.push(attempt);
    }
    by_value
}

#[tokio::test(flavor = "multi_thread")]
async fn idempotency_key_varies_by_position_not_by_attempt() {
    // Two iterations over two items over two iterations, each with a value of its own. Each task
    // fails once, and the runtime is dropped while the first attempts run.
    let (gate, (tell, mut told)) = (Gate::new(), unbounded_channel());
    let step = task(telling(&gate, tell)).retry(RetryPolicy::fixed(1, Duration::ZERO));
    let inc = |n: u32| ready(Ok::<_, Infallible>(everstep::LoopResult::Again(n + 1)));
    let item =
        |item: Builder<u32, u32>| item.repeat_or_exit("inner", 2, |body| body.then("step", step).then("inc", inc));
    let workflow = Workflow::builder_for::<u32>("w")
        .repeat_or_exit("outer", 2, |body| {
            body.then("list", |n: u32| ready(Ok::<_, Infallible>(vec![n + 10, n + 20])))
                .map("items", Concurrency::Unlimited, item)
                .then("next", |_: Vec<u32>| ready(Ok::<_, Infallible>(100)))
                .then("again", again)
        })
        .build()
        .unwrap();
    let world = World::new();
    let runtime = world.runtime(&workflow).await;
    runtime.start(&workflow, "id", 0).await.unwrap();
    gate.entered().await;
    gate.entered().await;
    drop(runtime);
    let runtime = world.runtime(&workflow).await;
    gate.entered().await;
    gate.entered().await;
    gate.open(100);
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    within(handle.result()).await.unwrap();
    let told = by_value(&mut told);
    assert!(told.keys().eq(&[10, 11, 20, 21, 110, 111, 120, 121]), "{told:?}");
    for (n, (_, attempts)) in &told {
        let wanted: &[u32] = if [10, 20].contains(n) { &[1, 1, 2] } else { &[1, 2] };
        assert_eq!(attempts, wanted, "at {n}");
    }
    let mut keys: Vec<_> = told.values().map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 8);
}
