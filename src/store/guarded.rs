//! A store that turns panics into errors.
//!
//! The runtime wraps its store once, when it is built, so that no call of a store can end an actor,
//! a task or a caller: a panic counts as a failure. Catching panics at each call instead would miss
//! one sooner or later.

use std::sync::Arc;

use bytes::Bytes;

use super::{Answers, Durability, Loaded, Store, StoreError, Write};
use crate::clock::BoxFuture;
use crate::id::{DefinitionHash, InstanceId, RunId};
use crate::machine::RowKey;
use crate::panic::caught;
use crate::status::StatusCode;
use crate::time::Timestamp;

pub(crate) struct Guarded(Arc<dyn Store>);

impl Guarded {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// Makes a call and waits for its result; both may panic.
    async fn call<'a, T>(
        &'a self,
        name: &str,
        call: impl FnOnce(&'a dyn Store) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let store = &*self.0;
        match caught(async move { call(store).await }).await {
            Ok(answer) => answer,
            Err(panic) => Err(StoreError::Fatal(format!("its {name} {panic}").into())),
        }
    }
}

impl Store for Guarded {
    fn commit<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        Box::pin(self.call("commit", move |store| store.commit(batch)))
    }

    fn load<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Result<Option<Loaded>, StoreError>> {
        Box::pin(self.call("load", move |store| store.load(instance)))
    }

    fn row<'a>(&'a self, run: RunId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(self.call("row", move |store| store.row(run, key)))
    }

    fn rows<'a>(
        &'a self,
        run: RunId,
        prefix: &'a [u8],
        from: Option<&'a RowKey>,
    ) -> BoxFuture<'a, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        Box::pin(self.call("rows", move |store| store.rows(run, prefix, from)))
    }

    fn due<'a>(
        &'a self,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>> {
        Box::pin(self.call("due", move |store| store.due(after, limit)))
    }

    fn instances<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        status: StatusCode,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        Box::pin(self.call("instances", move |store| store.instances(definition, status, after, limit)))
    }

    fn quarantined<'a>(
        &'a self,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        Box::pin(self.call("quarantined", move |store| store.quarantined(after, limit)))
    }

    fn ended<'a>(
        &'a self,
        status: StatusCode,
        before: Timestamp,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>> {
        Box::pin(self.call("ended", move |store| store.ended(status, before, after, limit)))
    }

    fn definitions(&self) -> BoxFuture<'_, Result<Vec<DefinitionHash>, StoreError>> {
        Box::pin(self.call("definitions", |store| store.definitions()))
    }

    fn save_manifest<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        manifest: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.call("save_manifest", move |store| store.save_manifest(definition, manifest)))
    }

    fn manifest<'a>(&'a self, definition: &'a DefinitionHash) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(self.call("manifest", move |store| store.manifest(definition)))
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, StoreError>> {
        Box::pin(self.call("sweep", move |store| store.sweep(limit)))
    }

    fn reopen(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.call("reopen", |store| store.reopen()))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Err(panic) = caught(async { self.0.close().await }).await {
                tracing::error!(panic, "the store panicked while it was closed");
            }
        })
    }

    fn durability(&self) -> Durability {
        self.0.durability()
    }
}
