//! Detects, for tests, that nothing happens before the clock moves.

use std::collections::HashSet;

use super::shared::Shared;
use crate::id::InstanceId;
use crate::status::StatusCode;
use crate::store::StoreError;
use crate::time::Timestamp;

/// Returns `None` while there is work to do; otherwise the next due time, if there is one.
pub(crate) async fn next_due(shared: &Shared, now: Timestamp) -> Result<Option<Option<Timestamp>>, StoreError> {
    if shared.registry.has_active() {
        return Ok(None);
    }
    let due = shared.store.due(None, usize::MAX).await?;
    let next = due.first().map(|(at, _)| *at);
    if next.is_some_and(|at| at <= now) {
        return Ok(None);
    }
    // Due instances continue when the clock moves, and those that could not be upgraded never do
    // here.
    let mut resting: HashSet<InstanceId> = due.into_iter().map(|(_, id)| id).collect();
    resting.extend(shared.upgrades.left_alone().into_iter().map(|one| one.instance));
    for definition in shared.definitions.keys().chain(shared.upgrades.older()) {
        let in_progress = shared.store.instances(definition, StatusCode::InProgress, None, usize::MAX).await?;
        if in_progress.iter().any(|id| !resting.contains(id)) {
            return Ok(None);
        }
    }
    Ok((!shared.registry.has_active()).then_some(next))
}
