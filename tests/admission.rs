//! Calls that reach a limit wait or are refused, as their caller chose; a call that is given up
//! changes nothing.
//!
//! Commits are held at a gate, so that calls in progress stay so. A call is admitted when its
//! future is first polled: after one poll it is refused, in progress, or waiting.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic anywhere")]

mod common;

#[path = "common/through.rs"]
mod through;

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use common::{Gate, holding, inc, reach_code, still_clock, when_clock_is_at, with, within};
use everstep::store::{Answers, Write};
use everstep::{
    BoxFuture, Clock as _, Concurrency, ConflictPolicy, HandleError, Health, InstanceHandle, InstanceId, LimitReached,
    Limits, MemoryStore, MessageError, ResultError, Runtime, RuntimeBuilder, StartError, StartOptions, StatusCode,
    Store as _, StoreError, WhenBusy, Workflow,
};
use through::{Hooks, Through};
use tokio::sync::watch;
use tokio::task::JoinSet;

struct Held {
    /// True while commits wait.
    hold: watch::Sender<bool>,
    /// The instance whose loads wait, if any.
    load: Mutex<Option<InstanceId>>,
    /// The instances written in each commit.
    batches: Mutex<Vec<Vec<String>>>,
}

impl Hooks for Held {
    fn commit<'a>(&'a self, store: &'a MemoryStore, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        Box::pin(async move {
            let instances: Vec<_> = batch.iter().map(|write| write.instance.to_string()).collect();
            self.hold.subscribe().wait_for(|hold| !hold).await.unwrap();
            self.batches.lock().unwrap().push(instances);
            store.commit(batch).await
        })
    }

    fn load<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while self.load.lock().unwrap().as_ref() == Some(instance) {
                tokio::task::yield_now().await;
            }
        })
    }
}

impl Held {
    fn new() -> Arc<Self> {
        Arc::new(Self { hold: watch::channel(false).0, load: Mutex::default(), batches: Mutex::default() })
    }

    fn hold(&self) {
        self.hold.send_replace(true);
    }

    fn release(&self) {
        self.hold.send_replace(false);
    }
}

/// Returns a builder with small limits: two messages per instance, one active instance, two starts.
fn builder(workflow: &Workflow<u32, Output>) -> (Arc<Held>, RuntimeBuilder) {
    let held = Held::new();
    let mut limits = Limits::default();
    (limits.instance_messages_max, limits.resident_max, limits.writes_queued_max) = (2, 1, 2);
    let store = Through::new(&MemoryStore::new(), &held);
    (Arc::clone(&held), Runtime::builder(store).register(workflow).limits(limits))
}

type Output = ((u32, u32), u32);

/// Returns a workflow that waits for two numbers of one name.
fn two_signals() -> Workflow<u32, Output> {
    let first = Workflow::builder_for::<u32>("two").wait_for_signal_keeping::<u32>("first", "go");
    first.wait_for_signal_keeping::<u32>("second", "go").build().unwrap()
}

async fn started() -> (Arc<Held>, Runtime, Workflow<u32, Output>, InstanceHandle<Output>) {
    let workflow = two_signals();
    let (held, builder) = builder(&workflow);
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "one", 0).await.unwrap();
    (held, runtime, workflow, handle)
}

