//! Describes a write, for reports of a crash after it.

use bytes::Bytes;

use crate::codec::Value;
use crate::definition::{Manifest, NodeNames as _};
use crate::machine::{RowKey, RowPlace, Snapshot, decode_head};
use crate::store::{Change, Condition, Store, Write};

/// Returns a description of a write: its instance, and the tasks whose results it records. Call
/// before the commit.
pub(super) async fn about(store: &dyn Store, write: &Write) -> String {
    let results = results(store, write).await;
    let what = if write.condition == Condition::Absent {
        "its start".to_owned()
    } else if results.is_empty() {
        "a step".to_owned()
    } else {
        format!("the result of {}", results.join(", "))
    };
    format!("{what} (instance `{}`)", write.instance)
}

/// Returns the results that a write records: in rows, except for results that move there from the
/// head, and in the head.
async fn results(store: &dyn Store, write: &Write) -> Vec<String> {
    let head = |head: &Bytes| decode_head(&write.instance, head).ok();
    let before = store.load(&write.instance).await.ok().flatten().and_then(|loaded| head(&loaded.head));
    let kept_before = kept(store, before).await;
    let was_kept = |path: &str| kept_before.iter().any(|(before, _)| before == path);
    let in_row = write.rows.iter().filter_map(|row| match &row.key {
        RowKey::Result(RowPlace { path, indices, .. }) if indices.is_empty() => Some(format!("`{path}`")),
        RowKey::Result(RowPlace { path, indices, .. }) => Some(format!("`{path}` {indices:?}")),
        _ => None,
    });
    let in_row = in_row.filter(|path| !was_kept(path));
    let after = if let Change::Head(after) = &write.change { head(after) } else { None };
    let in_head = kept(store, after).await.into_iter().filter(|kept| !kept_before.contains(kept));
    in_row.chain(in_head.map(|(path, _)| path)).collect()
}

async fn kept(store: &dyn Store, snapshot: Option<Snapshot>) -> Vec<(String, Value)> {
    let Some(snapshot) = snapshot else { return Vec::new() };
    let manifest = store.manifest(&snapshot.definition()).await.ok().flatten();
    let Some(manifest) = manifest.and_then(|bytes| Manifest::decode(&bytes)) else { return Vec::new() };
    let path = |(node, value)| Some((format!("`{}`", manifest.path(node)?), value));
    snapshot.inline_results().filter_map(path).collect()
}
