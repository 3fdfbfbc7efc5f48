//! A store that fails at any of its commits, before or after the write: nothing is lost, repeated
//! or stranded.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper of a test may panic like the test itself")]

mod common;
#[path = "store_failures/faulty.rs"]
mod faulty;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Counter, Gate, counting, holding, inc, still_clock, when_clock_is_at, within};
use everstep::testing::{Call, Fault, FaultyStore};
use everstep::{
    Clock as _, ConflictPolicy, Dep, Health, MemoryStore, MessageError, Runtime, StartError, StartOptions, StoreError,
    TaskContext, Workflow,
};
use faulty::{FAILURES, Fate, Faulty, settle};
use tokio::task::JoinSet;

const MINUTE: Duration = Duration::from_mins(1);

/// Waits for health: the runtime may not yet have got the store's last answer.
async fn is_healthy_again(runtime: &Runtime) {
    let healthy = async {
        while runtime.health() != Health::Healthy {
            tokio::task::yield_now().await;
        }
    };
    within(healthy).await;
}

#[tokio::test]
async fn caller_gets_a_result_whose_commit_failed() {
    // A caller waits while the task is held; the commit of its result, the run's last, fails.
    for fate in FAILURES {
        let (store, gate) = (Faulty::new(), Gate::new());
        let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
        let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        gate.entered().await;
        let waiter = tokio::spawn(async move { handle.result().await });
        settle().await;
        store.plan_for("id", 0, fate);
        gate.open(1);
        assert_eq!(within(waiter).await.unwrap(), Ok(1), "{fate:?}");
        assert_eq!((store.failed(), gate.count()), (1, 1), "{fate:?}");
        is_healthy_again(&runtime).await;
    }
}

#[tokio::test]
async fn wake_up_with_failed_commit_is_repeated() {
    // A delay ends, and the commit that records it fails; no message comes.
    for fate in FAILURES {
        let (store, clock) = (Faulty::new(), still_clock());
        let workflow = Workflow::builder_for::<u32>("w").delay("delay", MINUTE).then("inc", inc).build().unwrap();
        let builder = Runtime::builder(store.store()).register(&workflow).clock(clock.clone());
        let runtime = builder.start().await.unwrap();
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        store.plan_for("id", 0, fate);
        let ended = when_clock_is_at(&clock, clock.now().after(MINUTE), handle.result()).await;
        assert_eq!((ended, store.failed()), (Ok(2), 1), "{fate:?}");
        is_healthy_again(&runtime).await;
    }
}

#[tokio::test]
async fn attempt_after_crash_starts_despite_failed_commit() {
    // After a crash an attempt's start is recorded before it begins: the second commit of the new
    // process, which fails.
    for fate in FAILURES {
        let (store, gate) = (Faulty::new(), Gate::new());
        let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
        let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
        runtime.start(&workflow, "id", 1).await.unwrap();
        gate.entered().await;
        drop(runtime);
        store.plan_for("id", 1, fate);
        let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
        gate.entered().await;
        gate.open(1);
        let handle = runtime.handle(&workflow, "id").await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(1), "{fate:?}");
        assert_eq!((store.failed(), gate.count()), (1, 2), "{fate:?}");
        is_healthy_again(&runtime).await;
    }
}

#[tokio::test]
async fn instance_unreadable_at_restart_is_activated_later() {
    // The loads of the first rounds of recovery fail. No message comes, and the task must be
    // entered again.
    let (store, gate) = (Faulty::new(), Gate::new());
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
    let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
    runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    drop(runtime);
    store.fail_loads(3);
    let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
    store.loads_have_failed().await;
    gate.entered().await;
    gate.open(1);
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(1));
}

#[tokio::test]
async fn message_queued_after_failed_commit_strands_nothing() {
    // While the commit of a signal is held, a second signal is applied on top of it and queued;
    // both senders give up. The commit fails and takes the queued one with it, and the running task
    // is neither lost nor run again.
    for fate in FAILURES {
        let (store, gate) = (Faulty::new(), Gate::new());
        let workflow = Workflow::builder("w")
            .then("hold", holding::<u32>(&gate))
            .wait_for_signal::<u32>("wait", "go")
            .then("inc", inc)
            .build()
            .unwrap();
        let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        gate.entered().await;
        store.plan_for("id", 0, fate);
        let commits = store.hold_commits_of("id");
        let send = |payload: u32| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.signal("go", &payload).await })
        };
        let first = send(1);
        commits.entered().await;
        let second = send(2);
        settle().await;
        first.abort();
        second.abort();
        commits.open(1_000);
        is_healthy_again_after_failure(&store, &runtime).await;
        gate.open(1);
        if fate == Fate::FailsBefore {
            handle.signal("go", &1_u32).await.unwrap();
        }
        assert_eq!(within(handle.result()).await, Ok(2), "{fate:?}");
        assert_eq!((store.failed(), gate.count()), (1, 1), "{fate:?}");
    }
}

