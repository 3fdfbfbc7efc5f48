//! Messages to an instance: signals, cancel, pause, retry, release, delete.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::ask::{Answer, ask, delete, explain};
use super::{InstanceHandle, MessageError};
use crate::actors::{Command, CommandError, Reply, SignalCommand};
use crate::definition::SignalType;
use crate::id::{check_signal_id, generate_signal_id};
use crate::limits::WhenBusy;
use crate::machine::Refusal;

/// Times that a message with an unknown outcome is repeated, if repeating it is harmless.
const REPEATS: u32 = 5;

impl<O: 'static> InstanceHandle<O> {
    /// Sends a signal. The signal is buffered durably if the instance does not wait for it yet:
    /// first in, first out per name, in the order of commits. Signals still buffered when the run
    /// ends are not consumed, unless a retry resumes the run; a warning with their names and counts
    /// is logged. While the outcome is unknown the signal is sent again, which is harmless because
    /// its id is generated only once.
    ///
    /// `T` must be exactly the type declared at the wait: `&5_u32` for `u32`, `&"ana".to_owned()`
    /// for `String`.
    ///
    /// # Errors
    /// [`MessageError`].
    pub async fn signal<T: Serialize + 'static>(&self, name: &str, payload: &T) -> Result<(), MessageError> {
        self.send_signal(name, payload, generate_signal_id(), false).await
    }

    /// Sends a signal that must not be buffered. The signal is refused unless a node waits for it
    /// now, which consumes it, or waits for it in a pause, which consumes it after the pause if
    /// nothing ends the run before. A signal that is buffered, as by [`signal`](Self::signal), may
    /// stay unread when the run ends: see [`buffered_signals`](Self::buffered_signals).
    ///
    /// # Errors
    /// [`MessageError::Refused`] with [`Refusal::NotAwaited`](crate::machine::Refusal::NotAwaited),
    /// among others; the signal had no effect then.
    pub async fn signal_if_awaited<T: Serialize + 'static>(&self, name: &str, payload: &T) -> Result<(), MessageError> {
        self.send_signal(name, payload, generate_signal_id(), true).await
    }

    /// Sends a signal with an id chosen by the caller. A repeated id is acknowledged and ignored,
    /// also after the run has ended. A run remembers its last 10,000 ids.
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
        self.send_signal(name, payload, id.into(), false).await
    }

    async fn send_signal<T>(&self, name: &str, payload: &T, id: Arc<str>, if_awaited: bool) -> Result<(), MessageError>
    where
        T: Serialize + 'static,
    {
        let name: Arc<str> = name.into();
        let definition = self.workflow.definition();
        let mut codec_id = self.codec;
        let mut repeats = 0;
        let mut when_busy = self.when_busy;
        loop {
            let codec = self.shared().codecs.get(&codec_id).ok_or(MessageError::NotRegistered)?;
            let signal = Box::new(SignalCommand {
                name: Arc::clone(&name),
                id: Arc::clone(&id),
                payload: definition.encode_signal(&name, payload, codec, self.shared().limits.payload_bytes_max)?,
                codec: codec_id,
                payload_type: SignalType::of::<T>(),
                if_awaited,
            });
            let bytes = signal.payload.len();
            match ask(self.shared(), &self.instance, bytes, when_busy, |reply| Command::Signal { signal, reply }).await
            {
                // The handle has the codec of the run it was made for; the current run has another
                // one.
                Some(Err(CommandError::OtherCodec(other))) if other != codec_id => codec_id = other,
                answer => match self.explain(answer) {
                    Err(MessageError::OutcomeUnknown(_)) if repeats < REPEATS => {
                        repeats += 1;
                        // The signal may have been committed already: too late to refuse it.
                        when_busy = WhenBusy::Wait;
                        self.shared().sleep(Duration::from_millis(50) * repeats).await;
                    }
                    answer => return answer,
                },
            }
        }
    }

    /// Cancels the instance in any unfinished state: the tokens of its running tasks are cancelled
    /// and their futures dropped. If the run ends at the same time, exactly one of the two takes
    /// effect.
    ///
    /// # Errors
    /// [`MessageError`].
    pub async fn cancel(&self, reason: &str, by: &str) -> Result<(), MessageError> {
        let (reason, by) = (reason.into(), by.into());
        let answer = self.ask(|reply| Command::Cancel { reason, by, reply }).await;
        self.explain(answer)
    }

    /// Pauses the instance: running tasks finish and are recorded, but no task starts and no signal
    /// is consumed. Delays and deadlines run on. Pausing twice succeeds; the first reason stays.
    ///
    /// # Errors
    /// [`MessageError`].
    pub async fn pause(&self, reason: &str, by: &str) -> Result<(), MessageError> {
        let (reason, by) = (reason.into(), by.into());
        let answer = self.ask(|reply| Command::Pause { reason, by, reply }).await;
        self.explain(answer)
    }

    /// Ends the pause. A signal that came before the timeout of its wait wins over the timeout.
    ///
    /// # Errors
    /// [`MessageError::NotPaused`] among others.
    pub async fn unpause(&self) -> Result<(), MessageError> {
        let answer = self.ask(|reply| Command::Unpause { reply }).await;
        self.explain(answer)
    }

    /// Resumes a failed instance where it failed, in the same run. Results of finished tasks are
    /// kept, every unfinished task gets fresh attempts, and a loop that reached its limit or a
    /// route without an arm for its key is tried again. Returns once this is durable;
    /// [`result`](Self::result) then waits anew.
    ///
    /// # Errors
    /// [`MessageError::NotFailed`]; [`MessageError::DeadlinePassed`] if the workflow's deadline has
    /// passed: see [`retry_within`](Self::retry_within).
    pub async fn retry(&self) -> Result<(), MessageError> {
        let answer = self.ask(|reply| Command::Retry { deadline: None, reply }).await;
        self.explain(answer)
    }

    /// Resumes a failed instance as [`retry`](Self::retry) does, with a new deadline for the whole
    /// instance, counted from now.
    ///
    /// # Errors
    /// [`MessageError::NotFailed`] among others.
    pub async fn retry_within(&self, deadline: Duration) -> Result<(), MessageError> {
        let answer = self.ask(|reply| Command::Retry { deadline: Some(deadline), reply }).await;
        self.explain(answer)
    }

    /// Resumes a quarantined instance as after a restart: find the cause of the quarantine first.
    /// Process crashes and panics are counted anew.
    ///
    /// # Errors
    /// [`MessageError::NotQuarantined`]; [`MessageError::Damaged`] if the instance cannot be read:
    /// then it can only be replaced or deleted.
    pub async fn release(&self) -> Result<(), MessageError> {
        let answer = self.ask(|reply| Command::Release { reply }).await;
        self.explain(answer)
    }

    /// Deletes the instance's current run with all its results, once it has ended or is
    /// quarantined. When this returns, the delete is durable and the id is free; the rows are
    /// removed later, in small batches. Callers that still wait or watch learn that the instance
    /// does not exist.
    ///
    /// # Errors
    /// [`MessageError::NotTerminal`] if it has not ended: cancel it first.
    /// [`MessageError::NotFound`] if it does not exist; a second attempt finds this too if the
    /// first, of unknown outcome, had succeeded.
    pub async fn delete(&self) -> Result<(), MessageError> {
        delete(self.shared(), &self.instance, self.when_busy).await
    }

    async fn ask(&self, command: impl FnOnce(Reply) -> Command) -> Answer {
        ask(self.shared(), &self.instance, 0, self.when_busy, command).await
    }

    fn explain(&self, answer: Answer) -> Result<(), MessageError> {
        match answer {
            Some(Err(CommandError::Refused { refusal: Refusal::UnknownSignal { name }, .. })) => {
                Err(MessageError::Signal(self.workflow.definition().unknown_signal(&name)))
            }
            answer => explain(self.shared(), answer),
        }
    }
}