/// Polls a call once.
async fn poll<F: Future>(call: &mut Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| match call.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

fn refusing() -> StartOptions {
    StartOptions::new().when_busy(WhenBusy::Refuse)
}

/// Method: two signals are in progress to an instance whose queue takes two. A third is refused,
/// and a fourth waits; the instance then gets the acknowledged signals in their order.
#[tokio::test(flavor = "multi_thread")]
async fn message_to_a_full_queue_waits_or_is_refused() {
    let (held, _runtime, _, waiting) = started().await;
    let refusing = waiting.clone().when_busy(WhenBusy::Refuse);
    held.hold();
    let (mut first, mut third) = (pin!(refusing.signal("go", &1_u32)), pin!(refusing.signal("go", &3_u32)));
    let (mut second, mut cancel) = (pin!(refusing.signal("go", &2_u32)), pin!(waiting.cancel("late", "test")));
    assert_eq!(poll(&mut first).await, None);
    assert_eq!(poll(&mut second).await, None);
    assert_eq!(poll(&mut third).await, Some(Err(MessageError::Busy(LimitReached::InstanceMessages))));
    assert_eq!(poll(&mut cancel).await, None);
    held.release();
    assert_eq!(within(first).await, Ok(()));
    assert_eq!(within(second).await, Ok(()));
    assert_eq!(within(waiting.result()).await, Ok(((0, 1), 2)));
    // The cancel waited for its turn and came too late.
    assert!(matches!(within(cancel).await, Err(MessageError::AlreadyTerminal(_))));
}

/// Method: the one instance that may be active is kept so by a signal in progress. A message to a
/// parked instance is refused, or waits until there is room.
#[tokio::test(flavor = "multi_thread")]
async fn message_activating_one_too_many_waits_or_is_refused() {
    let (held, runtime, workflow, one) = started().await;
    let two = runtime.start(&workflow, "two", 0).await.unwrap();
    held.hold();
    let mut under_way = pin!(one.signal("go", &1_u32));
    assert_eq!(poll(&mut under_way).await, None);
    let refused = within(two.clone().when_busy(WhenBusy::Refuse).signal("go", &7_u32)).await;
    assert_eq!(refused, Err(MessageError::Busy(LimitReached::Residents)));
    let mut waits = pin!(two.signal("go", &5_u32));
    assert_eq!(poll(&mut waits).await, None);
    held.release();
    within(under_way).await.unwrap();
    within(waits).await.unwrap();
    within(two.signal("go", &6_u32)).await.unwrap();
    assert_eq!(within(two.result()).await, Ok(((0, 5), 6)));
}

/// Method: as many starts are in progress as the limit allows, two. A third is refused and leaves
/// no instance; a fourth waits.
#[tokio::test(flavor = "multi_thread")]
async fn start_beside_too_many_waits_or_leaves_nothing() {
    let (held, runtime, workflow, _) = started().await;
    held.hold();
    let mut under_way = [2, 3].map(|n| Box::pin(runtime.start_with(&workflow, format!("{n}"), n, refusing())));
    for start in &mut under_way {
        assert!(poll(&mut start.as_mut()).await.is_none());
    }
    let refused = within(runtime.start_with(&workflow, "refused", 4, refusing())).await;
    assert_eq!(refused.unwrap_err(), StartError::Busy(LimitReached::WritesQueued));
    let mut waits = pin!(runtime.start(&workflow, "waits", 5));
    assert!(poll(&mut waits).await.is_none());
    held.release();
    for start in under_way {
        within(start).await.unwrap();
    }
    within(waits).await.unwrap();
    assert_eq!(runtime.handle(&workflow, "refused").await.unwrap_err(), HandleError::NotFound);
    runtime.start_with(&workflow, "refused", 4, refusing()).await.unwrap();
}

/// Method: a start that would terminate an instance meets its full queue. The instance continues
/// unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn replacement_of_a_busy_instance_is_refused_unharmed() {
    let (held, runtime, workflow, handle) = started().await;
    held.hold();
    let (mut first, mut second) = (pin!(handle.signal("go", &1_u32)), pin!(handle.signal("go", &2_u32)));
    assert_eq!((poll(&mut first).await, poll(&mut second).await), (None, None));
    let options = with(ConflictPolicy::TerminateExisting).when_busy(WhenBusy::Refuse);
    let refused = within(runtime.start_with(&workflow, "one", 9, options)).await;
    assert_eq!(refused.unwrap_err(), StartError::Busy(LimitReached::InstanceMessages));
    held.release();
    assert_eq!(within(handle.result()).await, Ok(((0, 1), 2)));
}

/// Method: the only place for an active instance is taken, and as many starts wait to replace
/// parked instances as starts may be in progress. A start of a free id is not refused because of
/// them.
#[tokio::test]
async fn starts_waiting_for_room_delay_no_start_of_a_free_id() {
    let (workflow, gate) = (two_signals(), Gate::new());
    let holds = Workflow::builder("holds").then("hold", holding::<u32>(&gate)).build().unwrap();
    let (_, builder) = builder(&workflow);
    let runtime = builder.register(&holds).start().await.unwrap();
    for id in ["one", "two"] {
        within(runtime.start(&workflow, id, 0)).await.unwrap();
    }
    runtime.start(&holds, "holds", 0).await.unwrap();
    gate.entered().await;
    let replaces = StartOptions::new().policy(ConflictPolicy::TerminateExisting);
    let [mut one, mut two] = ["one", "two"].map(|id| Box::pin(runtime.start_with(&workflow, id, 1, replaces.clone())));
    for replacement in [&mut one, &mut two] {
        assert!(poll(&mut replacement.as_mut()).await.is_none(), "it waits for room");
    }
    within(runtime.start_with(&workflow, "three", 0, refusing())).await.unwrap();
    gate.open(1);
    for replaced in [within(one).await, within(two).await] {
        assert!(replaced.unwrap().existing.is_none());
    }
}

