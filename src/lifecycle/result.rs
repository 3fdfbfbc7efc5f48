//! Reading what a task gave.

use std::sync::Arc;

use super::LoadError;
use super::era::read_era;
use crate::codec::Value;
use crate::definition::Manifest;
use crate::id::NodePath;
use crate::machine::{RowKey, RowPlace, Snapshot};
use crate::store::Store;

/// The recorded result of a task: from the head, where small ones stand, or from its row. None if it has not finished yet; in a
/// loop it is the latest iteration's. `manifest` is that of the snapshot's definition, and `path` the task's there: what it gave
/// before a take-over that renamed it is found too. `indices` says of which item, one for each map around the task.
///
/// # Errors
/// [`LoadError`].
pub async fn task_result(
    store: &dyn Store,
    manifest: &Manifest,
    snapshot: &Snapshot,
    path: &str,
    indices: &[u32],
) -> Result<Option<Value>, LoadError> {
    if let Some(kept) = snapshot.kept_result(manifest, path) {
        return Ok(Some(kept));
    }
    Sought { store, snapshot, era: snapshot.era(), task: path.to_owned(), indices }.find().await
}

/// A result that may be of any era, by the names of one.
struct Sought<'a> {
    store: &'a dyn Store,
    snapshot: &'a Snapshot,
    era: u32,
    task: String,
    indices: &'a [u32],
}

impl Sought<'_> {
    /// The latest: what an era has is later than what those before it have.
    async fn find(mut self) -> Result<Option<Value>, LoadError> {
        loop {
            let key = RowKey::Result(self.place(&self.task, self.indices));
            if let Some(row) = self.store.row(self.snapshot.run(), &key).await? {
                let (shape, payload) = self.snapshot.open_row(&key, &row)?;
                return Ok(Some(shape.value(payload)));
            }
            if self.era == 0 || !self.go_back().await? {
                return Ok(None);
            }
        }
    }

    /// To the era before this one, if the task was there, by the names of that.
    async fn go_back(&mut self) -> Result<bool, LoadError> {
        self.era -= 1;
        let renames = read_era(self.store, self.snapshot, self.era).await?.renames;
        let Some(task) = renames.before(&self.task) else { return Ok(false) };
        self.task = task;
        Ok(true)
    }

    fn place(&self, path: &str, indices: &[u32]) -> RowPlace {
        RowPlace { era: self.era, path: NodePath::new(path), indices: Arc::from(indices) }
    }
}
