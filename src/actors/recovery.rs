//! Takes up what is in progress and not awake: after a crash, after the store was reopened, and when starts or wake-ups
//! found no room. Instances are durable rows until there is room for them.

use std::sync::{Arc, Weak};

use super::hub::Hub;
use super::instance::Activation;
use super::mail::Mail;
use crate::id::DefinitionHash;
use crate::status::StatusCode;
use crate::store::StoreError;

/// Instances read from the status index at once.
const PAGE: usize = 1_000;

/// Runs until the runtime is gone. The first round is at once.
pub(super) async fn run(hub: Weak<Hub>) {
    loop {
        let Some(alive) = hub.upgrade() else { return };
        if alive.is_closing() {
            return;
        }
        if let Err(error) = take_up_all(&alive).await {
            tracing::warn!(%error, "instances in progress could not be listed; trying again when the store is back");
        }
        alive.recover.notified().await;
    }
}

async fn take_up_all(hub: &Arc<Hub>) -> Result<(), StoreError> {
    for definition in hub.definitions.keys() {
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
            let resident = hub.registry.resident().await;
            // With a place in hand there is room.
            let _ = hub.registry.send_with(hub, instance, Mail::Nudge, resident, Activation::Load);
        }
        if page.len() < PAGE {
            return Ok(());
        }
        after = page.into_iter().next_back();
    }
}