/// Method: 8 KiB of payloads may be in progress. Three starts take 6 KiB. One of 3 KiB is refused
/// or waits; one with a tiny payload goes through, and so does one that is larger than the limit,
/// once it is alone.
#[tokio::test(flavor = "multi_thread")]
async fn payload_bytes_in_progress_have_their_own_limit() {
    let workflow = Workflow::builder_for::<String>("texts").wait_for_signal::<String>("wait", "go").build().unwrap();
    let (held, mut limits) = (Held::new(), Limits::default());
    limits.payload_bytes_under_way_max = 8 << 10;
    let store = Through::new(&MemoryStore::new(), &held);
    let runtime = Runtime::builder(store).register(&workflow).limits(limits).start().await.unwrap();
    let text = |kib: usize| "x".repeat((kib << 10) - 8);
    let start = |id: &str, kib| Box::pin(runtime.start(&workflow, id.to_owned(), text(kib)));
    let parked = runtime.start(&workflow, "parked", String::new()).await.unwrap();
    held.hold();
    let mut under_way = ["a", "b", "c"].map(|id| start(id, 2));
    for start in &mut under_way {
        assert!(poll(&mut start.as_mut()).await.is_none());
    }
    let refused = within(runtime.start_with(&workflow, "refused", text(3), refusing())).await;
    assert_eq!(refused.unwrap_err(), StartError::Busy(LimitReached::PayloadBytes));
    let refusing_handle = parked.clone().when_busy(WhenBusy::Refuse);
    let refused = within(refusing_handle.signal("go", &text(3))).await;
    assert_eq!(refused, Err(MessageError::Busy(LimitReached::PayloadBytes)));
    let (mut waits, mut large) = (start("waits", 3), start("large", 20));
    assert!(poll(&mut waits.as_mut()).await.is_none());
    assert!(poll(&mut large.as_mut()).await.is_none());
    let mut small = Box::pin(runtime.start_with(&workflow, "small", String::new(), refusing()));
    assert!(poll(&mut small.as_mut()).await.is_none(), "the call is in progress");
    held.release();
    for start in under_way.into_iter().chain([waits, large]) {
        within(start).await.unwrap();
    }
    within(small).await.unwrap();
    within(parked.signal("go", &text(3))).await.unwrap();
    assert_eq!(within(parked.result()).await.unwrap(), text(3));
    assert_eq!(runtime.handle(&workflow, "refused").await.unwrap_err(), HandleError::NotFound);
}

/// Method: the runtime's default is to refuse. A start and a handle without a setting of their own
/// refuse; those that ask to wait do so.
#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_busy_setting_use_that_of_the_runtime() {
    let workflow = two_signals();
    let (held, builder) = builder(&workflow);
    let runtime = builder.when_busy(WhenBusy::Refuse).start().await.unwrap();
    let handle = runtime.start(&workflow, "one", 0).await.unwrap();
    let patient = handle.clone().when_busy(WhenBusy::Wait);
    held.hold();
    let (mut first, mut second) = (pin!(handle.signal("go", &1_u32)), pin!(handle.signal("go", &2_u32)));
    assert_eq!((poll(&mut first).await, poll(&mut second).await), (None, None));
    assert_eq!(handle.pause("why", "test").await, Err(MessageError::Busy(LimitReached::InstanceMessages)));
    assert_eq!(runtime.delete(handle.id()).await, Err(MessageError::Busy(LimitReached::InstanceMessages)));
    assert_eq!(poll(&mut pin!(patient.pause("why", "test"))).await, None);
    let mut starts = [2, 3].map(|n| Box::pin(runtime.start(&workflow, format!("{n}"), n)));
    for start in &mut starts {
        assert!(poll(&mut start.as_mut()).await.is_none());
    }
    let refused = within(runtime.start(&workflow, "refused", 4)).await;
    assert_eq!(refused.unwrap_err(), StartError::Busy(LimitReached::WritesQueued));
    let options = StartOptions::new().when_busy(WhenBusy::Wait);
    assert!(poll(&mut pin!(runtime.start_with(&workflow, "waits", 5, options))).await.is_none());
    held.release();
    within(first).await.unwrap();
}

