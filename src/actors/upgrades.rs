//! Instances of older definitions that registered ones take over, and those that found no place.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::definition::{Definition, TakeOver};
use crate::id::{DefinitionHash, InstanceId};

/// Instances listed; there may be more.
const UNPLACED_MAX: usize = 1_000;

/// By the older definition's hash, which is not registered: what takes its instances over.
pub(crate) type TakeOvers = HashMap<DefinitionHash, (Arc<Definition>, TakeOver)>;

pub(crate) struct Upgrades {
    takeovers: TakeOvers,
    unplaced: Mutex<BTreeMap<InstanceId, Unplaced>>,
}

/// An instance that is left as it is: of an older definition, and the newer one has no place for it; or with a record that a newer
/// version of this crate wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unplaced {
    /// The instance.
    pub instance: InstanceId,
    /// The older definition it stays on; none if it is of a newer version of this crate.
    pub definition: Option<DefinitionHash>,
    /// Why it is left.
    pub why: String,
}

impl Upgrades {
    pub(super) fn new(takeovers: TakeOvers) -> Self {
        Self { takeovers, unplaced: Mutex::default() }
    }

    pub(super) fn of(&self, older: &DefinitionHash) -> Option<&(Arc<Definition>, TakeOver)> {
        self.takeovers.get(older)
    }

    pub(super) fn older(&self) -> impl Iterator<Item = &DefinitionHash> {
        self.takeovers.keys()
    }

    pub(super) fn note(&self, unplaced: Unplaced) {
        let mut all = self.unplaced.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < UNPLACED_MAX || all.contains_key(&unplaced.instance) {
            all.insert(unplaced.instance.clone(), unplaced);
        }
    }

    /// Forgets an instance that was placed, deleted or replaced meanwhile.
    pub(super) fn forget(&self, instance: &InstanceId) {
        self.unplaced.lock().unwrap_or_else(PoisonError::into_inner).remove(instance);
    }

    /// Those that were found so far, at most 1,000.
    pub(crate) fn unplaced(&self) -> Vec<Unplaced> {
        self.unplaced.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
