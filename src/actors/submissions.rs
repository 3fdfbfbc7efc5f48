//! Writes on their way to the persistence actor, and what became of them on the way back: neither is a message each, since
//! its thread is what everything waits for.
//!
//! ```text
//! actors, callers ──submit──> Queue ──take all──> persistence thread ──a batch──> Answering ──> actors, callers
//!               the first rings: one message a batch                      one task a batch
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use ractor::{ActorId, ActorRef};
use tokio::sync::oneshot;

use super::mail::InstanceMessage;
use crate::id::RunId;
use crate::lifecycle::CommitError;
use crate::store::{Answers, StoreError, Write};

pub(super) struct Submission {
    pub(super) write: Write,
    pub(super) reply: ReplyTo,
}

/// Who is told what became of a write.
pub(super) enum ReplyTo {
    /// An instance's actor: only of the last of its writes in a batch.
    Instance { actor: ActorRef<InstanceMessage>, run: RunId, seq: u64 },
    /// Whoever waits for it.
    Caller(oneshot::Sender<Result<(), CommitError>>),
}

/// What was submitted and not taken yet, in order. Bounded by those who submit: a start has a place, and an instance that is
/// awake writes no more than its callers' places and its attempts make it.
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

    /// Whether this is the first since all were taken, so that whoever takes them must be told.
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

    /// Nobody takes anything any more: who submits is told so, and who has.
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

/// The runtime goes down.
pub(super) fn gone() -> CommitError {
    CommitError::Store(StoreError::Fatal("the runtime has shut down".into()))
}

/// What became of batches, in the order of their commits.
pub(super) struct Answering {
    settled: Mutex<VecDeque<Settled>>,
    /// Held by who gives answers, so that they are given in order.
    turn: Mutex<()>,
    /// Where the actors run.
    tokio: tokio::runtime::Handle,
}

enum Settled {
    /// A batch was committed: each write's answer.
    Committed(Vec<ReplyTo>, Answers),
    /// What became of these is unknown.
    Failed(Vec<ReplyTo>, CommitError),
}

impl Answering {
    pub(super) fn on(tokio: &tokio::runtime::Handle) -> Arc<Self> {
        Arc::new(Self { settled: Mutex::default(), turn: Mutex::default(), tokio: tokio.clone() })
    }

    pub(super) fn committed(self: &Arc<Self>, replies: Vec<ReplyTo>, answers: Answers) {
        self.settle(Settled::Committed(replies, answers));
    }

    pub(super) fn failed(self: &Arc<Self>, replies: Vec<ReplyTo>, error: CommitError) {
        self.settle(Settled::Failed(replies, error));
    }

    /// Answers from a task of the actors' runtime: they are woken from within then, by one wake-up from outside. A task for each
    /// batch, since one that is there already might stand in the queue of a thread that user code blocks.
    fn settle(self: &Arc<Self>, settled: Settled) {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).push_back(settled);
        let giving = Giving(Arc::clone(self));
        self.tokio.spawn(async move { drop(giving) });
    }

    /// Gives all answers there are; when this returns, they are in the mailboxes.
    pub(super) fn give(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let next = || self.settled.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        while let Some(settled) = next() {
            match settled {
                Settled::Committed(replies, answers) => answer(replies, answers),
                Settled::Failed(replies, error) => {
                    for reply in replies {
                        reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }
}

/// Gives answers when it is dropped: by the task it was made for, or with that if its runtime is gone.
struct Giving(Arc<Answering>);

impl Drop for Giving {
    fn drop(&mut self) {
        self.0.give();
    }
}

/// Tells everyone what became of their write; an instance's actor of the last one that was committed, and of each that
/// was not.
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
            // An actor or a caller that is gone meanwhile needs no answer: what is durable stays so.
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
