//! Stops and starts of the runtime, of actors and of the store: what was done stays done, what was not goes on.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Counter, Gate, counting, holding, inc, reach_code, same, still_clock, when_clock_is_at, within};
use everstep::store::{Answers, Loaded, Write};
use everstep::{
    BoxFuture, Clock, Codec, ConflictPolicy, CustomCodec, DefinitionHash, Durability, FileStore, HandleError, Health,
    InstanceId, Limits, ManualClock, MemoryStore, MessageError, ReadWith, ResultError, RunId, Runtime, StartError,
    StartOptions, Status, StatusCode, Store, StoreError, Timestamp, Workflow, machine,
};
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// The store of a runtime that was dropped is free once its last actor is gone.
async fn open(path: &Path) -> FileStore {
    let opened = async {
        loop {
            match FileStore::open(path).await {
                Err(StoreError::Locked(_)) => tokio::task::yield_now().await,
                opened => return opened.unwrap(),
            }
        }
    };
    within(opened).await
}

/// count -> hold -> delay -> wait -> inc.
fn long(count: &Counter, gate: &Gate) -> Workflow<u32, u32> {
    Workflow::builder("long")
        .then("count", counting::<u32>(count))
        .then("hold", holding::<u32>(gate))
        .delay("delay", MINUTE)
        .wait_for_signal::<u32>("wait", "go")
        .then("inc", inc)
        .build()
        .unwrap()
}

