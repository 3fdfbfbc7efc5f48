//! Results of tasks as the store has them.

use everstep::lifecycle::{load, task_result};
use everstep::{InstanceId, Manifest, Store, Value};

/// Returns the recorded result of a task, at these indices of the maps around it.
pub(crate) async fn recorded(store: &impl Store, instance: &str, task: &str, indices: &[u32]) -> Option<Value> {
    let snapshot = load(store, &InstanceId::new(instance).unwrap()).await.unwrap()?.snapshot;
    let manifest = store.manifest(&snapshot.definition()).await.unwrap().unwrap();
    task_result(store, &Manifest::decode(&manifest).unwrap(), &snapshot, task, indices).await.unwrap()
}
