//! Upgrades instances of an older definition to a newer one.

use crate::definition::{Definition, Manifest, UpgradeFrom};
use crate::lifecycle::load::read_items;
use crate::lifecycle::{CommitError, Committer, LoadError, Step, read_branches, read_signals};
use crate::machine::{Context, Damaged, Snapshot, UpgradeConflict, upgrade as place};
use crate::store::Version;

/// The reason why an instance was not upgraded. The instance stays unchanged, except after a failed
/// commit, whose outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// A node of the instance has no place in the newer definition: rename it in the upgrade, or
    /// keep the older definition registered until the instance has ended.
    #[error(transparent)]
    NoPlace(#[from] UpgradeConflict),
    /// The manifest of the older definition is not in the store, or cannot be read: register that
    /// definition once, which writes it again.
    #[error("cannot upgrade: the manifest of its definition is not readable, register that definition once")]
    NoManifest,
    /// A record of the instance cannot be read.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The write was not committed: see [`CommitError`].
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<LoadError> for UpgradeError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Damaged(damaged) => Self::Damaged(damaged),
            LoadError::Store(store) => Self::Commit(store.into()),
        }
    }
}

/// Upgrades a loaded instance to a newer definition, in one write. The store must have the manifest
/// of the older definition ([`Store::save_manifest`](crate::Store::save_manifest)), and keep it as
/// long as the run exists. The returned snapshot continues like one loaded with its branches and
/// signals. Reads no stored value: values are found by the node names of the definition that they
/// were stored under.
///
/// # Errors
/// [`UpgradeError`]; the instance stays as it was, except that after a store error the outcome is
/// unknown.
pub async fn upgrade(
    committer: &dyn Committer,
    context: &Context<'_>,
    newer: &Definition,
    upgrade_from: &UpgradeFrom,
    mut snapshot: Snapshot,
) -> Result<Snapshot, UpgradeError> {
    let store = committer.store();
    let manifest = store.manifest(&snapshot.definition()).await.map_err(CommitError::from)?;
    let old = manifest.and_then(|bytes| Manifest::decode(&bytes)).ok_or(UpgradeError::NoManifest)?;
    read_branches(store, &mut snapshot).await?;
    // A signal that a pause holds back decides when a wait is due, and the write contains that
    // time.
    read_signals(store, &mut snapshot).await?;
    let seen = Version::from(&snapshot);
    let transition = place(context, newer, &old, upgrade_from, &mut snapshot)?;
    snapshot.check(newer.program())?;
    let Step { write, .. } = Step::new(newer.program(), &mut snapshot, transition, seen);
    if let Some(write) = write {
        committer.commit(write).await?;
    }
    read_items(store, newer.program(), &mut snapshot).await?;
    Ok(snapshot)
}
