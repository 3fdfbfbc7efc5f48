//! Reads of an instance: all of them from the store, so they show what is durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{HandleError, InstanceHandle, ResultError, StatusWatch, read};
use crate::actors::Read;
use crate::codec::{Codec, Output, Value};
use crate::definition::Manifest;
use crate::executor::WaitsForInstance;
use crate::lifecycle::{self, LoadError, fill_values, has_moved, read_branches, read_signals};
use crate::machine::{Damaged, Snapshot};
use crate::status::Status;
use crate::store::StoreError;

/// Times that an instance is read again if it changes while it is being read.
const READS_MAX: u32 = 1_000;

impl<O: 'static> InstanceHandle<O> {
    async fn read(&self) -> Result<Read, HandleError> {
        read(self.shared(), &self.instance).await
    }

    /// Returns the status as of the last commit.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn status(&self) -> Result<Status, HandleError> {
        Ok(self.read().await?.status)
    }

    /// Waits until the run has ended, and returns its output.
    ///
    /// A task that calls this keeps its slot
    /// ([`Limits::tasks_running_max`](crate::Limits::tasks_running_max)) and its instance active
    /// ([`Limits::resident_max`](crate::Limits::resident_max)) while it waits. If such tasks hold
    /// all slots, the awaited instances get none: [`Runtime::stalled`](crate::Runtime::stalled)
    /// lists the tasks.
    ///
    /// # Errors
    /// [`ResultError`]: a typed failure if the run ended otherwise; [`HandleError::NotFound`] if
    /// the instance was deleted before this could read it.
    pub async fn result(&self) -> Result<O, ResultError> {
        match self.await_end().await {
            Err(ResultError::Handle(error)) => Err(match self.shared().explain(error) {
                HandleError::ShuttingDown => ResultError::ShuttingDown,
                error => ResultError::Handle(error),
            }),
            result => result,
        }
    }

    async fn await_end(&self) -> Result<O, ResultError> {
        let shared = self.shared();
        let _waits = WaitsForInstance::begin();
        let mut changes = shared.subscribe(&self.instance);
        // A subscriber that came before the end is sent the end, and need not read.
        if !shared.works_on(&self.instance, self.run)
            && let Some(output) = self.output(self.read().await?).await?
        {
            return Ok(output);
        }
        loop {
            tokio::select! {
                () = changes.changed() => {}
                () = shared.closed() => {}
            }
            let read = match changes.end_of(self.run) {
                Some(end) => shared.read_end(end).await.map_err(HandleError::from)?,
                None => self.read().await?,
            };
            if let Some(output) = self.output(read).await? {
                return Ok(output);
            }
        }
    }

    /// Returns the output of the run, if the run has ended.
    async fn output(&self, read: Read) -> Result<Option<O>, ResultError> {
        let mut snapshot = read.stored.snapshot;
        if snapshot.run() != self.run {
            return Err(ResultError::Superseded);
        }
        match read.status {
            Status::Completed => {
                if let Err(error) = Box::pin(self.fill(&mut snapshot)).await {
                    // Boxed: the future is rarely needed, and large.
                    return Err(match Box::pin(self.unless_gone(error.into())).await {
                        HandleError::Superseded => ResultError::Superseded,
                        error => error.into(),
                    });
                }
                let codec = self.codec_of(snapshot.codec())?;
                let output = snapshot.output().cloned().unwrap_or_default();
                Ok(Some(self.workflow.decode_output(&output, codec).map_err(HandleError::from)?))
            }
            Status::Failed { failure } => Err(ResultError::Failed(failure)),
            Status::Cancelled { reason, by } => Err(ResultError::Cancelled { reason, by }),
            Status::Quarantined { reason } => Err(ResultError::Quarantined { reason }),
            _ if self.shared().is_closing() => Err(ResultError::ShuttingDown),
            _ => Ok(None),
        }
    }

    /// Reads the values of a run by its own definition: a run that has ended stays on it, and the
    /// handle's definition may be one that upgrades it.
    async fn fill(&self, snapshot: &mut Snapshot) -> Result<(), LoadError> {
        let definition = snapshot.definition();
        let missing = || Damaged::no_manifest(snapshot.instance(), "head", definition);
        let names = self.shared().known_names(&definition).await?.ok_or_else(missing)?;
        fill_values(&*self.shared().store, &*names, snapshot).await
    }

    /// Watches the status: yields its changes one by one, beginning with the current status. A slow
    /// reader sees the latest status; statuses in between are skipped.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn watch(&self) -> Result<StatusWatch, HandleError> {
        let changes = self.shared().subscribe(&self.instance);
        self.read().await?;
        Ok(StatusWatch::new(changes, Arc::clone(&self.actors), self.instance.clone(), self.run))
    }

    /// Returns the recorded result of a task of the handle's run, during and after the run; `None`
    /// if the task has not finished yet. In a loop this is the result of the latest iteration. For
    /// a task within a map, see [`task_result_at`](Self::task_result_at).
    ///
    /// `T` is the result type of the task: [`LoopResult`](crate::LoopResult) if it returns one.
    ///
    /// # Errors
    /// [`HandleError`], also if the workflow has no such task or its result is not a `T`.
    pub async fn task_result<T: Output>(&self, path: &str) -> Result<Option<T>, HandleError> {
        self.task_result_at(path, &[]).await
    }

    /// Returns the recorded result of a task within maps. `indices` selects the item: one index for
    /// each map around the task, outermost first.
    ///
    /// # Errors
    /// As for [`task_result`](Self::task_result).
    pub async fn task_result_at<T: Output>(&self, path: &str, indices: &[u32]) -> Result<Option<T>, HandleError> {
        let definition = self.workflow.definition();
        let maps = definition.maps_around_task(path).ok_or_else(|| HandleError::NoSuchTask {
            workflow: definition.info().name().to_owned(),
            path: path.to_owned(),
        })?;
        if maps != indices.len() {
            return Err(HandleError::WrongIndices { path: path.to_owned(), maps, given: indices.len() });
        }
        let snapshot = self.read().await?.stored.snapshot;
        if snapshot.run() != self.run {
            return Err(HandleError::Superseded);
        }
        let codec = self.codec_of(snapshot.codec())?;
        match Box::pin(self.recorded(&snapshot, path, indices)).await {
            Ok(Some(result)) => Ok(Some(T::decode(&result, codec)?)),
            Ok(None) => self.still_there().await.map(|()| None),
            Err(error) => Err(self.unless_gone(self.shared().explain(error.into())).await),
        }
    }

    /// Reads the recorded result of a task. `path` is its path in the handle's definition.
    async fn recorded(&self, snapshot: &Snapshot, path: &str, indices: &[u32]) -> Result<Option<Value>, LoadError> {
        let (store, definition) = (&*self.shared().store, self.workflow.definition());
        if snapshot.definition() != definition.hash() {
            // The run is not upgraded yet, or never will be.
            let manifest = store.manifest(&snapshot.definition()).await?;
            // Without names a missing result looks like one that is not there yet.
            let missing = || Damaged::no_manifest(snapshot.instance(), "head", snapshot.definition());
            let manifest = manifest.and_then(|bytes| Manifest::decode(&bytes)).ok_or_else(missing)?;
            return match definition.path_before(path, snapshot.definition(), &manifest) {
                Some(path) => lifecycle::task_result(store, &manifest, snapshot, &path, indices).await,
                None => Ok(None),
            };
        }
        let manifest = definition.manifest();
        let result = lifecycle::task_result(store, manifest, snapshot, path, indices).await?;
        if result.is_some() || snapshot.era() > 0 {
            return Ok(result);
        }
        // Earlier versions upgraded instances without a record of it, and left results under their
        // old paths.
        for path in definition.former_paths(path) {
            let result = lifecycle::task_result(store, manifest, snapshot, &path, indices).await?;
            if result.is_some() {
                return Ok(result);
            }
        }
        Ok(None)
    }

    /// Checks that the run of the handle is still stored. Head and rows are read one by one, so a
    /// row of a run that is deleted or replaced in between looks as if it were lost or had never
    /// been written.
    async fn still_there(&self) -> Result<(), HandleError> {
        let found = self.read().await?.stored.snapshot.run();
        if found == self.run { Ok(()) } else { Err(HandleError::Superseded) }
    }

    async fn unless_gone(&self, error: HandleError) -> HandleError {
        match self.still_there().await {
            Err(gone @ (HandleError::NotFound | HandleError::Superseded)) => gone,
            _ => error,
        }
    }

    /// Counts the signals of each name that were acknowledged and not consumed, as of the last
    /// commit; empty if there are none. During the run they are buffered for later waits. After its
    /// end nothing reads them, unless a retry resumes the run.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn buffered_signals(&self) -> Result<BTreeMap<Arc<str>, u32>, HandleError> {
        for _ in 0..READS_MAX {
            let mut snapshot = self.read().await?.stored.snapshot;
            if snapshot.run() != self.run {
                return Err(HandleError::Superseded);
            }
            let read = read_signals(&*self.shared().store, &mut snapshot).await;
            if has_moved(&*self.shared().store, &snapshot).await? {
                continue;
            }
            read.map_err(HandleError::from)?;
            return Ok(snapshot.buffered_signals());
        }
        Err(moves_on())
    }

    /// Returns everything the instance waits for now, by branch; empty if it has ended or nothing
    /// waits.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn waits(&self) -> Result<Vec<Status>, HandleError> {
        for _ in 0..READS_MAX {
            // Boxed: the future is large, since it holds a whole snapshot.
            if let Some(waits) = Box::pin(self.waits_now()).await? {
                return Ok(waits);
            }
            tokio::task::yield_now().await;
        }
        Err(moves_on())
    }

    /// Reads what the instance waits for; `None` if it changed in between. Head and branches are
    /// read one by one, so they may not belong together then.
    async fn waits_now(&self) -> Result<Option<Vec<Status>>, HandleError> {
        let shared = self.shared();
        let mut snapshot = self.read().await?.stored.snapshot;
        let has_branches = snapshot.unread_frames() > 0;
        let read = read_branches(&*shared.store, &mut snapshot).await;
        if has_branches && has_moved(&*shared.store, &snapshot).await? {
            return Ok(None);
        }
        read?;
        let names = shared.names(&snapshot.definition()).await?;
        Ok(Some(snapshot.waits(&*names)))
    }

    fn codec_of(&self, id: u8) -> Result<&Codec, HandleError> {
        self.shared().codecs.get(&id).ok_or(HandleError::UnknownCodec(id))
    }
}

/// Returns the error for an instance that changed during every read.
fn moves_on() -> HandleError {
    let moved = format!("the instance changed during each of {READS_MAX} reads: try again");
    StoreError::Transient(moved.into()).into()
}
