//! Writes on their way to the persistence thread, and the results of their commits on the way back.
//! Neither is one message each: that thread is the one that all instances wait for.
//!
//! ```text
//! actors, callers ──submit──> Queue ──take all──> persistence ──a batch──> CommitNotifier ──> actors, callers
//!               the first rings: one message a batch               one task a batch
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use ractor::{ActorId, ActorRef};
use tokio::sync::oneshot;

use super::command::InstanceMessage;
use crate::id::RunId;
use crate::lifecycle::CommitError;
use crate::store::{Answers, StoreError, Write};

/// A write, and the receiver of its result.
pub(super) struct Submission {
    pub(super) write: Write,
    pub(super) reply: ReplyTo,
}

/// The receiver of a write's result.
pub(super) enum ReplyTo {
    /// An instance's actor, which gets only the result of its last write in a batch.
    Instance { actor: ActorRef<InstanceMessage>, run: RunId, seq: u64 },
    /// A caller that waits.
    Caller(oneshot::Sender<Result<(), CommitError>>),
}

/// The writes that were submitted and not taken yet, in order. Bounded by its users: a start holds
/// a place, and an active instance writes no more than its callers' places and its attempts cause.
#[derive(Default)]
pub(super) struct Queue(Mutex<Queued>);

#[derive(Default)]
struct Queued {
    submissions: Vec<Submission>,
    is_closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Queued> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a write. Returns true if it is the first since the last `take`, so that the persistence
    /// actor must be notified.
    pub(super) fn push(&self, submission: Submission) -> bool {
        let mut queued = self.lock();
        if queued.is_closed {
            drop(queued);
            submission.reply.send(Err(gone()));
            return false;
        }
        queued.submissions.push(submission);
        queued.submissions.len() == 1
    }

    pub(super) fn take(&self) -> Vec<Submission> {
        std::mem::take(&mut self.lock().submissions)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().submissions.is_empty()
    }

    /// Closes the queue: queued and future submissions fail with "the runtime has shut down".
    pub(super) fn close(&self) {
        let mut queued = self.lock();
        queued.is_closed = true;
        let left = std::mem::take(&mut queued.submissions);
        drop(queued);
        for submission in left {
            submission.reply.send(Err(gone()));
        }
    }
}

/// Returns the error of a write that the runtime did not commit because it has shut down.
pub(super) fn gone() -> CommitError {
    CommitError::Store(StoreError::Fatal("the runtime has shut down".into()))
}

/// The results of batches, in the order of their commits.
pub(super) struct CommitNotifier {
    outcomes: Mutex<VecDeque<BatchOutcome>>,
    /// Held while notifying, so that notifications keep commit order.
    notifying: Mutex<()>,
    /// The tokio runtime of the actors.
    tokio: tokio::runtime::Handle,
}

enum BatchOutcome {
    /// A committed batch: the result of each write.
    Committed(Vec<ReplyTo>, Answers),
    /// A failed batch: the outcome of its writes is unknown.
    Failed(Vec<ReplyTo>, CommitError),
}

impl CommitNotifier {
    pub(super) fn on(tokio: &tokio::runtime::Handle) -> Arc<Self> {
        Arc::new(Self { outcomes: Mutex::default(), notifying: Mutex::default(), tokio: tokio.clone() })
    }

    pub(super) fn committed(self: &Arc<Self>, replies: Vec<ReplyTo>, answers: Answers) {
        self.push(BatchOutcome::Committed(replies, answers));
    }

    pub(super) fn failed(self: &Arc<Self>, replies: Vec<ReplyTo>, error: CommitError) {
        self.push(BatchOutcome::Failed(replies, error));
    }

    /// Notifies from a task of the actors' runtime, so that one wake-up crosses from the
    /// persistence thread and the actors are woken from within. One task for each batch: an
    /// existing task might be queued on a thread that user code blocks.
    fn push(self: &Arc<Self>, outcome: BatchOutcome) {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).push_back(outcome);
        let notify = NotifyOnDrop(Arc::clone(self));
        self.tokio.spawn(async move { drop(notify) });
    }

    /// Sends all results that are ready; on return they are in the mailboxes.
    pub(super) fn notify(&self) {
        let _notifying = self.notifying.lock().unwrap_or_else(PoisonError::into_inner);
        let next = || self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        while let Some(outcome) = next() {
            match outcome {
                BatchOutcome::Committed(replies, answers) => answer(replies, answers),
                BatchOutcome::Failed(replies, error) => {
                    for reply in replies {
                        reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }
}

/// A guard that sends the results when it is dropped: at the end of its task, or with the task if
/// its runtime has ended.
struct NotifyOnDrop(Arc<CommitNotifier>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify();
    }
}

/// Sends each write's result: to an instance's actor, only its last committed write and each that
/// failed. Batches are answered in order, so an actor hears of a run's end before a message about
/// the next run of its id, which builds on that end and is in a later batch.
fn answer(replies: Vec<ReplyTo>, answers: Answers) {
    let mut committed: HashMap<ActorId, ReplyTo, RandomState> = HashMap::default();
    for (reply, answer) in replies.into_iter().zip(answers) {
        match &reply {
            ReplyTo::Instance { actor, .. } if answer.is_ok() => {
                committed.insert(actor.get_id(), reply);
            }
            _ => reply.send(answer.map_err(CommitError::from)),
        }
    }
    for reply in committed.into_values() {
        reply.send(Ok(()));
    }
}

impl ReplyTo {
    pub(super) fn send(self, answer: Result<(), CommitError>) {
        match self {
            // An actor or a caller that has gone needs no answer: a durable write stays durable.
            Self::Caller(sender) => drop(sender.send(answer)),
            Self::Instance { actor, run, seq } => {
                let message = match answer {
                    Ok(()) => InstanceMessage::Committed { run, seq },
                    Err(error) => InstanceMessage::NotCommitted { run, error },
                };
                let _ = actor.cast(message);
            }
        }
    }
}
