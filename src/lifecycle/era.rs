//! Reads the definitions that a run had before its upgrades.

use super::LoadError;
use crate::definition::Manifest;
use crate::machine::{Damaged, Era, RowKey, Snapshot};
use crate::store::Store;

/// Reads the record of an era before the present one.
pub(super) async fn read_era(store: &dyn Store, snapshot: &Snapshot, number: u32) -> Result<Era, LoadError> {
    let row = store.row(snapshot.run(), &RowKey::Era(number)).await?;
    let row = row.ok_or_else(|| Damaged::new(snapshot.instance(), "era", "it is missing"))?;
    Ok(snapshot.open_era(number, &row)?)
}

/// Returns the node names of an era before the present one.
pub(super) async fn names(store: &dyn Store, snapshot: &Snapshot, number: u32) -> Result<Manifest, LoadError> {
    let era = read_era(store, snapshot, number).await?;
    let manifest = store.manifest(&era.definition).await?.and_then(|bytes| Manifest::decode(&bytes));
    let missing = || Damaged::no_manifest(snapshot.instance(), "era", era.definition);
    Ok(manifest.ok_or_else(missing)?)
}
