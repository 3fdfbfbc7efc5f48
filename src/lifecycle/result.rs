//! Reads the recorded result of a task.

use std::sync::Arc;

use super::era::{names, read_era};
use super::{LoadError, rows};
use crate::codec::Value;
use crate::definition::{Manifest, NodeKind};
use crate::id::NodePath;
use crate::machine::{RowKey, RowPlace, Snapshot};
use crate::store::Store;

/// Returns the recorded result of a task: from the head, which holds small results, or from its
/// row. `None` if the task has not finished yet; in a loop, returns the result of the latest
/// iteration. `manifest` is that of the snapshot's definition, and `path` the task's path there: a
/// result from before an upgrade that renamed the task is found too, at two reads for each upgrade
/// since. `indices` select the item, one for each map around the task.
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
    if let Some(inline) = snapshot.inline_result(manifest, path) {
        return Ok(Some(inline));
    }
    let mut sought = Sought { store, snapshot, era: snapshot.era(), task: path.to_owned(), lists: Vec::new(), indices };
    if !indices.is_empty() {
        sought.lists = manifest.lists_around(path);
    }
    sought.find().await
}

/// The search for a result through the eras of a run, from the latest back. Names are those of
/// `era`.
struct Sought<'a> {
    store: &'a dyn Store,
    snapshot: &'a Snapshot,
    era: u32,
    task: String,
    /// The maps around the task whose current list is not found yet, with the number of maps around
    /// each. Earlier lists may have been longer.
    lists: Vec<(usize, String)>,
    indices: &'a [u32],
}

impl Sought<'_> {
    /// Returns the latest result: one of a later era is later than those of earlier eras.
    async fn find(mut self) -> Result<Option<Value>, LoadError> {
        loop {
            if self.is_behind_a_list().await? {
                return Ok(None);
            }
            let key = RowKey::Result(self.place(&self.task, self.indices));
            if let Some(row) = self.store.row(self.snapshot.run(), &key).await? {
                if !self.is_of_a_task().await? {
                    return Ok(None);
                }
                let (shape, payload) = self.snapshot.open_row(&key, &row)?;
                return Ok(Some(shape.value(payload)));
            }
            if self.era == 0 || !self.go_back().await? {
                return Ok(None);
            }
        }
    }

    /// Returns whether the node was a task in `era`: the path may have been a wait's, and no node's
    /// in between, and a wait's payload has a row of the same key.
    async fn is_of_a_task(&self) -> Result<bool, LoadError> {
        if self.era == self.snapshot.era() {
            return Ok(true);
        }
        let names = names(self.store, self.snapshot, self.era).await?;
        Ok(names.nodes.iter().any(|node| node.path.as_str() == self.task && node.kind == NodeKind::Task))
    }

    /// Moves to the previous era and its names; false if the task did not exist there.
    async fn go_back(&mut self) -> Result<bool, LoadError> {
        self.era -= 1;
        let renames = read_era(self.store, self.snapshot, self.era).await?.renames;
        let Some(task) = renames.before(&self.task) else { return Ok(false) };
        self.task = task;
        self.lists.retain_mut(|(_, map)| renames.before(map).map(|before| *map = before).is_some());
        Ok(true)
    }

    /// Returns true if the latest list of a map around the task does not have the item: a result of
    /// it would be one of an earlier iteration.
    async fn is_behind_a_list(&mut self) -> Result<bool, LoadError> {
        for (maps, path) in std::mem::take(&mut self.lists) {
            let Some((around, [index, ..])) = self.indices.split_at_checked(maps) else { continue };
            let place = self.place(&path, around);
            match rows::list_total(self.store, self.snapshot, place).await? {
                Some(Some(total)) if *index >= total => return Ok(true),
                Some(_) => {}
                // The list was written in an earlier era, if at all.
                None => self.lists.push((maps, path)),
            }
        }
        Ok(false)
    }

    fn place(&self, path: &str, indices: &[u32]) -> RowPlace {
        RowPlace { era: self.era, path: NodePath::new(path), indices: Arc::from(indices) }
    }
}
