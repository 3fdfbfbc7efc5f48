//! Room for one or two active instances: they take turns, and all of them finish.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;
#[cfg(feature = "testing")]
#[path = "residency/resting.rs"]
mod resting;

use std::convert::Infallible;
use std::time::Duration;

use common::{
    Counter, Gate, backing_off, holding, inc, reach_code, same, still_clock, waiting, when_clock_is_at, within,
};
use everstep::lifecycle::load;
#[cfg(feature = "testing")]
use everstep::testing::{Call, Fault, FaultyStore};
use everstep::{
    Clock as _, Failure, InstanceId, Limits, MemoryStore, ResultError, RetryPolicy, Runtime, StatusCode, Workflow, task,
};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn start_without_room_runs_its_tasks_once() {
    // Two instances may be active: most starts leave theirs to recovery, which races with them.
    let runs: Vec<Counter> = (0..300).map(|_| Counter::default()).collect();
    let counters = runs.clone();
    let count = move |n: usize| {
        counters[n].hit();
        std::future::ready(Ok::<_, Infallible>(n))
    };
    let workflow = Workflow::builder("crowd").then("count", count).then("last", same::<usize>).build().unwrap();
    let mut limits = Limits::default();
    limits.resident_max = 2;
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).limits(limits).start().await.unwrap();
    let mut starts = JoinSet::new();
    for n in 0..runs.len() {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        starts.spawn(async move {
            let handle = runtime.start(&workflow, format!("i{n}"), n).await.unwrap();
            assert_eq!(handle.result().await.unwrap(), n);
        });
    }
    within(starts.join_all()).await;
    let twice: Vec<_> = (0..runs.len()).filter(|n| runs[*n].get() != 1).collect();
    assert!(twice.is_empty(), "tasks of instances that finished ran again: {twice:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_instances_with_room_for_one_all_finish() {
    // Tasks, a delay and a signal for each, with one active instance at a time; then the same after
    // a restart.
    let workflow = Workflow::builder("w")
        .then("inc", inc)
        .delay("short", Duration::from_millis(5))
        .wait_for_signal_keeping::<u32>("wait", "go")
        .then("same", same::<(u32, u32)>)
        .build()
        .unwrap();
    let store = MemoryStore::new();
    let mut limits = Limits::default();
    limits.resident_max = 1;
    let builder = || Runtime::builder(store.clone()).register(&workflow).limits(limits.clone());
    let runtime = builder().start().await.unwrap();
    for n in 0..50 {
        runtime.start(&workflow, format!("i{n}"), n).await.unwrap();
    }
    drop(runtime);
    let runtime = builder().start().await.unwrap();
    let mut all = JoinSet::new();
    for n in 0..50 {
        let (runtime, workflow) = (runtime.clone(), workflow.clone());
        all.spawn(async move {
            let handle = runtime.handle(&workflow, format!("i{n}")).await.unwrap();
            handle.signal("go", &n).await.unwrap();
            assert_eq!(handle.result().await, Ok((n + 1, n)));
        });
    }
    within(all.join_all()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_start_is_not_counted_as_a_crash() {
    // The second start waits in the store until the first instance has left. Then one commit hands
    // its task out; no second commit announces the attempt, as for tasks that ran when a process
    // crashed.
    let (store, gate) = (MemoryStore::new(), Gate::new());
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
    let mut limits = Limits::default();
    limits.resident_max = 1;
    let runtime = Runtime::builder(store.clone()).register(&workflow).limits(limits).start().await.unwrap();
    let first = runtime.start(&workflow, "first", 1).await.unwrap();
    gate.entered().await;
    let second = runtime.start(&workflow, "second", 2).await.unwrap();
    gate.open(2);
    assert_eq!((within(first.result()).await, within(second.result()).await), (Ok(1), Ok(2)));
    let stored = load(&store, &InstanceId::new("second").unwrap()).await.unwrap().unwrap();
    assert_eq!(stored.snapshot.seq(), 3, "the start, the activation, the end");
}

/// Method: a task that never ends holds the only room; another instance's delay ends first, and
/// finds no room.
#[tokio::test(flavor = "multi_thread")]
async fn active_instance_meets_deadline_while_others_lack_room() {
    let (clock, gate) = (still_clock(), Gate::new());
    let minute = Duration::from_mins(1);
    let sleeper = Workflow::builder_for::<u32>("sleeper").delay("delay", minute).then("inc", inc).build().unwrap();
    let hung = Workflow::builder("hung").deadline(2 * minute).then("hold", holding::<u32>(&gate)).build().unwrap();
    let mut limits = Limits::default();
    limits.resident_max = 1;
    let builder = Runtime::builder(MemoryStore::new()).limits(limits).clock(clock.clone());
    let runtime = builder.register(&sleeper).register(&hung).start().await.unwrap();
    let first = runtime.start(&sleeper, "sleeper", 1).await.unwrap();
    reach_code(&first, StatusCode::Waiting).await;
    let second = runtime.start(&hung, "hung", 1).await.unwrap();
    gate.entered().await;
    let ended = when_clock_is_at(&clock, clock.now().after(2 * minute), second.result()).await;
    assert_eq!(ended, Err(ResultError::Failed(Failure::DeadlineExceeded)));
    assert_eq!(within(first.result()).await, Ok(2));
}

/// Method: there is room for four, and four hundred callers pause and unpause as long as the test
/// lasts. Forty delays end beside them, each of which needs one turn.
#[tokio::test(flavor = "multi_thread")]
async fn wake_ups_have_a_share_of_room_beside_many_callers() {
    let clock = still_clock();
    let delay = Duration::from_mins(1);
    let delayed = Workflow::builder_for::<u32>("delayed").delay("delay", delay).then("inc", inc).build().unwrap();
    let waiting = waiting("waiting");
    let mut limits = Limits::default();
    limits.resident_max = 4;
    let builder = Runtime::builder(MemoryStore::new()).limits(limits).clock(clock.clone());
    let runtime = builder.register(&delayed).register(&waiting).start().await.unwrap();
    let mut handles = Vec::new();
    for n in 0..40 {
        let handle = runtime.start(&delayed, format!("delayed {n}"), n).await.unwrap();
        reach_code(&handle, StatusCode::Waiting).await;
        handles.push(handle);
    }
    let signals = Counter::default();
    let mut callers = JoinSet::new();
    for n in 0..400 {
        let handle = runtime.start(&waiting, format!("waiting {n}"), n).await.unwrap();
        let signals = signals.clone();
        callers.spawn(async move {
            loop {
                handle.pause("again", "test").await.unwrap();
                handle.unpause().await.unwrap();
                signals.hit();
            }
        });
    }
    within(async {
        while signals.get() < 100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let before = signals.get();
    clock.advance(delay);
    for (n, handle) in (1..).zip(&handles) {
        assert_eq!(within(handle.result()).await, Ok(n));
    }
    let turns = signals.get() - before;
    assert!(turns < 1_000, "callers had {turns} turns while 40 delays ended");
    callers.shutdown().await;
}

/// Method: the first instance holds the only room; three more are started, against the order of
/// their ids. Recovery has listed the work in progress before that: it would find them in the order
/// of their ids.
#[cfg(feature = "testing")]
#[tokio::test(flavor = "multi_thread")]
async fn starts_without_room_are_activated_in_their_order() {
    let (gate, (told, mut order)) = (Gate::new(), tokio::sync::mpsc::unbounded_channel());
    let hold = gate.clone();
    let tell = move |n: u32| {
        let (gate, told) = (hold.clone(), told.clone());
        async move {
            told.send(n).unwrap();
            gate.pass().await;
            Ok::<_, Infallible>(n)
        }
    };
    let workflow = Workflow::builder("w").then("tell", tell).build().unwrap();
    let mut limits = Limits::default();
    limits.resident_max = 1;
    let (store, (listed, mut has_listed)) = (FaultyStore::new(MemoryStore::new()), tokio::sync::watch::channel(false));
    store.plan(move |_, call| match call {
        Call::Instances => {
            let listed = listed.clone();
            Fault::WaitAfter(Box::pin(async move {
                listed.send_replace(true);
            }))
        }
        _ => Fault::None,
    });
    let runtime = Runtime::builder(store).register(&workflow).limits(limits).start().await.unwrap();
    within(has_listed.wait_for(|listed| *listed)).await.unwrap();
    let mut handles = Vec::new();
    for (n, id) in (0..).zip(["d", "c", "b", "a"]) {
        handles.push(runtime.start(&workflow, id, n).await.unwrap());
        if n == 0 {
            gate.entered().await;
        }
    }
    gate.open(4);
    for handle in handles {
        within(handle.result()).await.unwrap();
    }
    for n in 0..4 {
        assert_eq!(order.recv().await, Some(n));
    }
}

/// Method: fifty instances are in a backoff of an hour, and four hundred short instances take turns
/// in room for two, most of them started without room. No instance in a backoff may be read
/// meanwhile.
#[cfg(feature = "testing")]
#[tokio::test(flavor = "multi_thread")]
async fn instances_in_a_backoff_are_not_read_for_work() {
    let (clock, memory, reads) = (still_clock(), MemoryStore::new(), Counter::default());
    let store = FaultyStore::new(memory.clone());
    let fails = |_: u32| std::future::ready(Err::<u32, String>("down".into()));
    let retried = task(fails).retry(RetryPolicy::fixed(5, Duration::from_hours(1)));
    let failing = Workflow::builder("failing").then("fails", retried).build().unwrap();
    let short = Workflow::builder("short").then("same", same::<u32>).build().unwrap();
    let mut limits = Limits::default();
    limits.resident_max = 2;
    let builder = Runtime::builder(store.clone()).register(&failing).register(&short).limits(limits);
    let runtime = builder.clock(clock.clone()).start().await.unwrap();
    for n in 0..50 {
        runtime.start(&failing, format!("failing {n}"), n).await.unwrap();
    }
    for n in 0..50 {
        backing_off(&memory, &format!("failing {n}"), clock.now()).await;
    }
    // No work of theirs is in progress any more once another instance has come and gone.
    within(runtime.start(&short, "last", 1).await.unwrap().result()).await.unwrap();
    let counted = reads.clone();
    store.plan(move |_, call| {
        if matches!(call, Call::Load(id) if id.as_str().starts_with("failing")) {
            counted.hit();
        }
        Fault::None
    });
    let mut starts = JoinSet::new();
    for n in 0..400 {
        let (runtime, short) = (runtime.clone(), short.clone());
        starts.spawn(async move {
            let handle = runtime.start(&short, format!("short {n}"), n).await.unwrap();
            handle.result().await.unwrap();
        });
    }
    within(starts.join_all()).await;
    assert_eq!(reads.get(), 0);
}
