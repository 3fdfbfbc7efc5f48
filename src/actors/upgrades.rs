//! The upgrades from older definitions to registered ones, and the instances that could not be
//! upgraded.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::definition::{Definition, UpgradeFrom};
use crate::id::{DefinitionHash, InstanceId};

/// The most instances that are listed; there may be more.
const LEFT_ALONE_MAX: usize = 1_000;

/// The upgrades, by the hash of the older definition, which is not registered.
pub(crate) type UpgradePaths = HashMap<DefinitionHash, (Arc<Definition>, UpgradeFrom)>;

pub(crate) struct Upgrades {
    paths: UpgradePaths,
    left_alone: Mutex<BTreeMap<InstanceId, LeftAlone>>,
}

/// An instance that is left as it is: one of an older definition for which the newer one has no
/// place, one with a record that a newer version of this crate wrote, or an upgraded one whose
/// earlier definition has lost its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftAlone {
    /// The instance.
    pub instance: InstanceId,
    /// The older definition that the instance stays on, or whose manifest it needs; `None` if a
    /// newer version of this crate wrote it.
    pub definition: Option<DefinitionHash>,
    /// The reason.
    pub why: String,
}

impl Upgrades {
    pub(super) fn new(paths: UpgradePaths) -> Self {
        Self { paths, left_alone: Mutex::default() }
    }

    pub(super) fn of(&self, older: &DefinitionHash) -> Option<&(Arc<Definition>, UpgradeFrom)> {
        self.paths.get(older)
    }

    pub(super) fn older(&self) -> impl Iterator<Item = &DefinitionHash> {
        self.paths.keys()
    }

    pub(super) fn note(&self, left_alone: LeftAlone) {
        let mut all = self.left_alone.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < LEFT_ALONE_MAX || all.contains_key(&left_alone.instance) {
            all.insert(left_alone.instance.clone(), left_alone);
        }
    }

    /// Removes an instance that was upgraded, deleted or replaced meanwhile.
    pub(super) fn forget(&self, instance: &InstanceId) {
        self.left_alone.lock().unwrap_or_else(PoisonError::into_inner).remove(instance);
    }

    /// Returns the instances found so far, at most 1,000.
    pub(crate) fn left_alone(&self) -> Vec<LeftAlone> {
        self.left_alone.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
