//! Tasks with `Checkpoint::Deferred`: the next task starts before their results are durable; every
//! other effect waits for the commit.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "common/recorded.rs"]
mod recorded;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Counter, Gate, counting, holding, inc, reach_code, still_clock, waiting, within};
use everstep::testing::{Call, CrashPoint, Fault, FaultyStore, crash_everywhere};
use everstep::{
    Checkpoint, Concurrency, ConflictPolicy, LoopLimit, LoopResult, ManualClock, MemoryStore, Runtime, StartOptions,
    StatusCode, StoreError, Workflow, task,
};
use recorded::recorded;
use tokio::sync::Semaphore;

/// A store whose commits, but for the first few, wait until the test lets them go.
#[derive(Clone)]
struct Slow {
    memory: MemoryStore,
    store: FaultyStore,
    open: Arc<Semaphore>,
    commits: Arc<AtomicU64>,
    /// Number of times that instances were listed.
    listings: Arc<AtomicU64>,
}

impl Slow {
    fn after(commits_at_once: u64) -> Self {
        let memory = MemoryStore::new();
        let slow = Self {
            store: FaultyStore::new(memory.clone()),
            memory,
            open: Arc::new(Semaphore::new(0)),
            commits: Arc::default(),
            listings: Arc::default(),
        };
        let (open, commits, listings) = (Arc::clone(&slow.open), Arc::clone(&slow.commits), Arc::clone(&slow.listings));
        slow.store.plan(move |_, call| {
            if let Call::Instances = call {
                let listings = Arc::clone(&listings);
                return Fault::WaitAfter(Box::pin(async move {
                    listings.fetch_add(1, Ordering::SeqCst);
                }));
            }
            if !matches!(call, Call::Commit(_)) || commits.fetch_add(1, Ordering::SeqCst) < commits_at_once {
                return Fault::None;
            }
            let open = Arc::clone(&open);
            Fault::Wait(Box::pin(async move {
                open.acquire().await.unwrap().forget();
                Fault::None
            }))
        });
        slow
    }

    fn let_go(&self) {
        self.open.add_permits(usize::MAX >> 4);
    }

