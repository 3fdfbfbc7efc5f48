//! Sends messages to an instance, and turns answers into errors for callers.

use std::sync::Arc;

use super::MessageError;
use crate::actors::{Mail, MailError, Reply, Shared};
use crate::cause::Cause;
use crate::id::InstanceId;
use crate::limits::WhenBusy;
use crate::machine::Refusal;

/// Answer of the instance's actor. `None` if the answer was lost with an actor.
pub(super) type Answer = Option<Result<(), MailError>>;

pub(super) async fn ask(
    shared: &Arc<Shared>,
    instance: &InstanceId,
    payload_bytes: usize,
    when_busy: WhenBusy,
    mail: impl FnOnce(Reply) -> Mail,
) -> Answer {
    if shared.is_closing() {
        return Some(Err(MailError::Closing));
    }
    shared.ask(instance, payload_bytes, when_busy, mail).await
}

pub(super) fn explain(shared: &Shared, answer: Answer) -> Result<(), MessageError> {
    let Some(answer) = answer else {
        return Err(MessageError::OutcomeUnknown("the answer was lost with an actor".into()));
    };
    answer.map_err(|error| match error {
        MailError::Busy(bound) => MessageError::Busy(bound),
        MailError::NotFound => MessageError::NotFound,
        MailError::Signal(error) => MessageError::Signal(error),
        MailError::Refused { refusal, status } => match refusal {
            Refusal::Ended => MessageError::AlreadyTerminal(status),
            Refusal::NotPaused => MessageError::NotPaused(status),
            Refusal::NotFailed => MessageError::NotFailed(status),
            Refusal::DeadlinePassed => MessageError::DeadlinePassed,
            refusal => MessageError::Refused(refusal),
        },
        MailError::Quarantined(status) => MessageError::Quarantined(status),
        MailError::NotQuarantined(status) => MessageError::NotQuarantined(status),
        MailError::Damaged(damaged) => MessageError::Damaged(damaged),
        MailError::Unplaced(why) => MessageError::Unplaced(why),
        MailError::NotTerminal(status) => MessageError::NotTerminal(status),
        MailError::NotRegistered(_) | MailError::UnknownCodec(_) | MailError::OtherCodec(_) => {
            MessageError::NotRegistered
        }
        MailError::Closing => MessageError::ShuttingDown,
        MailError::Store(_) if shared.is_closing() => MessageError::ShuttingDown,
        MailError::Store(error) => MessageError::OutcomeUnknown(Cause::of(error)),
        MailError::Fenced => {
            MessageError::OutcomeUnknown("write conflict: another writer has changed the instance".into())
        }
    })
}

/// Deletes an instance, of any definition.
pub(crate) async fn delete(
    shared: &Arc<Shared>,
    instance: &InstanceId,
    when_busy: WhenBusy,
) -> Result<(), MessageError> {
    let answer = ask(shared, instance, 0, when_busy, |reply| Mail::Delete { reply }).await;
    explain(shared, answer)
}
