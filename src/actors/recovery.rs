//! Takes up what is in progress and not awake: after a crash, when starts or wake-ups found no room, and after a failure
//! of the store. Instances are durable rows until there is room for them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::hub::Hub;
use super::instance::Activation;
use super::mail::Mail;
use crate::id::DefinitionHash;
use crate::status::StatusCode;
use crate::store::StoreError;

/// Instances read from the status index at once.
const PAGE: usize = 1_000;
/// The shortest time between two rounds, and the longest while the store fails again and again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Runs until the runtime is gone. The first round is at once.
pub(super) async fn run(hub: Weak<Hub>) {
    let mut pause = PAUSE.0;
    loop {
        let Some(alive) = hub.upgrade() else { return };
        if alive.is_closing() {
            return;
        }
        let failed = alive.take_failure();
        pause = if failed { (pause * 2).min(PAUSE.1) } else { PAUSE.0 };
        if failed {
            // Wake-ups that were on their way may be lost, and listeners not told. First, since there may be no room for long.
            alive.reset_timers();
            alive.waiters.tell_all();
        }
        let listed = take_up_all(&alive).await;
        match listed {
            Ok(()) => tokio::select! {
                () = alive.recover.notified() => {}
                () = alive.closed() => return,
            },
            Err(error) => {
                tracing::warn!(%error, "instances in progress could not be listed; trying again");
                alive.recover_after_failure();
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn take_up_all(hub: &Arc<Hub>) -> Result<(), StoreError> {
    for definition in hub.definitions.keys().chain(hub.upgrades.older()) {
        take_up(hub, definition).await?;
    }
    Ok(())
}

async fn take_up(hub: &Arc<Hub>, definition: &DefinitionHash) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = hub.store.instances(definition, StatusCode::InProgress, after.as_ref(), PAGE).await?;
        for instance in &page {
            if hub.is_closing() {
                return Ok(());
            }
            if hub.registry.is_awake(instance) {
                continue;
            }
            let resident = hub.room().await;
            // With a place in hand there is room, unless the runtime is shutting down.
            let _ = hub.registry.send_with(hub, instance, Mail::TakeUp, resident, || Activation::Load);
        }
        if page.len() < PAGE {
            return Ok(());
        }
        after = page.into_iter().next_back();
    }
}