    /// Returns the number of commits asked for.
    fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    async fn asks_for_commits(&self, commits: u64) {
        within(async {
            while self.commits() < commits {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Starts a runtime that has finished recovery. Before that, recovery might take new work for
    /// what a crash left, and an instance that has seen a crash defers nothing.
    async fn runtime<I, O: 'static>(&self, workflow: &Workflow<I, O>, clock: &ManualClock) -> Runtime {
        let builder = Runtime::builder(self.store.clone()).register(workflow).clock(clock.clone());
        let runtime = builder.start().await.unwrap();
        within(async {
            while self.listings.load(Ordering::SeqCst) < 1 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        runtime
    }

    async fn has(&self, task: &str) -> bool {
        recorded(&self.memory, "id", task, &[]).await.is_some()
    }
}

/// Returns a store whose second commit fails for good, until the store is reopened.
fn failing_after_the_start() -> FaultyStore {
    let faulty = FaultyStore::new(MemoryStore::new());
    let mut commits = 0;
    faulty.plan(move |_, call| {
        commits += u32::from(matches!(call, Call::Commit(_)));
        if matches!(call, Call::Commit(_)) && commits == 2 {
            return Fault::FailBefore(StoreError::Fatal("the disk is full".into()));
        }
        Fault::None
    });
    faulty
}

/// Returns the workflow first, deferred or not -> hold -> last.
fn two(checkpoint: Checkpoint, gate: &Gate) -> Workflow<u32, u32> {
    let first = task(inc).checkpoint(checkpoint);
    Workflow::builder("two").then("first", first).then("hold", holding::<u32>(gate)).then("last", inc).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn task_after_deferred_starts_without_any_commit() {
    let (slow, gate) = (Slow::after(1), Gate::new());
    let workflow = two(Checkpoint::Deferred, &gate);
    let runtime = slow.runtime(&workflow, &still_clock()).await;
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    gate.entered().await;
    assert!(!slow.has("first").await);
    slow.let_go();
    gate.open(1);
    assert_eq!(within(handle.result()).await, Ok(3));
    assert!(slow.has("first").await && slow.has("hold").await && slow.has("last").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_next_task_waits_for_durable_result() {
    let (slow, gate) = (Slow::after(1), Gate::new());
    let workflow = two(Checkpoint::default(), &gate);
    let runtime = slow.runtime(&workflow, &still_clock()).await;
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    // The result's own commit has begun, and does not return.
    slow.asks_for_commits(2).await;
    assert_eq!(gate.count(), 0);
    slow.let_go();
    gate.entered().await;
    assert!(slow.has("first").await);
    gate.open(1);
    assert_eq!(within(handle.result()).await, Ok(3));
}

/// Method: a draining loop returns `Done` while the commit that accepts one more signal is held.
/// The iteration for that signal begins after its commit, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn draining_iteration_waits_for_its_signal_to_be_durable() {
    let (slow, preparing, deciding) = (Slow::after(3), Gate::new(), Gate::new());
    let done = |(n, _): (u32, u32)| std::future::ready(Ok::<_, Infallible>(LoopResult::<u32, u32>::Done(n)));
    let decide = task(done).checkpoint(Checkpoint::Deferred);
    let workflow = Workflow::builder_for::<u32>("w")
        .repeat_draining("loop", LoopLimit::Unlimited, "add", |body| {
            let first = body.then("prepare", holding::<u32>(&preparing));
            let second = first.wait_for_signal_keeping::<u32>("wait", "add");
            second
                .then("hold", task(holding::<(u32, u32)>(&deciding)).checkpoint(Checkpoint::Deferred))
                .then("decide", decide)
        })
        .build()
        .unwrap();
    let runtime = slow.runtime(&workflow, &still_clock()).await;
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    preparing.entered().await;
    preparing.open(1);
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    within(handle.signal("add", &1_u32)).await.unwrap();
    deciding.entered().await;
    let sender = handle.clone();
    let sent = tokio::spawn(async move { sender.signal("add", &2_u32).await });
    slow.asks_for_commits(4).await;
    deciding.open(1);
    let early = tokio::time::timeout(Duration::from_millis(100), preparing.entered()).await;
    assert!(early.is_err(), "the signal is not durable");
    slow.let_go();
    within(sent).await.unwrap().unwrap();
    within(preparing.entered()).await;
    preparing.open(1);
    deciding.open(1);
    assert_eq!(within(handle.result()).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn deferred_chain_commits_all_results_with_its_end() {
    // Two commits in all: the start, and everything after it.
    let slow = Slow::after(u64::MAX);
    let chain = Workflow::builder_for::<u32>("chain");
    let chain = (0..10).fold(chain, |chain, n| chain.then(format!("t{n}"), task(inc).checkpoint(Checkpoint::Deferred)));
    let workflow = chain.build().unwrap();
    let runtime = slow.runtime(&workflow, &still_clock()).await;
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(11));
    assert_eq!(slow.commits(), 2);
    for n in 0..10_u32 {
        assert_eq!(within(handle.task_result::<u32>(&format!("t{n}"))).await, Ok(Some(2 + n)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_waits_for_every_deferred_result_before_it() {
    // The signal is only buffered; its acknowledgement means that the result before it is durable
    // too.
    let (slow, gate) = (Slow::after(u64::MAX), Gate::new());
    let workflow = Workflow::builder("signalled")
        .then("first", task(inc).checkpoint(Checkpoint::Deferred))
        .then("hold", holding::<u32>(&gate))
        .wait_for_signal::<u32>("wait", "go")
        .build()
        .unwrap();
    let runtime = slow.runtime(&workflow, &still_clock()).await;
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    gate.entered().await;
    assert!(!slow.has("first").await, "nothing else asked for a commit");
    within(handle.signal("go", &7_u32)).await.unwrap();
    assert!(slow.has("first").await);
    gate.open(1);
    assert_eq!(within(handle.result()).await, Ok(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_waits_for_every_deferred_result_before_it() {
    let (slow, gate) = (Slow::after(u64::MAX), Gate::new());
    let workflow = two(Checkpoint::Deferred, &gate);
    let runtime = slow.runtime(&workflow, &still_clock()).await;
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    gate.entered().await;
    assert!(!slow.has("first").await);
    assert!(within(handle.unpause()).await.is_err(), "it is not paused");
    assert!(slow.has("first").await);
    gate.open(1);
    assert_eq!(within(handle.result()).await, Ok(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn parking_instance_has_written_its_deferred_results() {
    let (slow, clock) = (Slow::after(u64::MAX), still_clock());
    let workflow = Workflow::builder("parks")
        .then("first", task(inc).checkpoint(Checkpoint::Deferred))
        .then("second", task(inc).checkpoint(Checkpoint::Deferred))
        .wait_for_signal::<u32>("wait", "go")
        .build()
        .unwrap();
    let runtime = slow.runtime(&workflow, &clock).await;
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    assert!(slow.has("first").await && slow.has("second").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn deferred_result_commits_after_fifty_milliseconds() {
    let (slow, gate, clock) = (Slow::after(u64::MAX), Gate::new(), still_clock());
    let workflow = two(Checkpoint::Deferred, &gate);
    let runtime = slow.runtime(&workflow, &clock).await;
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    gate.entered().await;
    clock.advance(Duration::from_millis(49));
    assert!(!slow.has("first").await);
    clock.advance(Duration::from_millis(1));
    within(async {
        while !slow.has("first").await {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gate.open(1);
    assert_eq!(within(handle.result()).await, Ok(3));
}

/// Returns a loop that counts its iterations up to `until`.
fn counting_loop(turns: &Counter, until: u32) -> Workflow<u32, u32> {
    let turns = turns.clone();
    let turn = move |n: u32| {
        turns.hit();
        std::future::ready(Ok::<_, Infallible>(if n < until { LoopResult::Again(n + 1) } else { LoopResult::Done(n) }))
    };
    let turn = task(turn).checkpoint(Checkpoint::Deferred);
    Workflow::builder_for("counts")
        .repeat("loop", LoopLimit::Unlimited, |body| body.then("turn", turn))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_sixty_four_results_are_not_durable() {
    // No commit returns after the start: 64 iterations are ahead of the store, and the 65th is the
    // last that runs.
    let (slow, turns) = (Slow::after(1), Counter::default());
    let workflow = counting_loop(&turns, 1_000);
    let runtime = slow.runtime(&workflow, &still_clock()).await;
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    slow.asks_for_commits(2).await;
    assert_eq!(turns.get(), 65);
    slow.let_go();
    assert_eq!(within(handle.result()).await, Ok(1_000));
    assert_eq!(turns.get(), 1_000);
    assert!(slow.commits() < 30, "{} commits", slow.commits());
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_reruns_deferred_task_and_keeps_acknowledged() {
    // The process ends after the start, and then after the commit that carries the 64 results
    // before it.
    for (commit, left) in [(1, 1), (2, 66)] {
        let (memory, turns) = (MemoryStore::new(), Counter::default());
        let workflow = counting_loop(&turns, 100);
        let faulty = FaultyStore::new(memory.clone());
        faulty.crash_at(CrashPoint { commit, answered: true });
        let runtime = Runtime::builder(faulty.clone()).register(&workflow).start().await.unwrap();
        let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
        within(faulty.crashed()).await;
        drop((handle, runtime));
        let ran = turns.get();
        let runtime = Runtime::builder(memory).register(&workflow).start().await.unwrap();
        let handle = within(runtime.handle(&workflow, "id")).await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(100));
        assert_eq!(turns.get() - ran, 101 - left, "after commit {commit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_deferred_results_commit_immediately() {
    // Otherwise the finished task would be counted for a crash that the next task causes.
    let (memory, gate, clock) = (MemoryStore::new(), Gate::new(), still_clock());
    let first = Gate::new();
    let workflow = Workflow::builder("blamed")
        .then("first", task(holding::<u32>(&first)).checkpoint(Checkpoint::Deferred))
        .then("hold", holding::<u32>(&gate))
        .build()
        .unwrap();
    let runtime = Runtime::builder(memory.clone()).register(&workflow).clock(clock.clone()).start().await.unwrap();
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    first.entered().await;
    drop((handle, runtime));
    let runtime = Runtime::builder(memory.clone()).register(&workflow).clock(clock).start().await.unwrap();
    first.entered().await;
    first.open(1);
    gate.entered().await;
    assert!(recorded(&memory, "id", "first", &[]).await.is_some());
    drop(runtime);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_commit_reruns_tasks_ahead_of_it() {
    // The write of the results is refused, and the instance is read again. The first task's result
    // is still there; the task started after it is no longer known.
    let (first, second, gate) = (Counter::default(), Counter::default(), Gate::new());
    let faulty = failing_after_the_start();
    let workflow = Workflow::builder("taken back")
        .then("first", task(counting::<u32>(&first)).checkpoint(Checkpoint::Deferred))
        .then("second", task(counting::<u32>(&second)).checkpoint(Checkpoint::Deferred))
        .then("hold", holding::<u32>(&gate))
        .build()
        .unwrap();
    let runtime = Runtime::builder(faulty).register(&workflow).start().await.unwrap();
    let handle = within(runtime.start(&workflow, "id", 5)).await.unwrap();
    gate.entered().await;
    gate.open(4);
    assert_eq!(within(handle.result()).await, Ok(5));
    assert_eq!((first.get(), second.get()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_before_store_failure_are_never_mistaken() {
    // Two results are ahead of the store and a third task runs when the write of the other branch
    // fails. After the next read the branches continue in another order: the third task's outcome
    // must not become the second one's.
    let (left, right) = (Gate::new(), Gate::new());
    let faulty = failing_after_the_start();
    let deferred = || task(inc).checkpoint(Checkpoint::Deferred);
    let times_ten = task(async |n: u32| Ok::<_, Infallible>(n * 10)).checkpoint(Checkpoint::Deferred);
    let workflow = Workflow::builder_for::<u32>("branches")
        .fork("fork", |fork| {
            let right = fork.branch("a", |branch| branch.then("b", holding::<u32>(&right)));
            right.branch("z", |branch| {
                branch.then("1", deferred()).then("2", times_ten).then("3", holding::<u32>(&left))
            })
        })
        .join("join", async |(b, a): (u32, u32)| Ok::<_, Infallible>(1_000 * b + a))
        .build()
        .unwrap();
    let runtime = Runtime::builder(faulty).register(&workflow).start().await.unwrap();
    let handle = within(runtime.start(&workflow, "id", 4)).await.unwrap();
    left.entered().await;
    right.entered().await;
    right.open(1);
    left.entered().await;
    left.open(2);
    assert_eq!(within(handle.result()).await, Ok(4_050));
    assert_eq!(within(handle.task_result::<u32>("fork/z/2")).await, Ok(Some(50)));
}

#[tokio::test(flavor = "multi_thread")]
async fn join_waits_for_durable_results_of_all_branches() {
    // The other branch has ended, and its commit does not return; then the deferred task ends, and
    // with it the fork.
    let (slow, gate, others) = (Slow::after(1), Gate::new(), Counter::default());
    let join = {
        let slow = slow.clone();
        move |(a, b): (u32, u32)| {
            let slow = slow.clone();
            async move { Ok::<_, Infallible>((a + b, slow.has("fork/other/at once").await)) }
        }
    };
    let workflow = Workflow::builder_for::<u32>("joined")
        .fork("fork", |fork| {
            let held = task(holding::<u32>(&gate)).checkpoint(Checkpoint::Deferred);
            let fork = fork.branch("other", |branch| branch.then("at once", counting::<u32>(&others)));
            fork.branch("deferred", |branch| branch.then("held", held))
        })
        .join("join", join)
        .build()
        .unwrap();
    let runtime = slow.runtime(&workflow, &still_clock()).await;
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    gate.entered().await;
    slow.asks_for_commits(2).await;
    gate.open(1);
    // Enough turns for the join to start, if it did not wait.
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    slow.let_go();
    assert_eq!(within(handle.result()).await, Ok((2, true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_writes_deferred_results() {
    let (slow, gate, clock) = (Slow::after(u64::MAX), Gate::new(), still_clock());
    let (workflow, other) = (two(Checkpoint::Deferred, &gate), waiting("other"));
    let builder = Runtime::builder(slow.store.clone()).register(&workflow).register(&other).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    within(runtime.start(&workflow, "id", 1)).await.unwrap();
    gate.entered().await;
    assert!(!slow.has("first").await);
    within(runtime.shutdown(Duration::ZERO)).await;
    assert!(slow.has("first").await);
}

/// Returns deferred tasks in a chain, in the branches of a fork, in a loop and in a map, with a
/// signal between them.
fn everywhere() -> Workflow<u32, u32> {
    let deferred = || task(inc).checkpoint(Checkpoint::Deferred);
    let turn = async |n: u32| Ok::<_, Infallible>(if n < 12 { LoopResult::Again(n + 1) } else { LoopResult::Done(n) });
    Workflow::builder("everywhere")
        .then("first", deferred())
        .then("second", deferred())
        .wait_for_signal_keeping::<u32>("wait", "go")
        .then("both", task(async |(n, m): (u32, u32)| Ok::<_, Infallible>(n + m)).checkpoint(Checkpoint::Deferred))
        .fork("fork", |fork| {
            let left = fork.branch("left", |branch| branch.then("a", deferred()).then("b", deferred()));
            left.branch("right", |branch| branch.then("c", deferred()).then("d", inc))
        })
        .join("join", async |(a, b): (u32, u32)| Ok::<_, Infallible>(a + b - 20))
        .repeat("loop", LoopLimit::Unlimited, |body| body.then("turn", task(turn).checkpoint(Checkpoint::Deferred)))
        .then("list", task(async |n: u32| Ok::<_, Infallible>(vec![n; 3])).checkpoint(Checkpoint::Deferred))
        .map("map", Concurrency::AtMost(2), |item| item.then("x", deferred()).then("y", deferred()))
        .then("sum", task(async |all: Vec<u32>| Ok::<_, Infallible>(all.iter().sum::<u32>())))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn deferred_workflow_ends_alike_at_every_crash_point() {
    let report = crash_everywhere(
        || (),
        |(), builder| builder.register(&everywhere()),
        async |(), runtime| {
            let workflow = everywhere();
            let options = StartOptions::new().policy(ConflictPolicy::UseExisting);
            let handle = runtime.start_with(&workflow, "id", 1, options).await?.handle;
            handle.signal_with_id("go", &7_u32, "the only one").await?;
            let output = runtime.finish(&handle).await?;
            let mut results = Vec::new();
            for task in ["first", "second", "both", "fork/left/a", "fork/left/b", "fork/right/c", "fork/right/d"] {
                results.push(handle.task_result::<u32>(task).await?);
            }
            for item in 0..3 {
                results.push(handle.task_result_at::<u32>("map/y", &[item]).await?);
            }
            Ok((output, results))
        },
    );
    let report = report.await.unwrap();
    assert!(report.crashes > 10, "{report:?}");
}
