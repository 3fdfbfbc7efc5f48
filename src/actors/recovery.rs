//! Activates instances in progress that are parked. Until there is room for them
//! they are only durable rows.
//!
//! ```text
//! start, failure of the store ──────> list everything in progress ──┐
//! no room, conflict, read failure ──> the backlog, by id ───────────┴─> in line for room ──> active
//! ```
//!
//! Only a start, and a failure that the persistence actor saw, concern all instances: then all
//! those in progress are listed, all wake-ups read again and all subscribers notified. An instance
//! that cannot be read concerns no other.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::backlog::Next;
use super::command::Command;
use super::instance::Activation;
use super::shared::Shared;
use crate::id::{DefinitionHash, InstanceId};
use crate::machine::HeadIndex;
use crate::status::StatusCode;
use crate::store::StoreError;

/// Instances read from the status index at once.
const PAGE: usize = 1_000;
/// The most instances in line for room: of those listed, and again of those in the backlog.
const IN_LINE_MAX: usize = 64;
/// The shortest time between two rounds, and the longest while the store keeps failing.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Starts the tasks of recovery, which run until the runtime is gone.
pub(super) fn spawn(shared: &Arc<Shared>) {
    shared.list.notify_one();
    tokio::spawn(heed_failures(Arc::downgrade(shared)));
    tokio::spawn(list(Arc::downgrade(shared)));
    tokio::spawn(work_off(Arc::downgrade(shared)));
}

/// Handles failures of the store: wake-ups in flight and notifications may be lost. Never waits for
/// room.
async fn heed_failures(shared: Weak<Shared>) {
    let mut pause = PAUSE.0;
    loop {
        let Some(alive) = shared.upgrade() else { return };
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

/// Activates everything in progress, each time that is requested.
async fn list(shared: Weak<Shared>) {
    let line = Arc::new(Semaphore::new(IN_LINE_MAX));
    let mut pause = PAUSE.0;
    loop {
        let Some(alive) = shared.upgrade() else { return };
        tokio::select! {
            () = alive.list.notified() => {}
            () = alive.closed() => return,
        }
        match activate_all(&alive, &line).await {
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

/// Activates the instances in the backlog, as they arrive.
async fn work_off(shared: Weak<Shared>) {
    let line = Arc::new(Semaphore::new(IN_LINE_MAX));
    loop {
        let Some(alive) = shared.upgrade() else { return };
        match alive.backlog.next() {
            Next::Activate(instance) => activate(&alive, &line, &instance).await,
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

/// Activates an instance, or puts it in line for room.
async fn activate(shared: &Arc<Shared>, line: &Arc<Semaphore>, instance: &InstanceId) {
    let in_line = tokio::select! {
        // Never closed.
        in_line = Arc::clone(line).acquire_owned() => in_line,
        () = shared.closed() => return,
    };
    if shared.registry.send_with(shared, instance, Command::Activate, None, || Activation::Load).is_err() {
        // In line before the task is spawned: tasks may begin in another order.
        let (room, shared, instance) = (shared.registry.resident(), Arc::clone(shared), instance.clone());
        tokio::spawn(async move {
            let resident = tokio::select! {
                resident = room => resident,
                () = shared.closed() => None,
            };
            // With a permit in hand there is room, unless the runtime is shutting down.
            let _ = shared.registry.send_with(&shared, &instance, Command::Activate, resident, || Activation::Load);
            drop(in_line);
        });
    }
}

async fn activate_all(shared: &Arc<Shared>, line: &Arc<Semaphore>) -> Result<(), StoreError> {
    for definition in shared.definitions.keys().chain(shared.upgrades.older()) {
        activate_all_of(shared, line, definition).await?;
    }
    Ok(())
}

async fn activate_all_of(
    shared: &Arc<Shared>,
    line: &Arc<Semaphore>,
    definition: &DefinitionHash,
) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = shared.store.instances(definition, StatusCode::InProgress, after.as_ref(), PAGE).await?;
        for instance in &page {
            if shared.is_closing() {
                return Ok(());
            }
            if !shared.registry.is_in_memory(instance) && !waits_for_its_time(shared, instance).await {
                activate(shared, line, instance).await;
            }
        }
        if page.len() < PAGE {
            return Ok(());
        }
        after = page.into_iter().next_back();
    }
}

/// Returns true if an instance in progress has nothing to do before its next attempt is due: then
/// it is in the due index, and the timers wake it. False if it cannot be read, so that its actor
/// handles the error.
async fn waits_for_its_time(shared: &Shared, instance: &InstanceId) -> bool {
    let Ok(Some(loaded)) = shared.store.load(instance).await else { return false };
    HeadIndex::of_head(instance, &loaded.head).is_ok_and(|index| index.due.is_some())
}