async fn is_healthy_again_after_failure(store: &Faulty, runtime: &Runtime) {
    let failed = async {
        while store.failed() == 0 {
            tokio::task::yield_now().await;
        }
    };
    within(failed).await;
    is_healthy_again(runtime).await;
}

/// A record of the tasks that begin although their result is durable.
struct Ledger {
    store: Faulty,
    repeated: Mutex<Vec<String>>,
}

impl Ledger {
    async fn begins(&self, context: &TaskContext) {
        if self.store.has_result(context).await {
            self.repeated.lock().unwrap().push(format!("{} of {}", context.node(), context.instance()));
        }
    }
}

async fn first(n: u32, context: TaskContext, Dep(ledger): Dep<Ledger>) -> Result<u32, Infallible> {
    ledger.begins(&context).await;
    Ok(n + 1)
}

async fn last((n, m): (u32, u32), context: TaskContext, Dep(ledger): Dep<Ledger>) -> Result<u32, Infallible> {
    ledger.begins(&context).await;
    Ok(n + m)
}

/// A runtime on a store that may fail, and three instances of first -> delay -> wait -> last.
struct World {
    store: Faulty,
    ledger: Arc<Ledger>,
    workflow: Workflow<u32, u32>,
    runtime: Runtime,
}

const INSTANCES: u32 = 3;

impl World {
    async fn on(store: Faulty) -> Self {
        let workflow = Workflow::builder("mixed")
            .then("first", first)
            .delay("delay", Duration::from_millis(1))
            .wait_for_signal_keeping::<u32>("wait", "go")
            .then("last", last)
            .build()
            .unwrap();
        let ledger = Arc::new(Ledger { store: store.clone(), repeated: Mutex::default() });
        let builder = Runtime::builder(store.store()).register(&workflow).provide_arc(Arc::clone(&ledger));
        let runtime = builder.start().await.unwrap();
        Self { store, ledger, workflow, runtime }
    }

    /// Starts the missing instances, sends the signals until they are acknowledged, and checks
    /// every output.
    async fn drive(&self) {
        let mut all = JoinSet::new();
        for n in 0..INSTANCES {
            let (runtime, workflow) = (self.runtime.clone(), self.workflow.clone());
            all.spawn(async move {
                let options = StartOptions::new().policy(ConflictPolicy::UseExisting);
                let handle = runtime.start_with(&workflow, format!("i{n}"), n, options).await.unwrap().handle;
                while let Err(error) = handle.signal_with_id("go", &(100 * n), "the only one").await {
                    assert!(matches!(error, MessageError::OutcomeUnknown(_)), "{error}");
                }
                assert_eq!(handle.result().await, Ok(101 * n + 1));
            });
        }
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
    }

    fn ran_nothing_again(&self) {
        assert_eq!(*self.ledger.repeated.lock().unwrap(), [""; 0], "finished tasks ran again");
    }
}

/// Returns the most commits that a run without failure takes: as many as there are writes, each in
/// a batch of its own.
async fn commits_without_failure() -> u64 {
    let (store, writes) = (Faulty::new(), Arc::new(AtomicU64::new(0)));
    let written = Arc::clone(&writes);
    store.plan(move |batch| {
        written.fetch_add(batch.len() as u64, Ordering::SeqCst);
        Fate::Done
    });
    let world = World::on(store).await;
    within(world.drive()).await;
    world.ran_nothing_again();
    writes.load(Ordering::SeqCst)
}