/// Method: of each kind of call as many are in progress as the limit allows, and more wait. All
/// futures are dropped. Once commits go through, calls in progress have taken effect and waiting
/// calls have not; exactly as many new calls are admitted as before.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_calls_give_their_places_back() {
    let (held, runtime, workflow, one) = started().await;
    let other = runtime.start(&workflow, "other", 0).await.unwrap();
    let impatient = one.clone().when_busy(WhenBusy::Refuse);
    held.hold();
    {
        let mut starts: Vec<_> = (0..12).map(|n| Box::pin(runtime.start(&workflow, format!("{n}"), 0))).collect();
        let mut to_one: Vec<_> = (0..12).map(|_| Box::pin(one.pause("why", "test"))).collect();
        let mut to_other: Vec<_> = (0..12).map(|_| Box::pin(other.cancel("why", "test"))).collect();
        for start in &mut starts {
            assert!(poll(&mut start.as_mut()).await.is_none());
        }
        for call in &mut to_one {
            assert!(poll(&mut call.as_mut()).await.is_none());
        }
        for call in &mut to_other {
            assert!(poll(&mut call.as_mut()).await.is_none());
        }
    }
    // The dropped calls are still in progress: their places are taken.
    let refused = within(runtime.start_with(&workflow, "refused", 0, refusing())).await;
    assert_eq!(refused.unwrap_err(), StartError::Busy(LimitReached::WritesQueued));
    assert_eq!(within(impatient.unpause()).await, Err(MessageError::Busy(LimitReached::InstanceMessages)));
    held.release();
    within(reach_code(&one, StatusCode::Paused)).await;
    let no_longer_busy = async {
        while let Err(MessageError::Busy(_)) = other.clone().when_busy(WhenBusy::Refuse).pause("why", "test").await {
            tokio::task::yield_now().await;
        }
    };
    within(no_longer_busy).await;
    let status = other.status().await.unwrap();
    assert_eq!(status.code(), StatusCode::Paused, "a cancel that waited has come through");
    let both_are_there = async {
        while runtime.handle(&workflow, "0").await.is_err() || runtime.handle(&workflow, "1").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within(both_are_there).await;
    assert_eq!(runtime.handle(&workflow, "2").await.unwrap_err(), HandleError::NotFound);

    held.hold();
    let mut starts = ["a", "b"].map(|id| (id, Box::pin(runtime.start_with(&workflow, id, 0, refusing()))));
    for (id, start) in &mut starts {
        let admitted = async {
            // The last start in progress may be answered before it has given its place back.
            while let Some(answer) = poll(&mut start.as_mut()).await {
                assert_eq!(answer.unwrap_err(), StartError::Busy(LimitReached::WritesQueued));
                tokio::task::yield_now().await;
                *start = Box::pin(runtime.start_with(&workflow, *id, 0, refusing()));
            }
        };
        within(admitted).await;
    }
    let refused = within(runtime.start_with(&workflow, "c", 0, refusing())).await;
    assert_eq!(refused.unwrap_err(), StartError::Busy(LimitReached::WritesQueued));
    held.release();
}

