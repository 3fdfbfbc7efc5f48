//! Sends messages to an instance, and turns answers into errors for callers.

use std::sync::Arc;

use super::MessageError;
use crate::actors::{Command, CommandError, Reply, Shared};
use crate::cause::Cause;
use crate::id::InstanceId;
use crate::limits::WhenBusy;
use crate::machine::Refusal;

/// Answer of the instance's actor. `None` if the answer was lost with an actor.
pub(super) type Answer = Option<Result<(), CommandError>>;

pub(super) async fn ask(
    shared: &Arc<Shared>,
    instance: &InstanceId,
    payload_bytes: usize,
    when_busy: WhenBusy,
    command: impl FnOnce(Reply) -> Command,
) -> Answer {
    if shared.is_closing() {
        return Some(Err(CommandError::Closing));
    }
    shared.ask(instance, payload_bytes, when_busy, command).await
}

pub(super) fn explain(shared: &Shared, answer: Answer) -> Result<(), MessageError> {
    let Some(answer) = answer else {
        return Err(MessageError::OutcomeUnknown("the actor of the instance ended before it answered".into()));
    };
    answer.map_err(|error| match error {
        CommandError::Busy(bound) => MessageError::Busy(bound),
        CommandError::NotFound => MessageError::NotFound,
        CommandError::Signal(error) => MessageError::Signal(error),
        CommandError::Refused { refusal, status } => match refusal {
            Refusal::Ended => MessageError::AlreadyTerminal(status),
            Refusal::NotPaused => MessageError::NotPaused(status),
            Refusal::NotFailed => MessageError::NotFailed(status),
            Refusal::DeadlinePassed => MessageError::DeadlinePassed,
            refusal => MessageError::Refused(refusal),
        },
        CommandError::Quarantined(status) => MessageError::Quarantined(status),
        CommandError::NotQuarantined(status) => MessageError::NotQuarantined(status),
        CommandError::Damaged(damaged) => MessageError::Damaged(damaged),
        CommandError::CannotUpgrade(why) => MessageError::CannotUpgrade(why),
        CommandError::NotTerminal(status) => MessageError::NotTerminal(status),
        CommandError::NotRegistered(_) | CommandError::UnknownCodec(_) | CommandError::OtherCodec(_) => {
            MessageError::NotRegistered
        }
        CommandError::Closing => MessageError::ShuttingDown,
        CommandError::Store(_) if shared.is_closing() => MessageError::ShuttingDown,
        CommandError::Store(error) => MessageError::OutcomeUnknown(Cause::of(error)),
        CommandError::Fenced => {
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
    let answer = ask(shared, instance, 0, when_busy, |reply| Command::Delete { reply }).await;
    explain(shared, answer)
}