async fn whichever_commit_fails(fate: Fate) {
    let mut worlds = JoinSet::new();
    for n in 1..=commits_without_failure().await {
        worlds.spawn(async move {
            let store = Faulty::new();
            let mut number = 0;
            store.plan(move |_| {
                number += 1;
                if number == n { fate } else { Fate::Done }
            });
            let world = World::on(store).await;
            within(world.drive()).await;
            world.ran_nothing_again();
            is_healthy_again(&world.runtime).await;
            // The size of commits varies: there may be fewer.
            assert!(world.store.failed() == 1 || world.store.commits() < n, "commit {n} did not fail");
        });
    }
    within(worlds.join_all()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_commit_failing_before_the_write_ends_well() {
    // The n-th commit of a mixed workload fails, for every n.
    whichever_commit_fails(Fate::FailsBefore).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_commit_failing_after_the_write_ends_well() {
    // The n-th commit of a mixed workload is durable and reported as failed, for every n.
    whichever_commit_fails(Fate::FailsAfter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn next_runtime_continues_after_a_drop_at_any_commit() {
    // The store takes n commits of a mixed workload and no more, for every n; then the runtime is
    // dropped, and another one started on the store.
    let mut worlds = JoinSet::new();
    for n in 1..=commits_without_failure().await {
        worlds.spawn(async move {
            let memory = MemoryStore::new();
            let store = Faulty::over(memory.clone());
            store.lose_power_after(n);
            let world = World::on(store.clone()).await;
            tokio::select! {
                () = world.drive() => {}
                () = store.reaches_commit(n) => {}
            }
            drop(world);
            let world = World::on(Faulty::over(memory)).await;
            within(world.drive()).await;
            world.ran_nothing_again();
            assert_eq!(world.runtime.health(), Health::Healthy);
        });
    }
    within(worlds.join_all()).await;
}

#[tokio::test]
async fn start_and_task_survive_a_stuttering_store() {
    // Each commit of the instance is written and then asked for again.
    let (store, count) = (Faulty::new(), Counter::default());
    let workflow = Workflow::builder("w").then("count", counting::<u32>(&count)).then("inc", inc).build().unwrap();
    let mut stutters = true;
    store.plan(move |_| {
        stutters = !stutters;
        if stutters { Fate::Done } else { Fate::StuttersAfter }
    });
    let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(2));
    is_healthy_again(&runtime).await;
    // Recovery may be faster than the start, which then leaves its instance to recovery: one commit
    // more.
    assert!((3..=4).contains(&store.failed()), "{} commits", store.failed());
    assert_eq!(count.get(), 1);
}

/// Method: of two instances that run at a restart one cannot be read for good, while callers wait
/// for the other's result. After the store has failed to read it often enough, no further read may
/// be for it; then it can be read.
#[tokio::test(flavor = "multi_thread")]
async fn unreadable_instance_is_listed_and_costs_few_reads() {
    let (memory, gate) = (MemoryStore::new(), Gate::new());
    let store = FaultyStore::new(memory);
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    for id in ["bad", "good"] {
        runtime.start(&workflow, id, 1).await.unwrap();
        gate.entered().await;
    }
    drop(runtime);
    let (others, counted) = (Counter::default(), Counter::default());
    let counts = counted.clone();
    store.plan(move |_, call| match call {
        Call::Load(id) if id.as_str() == "bad" => Fault::FailBefore(StoreError::Fatal("a bad block".into())),
        Call::Commit(_) => Fault::None,
        _ => {
            counts.hit();
            Fault::None
        }
    });
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    gate.entered().await;
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let (handle, others) = (runtime.handle(&workflow, "good").await.unwrap(), others.clone());
        callers.spawn(async move {
            let ended = handle.result().await;
            others.hit();
            ended
        });
    }
    let listed = async |many: usize| {
        while runtime.unreadable().len() != many {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    settle().await;
    let before = counted.get();
    within(listed(1)).await;
    let unreadable = runtime.unreadable();
    assert_eq!(unreadable[0].instance.as_str(), "bad");
    assert_eq!((counted.get() - before, others.get(), runtime.health()), (0, 0, Health::Healthy));
    store.heal();
    gate.open(2);
    within(listed(0)).await;
    let bad = runtime.handle(&workflow, "bad").await.unwrap();
    assert_eq!(within(bad.result()).await, Ok(1));
    assert!(within(callers.join_all()).await.into_iter().all(|ended| ended == Ok(1)));
}

/// Method: at a restart the input of one instance, which has a row of its own, cannot be read,
/// although its head can. The instance is listed after a few tries, each of which may write, and
/// continues once its input can be read.
#[tokio::test(flavor = "multi_thread")]
async fn instance_with_unreadable_values_is_listed() {
    let (memory, gate) = (MemoryStore::new(), Gate::new());
    let store = FaultyStore::new(memory);
    let workflow = Workflow::builder("w").then("hold", holding::<String>(&gate)).build().unwrap();
    let input = "a".repeat(1_000);
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    runtime.start(&workflow, "bad", input.clone()).await.unwrap();
    gate.entered().await;
    drop(runtime);
    let (written, counted) = (Counter::default(), Counter::default());
    let (writes, reads) = (written.clone(), counted.clone());
    store.plan(move |_, call| match call {
        Call::Row(..) => {
            reads.hit();
            Fault::FailBefore(StoreError::Fatal("a bad block".into()))
        }
        call => {
            if call.writes_to("bad") {
                writes.hit();
            }
            Fault::None
        }
    });
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    let listed = async |many: usize| {
        while runtime.unreadable().len() != many {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(listed(1)).await;
    let [unreadable] = &runtime.unreadable()[..] else { panic!("{:?}", runtime.unreadable()) };
    assert!(unreadable.failures >= 5 && unreadable.failures <= counted.get(), "{unreadable:?}");
    assert!(written.get() <= counted.get() + 1, "{} writes in {} tries", written.get(), counted.get());
    store.heal();
    gate.entered().await;
    within(listed(0)).await;
    gate.open(2);
    let bad = runtime.handle(&workflow, "bad").await.unwrap();
    assert_eq!(within(bad.result()).await, Ok(input));
}

/// Method: the process crashed again and again while two instances ran their tasks, so that each
/// task runs alone. The first to have its turn ends, its commit fails, and its head cannot be read
/// any more; the other one ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn unwritable_outcome_does_not_keep_its_turn() {
    let (memory, gate) = (MemoryStore::new(), Gate::new());
    let store = FaultyStore::new(memory);
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    for id in ["a", "b"] {
        runtime.start(&workflow, id, 1).await.unwrap();
        gate.entered().await;
    }
    drop(runtime);
    // Three crashes with the first one, from which on each task runs alone.
    for _ in 0..2 {
        let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
        gate.entered().await;
        gate.entered().await;
        drop(runtime);
    }
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    gate.entered().await;
    let mut handles = Vec::new();
    for id in ["a", "b"] {
        handles.push(runtime.handle(&workflow, id).await.unwrap());
    }
    let mut first = None;
    store.plan(move |_, call| match (call, &first) {
        (Call::Commit(batch), None) => {
            first = Some(batch[0].instance.clone());
            Fault::FailBefore(StoreError::Fatal("the disk is gone".into()))
        }
        (Call::Load(id), Some(first)) if *id == first => Fault::FailBefore(StoreError::Fatal("a bad block".into())),
        _ => Fault::None,
    });
    gate.open(1);
    gate.entered().await;
    gate.open(1);
    let mut ends = Vec::new();
    for handle in &handles {
        ends.push(within(handle.result()).await.ok());
    }
    assert!(ends == [Some(1), None] || ends == [None, Some(1)], "{ends:?}");
    store.heal();
    for handle in &handles {
        assert_eq!(within(handle.result()).await, Ok(1));
    }
}

/// Method: as above, but the failing commit records the start of the attempt whose turn it is, so
/// that the attempt waits to go ahead.
#[tokio::test(flavor = "multi_thread")]
async fn blocked_attempt_does_not_keep_its_turn() {
    let (memory, gate) = (MemoryStore::new(), Gate::new());
    let store = FaultyStore::new(memory);
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
    // The last of these processes ends in the third crash, from which on each task runs alone.
    for life in 0..3 {
        let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
        for id in ["a", "b"] {
            if life == 0 {
                runtime.start(&workflow, id, 1).await.unwrap();
            }
            gate.entered().await;
        }
        drop(runtime);
    }
    let (mut writes, mut first) = (std::collections::HashMap::<_, u32>::new(), None);
    store.plan(move |_, call| match (call, &first) {
        (Call::Commit(batch), None) => {
            for write in *batch {
                let written = writes.entry(write.instance.clone()).or_default();
                *written += 1;
                if *written == 2 {
                    first = Some(write.instance.clone());
                }
            }
            if first.is_none() { Fault::None } else { Fault::FailBefore(StoreError::Fatal("the disk is gone".into())) }
        }
        (Call::Load(id), Some(first)) if *id == first => Fault::FailBefore(StoreError::Fatal("a bad block".into())),
        _ => Fault::None,
    });
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    within(gate.entered()).await;
    store.heal();
    gate.open(1);
    within(gate.entered()).await;
    gate.open(1);
    for id in ["a", "b"] {
        let handle = within(runtime.handle(&workflow, id)).await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(1));
    }
}

/// Method: no head can be read: a start reports that nothing was started. Then its write is done,
/// its answer lost, and no read succeeds from then on: the start reports that its outcome is
/// unknown.
#[tokio::test(flavor = "multi_thread")]
async fn start_says_whether_it_may_have_been_done() {
    let store = FaultyStore::new(MemoryStore::new());
    let workflow = Workflow::builder("w").then("inc", inc).build().unwrap();
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    let unreadable = || Fault::FailBefore(StoreError::Transient("not now".into()));
    store.plan(move |_, call| if matches!(call, Call::Load(_)) { unreadable() } else { Fault::None });
    let started = within(runtime.start(&workflow, "id", 1)).await;
    assert!(matches!(started, Err(StartError::Unreadable(_))), "{started:?}");
    let mut is_written = false;
    store.plan(move |_, call| match call {
        call if call.writes_to("id") => {
            is_written = true;
            Fault::FailAfter(StoreError::Fatal("the disk is gone".into()))
        }
        Call::Load(_) if is_written => unreadable(),
        _ => Fault::None,
    });
    let started = within(runtime.start(&workflow, "id", 1)).await;
    assert!(matches!(started, Err(StartError::OutcomeUnknown(_))), "{started:?}");
}
