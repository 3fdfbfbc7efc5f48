//! What an instance can be told.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::ask::{Answer, ask, delete, explain};
use super::{InstanceHandle, MessageError};
use crate::actors::{Mail, MailError, Reply, SignalMail};
use crate::definition::SignalType;
use crate::id::{check_signal_id, generate_signal_id};
use crate::limits::WhenBusy;
use crate::machine::Refusal;

/// How often a message whose outcome is unknown is repeated where that is harmless.
const REPEATS: u32 = 5;

impl<O: 'static> InstanceHandle<O> {
    /// Sends a signal. Buffered durably if the instance does not wait for it yet; first in, first out per name, in the
    /// order of commits. What is still buffered when the run ends is never consumed: that is logged as a warning, with names
    /// and counts. Repeated by itself while its outcome is unknown, which a generated id makes harmless.
    ///
    /// `T` is the very type declared at the wait: `&5_u32` for `u32`, `&"ana".to_owned()` for `String`.
    ///
    /// # Errors
    /// [`MessageError`].
    pub async fn signal<T: Serialize + 'static>(&self, name: &str, payload: &T) -> Result<(), MessageError> {
        self.send_signal(name, payload, generate_signal_id(), false).await
    }

    /// Sends a signal that is not to be buffered: it is refused unless something waits for it now, and so consumes it, or waits
    /// for it in a pause, and consumes it then if nothing ends the run before. A signal that is buffered, as by [`signal`](Self::signal), may stay unread
    /// when the run ends: see [`buffered_signals`](Self::buffered_signals).
    ///
    /// # Errors
    /// [`MessageError::Refused`] with [`Refusal::NotAwaited`](crate::machine::Refusal::NotAwaited), among others; nothing was
    /// done then.
    pub async fn signal_if_awaited<T: Serialize + 'static>(&self, name: &str, payload: &T) -> Result<(), MessageError> {
        self.send_signal(name, payload, generate_signal_id(), true).await
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
            let codec = self.hub().codecs.get(&codec_id).ok_or(MessageError::NotRegistered)?;
            let signal = Box::new(SignalMail {
                name: Arc::clone(&name),
                id: Arc::clone(&id),
                payload: definition.encode_signal(&name, payload, codec, self.hub().limits.payload_bytes_max)?,
                codec: codec_id,
                payload_type: SignalType::of::<T>(),
                if_awaited,
            });
            let bytes = signal.payload.len();
            match ask(self.hub(), &self.instance, bytes, when_busy, |reply| Mail::Signal { signal, reply }).await {
                // The current run was started with another codec than the handle's.
                Some(Err(MailError::OtherCodec(other))) if other != codec_id => codec_id = other,
                answer => match self.explain(answer) {
                    Err(MessageError::OutcomeUnknown(_)) if repeats < REPEATS => {
                        repeats += 1;
                        // It may have been done: too late to be refused.
                        when_busy = WhenBusy::Wait;
                        self.hub().sleep(Duration::from_millis(50) * repeats).await;
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
        delete(self.hub(), &self.instance, self.when_busy).await
    }

    async fn ask(&self, mail: impl FnOnce(Reply) -> Mail) -> Answer {
        ask(self.hub(), &self.instance, 0, self.when_busy, mail).await
    }

    fn explain(&self, answer: Answer) -> Result<(), MessageError> {
        match answer {
            Some(Err(MailError::Refused { refusal: Refusal::UnknownSignal { name }, .. })) => {
                Err(MessageError::Signal(self.workflow.definition().unknown_signal(&name)))
            }
            answer => explain(self.hub(), answer),
        }
    }
}
