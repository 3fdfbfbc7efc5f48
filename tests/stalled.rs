//! Tasks that block their thread: the runtime reports them, and they cost that thread alone. The
//! tests use real time, since they are about threads.
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]

mod common;
#[path = "common/obstacle.rs"]
mod obstacle;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::Write;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use common::{Gate, PATIENCE, inc, reach_code, still_clock, waiting, within};
use everstep::{
    BoxFuture, Clock, InstanceHandle, ManualClock, MemoryStore, ResultError, Runtime, StallCause, Stalled, StatusCode,
    Timestamp, Workflow, task,
};
use obstacle::{blocking, obstacle};
use tokio::sync::{Notify, watch};

/// The log lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads the list of stalled tasks until it is as wanted.
async fn stalled(runtime: &Runtime, wanted: impl Fn(&[Stalled]) -> bool) -> Vec<Stalled> {
    let listed = async {
        loop {
            let listed = runtime.stalled();
            if wanted(&listed) {
                return listed;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(listed).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_task_is_listed_and_logged_once() {
    // Beside the blocking task, one that has declared itself blocking blocks a thread of the pool,
    // and one awaits; neither is listed.
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || written.clone()).finish();
    // Fails where another test of this process has set a subscriber: then there is no log to read
    // here.
    let logs = tracing::subscriber::set_global_default(subscriber).is_ok();
    let ((removed, obstacle), gate) = (obstacle(), Gate::new());
    let undeclared =
        Workflow::builder("undeclared").then("block", blocking(&obstacle, Duration::ZERO)).build().unwrap();
    let (removed_too, other) = obstacle::obstacle();
    let declared = task(blocking(&other, Duration::ZERO)).blocking();
    let declared = Workflow::builder("declared").then("block", declared).build().unwrap();
    let awaiting = Workflow::builder("awaiting").then("hold", common::holding::<u32>(&gate)).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&undeclared).register(&declared).register(&awaiting);
    let runtime = builder.start().await.unwrap();
    let declared = runtime.start(&declared, "declared", 1).await.unwrap();
    let awaiting = runtime.start(&awaiting, "awaiting", 2).await.unwrap();
    gate.entered().await;
    let undeclared = runtime.start(&undeclared, "undeclared", 3).await.unwrap();
    let listed = stalled(&runtime, |listed| !listed.is_empty()).await;
    let [Stalled { instance, node, stalled_for, .. }] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((instance.as_str(), node.as_str()), ("undeclared", "block"));
    assert!(*stalled_for >= Duration::from_millis(500), "{stalled_for:?}");
    // As long again, so that a second warning would be there.
    let longer = 2 * *stalled_for;
    stalled(&runtime, |listed| listed.iter().any(|one| one.stalled_for >= longer)).await;
    drop((removed, removed_too));
    gate.open(1);
    for (handle, output) in [(declared, 1), (awaiting, 2), (undeclared, 3)] {
        assert_eq!(within(handle.result()).await, Ok(output));
    }
    assert_eq!(runtime.stalled(), []);
    if logs {
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        // Other tests of this process log theirs.
        let warnings: Vec<_> = log.lines().filter(|line| line.contains("instance=undeclared")).collect();
        assert_eq!(warnings.len(), 1, "{log}");
        assert!(["blocks its thread", "block", ".blocking()"].iter().all(|part| warnings[0].contains(part)), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_task_costs_others_one_thread_at_most() {
    // One of two threads is blocked while a hundred instances are started, signalled and finished.
    let (_removed, obstacle) = obstacle();
    let bad = Workflow::builder("bad").then("block", blocking(&obstacle, Duration::ZERO)).build().unwrap();
    let first = Workflow::builder("good").then("first", inc).delay("delay", Duration::from_millis(5));
    let good = first.wait_for_signal::<u32>("wait", "go").then("last", inc).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&bad).register(&good);
    let runtime = builder.start().await.unwrap();
    runtime.start(&bad, "bad", 1).await.unwrap();
    stalled(&runtime, |listed| !listed.is_empty()).await;
    let mut handles = Vec::new();
    for n in 0..100 {
        handles.push(within(runtime.start(&good, format!("good {n}"), 1)).await.unwrap());
    }
    for (n, handle) in (0..).zip(&handles) {
        within(handle.signal::<u32>("go", &n)).await.unwrap();
    }
    for (n, handle) in (0..).zip(&handles) {
        assert_eq!(within(handle.result()).await, Ok(n + 1));
    }
    let still_blocks = runtime.stalled().iter().any(|one| one.instance.as_str() == "bad");
    assert!(still_blocks, "the task blocks all the time");
}

#[test]
fn delays_end_while_the_timer_thread_is_blocked() {
    // All is quiet when the task's own timer wakes a thread, which the task then blocks. The delay
    // of another instance ends later, while the other thread sleeps.
    let (removed, obstacle) = obstacle();
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let first = Duration::from_millis(200);
    let bad = Workflow::builder("bad").then("block", blocking(&obstacle, first)).build().unwrap();
    let good = Workflow::builder_for::<u32>("good").delay("delay", 2 * first).then("last", inc).build().unwrap();
    let (ended, result) = channel();
    let runtime = tokio.block_on(async {
        let runtime = Runtime::builder(MemoryStore::new()).register(&bad).register(&good).start().await.unwrap();
        let good = runtime.start(&good, "good", 1).await.unwrap();
        runtime.start(&bad, "bad", 1).await.unwrap();
        tokio::spawn(async move { ended.send(good.result().await) });
        runtime
    });
    let result = result.recv_timeout(PATIENCE);
    drop(removed);
    assert_eq!(result, Ok(Ok(2)));
    drop(runtime);
}

/// The time after which an attempt with a timeout is reported as running.
const REPORTED_AFTER: Duration = Duration::from_millis(50);

/// A clock that the test moves, and that notifies when the sleep before an attempt's report begins:
/// if the clock moved earlier, that sleep would be over at its first poll.
#[derive(Clone)]
struct WhoSleeps {
    time: ManualClock,
    sleeps: Arc<Notify>,
}

impl Default for WhoSleeps {
    fn default() -> Self {
        Self { time: still_clock(), sleeps: Arc::default() }
    }
}

impl Clock for WhoSleeps {
    fn now(&self) -> Timestamp {
        self.time.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (mut sleep, sleeps) = (self.time.sleep(duration), Arc::clone(&self.sleeps));
        Box::pin(poll_fn(move |context| {
            let over = sleep.as_mut().poll(context);
            if over.is_pending() && duration == REPORTED_AFTER {
                sleeps.notify_one();
            }
            over
        }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_attempt_does_not_delay_its_own_actor() {
    // An attempt with a timeout reports to its instance's actor after 50 ms that it runs, and
    // blocks at its next poll, the third: the first two are at the start, and before the check of
    // those 50 ms.
    let ((_removed, obstacle), clock) = (obstacle(), WhoSleeps::default());
    let third_time = move |n: u32| {
        let (obstacle, mut polls) = (obstacle.clone(), 0);
        poll_fn(move |_| {
            polls += 1;
            if polls < 3 {
                return Poll::Pending;
            }
            obstacle.block();
            Poll::Ready(Ok::<_, Infallible>(n))
        })
    };
    let third_time = task(third_time).timeout(Duration::from_mins(1));
    let workflow = Workflow::builder("w").then("third time", third_time).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    within(clock.sleeps.notified()).await;
    clock.time.advance(REPORTED_AFTER);
    stalled(&runtime, |listed| !listed.is_empty()).await;
    within(handle.pause("why", "who")).await.unwrap();
    reach_code(&handle, StatusCode::Paused).await;
}

/// Returns the number of watchdog threads in this process.
#[cfg(target_os = "linux")]
fn watchdogs() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path().join("comm"));
    // A thread may end during the count.
    threads
        .filter_map(|comm| std::fs::read_to_string(comm).ok())
        .filter(|comm| comm.starts_with("everstep-watch"))
        .count()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn watchdog_thread_ends_with_its_runtime() {
    // Half of the runtimes are dropped, half shut down; other tests of this process have one
    // watchdog each, at most.
    let workflow = waiting("w");
    for n in 0..40 {
        let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
        runtime.start(&workflow, "id", 1).await.unwrap();
        if n % 2 == 0 {
            within(runtime.shutdown(Duration::ZERO)).await;
        }
    }
    let ended = async {
        while watchdogs() > 10 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(ended).await;
}

type Told = watch::Receiver<Option<InstanceHandle<u32>>>;

/// Returns a task that waits for the result of the instance it is given.
fn awaiting(
    asked: Told,
) -> impl Fn(u32) -> BoxFuture<'static, Result<u32, ResultError>> + Clone + Send + Sync + 'static {
    move |_| {
        let mut asked = asked.clone();
        Box::pin(async move {
            let child = asked.wait_for(Option::is_some).await.unwrap().clone().unwrap();
            child.result().await
        })
    }
}

/// Method: tasks that wait for the result of a queued instance hold both slots. They are listed
/// until one is cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_all_waiting_for_instances_are_listed_as_stalled() {
    let (told, asked) = watch::channel(None);
    let parent = Workflow::builder("parent").then("wait", awaiting(asked)).build().unwrap();
    let child = Workflow::builder("child").then("inc", inc).build().unwrap();
    let mut limits = everstep::Limits::default();
    limits.tasks_running_max = 2;
    let builder = Runtime::builder(MemoryStore::new()).register(&parent).register(&child).limits(limits);
    let runtime = builder.start().await.unwrap();
    let mut parents = Vec::new();
    for n in 0..2_u32 {
        parents.push(runtime.start(&parent, format!("parent {n}"), n).await.unwrap());
        // An answer of its actor means that the actor has performed the start.
        parents.last().unwrap().signal("none", &0_u32).await.unwrap_err();
    }
    told.send(Some(runtime.start(&child, "child", 1).await.unwrap())).unwrap();
    let mut listed = stalled(&runtime, |listed| listed.len() == 2).await;
    listed.sort_by(|one, other| one.instance.cmp(&other.instance));
    for (n, Stalled { instance, node, cause, .. }) in listed.iter().enumerate() {
        assert_eq!((instance.to_string(), node.as_str()), (format!("parent {n}"), "wait"));
        assert_eq!(*cause, StallCause::AwaitsInstance);
    }
    parents[0].cancel("let the child go on", "test").await.unwrap();
    assert_eq!(within(parents[1].result()).await, Ok(2));
    stalled(&runtime, <[Stalled]>::is_empty).await;
}

/// Method: one thread for blocking tasks, held by a task that waits for the result of another,
/// queued blocking task, while there are slots enough and a task holds one of them.
#[tokio::test(flavor = "multi_thread")]
async fn blocking_task_waiting_for_another_is_listed() {
    let (told, asked) = watch::channel(None);
    let gate = Gate::new();
    let parent = Workflow::builder("parent").then("wait", task(awaiting(asked)).blocking()).build().unwrap();
    let child = Workflow::builder("child").then("inc", task(inc).blocking()).build().unwrap();
    let other = Workflow::builder("other").then("hold", common::holding::<u32>(&gate)).build().unwrap();
    let mut limits = everstep::Limits::default();
    limits.blocking_tasks_running_max = 1;
    let builder = Runtime::builder(MemoryStore::new()).register(&parent).register(&child).register(&other);
    let runtime = builder.limits(limits).start().await.unwrap();
    runtime.start(&other, "other", 1).await.unwrap();
    gate.entered().await;
    let waits = runtime.start(&parent, "parent", 1).await.unwrap();
    // An answer of its actor means that the actor has performed the start.
    waits.signal("none", &0_u32).await.unwrap_err();
    let child = runtime.start(&child, "child", 1).await.unwrap();
    told.send(Some(child.clone())).unwrap();
    let listed = stalled(&runtime, |listed| !listed.is_empty()).await;
    let [Stalled { instance, cause, .. }] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((instance.as_str(), *cause), ("parent", StallCause::AwaitsInstance));
    waits.cancel("let the child go on", "test").await.unwrap();
    assert_eq!(within(child.result()).await, Ok(2));
    stalled(&runtime, <[Stalled]>::is_empty).await;
    gate.open(1);
}
