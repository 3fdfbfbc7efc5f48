//! Findings of a runtime's start.

use crate::definition::Manifest;
use crate::id::{DefinitionHash, InstanceId};
use crate::status::StatusCode;
use crate::store::{Store, StoreError};

/// Instances listed per definition that is not registered; there may be more.
const LISTED_MAX: usize = 1_000;

/// Findings of a runtime's start.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StartReport {
    /// Unfinished instances whose definition is not registered in this process, nor upgraded by one
    /// that is. They stay unchanged.
    pub unregistered: Vec<Unregistered>,
}

/// Unfinished instances of a definition that is not registered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Unregistered {
    /// The definition.
    pub definition: DefinitionHash,
    /// The workflow's name, if its manifest is stored.
    pub workflow: Option<String>,
    /// The workflow's version, if its manifest is stored.
    pub version: Option<String>,
    /// The instances, at most 1,000.
    pub instances: Vec<InstanceId>,
    /// True if there are more.
    pub more: bool,
}

/// Finds unfinished instances of unknown definitions. Seeks from definition to definition, so known
/// ones cost nothing, however many instances they have.
pub(super) async fn find_unregistered(
    store: &dyn Store,
    is_known: impl Fn(&DefinitionHash) -> bool,
) -> Result<Vec<Unregistered>, StoreError> {
    let mut found = Vec::new();
    for definition in store.definitions().await? {
        if is_known(&definition) {
            continue;
        }
        let mut instances = Vec::new();
        let unfinished = [StatusCode::InProgress, StatusCode::Waiting, StatusCode::AwaitingSignal, StatusCode::Paused];
        for status in unfinished {
            let room = LISTED_MAX + 1 - instances.len();
            instances.extend(store.instances(&definition, status, None, room).await?);
        }
        if instances.is_empty() {
            continue;
        }
        let more = instances.len() > LISTED_MAX;
        instances.truncate(LISTED_MAX);
        let manifest = store.manifest(&definition).await?.and_then(|bytes| Manifest::decode(&bytes));
        let (workflow, version) = manifest.map(|manifest| (manifest.name, manifest.version)).unzip();
        found.push(Unregistered { definition, workflow, version, instances, more });
    }
    Ok(found)
}