/// Method: twelve active instances have messages in progress, and as many callers wait for room to
/// activate another one. When the twelve leave, that one stays where it is loaded until every
/// caller has had room, that is, until eleven more instances find it free. However many callers had
/// room at a time, no commit then has more messages than the queue takes.
#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_parked_instance_do_not_overfill_its_queue() {
    const AWAKE: usize = 12;
    let first = Workflow::builder_for::<u32>("buffering").wait_for_signal::<u32>("first", "first");
    let workflow = first.wait_for_signal::<u32>("second", "go").build().unwrap();
    let held = Held::new();
    let mut limits = Limits::default();
    (limits.instance_messages_max, limits.resident_max) = (2, AWAKE);
    let store = Through::new(&MemoryStore::new(), &held);
    let runtime = Runtime::builder(store).register(&workflow).limits(limits).start().await.unwrap();
    let mut handles = Vec::new();
    for n in 0..2 * AWAKE {
        handles.push(runtime.start(&workflow, format!("{n}"), 0).await.unwrap());
    }
    let (busy, others) = handles.split_at(AWAKE);
    let send = async |handle: InstanceHandle<u32>, calls: &mut JoinSet<_>| {
        let mut call = Box::pin(async move { handle.signal("go", &0_u32).await });
        let answer = poll(&mut call.as_mut()).await;
        calls.spawn(call);
        answer
    };
    let (mut first, mut calls) = (JoinSet::new(), JoinSet::new());
    held.hold();
    for handle in busy {
        assert_eq!(send(handle.clone(), &mut first).await, None);
    }
    for _ in 0..AWAKE {
        assert_eq!(send(others[0].clone(), &mut calls).await, None);
    }
    *held.load.lock().unwrap() = Some(others[0].id().clone());
    held.release();
    within(async { while first.join_next().await.is_some() {} }).await;
    held.hold();
    for handle in &others[1..] {
        let impatient = handle.clone().when_busy(WhenBusy::Refuse);
        let finds_room = async {
            while let Some(Err(MessageError::Busy(_))) = send(impatient.clone(), &mut first).await {
                tokio::task::yield_now().await;
            }
        };
        within(finds_room).await;
    }
    held.load.lock().unwrap().take();
    // Gives a message that is too much for the queue time to reach the store.
    tokio::time::sleep(Duration::from_millis(50)).await;
    held.release();
    assert_eq!(within(calls.join_all()).await, vec![Ok(()); AWAKE]);
    let batches = held.batches.lock().unwrap();
    let largest = batches.iter().map(|batch| batch.iter().filter(|id| *id == others[0].id().as_str()).count()).max();
    assert!(largest <= Some(2), "{batches:?}");
}

/// Method: one instance may be active, and at any time callers wait for that one place. A delay
/// ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn delay_ends_while_callers_always_wait_for_room() {
    let clock = still_clock();
    let minute = Duration::from_mins(1);
    let delayed = Workflow::builder_for::<u32>("delayed").delay("delay", minute).then("inc", inc).build().unwrap();
    let workflow = two_signals();
    let (_, builder) = builder(&workflow);
    let runtime = builder.register(&delayed).clock(clock.clone()).start().await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for n in 0..8 {
        let handle = runtime.start(&workflow, format!("busy {n}"), 0).await.unwrap();
        let is_over = Arc::clone(&is_over);
        callers.spawn(async move {
            while !is_over.load(Ordering::SeqCst) {
                handle.pause("why", "test").await.unwrap();
            }
        });
    }
    let handle = runtime.start(&delayed, "delayed", 1).await.unwrap();
    assert_eq!(when_clock_is_at(&clock, clock.now().after(minute), handle.result()).await, Ok(2));
    is_over.store(true, Ordering::SeqCst);
    within(callers.join_all()).await;
}

/// Method: a task that does not end holds the only place for an active instance. Calls of every
/// kind wait for the place when the runtime is dropped. None of them keeps the store in use.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_runtime_with_calls_waiting_for_room_frees_store() {
    let (clock, gate) = (still_clock(), Gate::new());
    let minute = Duration::from_mins(1);
    let held = Workflow::builder("held").then("hold", holding::<u32>(&gate)).build().unwrap();
    let delayed = Workflow::builder_for::<u32>("delayed").delay("delay", minute).then("inc", inc).build().unwrap();
    let (hooks, builder) = builder(&two_signals());
    let runtime = builder.register(&delayed).register(&held).clock(clock.clone()).start().await.unwrap();
    let first = runtime.start(&held, "first", 0).await.unwrap();
    gate.entered().await;
    runtime.start(&held, "second", 0).await.unwrap();
    runtime.start(&delayed, "delayed", 0).await.unwrap();
    clock.advance(2 * minute);
    let replaced = with(ConflictPolicy::TerminateExisting);
    assert!(poll(&mut pin!(runtime.start_with(&held, "second", 1, replaced))).await.is_none());
    // The timers and recovery have found no room by now, or will find none.
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop((runtime, first));
    let gone = async {
        while Arc::strong_count(&hooks) > 1 {
            tokio::task::yield_now().await;
        }
    };
    within(gone).await;
}

