//! Actors that panic: an instance is loaded again, and set aside when that does not help.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{Counter, Gate, counting, long, reach_code, still_clock, within};
use everstep::{
    BoxFuture, Clock, ConflictPolicy, Health, ManualClock, MemoryStore, MessageError, ResultError, Runtime,
    StartOptions, Status, StatusCode, Timestamp, Workflow,
};

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
    // Whether it took effect is unknown to the caller; asking again is harmless, until the dying actor is gone.
    while let Err(error) = within(handle.pause("x", "y")).await {
        assert!(matches!(error, MessageError::OutcomeUnknown(_)), "{error:?}");
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_instance_goes_on_once_it_is_released() {
    // The clock panics until the instance is set aside, with a signal buffered and a task done; released, it goes on.
    let (clock, store, count) = (Treacherous::new(), MemoryStore::new(), Counter::default());
    let workflow = Workflow::builder("w")
        .then("count", counting::<u32>(&count))
        .wait_for_signal::<u32>("wait", "go")
        .wait_for_signal::<u32>("wait too", "on")
        .build()
        .unwrap();
    let builder = Runtime::builder(store.clone()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    handle.signal("on", &2_u32).await.unwrap();
    let waiting = reach_code(&handle, StatusCode::AwaitingSignal).await;
    assert_eq!(within(handle.release()).await, Err(MessageError::NotQuarantined(waiting)));
    clock.panics.store(u32::MAX, Ordering::SeqCst);
    // Whatever it says: it is never done.
    assert!(within(handle.cancel("x", "y")).await.is_err());
    reach_code(&handle, StatusCode::Quarantined).await;
    clock.panics.store(0, Ordering::SeqCst);
    within(handle.release()).await.unwrap();
    assert_eq!(handle.status().await.unwrap().code(), StatusCode::AwaitingSignal);
    handle.signal("go", &1_u32).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(2));
    assert_eq!(count.get(), 1);
    assert_eq!(within(handle.release()).await, Err(MessageError::NotQuarantined(Status::Completed)));
}