/// Starts a runtime on the same store again, after dropping or shutting down the one before.
async fn stops_at_every_place<S: Store>(gently: bool, store: impl AsyncFn() -> S) {
    let (count, gate, clock) = (Counter::default(), Gate::new(), still_clock());
    let workflow = long(&count, &gate);
    let start = async || {
        let builder = Runtime::builder(store().await).register(&workflow).clock(clock.clone());
        let runtime = builder.start().await.unwrap();
        assert!(runtime.report().unregistered.is_empty());
        runtime
    };
    let stop = async |runtime: Runtime| {
        if gently {
            // Nothing moves this clock: whatever still runs is cancelled by moving it here.
            common::moving(&clock, Duration::from_millis(1), runtime.shutdown(Duration::from_millis(1))).await;
        }
    };
    let runtime = start().await;
    runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    stop(runtime).await;
    let runtime = start().await;
    gate.entered().await;
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    gate.open(1);
    let Status::Waiting { wake_at, .. } = reach_code(&handle, StatusCode::Waiting).await else { panic!() };
    drop(handle);
    stop(runtime).await;
    let runtime = start().await;
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    assert!(matches!(handle.status().await.unwrap(), Status::Waiting { wake_at: at, .. } if at == wake_at));
    when_clock_is_at(&clock, wake_at, reach_code(&handle, StatusCode::AwaitingSignal)).await;
    drop(handle);
    stop(runtime).await;
    let runtime = start().await;
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    handle.signal("go", &41_u32).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(42));
    drop(handle);
    stop(runtime).await;
    let runtime = start().await;
    let handle = runtime.handle(&workflow, "id").await.unwrap();
    assert_eq!(handle.result().await, Ok(42));
    assert_eq!((count.get(), gate.count()), (1, 2), "finished tasks ran again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_goes_on_from_where_it_stood_on_a_store_in_memory() {
    // The runtime is stopped while a task runs, in the delay, at the wait, and at the end; both ways.
    for gently in [false, true] {
        let store = MemoryStore::new();
        stops_at_every_place(gently, async || store.clone()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_goes_on_from_where_it_stood_on_a_store_on_disk() {
    // As above, the directory opened anew each time.
    for gently in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        stops_at_every_place(gently, async || open(directory.path()).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_acknowledged_right_before_a_crash_is_there() {
    // Ten instances at once: the runtime is dropped the moment the last signal is acknowledged, consumed or not.
    let directory = tempfile::tempdir().unwrap();
    let workflow = Workflow::builder("w")
        .then("inc", inc)
        .wait_for_signal_keeping::<u32>("wait", "go")
        .then("same", same::<(u32, u32)>)
        .build()
        .unwrap();
    for round in 0..5 {
        let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
        let mut sent = JoinSet::new();
        for n in 0..10 {
            let (runtime, workflow) = (runtime.clone(), workflow.clone());
            sent.spawn(async move {
                let handle = runtime.start(&workflow, format!("{round} {n}"), n).await.unwrap();
                handle.signal("go", &(n * 10)).await.unwrap();
            });
        }
        within(sent.join_all()).await;
        drop(runtime);
        let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
        for n in 0..10 {
            let handle = runtime.handle(&workflow, format!("{round} {n}")).await.unwrap();
            assert_eq!(within(handle.result()).await, Ok((n + 1, n * 10)), "round {round}, instance {n}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_registered_is_listed_and_left_alone_until_it_is() {
    // Two definitions are left running, delayed and waiting; the next runtime knows one of them only.
    let (store, clock, gate, count) = (MemoryStore::new(), still_clock(), Gate::new(), Counter::default());
    let (known, unknown) =
        (Workflow::builder("known").then("inc", inc).delay("d", MINUTE).build().unwrap(), long(&count, &gate));
    let builder = || Runtime::builder(store.clone()).register(&known).clock(clock.clone());
    let runtime = within(builder().register(&unknown).start()).await.unwrap();
    for id in ["running", "delayed"] {
        within(runtime.start(&unknown, id, 1)).await.unwrap();
        gate.entered().await;
        if id == "running" {
            continue;
        }
        gate.open(1);
        let handles = [
            within(runtime.handle(&unknown, "running")).await.unwrap(),
            within(runtime.handle(&unknown, id)).await.unwrap(),
        ];
        let parked = async {
            tokio::select! {
                status = reach_code(&handles[0], StatusCode::Waiting) => status,
                status = reach_code(&handles[1], StatusCode::Waiting) => status,
            }
        };
        parked.await;
    }
    let other = within(runtime.start(&known, "known", 1)).await.unwrap();
    reach_code(&other, StatusCode::Waiting).await;
    drop((runtime, other));

    let runtime = within(builder().start()).await.unwrap();
    let [found] = &runtime.report().unregistered[..] else { panic!("{:?}", runtime.report()) };
    assert_eq!((found.definition, found.workflow.as_deref(), found.more), (unknown.hash(), Some("long"), false));
    let mut ids: Vec<_> = found.instances.iter().map(InstanceId::as_str).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["delayed", "running"]);
    let heads = async || {
        let [a, b] = ["delayed", "running"].map(|id| InstanceId::new(id).unwrap());
        [store.load(&a).await.unwrap(), store.load(&b).await.unwrap()]
    };
    let before = heads().await;
    let other = within(runtime.handle(&known, "known")).await.unwrap();
    when_clock_is_at(&clock, clock.now().after(2 * MINUTE), other.result()).await.unwrap();
    let handle = within(runtime.handle(&unknown, "delayed")).await.unwrap();
    assert!(handle.status().await.is_ok());
    assert_eq!(within(handle.signal("go", &1_u32)).await, Err(MessageError::NotRegistered));
    assert_eq!(within(handle.cancel("x", "y")).await, Err(MessageError::NotRegistered));
    let started = within(runtime.start(&unknown, "new", 1)).await.unwrap_err();
    assert_eq!(started, StartError::NotRegistered { workflow: "long".into() });
    assert_eq!(heads().await, before);
    drop((runtime, other, handle));

    let runtime = within(builder().register(&unknown).start()).await.unwrap();
    assert!(runtime.report().unregistered.is_empty());
    gate.open(10);
    for id in ["running", "delayed"] {
        let handle = within(runtime.handle(&unknown, id)).await.unwrap();
        within(handle.signal("go", &1_u32)).await.unwrap();
        assert_eq!(common::moving(&clock, MINUTE, handle.result()).await, Ok(2));
    }
    assert_eq!(count.get(), 2);
}

/// JSON by another id.
struct Other;

impl CustomCodec for Other {
    fn id(&self) -> u8 {
        130
    }

    fn name(&self) -> &'static str {
        "other JSON"
    }

    fn encode(&self, value: &dyn erased_serde::Serialize) -> Result<Vec<u8>, erased_serde::Error> {
        serde_json::to_vec(value).map_err(serde::ser::Error::custom)
    }

    fn decode(&self, bytes: &[u8], read: &mut ReadWith<'_>) -> Result<(), erased_serde::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        read(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut deserializer))?;
        deserializer.end().map_err(serde::de::Error::custom)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_codec_is_missing_is_left_alone_until_it_is_there() {
    // One instance is running, one completed; without the codec nothing is read wrongly and others are not slowed.
    let (store, gate) = (MemoryStore::new(), Gate::new());
    let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
    let codec = Codec::Custom(Arc::new(Other));
    let runtime = Runtime::builder(store.clone()).register(&workflow).codec(codec.clone()).start().await.unwrap();
    let done = runtime.start(&workflow, "done", 5).await.unwrap();
    gate.open(1);
    within(done.result()).await.unwrap();
    runtime.start(&workflow, "running", 6).await.unwrap();
    within(async { (gate.entered().await, gate.entered().await) }).await;
    drop((runtime, done));

    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    gate.open(1);
    let beside = runtime.start(&workflow, "beside", 7).await.unwrap();
    assert_eq!(within(beside.result()).await, Ok(7));
    let done = runtime.handle(&workflow, "done").await.unwrap();
    assert_eq!(done.status().await.unwrap(), Status::Completed);
    assert_eq!(done.result().await, Err(ResultError::Handle(HandleError::UnknownCodec(130))));
    assert_eq!(done.task_result::<u32>("hold").await, Err(HandleError::UnknownCodec(130)));
    let running = runtime.handle(&workflow, "running").await.unwrap();
    assert_eq!(running.status().await.unwrap(), Status::InProgress);
    assert_eq!(running.cancel("x", "y").await, Err(MessageError::NotRegistered));
    drop((runtime, beside, done, running));

    let runtime = Runtime::builder(store).register(&workflow).also_codec(codec).start().await.unwrap();
    gate.open(1);
    let running = runtime.handle(&workflow, "running").await.unwrap();
    assert_eq!(within(running.result()).await, Ok(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_room_for_one_actor_fifty_instances_all_finish() {
    // Tasks, a delay and a signal for each, with one actor awake at a time; then the same after a restart.
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
async fn a_watch_begins_with_the_present_status_and_ends_with_the_run_or_the_runtime() {
    // One instance is followed from its first wait to its end; a second one's watch ends with the runtime.
    let clock = still_clock();
    let workflow =
        Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").delay("d", MINUTE).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let mut watch = handle.watch().await.unwrap();
    let code = |status: Option<Status>| status.map(|status| status.code());
    assert_eq!(code(within(watch.next()).await), Some(StatusCode::AwaitingSignal));
    handle.signal("go", &1_u32).await.unwrap();
    assert_eq!(code(within(watch.next()).await), Some(StatusCode::Waiting));
    handle.pause("x", "y").await.unwrap();
    assert_eq!(code(within(watch.next()).await), Some(StatusCode::Paused));
    handle.unpause().await.unwrap();
    assert_eq!(code(within(watch.next()).await), Some(StatusCode::Waiting));
    let last = when_clock_is_at(&clock, clock.now().after(MINUTE), watch.next()).await;
    assert_eq!(code(last), Some(StatusCode::Completed));
    assert_eq!(within(watch.next()).await, None);
    let mut late = handle.watch().await.unwrap();
    assert_eq!((within(late.next()).await, within(late.next()).await), (Some(Status::Completed), None));

    let other = runtime.start(&workflow, "other", 1).await.unwrap();
    let mut watch = other.watch().await.unwrap();
    within(watch.next()).await.unwrap();
    runtime.shutdown(SECOND).await;
    assert_eq!(within(watch.next()).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_tells_everyone_who_waits_for_a_result() {
    // Fifty wait, some of whom are not polled again before the store is closed; the instance goes on at the next start.
    let directory = tempfile::tempdir().unwrap();
    let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").build().unwrap();
    let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let mut waiters = JoinSet::new();
    for _ in 0..50 {
        let handle = handle.clone();
        waiters.spawn(async move { handle.result().await });
    }
    tokio::task::yield_now().await;
    within(runtime.shutdown(SECOND)).await;
    for answer in within(waiters.join_all()).await {
        assert_eq!(answer, Err(ResultError::ShuttingDown));
    }
    drop((runtime, handle));
    let again = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
    let handle = again.handle(&workflow, "id").await.unwrap();
    handle.signal("go", &2_u32).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_after_a_shutdown_says_so() {
    // Every call that has such an answer, on a store that is closed.
    let directory = tempfile::tempdir().unwrap();
    let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").build().unwrap();
    let runtime = Runtime::builder(open(directory.path()).await).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    within(runtime.shutdown(SECOND)).await;
    assert_eq!(within(handle.signal("go", &1_u32)).await, Err(MessageError::ShuttingDown));
    assert_eq!(within(handle.cancel("x", "y")).await, Err(MessageError::ShuttingDown));
    let start = within(runtime.start(&workflow, "new", 1)).await;
    assert!(matches!(start, Err(StartError::ShuttingDown)), "{start:?}");
    within(runtime.shutdown(SECOND)).await;
    assert_eq!(within(handle.result()).await, Err(ResultError::ShuttingDown));
}

/// A clock that stands still and panics in an instance's actor while it is armed. Sleeping takes real time.
#[derive(Clone)]
struct Treacherous {
    clock: ManualClock,
    panics: Arc<AtomicU32>,
}

impl Treacherous {
    fn new() -> Self {
        Self { clock: still_clock(), panics: Arc::default() }
    }
}

impl Clock for Treacherous {
    fn now(&self) -> Timestamp {
        let armed = self.panics.load(Ordering::SeqCst) > 0;
        if armed && std::backtrace::Backtrace::force_capture().to_string().contains("everstep::actors::live") {
            let one_less = |left: u32| left.checked_sub(1);
            assert!(self.panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_err(), "no time");
        }
        self.clock.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_panics_once_is_reloaded_and_the_instance_finishes() {
    // A panic while a result, a wake-up, a signal and a pause are handled; finished tasks stay finished.
    let (clock, gate, count) = (Treacherous::new(), Gate::new(), Counter::default());
    let workflow = long(&count, &gate);
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    clock.panics.store(1, Ordering::SeqCst);
    gate.open(2);
    let Status::Waiting { wake_at, .. } = reach_code(&handle, StatusCode::Waiting).await else { panic!() };
    clock.panics.store(1, Ordering::SeqCst);
    clock.clock.set_wall(wake_at);
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    clock.panics.store(1, Ordering::SeqCst);
    // Whether it took effect is unknown to the caller; asking again is harmless.
    let paused = within(handle.pause("x", "y")).await;
    assert!(matches!(paused, Ok(()) | Err(MessageError::OutcomeUnknown(_))), "{paused:?}");
    within(handle.pause("x", "y")).await.unwrap();
    handle.unpause().await.unwrap();
    clock.panics.store(1, Ordering::SeqCst);
    within(handle.signal("go", &41_u32)).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(42));
    assert_eq!((clock.panics.load(Ordering::SeqCst), count.get()), (0, 1));
    assert_eq!(runtime.health(), Health::Healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_panics_again_and_again_is_quarantined_for_all_to_see() {
    // The clock panics until the instance is set aside; others go on, and it stays set aside until it is replaced.
    let (clock, store) = (Treacherous::new(), MemoryStore::new());
    let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").build().unwrap();
    let builder = || Runtime::builder(store.clone()).register(&workflow).clock(clock.clone());
    let runtime = builder().start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    let beside = runtime.start(&workflow, "beside", 1).await.unwrap();
    let waiter = {
        let handle = handle.clone();
        tokio::spawn(async move { handle.result().await })
    };
    clock.panics.store(u32::MAX, Ordering::SeqCst);
    let sent = within(handle.cancel("x", "y")).await;
    assert!(matches!(sent, Err(MessageError::OutcomeUnknown(_) | MessageError::Quarantined(_))), "{sent:?}");
    let status = reach_code(&handle, StatusCode::Quarantined).await;
    clock.panics.store(0, Ordering::SeqCst);
    let Status::Quarantined { reason } = &status else { panic!("{status}") };
    assert!(reason.contains("no time"), "{reason}");
    assert_eq!(within(waiter).await.unwrap(), Err(ResultError::Quarantined { reason: reason.clone() }));
    beside.signal("go", &1_u32).await.unwrap();
    assert_eq!(within(beside.result()).await, Ok(1));
    for runtime in [runtime, builder().start().await.unwrap()] {
        let handle = runtime.handle(&workflow, "id").await.unwrap();
        assert_eq!(handle.status().await.unwrap(), status);
        assert_eq!(handle.signal("go", &1_u32).await, Err(MessageError::Quarantined(status.clone())));
    }
    let runtime = builder().start().await.unwrap();
    let replace = StartOptions::new().policy(ConflictPolicy::TerminateExisting);
    let new = within(runtime.start_with(&workflow, "id", 1, replace)).await.unwrap().handle;
    new.signal("go", &3_u32).await.unwrap();
    assert_eq!(within(new.result()).await, Ok(3));
}

/// A store of which the next few commits fail for good, each until it is reopened.
#[derive(Clone)]
struct Faulty {
    store: MemoryStore,
    fails: Arc<AtomicU32>,
    failed: Counter,
}

impl Faulty {
    fn new() -> Self {
        Self { store: MemoryStore::new(), fails: Arc::default(), failed: Counter::default() }
    }
}

impl Store for Faulty {
    fn commit<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        if self.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            self.failed.hit();
            return Box::pin(std::future::ready(Err(StoreError::Fatal("the disk is gone".into()))));
        }
        self.store.commit(batch)
    }
    fn load<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Result<Option<Loaded>, StoreError>> {
        self.store.load(instance)
    }
    fn row<'a>(&'a self, run: RunId, key: &'a machine::RowKey) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.store.row(run, key)
    }
    fn signal_rows(&self, run: RunId) -> BoxFuture<'_, Result<Vec<(u64, Bytes)>, StoreError>> {
        self.store.signal_rows(run)
    }
    fn due<'a>(
        &'a self,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>> {
        self.store.due(after, limit)
    }
    fn instances<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        status: StatusCode,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        self.store.instances(definition, status, after, limit)
    }
    fn quarantined<'a>(
        &'a self,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        self.store.quarantined(after, limit)
    }
    fn definitions(&self) -> BoxFuture<'_, Result<Vec<DefinitionHash>, StoreError>> {
        self.store.definitions()
    }
    fn save_manifest<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        manifest: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.save_manifest(definition, manifest)
    }
    fn manifest<'a>(&'a self, definition: &'a DefinitionHash) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.store.manifest(definition)
    }
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, StoreError>> {
        self.store.sweep(limit)
    }
    fn reopen(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.reopen()
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        self.store.close()
    }
    fn durability(&self) -> Durability {
        self.store.durability()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_whose_commit_fails_is_not_lost() {
    // The commit of one task's result fails, for each task in turn; the instance must come to its end by itself.
    let short = Duration::from_millis(2);
    for n in 0..4 {
        let store = Faulty::new();
        let trap = store.fails.clone();
        let spring = move |place: u32| {
            let (trap, set) = (trap.clone(), AtomicBool::new(place == n));
            move |value: u32| {
                trap.fetch_add(u32::from(set.swap(false, Ordering::SeqCst)), Ordering::SeqCst);
                std::future::ready(Ok::<_, Infallible>(value + 1))
            }
        };
        let workflow = Workflow::builder("w")
            .then("a", spring(0))
            .then("b", spring(1))
            .delay("d", short)
            .then("c", spring(2))
            .wait_for_signal_keeping_timeout::<u32>("w", "go", short)
            .then("e", async |(value, _): (u32, everstep::SignalOutcome<u32>)| Ok::<_, Infallible>(value))
            .then("f", spring(3))
            .build()
            .unwrap();
        let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
        let handle = runtime.start(&workflow, "id", 0).await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(4), "the commit after task {n} failed");
        assert_eq!((store.failed.get(), runtime.health()), (1, Health::Healthy));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_often_is_not_a_task_that_kills_the_process() {
    // Six times in a row the commit of a task's result fails and the store is reopened: the process never died.
    let store = Faulty::new();
    let trap = store.fails.clone();
    let failures = AtomicU32::new(6);
    let spring = move |value: u32| {
        let more = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        trap.fetch_add(u32::from(more), Ordering::SeqCst);
        std::future::ready(Ok::<_, Infallible>(value + 1))
    };
    let workflow = Workflow::builder("w").then("spring", spring).then("inc", inc).build().unwrap();
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 0).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_up_whose_commit_fails_is_not_lost() {
    // A delay's end and a wait's timeout: the commit they cause fails once. They must come again by themselves.
    for delayed in [true, false] {
        let store = Faulty::new();
        let clock = still_clock();
        let workflow = if delayed {
            Workflow::builder_for::<u32>("w").delay("d", MINUTE).then("inc", inc).build().unwrap()
        } else {
            let waits = Workflow::builder_for::<u32>("w");
            let waits = waits.wait_for_signal_keeping_timeout::<u32>("w", "go", MINUTE);
            waits
                .then("e", async |(n, _): (u32, everstep::SignalOutcome<u32>)| Ok::<_, Infallible>(n + 1))
                .build()
                .unwrap()
        };
        let builder = Runtime::builder(store.clone()).register(&workflow).clock(clock.clone());
        let runtime = builder.start().await.unwrap();
        let handle = runtime.start(&workflow, "id", 1).await.unwrap();
        store.fails.store(1, Ordering::SeqCst);
        assert_eq!(when_clock_is_at(&clock, clock.now().after(MINUTE), handle.result()).await, Ok(2), "{delayed}");
        assert_eq!((store.failed.get(), runtime.health()), (1, Health::Healthy));
    }
}