#[test]
fn busy_error_names_its_limit_and_says_nothing_was_done() {
    let told = StartError::Busy(LimitReached::WritesQueued).to_string();
    assert!(told.contains("Limits::writes_queued_max") && told.contains("nothing was started"), "{told}");
    let told = MessageError::Busy(LimitReached::InstanceMessages).to_string();
    assert!(told.contains("Limits::instance_messages_max") && told.contains("nothing was done"), "{told}");
    let told = MessageError::Busy(LimitReached::Residents).to_string();
    assert!(told.contains("Limits::resident_max") && told.contains("nothing was done"), "{told}");
}

/// Sets one of the limits.
type Set = fn(&mut Limits, u64);

#[allow(clippy::cast_possible_truncation, reason = "a limit is set as large as it can be")]
const LIMITS: [(&str, Set); 14] = [
    ("payload_bytes_max", |limits, n| limits.payload_bytes_max = n as usize),
    ("list_items_max", |limits, n| limits.list_items_max = n as usize),
    ("list_bytes_max", |limits, n| limits.list_bytes_max = n as usize),
    ("signals_buffered_max", |limits, n| limits.signals_buffered_max = n as u32),
    ("signal_buffer_bytes_max", |limits, n| limits.signal_buffer_bytes_max = n),
    ("resident_max", |limits, n| limits.resident_max = n as usize),
    ("tasks_running_max", |limits, n| limits.tasks_running_max = n as usize),
    ("instance_messages_max", |limits, n| limits.instance_messages_max = n as usize),
    ("writes_queued_max", |limits, n| limits.writes_queued_max = n as usize),
    ("payload_bytes_under_way_max", |limits, n| limits.payload_bytes_under_way_max = n as usize),
    ("timer_window_max", |limits, n| limits.timer_window_max = n as usize),
    ("priority_aging_seconds", |limits, n| limits.priority_aging_seconds = n),
    ("panics_max", |limits, n| limits.panics_max = n as u32),
    ("panic_window_seconds", |limits, n| limits.panic_window_seconds = n),
];

/// Starts two instances with a task, a map, a wait and a delay, and lets them end or fail.
async fn run_with(name: &str, limits: Limits) {
    let workflow = Workflow::builder("all kinds")
        .then("list", async |n: u32| Ok::<_, std::convert::Infallible>(vec![n; 3]))
        .map("each", Concurrency::Unlimited, |item| item.then("inc", inc))
        .then("sum", async |list: Vec<u32>| Ok::<u32, std::convert::Infallible>(list.iter().sum()))
        .wait_for_signal_keeping::<u32>("wait", "go")
        .delay("delay", Duration::from_millis(1))
        .build()
        .unwrap();
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).limits(limits).start().await.unwrap();
    for id in ["one", "two"] {
        // A limit may be smaller than this input: a typed error is right then.
        let Ok(handle) = within(runtime.start(&workflow, id, 1)).await else { continue };
        let sent = within(handle.signal("go", &5_u32)).await;
        if sent.is_ok() {
            let ended = within(handle.result()).await;
            assert!(matches!(ended, Ok((6, 5)) | Err(ResultError::Failed(_))), "{name}: {ended:?}");
        }
    }
    assert_eq!(runtime.health(), Health::Healthy, "{name}");
    within(runtime.shutdown(Duration::from_secs(1))).await;
}

/// Method: one limit at a time is 0, 1 and the largest value, which users set to mean "no limit".
#[tokio::test(flavor = "multi_thread")]
async fn extreme_limits_break_nothing() {
    for (name, set) in LIMITS {
        for value in [0, 1, u64::MAX] {
            let mut limits = Limits::default();
            set(&mut limits, value);
            run_with(&format!("{name} = {value}"), limits).await;
        }
    }
}

/// Method: a run has ended, and its actor is active for a delete whose commit is held.
#[tokio::test(flavor = "multi_thread")]
async fn result_of_ended_run_waits_for_no_other_commit() {
    let (held, _runtime, _, handle) = started().await;
    handle.signal("go", &1_u32).await.unwrap();
    handle.signal("go", &2_u32).await.unwrap();
    within(handle.result()).await.unwrap();
    held.hold();
    let mut delete = pin!(handle.delete());
    let is_committing = async {
        while held.hold.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    assert!(poll(&mut delete).await.is_none());
    within(is_committing).await;
    assert_eq!(within(handle.result()).await, Ok(((0, 1), 2)));
    held.release();
    within(delete).await.unwrap();
}
