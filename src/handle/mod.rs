//! Talking to one instance: [`InstanceHandle`], [`StatusWatch`], and their errors.

mod ask;
mod error;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::actors::{Actors, Hub, Mail, MailError, Read, Reply, SignalMail};
use crate::codec::{Codec, Output};
use crate::definition::{SignalType, Workflow};
use crate::id::{InstanceId, NodePath, RunId, check_signal_id, generate_signal_id};
use crate::lifecycle::{fill_values, has_moved, read_branches};
use crate::machine::{Refusal, RowKey};
use crate::status::Status;

use self::ask::{Answer, ask, explain};

pub(crate) use ask::delete;
pub use error::{HandleError, MessageError, ResultError};
pub use watch::StatusWatch;

/// How often a message whose outcome is unknown is repeated where that is harmless.
const REPEATS: u32 = 5;

/// One instance, as its starter or anyone else sees it. Cheap to clone; keeps no instance awake, but its runtime alive.
///
/// Messages go to the instance's current run, whose [`status`](Self::status) is given too; [`result`](Self::result),
/// [`watch`](Self::watch) and [`task_result`](Self::task_result) are of the run the handle was made for. Every answer
/// waits for the commit of what it says.
pub struct InstanceHandle<O> {
    actors: Arc<Actors>,
    workflow: Workflow<(), O>,
    instance: InstanceId,
    run: RunId,
    codec: u8,
}

