//! Reading what a task gave.

use super::LoadError;
use crate::codec::Value;
use crate::definition::Names;
use crate::id::NodePath;
use crate::machine::{RowKey, Snapshot};
use crate::store::Store;

/// The recorded result of a task: from the head, where small ones stand, or from its row. None if it has not finished yet; in a
/// loop it is the latest iteration's. `names` are those of the snapshot's definition; `indices` says of which item, one for
/// each map around the task.
///
/// # Errors
/// [`LoadError`].
pub async fn task_result(
    store: &dyn Store,
    names: &dyn Names,
    snapshot: &Snapshot,
    path: &str,
    indices: &[u32],
) -> Result<Option<Value>, LoadError> {
    if let Some(kept) = snapshot.kept_result(names, path) {
        return Ok(Some(kept));
    }
    let key = RowKey::Result(NodePath::new(path), indices.into());
    let Some(row) = store.row(snapshot.run(), &key).await? else { return Ok(None) };
    let (shape, payload) = snapshot.open_row(&key, &row)?;
    Ok(Some(shape.value(payload)))
}
