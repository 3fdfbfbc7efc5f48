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

/// An instance of an older definition that the newer one has no place for. It is left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unplaced {
    /// The instance.
    pub instance: InstanceId,
    /// The definition it stays on.
    pub definition: DefinitionHash,
    /// Why it could not be placed.
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
