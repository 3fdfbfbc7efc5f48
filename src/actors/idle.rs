//! Detects, for tests, that nothing happens before the clock moves.

use std::collections::HashSet;

use super::hub::Hub;
use crate::id::InstanceId;
use crate::status::StatusCode;
use crate::store::StoreError;
use crate::time::Timestamp;

/// Returns `None` while there is work to do; otherwise the next due time, if there is one.
pub(crate) async fn next_due(hub: &Hub, now: Timestamp) -> Result<Option<Option<Timestamp>>, StoreError> {
    if hub.registry.has_awake() {
        return Ok(None);
    }
    let due = hub.store.due(None, usize::MAX).await?;
    let next = due.first().map(|(at, _)| *at);
    if next.is_some_and(|at| at <= now) {
        return Ok(None);
    }
    // Due instances continue when the clock moves, and those that could not be upgraded never do
    // here.
    let mut resting: HashSet<InstanceId> = due.into_iter().map(|(_, id)| id).collect();
    resting.extend(hub.upgrades.unplaced().into_iter().map(|unplaced| unplaced.instance));
    for definition in hub.definitions.keys().chain(hub.upgrades.older()) {
        let in_progress = hub.store.instances(definition, StatusCode::InProgress, None, usize::MAX).await?;
        if in_progress.iter().any(|id| !resting.contains(id)) {
            return Ok(None);
        }
    }
    Ok((!hub.registry.has_awake()).then_some(next))
}
