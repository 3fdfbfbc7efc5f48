//! A store that passes every call to one in memory, and lets a test observe and interfere.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::sync::Arc;

use bytes::Bytes;
use everstep::machine::RowKey;
use everstep::store::{Answers, Loaded, Write};
use everstep::{
    BoxFuture, DefinitionHash, Durability, InstanceId, MemoryStore, RunId, StatusCode, Store, StoreError, Timestamp,
};

/// Actions of a test at each call.
pub(crate) trait Hooks: Send + Sync + 'static {
    /// Replaces a commit.
    fn commit<'a>(&'a self, store: &'a MemoryStore, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>>;

    /// Runs before every other call but a close.
    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Runs before a head is read.
    fn load<'a>(&'a self, _instance: &'a InstanceId) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Replaces the head that was read.
    fn loaded(&self, _instance: &InstanceId, found: Option<Loaded>) -> Option<Loaded> {
        found
    }

    /// Replaces the manifest that was read.
    fn manifest(&self, _definition: &DefinitionHash, found: Option<Bytes>) -> Option<Bytes> {
        found
    }

    /// Runs after heads or rows were read, with their number and their bytes.
    fn read(&self, _records: usize, _bytes: usize) {}

    /// Runs after the due index was read, with the number of its entries.
    fn listed(&self, _due: usize) {}
}

/// A store with hooks in front of it.
pub(crate) struct Through<H> {
    pub(crate) store: MemoryStore,
    pub(crate) hooks: Arc<H>,
}

impl<H> Through<H> {
    pub(crate) fn new(store: &MemoryStore, hooks: &Arc<H>) -> Self {
        Self { store: store.clone(), hooks: Arc::clone(hooks) }
    }
}

impl<H: Hooks> Through<H> {
    fn checked<'a, T: Send + 'a>(
        &'a self,
        call: BoxFuture<'a, Result<T, StoreError>>,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(async move {
            self.hooks.check()?;
            call.await
        })
    }

    fn counted<'a, T: Send + 'a>(
        &'a self,
        call: BoxFuture<'a, Result<T, StoreError>>,
        size: impl Fn(&T) -> (usize, usize) + Send + 'a,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(async move {
            self.hooks.check()?;
            let found = call.await?;
            let (records, bytes) = size(&found);
            self.hooks.read(records, bytes);
            Ok(found)
        })
    }
}

fn size_of_rows<K>(rows: &[(K, Bytes)]) -> (usize, usize) {
    (rows.len(), rows.iter().map(|(_, row)| row.len()).sum())
}

impl<H: Hooks> Store for Through<H> {
    fn commit<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        self.hooks.commit(&self.store, batch)
    }
    fn load<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Result<Option<Loaded>, StoreError>> {
        Box::pin(async move {
            self.hooks.load(instance).await;
            let load = async { Ok(self.hooks.loaded(instance, self.store.load(instance).await?)) };
            let size = |found: &Option<Loaded>| found.as_ref().map_or((0, 0), |found| (1, found.head.len()));
            self.counted(Box::pin(load), size).await
        })
    }
    fn row<'a>(&'a self, run: RunId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.counted(self.store.row(run, key), |row| row.as_ref().map_or((0, 0), |row| (1, row.len())))
    }
    fn rows<'a>(
        &'a self,
        run: RunId,
        prefix: &'a [u8],
        from: Option<&'a RowKey>,
    ) -> BoxFuture<'a, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        self.counted(self.store.rows(run, prefix, from), |rows| size_of_rows(rows))
    }
    fn due<'a>(
        &'a self,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>> {
        Box::pin(async move {
            let due = self.checked(self.store.due(after, limit)).await?;
            self.hooks.listed(due.len());
            Ok(due)
        })
    }
    fn instances<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        status: StatusCode,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        self.checked(self.store.instances(definition, status, after, limit))
    }
    fn quarantined<'a>(
        &'a self,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        self.checked(self.store.quarantined(after, limit))
    }
    fn ended<'a>(
        &'a self,
        status: StatusCode,
        before: Timestamp,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>> {
        self.checked(self.store.ended(status, before, after, limit))
    }
    fn definitions(&self) -> BoxFuture<'_, Result<Vec<DefinitionHash>, StoreError>> {
        self.checked(self.store.definitions())
    }
    fn save_manifest<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        manifest: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.checked(self.store.save_manifest(definition, manifest))
    }
    fn manifest<'a>(&'a self, definition: &'a DefinitionHash) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        let found = self.checked(self.store.manifest(definition));
        Box::pin(async move { Ok(self.hooks.manifest(definition, found.await?)) })
    }
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, StoreError>> {
        self.checked(self.store.sweep(limit))
    }
    fn reopen(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.checked(self.store.reopen())
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        self.store.close()
    }
    fn durability(&self) -> Durability {
        self.store.durability()
    }
}
