//! Takes up what is in progress and not awake. Instances are durable rows until there is room for them.
//!
//! ```text
//! start, failure of the store ──> list everything in progress ──┐
//! no room, moved, not readable ──> the backlog, by id ──────────┴─> in line for room ──> awake
//! ```
//!
//! Only a start and a failure that the persistence actor saw concern everyone: then all instances in progress are listed, wake-ups
//! read again and listeners told. An instance that cannot be read is its own affair.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::backlog::Next;
use super::hub::Hub;
use super::instance::Activation;
use super::mail::Mail;
use crate::id::{DefinitionHash, InstanceId};
use crate::machine::HeadIndex;
use crate::status::StatusCode;
use crate::store::StoreError;

/// Instances read from the status index at once.
const PAGE: usize = 1_000;
/// Instances that stand in line for room at once, of those listed and of those in the backlog.
const IN_LINE_MAX: usize = 64;
/// The shortest time between two rounds, and the longest while the store fails again and again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Starts what runs until the runtime is gone.
pub(super) fn spawn(hub: &Arc<Hub>) {
    hub.list.notify_one();
    tokio::spawn(heed_failures(Arc::downgrade(hub)));
    tokio::spawn(list(Arc::downgrade(hub)));
    tokio::spawn(work_off(Arc::downgrade(hub)));
}

/// After a failure of the store: wake-ups that were on their way may be lost, and listeners not told. Waits for no room.
async fn heed_failures(hub: Weak<Hub>) {
    let mut pause = PAUSE.0;
    loop {
        let Some(alive) = hub.upgrade() else { return };
        tokio::select! {
            () = alive.failed.notified() => {}
            () = alive.closed() => return,
            () = tokio::time::sleep(2 * PAUSE.1) => {
                pause = PAUSE.0;
                continue;
            }
        }
        alive.reset_timers();
        alive.waiters.tell_all();
        alive.backlog.retry_all();
        alive.list.notify_one();
        drop(alive);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Takes up everything in progress, each time that is asked for.
async fn list(hub: Weak<Hub>) {
    let line = Arc::new(Semaphore::new(IN_LINE_MAX));
    let mut pause = PAUSE.0;
    loop {
        let Some(alive) = hub.upgrade() else { return };
        tokio::select! {
            () = alive.list.notified() => {}
            () = alive.closed() => return,
        }
        match take_up_all(&alive, &line).await {
            Ok(()) => pause = PAUSE.0,
            Err(error) => {
                tracing::warn!(%error, "instances in progress could not be listed; trying again");
                alive.list.notify_one();
                pause = (pause * 2).min(PAUSE.1);
            }
        }
        drop(alive);
        tokio::time::sleep(pause).await;
    }
}

/// Takes up what is in the backlog, as it comes.
async fn work_off(hub: Weak<Hub>) {
    let line = Arc::new(Semaphore::new(IN_LINE_MAX));
    loop {
        let Some(alive) = hub.upgrade() else { return };
        match alive.backlog.next() {
            Next::TakeUp(instance) => take_up(&alive, &line, &instance).await,
            Next::List => alive.list.notify_one(),
            Next::Wait(until) => tokio::select! {
                () = alive.backlog.news() => {}
                () = sleep_until(until) => {}
                () = alive.closed() => {}
            },
        }
        if alive.is_closing() {
            return;
        }
    }
}

async fn sleep_until(until: Option<tokio::time::Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Takes up an instance, or lets it stand in line for room.
async fn take_up(hub: &Arc<Hub>, line: &Arc<Semaphore>, instance: &InstanceId) {
    let in_line = tokio::select! {
        // Never closed.
        in_line = Arc::clone(line).acquire_owned() => in_line,
        () = hub.closed() => return,
    };
    if hub.registry.send_with(hub, instance, Mail::TakeUp, None, || Activation::Load).is_err() {
        let (hub, instance) = (Arc::clone(hub), instance.clone());
        tokio::spawn(async move {
            hub.send(&instance, Mail::TakeUp).await;
            drop(in_line);
        });
    }
}

async fn take_up_all(hub: &Arc<Hub>, line: &Arc<Semaphore>) -> Result<(), StoreError> {
    for definition in hub.definitions.keys().chain(hub.upgrades.older()) {
        take_up_those_of(hub, line, definition).await?;
    }
    Ok(())
}

async fn take_up_those_of(
    hub: &Arc<Hub>,
    line: &Arc<Semaphore>,
    definition: &DefinitionHash,
) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = hub.store.instances(definition, StatusCode::InProgress, after.as_ref(), PAGE).await?;
        for instance in &page {
            if hub.is_closing() {
                return Ok(());
            }
            if !hub.registry.is_awake(instance) && !waits_for_its_time(hub, instance).await {
                take_up(hub, line, instance).await;
            }
        }
        if page.len() < PAGE {
            return Ok(());
        }
        after = page.into_iter().next_back();
    }
}

/// Whether an instance in progress has nothing to do before its next attempt is due: then the due index has it, and the timers
/// wake it. What cannot be read is taken up, so that its actor sees to that.
async fn waits_for_its_time(hub: &Hub, instance: &InstanceId) -> bool {
    let Ok(Some(loaded)) = hub.store.load(instance).await else { return false };
    HeadIndex::of_head(instance, &loaded.head).is_ok_and(|index| index.due.is_some())
}