impl<O: 'static> InstanceHandle<O> {
    pub(crate) fn new<I>(
        actors: &Arc<Actors>,
        workflow: &Workflow<I, O>,
        instance: InstanceId,
        run: RunId,
        codec: u8,
    ) -> Self {
        Self { actors: Arc::clone(actors), workflow: workflow.without_input(), instance, run, codec }
    }

    /// The instance's id.
    pub fn id(&self) -> &InstanceId {
        &self.instance
    }

    /// The run this handle was made for.
    pub fn run_id(&self) -> RunId {
        self.run
    }

    fn hub(&self) -> &Arc<Hub> {
        self.actors.hub()
    }

    /// Sends a signal. Buffered durably if the instance does not wait for it yet; first in, first out per name, in the
    /// order of commits. Repeated by itself while its outcome is unknown, which a generated id makes harmless.
    ///
    /// `T` is the very type declared at the wait: `&5_u32` for `u32`, `&"ana".to_owned()` for `String`.
    ///
    /// # Errors
    /// [`MessageError`].
    pub async fn signal<T: Serialize + 'static>(&self, name: &str, payload: &T) -> Result<(), MessageError> {
        self.send_signal(name, payload, generate_signal_id()).await
    }

    /// Sends a signal with an id of the caller's: a repeated one is acknowledged and ignored, also after the run has
    /// ended. The last 10,000 ids of a run are remembered.
    ///
    /// # Errors
    /// [`MessageError`].
    pub async fn signal_with_id<T: Serialize + 'static>(
        &self,
        name: &str,
        payload: &T,
        id: &str,
    ) -> Result<(), MessageError> {
        check_signal_id(id)?;
        self.send_signal(name, payload, id.into()).await
    }

    async fn send_signal<T>(&self, name: &str, payload: &T, id: Arc<str>) -> Result<(), MessageError>
    where
        T: Serialize + 'static,
    {
        let name: Arc<str> = name.into();
        let mut codec_id = self.codec;
        let mut repeats = 0;
        loop {
            let codec = self.hub().codecs.get(&codec_id).ok_or(MessageError::NotRegistered)?;
            let signal = Box::new(SignalMail {
                name: Arc::clone(&name),
                id: Arc::clone(&id),
                payload: codec.encode(payload, self.hub().limits.payload_bytes_max)?,
                codec: codec_id,
                payload_type: SignalType::of::<T>(),
            });
            match self.ask(|reply| Mail::Signal { signal, reply }).await {
                // The current run was started with another codec than the handle's.
                Some(Err(MailError::OtherCodec(other))) if other != codec_id => codec_id = other,
                answer => match self.explain(answer) {
                    Err(MessageError::OutcomeUnknown(_)) if repeats < REPEATS => {
                        repeats += 1;
                        tokio::time::sleep(Duration::from_millis(50) * repeats).await;
                    }
                    answer => return answer,
                },
            }
        }
    }

    /// Cancels the instance, in whatever unfinished state it is: running tasks have their token cancelled and their
    /// futures dropped. Racing completion has one winner.
    ///
    /// # Errors
    /// [`MessageError`].
    pub async fn cancel(&self, reason: &str, by: &str) -> Result<(), MessageError> {
        let (reason, by) = (reason.into(), by.into());
        let answer = self.ask(|reply| Mail::Cancel { reason, by, reply }).await;
        self.explain(answer)
    }

    /// Pauses the instance: running tasks finish and are recorded, but no task starts and no signal is consumed; delays
    /// and deadlines run on. Pausing twice is fine: the first reason stays.
    ///
    /// # Errors
    /// [`MessageError`].
    pub async fn pause(&self, reason: &str, by: &str) -> Result<(), MessageError> {
        let (reason, by) = (reason.into(), by.into());
        let answer = self.ask(|reply| Mail::Pause { reason, by, reply }).await;
        self.explain(answer)
    }

    /// Ends the pause. A signal that came before its wait's timeout wins over the timeout.
    ///
    /// # Errors
    /// [`MessageError::NotPaused`] among others.
    pub async fn unpause(&self) -> Result<(), MessageError> {
        let answer = self.ask(|reply| Mail::Unpause { reply }).await;
        self.explain(answer)
    }

    /// Lets a failed instance go on from where it stood, in the same run: what finished tasks gave is kept, every task that
    /// was at work gets fresh attempts, and a loop that reached its limit or a route without an arm is tried again. Answers
    /// once that is durable; [`result`](Self::result) then waits anew.
    ///
    /// # Errors
    /// [`MessageError::NotFailed`]; [`MessageError::DeadlinePassed`] if the workflow's deadline has passed, see
    /// [`retry_within`](Self::retry_within).
    pub async fn retry(&self) -> Result<(), MessageError> {
        let answer = self.ask(|reply| Mail::Retry { deadline: None, reply }).await;
        self.explain(answer)
    }

    /// As [`retry`](Self::retry), with a new deadline for the whole instance: so long from now.
    ///
    /// # Errors
    /// [`MessageError::NotFailed`] among others.
    pub async fn retry_within(&self, deadline: Duration) -> Result<(), MessageError> {
        let answer = self.ask(|reply| Mail::Retry { deadline: Some(deadline), reply }).await;
        self.explain(answer)
    }

    /// Lets a quarantined instance go on as after a restart: look into why it was set aside first. Deaths of the process and
    /// panics are counted anew.
    ///
    /// # Errors
    /// [`MessageError::NotQuarantined`]; [`MessageError::Damaged`] if it cannot be read, so that it can only be replaced or
    /// deleted.
    pub async fn release(&self) -> Result<(), MessageError> {
        let answer = self.ask(|reply| Mail::Release { reply }).await;
        self.explain(answer)
    }

    /// Deletes the instance's current run with all its results, once it has ended or is quarantined. When this returns, that
    /// is durable and the id is free; the rows go later, in small batches. Whoever still waits or watches is told that the
    /// instance is not there.
    ///
    /// # Errors
    /// [`MessageError::NotTerminal`] if it has not ended: cancel it first. [`MessageError::NotFound`] if there is none; that
    /// is also what a second try finds when the first, of unknown outcome, had gone through.
    pub async fn delete(&self) -> Result<(), MessageError> {
        delete(self.hub(), &self.instance).await
    }

    async fn ask(&self, mail: impl FnOnce(Reply) -> Mail) -> Answer {
        ask(self.hub(), &self.instance, mail).await
    }

    fn explain(&self, answer: Answer) -> Result<(), MessageError> {
        match answer {
            Some(Err(MailError::Refused { refusal: Refusal::UnknownSignal { name }, .. })) => {
                Err(MessageError::Signal(self.workflow.definition().unknown_signal(&name)))
            }
            answer => explain(self.hub(), answer),
        }
    }

    async fn read(&self) -> Result<Read, HandleError> {
        read(self.hub(), &self.instance).await
    }

    /// The status as of the last commit.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn status(&self) -> Result<Status, HandleError> {
        Ok(self.read().await?.status)
    }

    /// Waits until the run has ended and gives its output.
    ///
    /// # Errors
    /// [`ResultError`]: a typed failure if it ended otherwise; [`HandleError::NotFound`] if it was deleted before this could
    /// read it.
    pub async fn result(&self) -> Result<O, ResultError> {
        match self.await_end().await {
            Err(ResultError::Handle(error)) => Err(match self.hub().explain(error) {
                HandleError::ShuttingDown => ResultError::ShuttingDown,
                error => ResultError::Handle(error),
            }),
            result => result,
        }
    }

    async fn await_end(&self) -> Result<O, ResultError> {
        let mut changes = self.hub().subscribe(&self.instance);
        loop {
            let read = self.read().await?;
            let mut snapshot = read.stored.snapshot;
            if snapshot.run() != self.run {
                return Err(ResultError::Superseded);
            }
            match read.status {
                Status::Completed => {
                    let definition = self.workflow.definition();
                    let store = &*self.hub().store;
                    fill_values(store, definition.program(), &mut snapshot).await.map_err(HandleError::from)?;
                    let codec = self.codec_of(snapshot.codec())?;
                    let output = snapshot.output().cloned().unwrap_or_default();
                    return Ok(self.workflow.decode_output(&output, codec).map_err(HandleError::from)?);
                }
                Status::Failed { failure } => return Err(ResultError::Failed(failure)),
                Status::Cancelled { reason, by } => return Err(ResultError::Cancelled { reason, by }),
                Status::Quarantined { reason } => return Err(ResultError::Quarantined { reason }),
                _ if self.hub().is_closing() => return Err(ResultError::ShuttingDown),
                _ => tokio::select! {
                    () = changes.changed() => {}
                    () = self.hub().closed() => {}
                },
            }
        }
    }

    /// Watches the status: its changes one by one, beginning with the present one. A slow reader sees the latest; what came
    /// and went meanwhile is not kept.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn watch(&self) -> Result<StatusWatch, HandleError> {
        let changes = self.hub().subscribe(&self.instance);
        self.read().await?;
        Ok(StatusWatch::new(changes, Arc::clone(&self.actors), self.instance.clone(), self.run))
    }

    /// A task's recorded result, during and after the handle's run; none if it has not finished yet. In a loop it is the
    /// latest iteration's. For a task within a map, see [`task_result_at`](Self::task_result_at).
    ///
    /// `T` is what the task gives: a [`LoopResult`](crate::LoopResult) if it is one.
    ///
    /// # Errors
    /// [`HandleError`], also if there is no such task or its result is not a `T`.
    pub async fn task_result<T: Output>(&self, path: &str) -> Result<Option<T>, HandleError> {
        self.task_result_at(path, &[]).await
    }

    /// The recorded result of a task within maps: `indices` says of which item, one for each map around it, outermost first.
    ///
    /// # Errors
    /// As [`task_result`](Self::task_result).
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
        let former = definition.former_paths(path);
        for path in std::iter::once(path).chain(former.iter().map(String::as_str)) {
            let key = RowKey::Result(NodePath::new(path), indices.into());
            let row = self.hub().store.row(self.run, &key).await.map_err(|error| self.hub().explain(error.into()))?;
            if let Some(row) = row {
                let (shape, payload) = snapshot.open_row(&key, &row)?;
                return Ok(Some(T::decode(&shape.value(payload), codec)?));
            }
        }
        Ok(None)
    }

    /// Everything the instance waits for now, by branch; empty if it has ended or nothing waits.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn waits(&self) -> Result<Vec<Status>, HandleError> {
        let hub = self.hub();
        loop {
            let mut snapshot = self.read().await?.stored.snapshot;
            let has_branches = snapshot.unread_frames() > 0;
            let read = read_branches(&*hub.store, &mut snapshot).await;
            if has_branches && has_moved(&*hub.store, &snapshot).await? {
                tokio::task::yield_now().await;
                continue;
            }
            read?;
            let names = hub.names(&snapshot.definition()).await?;
            return Ok(snapshot.waits(&*names));
        }
    }

    fn codec_of(&self, id: u8) -> Result<&Codec, HandleError> {
        self.hub().codecs.get(&id).ok_or(HandleError::UnknownCodec(id))
    }
}

/// Reads an instance that must be there.
pub(crate) async fn read(hub: &Hub, instance: &InstanceId) -> Result<Read, HandleError> {
    let read = hub.read(instance).await.map_err(|error| hub.explain(error.into()))?;
    read.ok_or(HandleError::NotFound)
}

impl Hub {
    /// That the store is closed is not news about an instance.
    fn explain(&self, error: HandleError) -> HandleError {
        match error {
            HandleError::Store(_) if self.is_closing() => HandleError::ShuttingDown,
            error => error,
        }
    }
}

impl<O> Clone for InstanceHandle<O> {
    fn clone(&self) -> Self {
        Self {
            actors: Arc::clone(&self.actors),
            workflow: self.workflow.clone(),
            instance: self.instance.clone(),
            run: self.run,
            codec: self.codec,
        }
    }
}

impl<O> std::fmt::Debug for InstanceHandle<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InstanceHandle({}, run {})", self.instance, self.run)
    }
}
