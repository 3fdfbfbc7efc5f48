//! Instances with nothing to do and much to read again: they stay in memory for a while, and are in
//! no other instance's way there.

use std::time::Duration;

use everstep::testing::{Call, Fault, FaultyStore};
use everstep::{
    Clock as _, Concurrency, InstanceHandle, LimitReached, Limits, ManualClock, MemoryStore, MessageError, Runtime,
    SignalOutcome, StatusCode, WhenBusy, Workflow,
};

use super::common::{Counter, Gate, holding, reach_code, still_clock, waiting, when_clock_is_at, within};

/// Instances whose fifty items wait for a signal each, and a count of reads of branches and signals
/// from the store.
struct Heavy {
    clock: ManualClock,
    reads: Counter,
    runtime: Runtime,
    workflow: Workflow<Vec<u32>, Vec<SignalOutcome<u32>>>,
}

impl Heavy {
    const ITEMS: u32 = 50;
    const TIMEOUT: Duration = Duration::from_hours(1);

    async fn new(limit: impl FnOnce(&mut Limits), also: &Workflow<u32, u32>) -> Self {
        let (clock, reads) = (still_clock(), Counter::default());
        let store = FaultyStore::new(MemoryStore::new());
        let counted = reads.clone();
        store.plan(move |_, call| {
            if matches!(call, Call::Rows(_)) {
                counted.hit();
            }
            Fault::None
        });
        let workflow = Workflow::builder_for::<Vec<u32>>("heavy")
            .map("each", Concurrency::Unlimited, |item| {
                item.wait_for_signal_timeout::<u32>("wait", "go", Self::TIMEOUT)
            })
            .build()
            .unwrap();
        let mut limits = Limits::default();
        limit(&mut limits);
        let builder = Runtime::builder(store).clock(clock.clone()).limits(limits);
        let runtime = builder.register(&workflow).register(also).start().await.unwrap();
        Self { clock, reads, runtime, workflow }
    }

    async fn park(&self, id: impl Into<String>) -> InstanceHandle<Vec<SignalOutcome<u32>>> {
        let handle = self.runtime.start(&self.workflow, id.into(), (0..Self::ITEMS).collect()).await.unwrap();
        reach_code(&handle, StatusCode::AwaitingSignal).await;
        handle
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_at_rest_is_not_read_again() {
    let heavy = Heavy::new(|_| (), &waiting("other")).await;
    let handle = heavy.park("one").await;
    // With few items left another read costs little.
    for n in 0..Heavy::ITEMS {
        within(handle.signal("go", &n)).await.unwrap();
        assert!(n > 30 || heavy.reads.get() == 0, "read again for signal {n}");
    }
    let received: Vec<_> = (0..Heavy::ITEMS).map(SignalOutcome::Received).collect();
    assert_eq!(within(handle.result()).await, Ok(received));
}

/// Method: pauses begin and end until the instance has been read again; between them the clock
/// moves on, or not.
#[tokio::test(flavor = "multi_thread")]
async fn expired_or_disabled_rest_ends() {
    for (seconds, step) in [(0, Duration::ZERO), (5, Duration::from_secs(5))] {
        let heavy = Heavy::new(|limits| limits.resting_seconds = seconds, &waiting("other")).await;
        let handle = heavy.park("one").await;
        within(async {
            while heavy.reads.get() == 0 {
                handle.pause("again", "test").await.unwrap();
                handle.unpause().await.unwrap();
                heavy.clock.advance(step);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

/// Method: room in memory for a few of a hundred instances; then each gets a signal, the last one
/// first.
#[tokio::test(flavor = "multi_thread")]
async fn instances_at_rest_are_limited_by_their_bytes() {
    let heavy = Heavy::new(|limits| limits.resting_bytes_max = 1 << 20, &waiting("other")).await;
    let mut handles = Vec::new();
    for n in 0..100 {
        handles.push(heavy.park(format!("{n}")).await);
    }
    let mut read_again = 0;
    for handle in handles.iter().rev() {
        let before = heavy.reads.get();
        within(handle.signal("go", &1_u32)).await.unwrap();
        read_again += usize::from(heavy.reads.get() > before);
    }
    assert!((50..100).contains(&read_again), "{read_again} of 100 were read again");
}

/// Method: one instance may be active, and calls without room are refused. An instance at rest
/// takes no room, and needs it again for a signal.
#[tokio::test(flavor = "multi_thread")]
async fn instance_at_rest_takes_no_room_from_others() {
    let gate = Gate::new();
    let blocks = Workflow::builder("hold").then("hold", holding::<u32>(&gate)).build().unwrap();
    let heavy = Heavy::new(|limits| limits.resident_max = 1, &blocks).await;
    let handle = heavy.park("one").await.when_busy(WhenBusy::Refuse);
    let held = heavy.runtime.start(&blocks, "held", 1).await.unwrap();
    gate.entered().await;
    let refused = within(handle.signal("go", &1_u32)).await;
    assert!(matches!(refused, Err(MessageError::Busy(LimitReached::Residents))), "{refused:?}");
    gate.open(1);
    within(held.result()).await.unwrap();
    within(async {
        while handle.signal("go", &1_u32).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(heavy.reads.get(), 0);
}

/// Method: half of the items get a signal; the timeouts of the others pass at rest, or with the end
/// of the rest.
#[tokio::test(flavor = "multi_thread")]
async fn timeouts_pass_at_rest() {
    for seconds in [100_000, 3_600, 5] {
        let heavy = Heavy::new(|limits| limits.resting_seconds = seconds, &waiting("other")).await;
        let handle = heavy.park("one").await;
        let half = Heavy::ITEMS / 2;
        for n in 0..half {
            within(handle.signal("go", &n)).await.unwrap();
        }
        let at = heavy.clock.now().after(Heavy::TIMEOUT);
        let ended = when_clock_is_at(&heavy.clock, at, handle.result()).await.unwrap();
        let (received, timed_out) = ended.split_at(half as usize);
        assert!(received.iter().all(|one| matches!(one, SignalOutcome::Received(_))), "{received:?}");
        assert!(timed_out.iter().all(|one| *one == SignalOutcome::TimedOut), "{timed_out:?}");
        assert!(seconds < 100_000 || heavy.reads.get() == 0, "read again at rest");
    }
}
