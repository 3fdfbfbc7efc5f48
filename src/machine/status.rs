//! The status of a snapshot.

use super::Snapshot;
use super::frame::{Frame, FrameId, Phase};
use super::snapshot::End;
use crate::definition::{NodeNames, TaskFailure};
use crate::id::NodePath;
use crate::status::{Failure, Status, StatusCode};
use crate::time::Timestamp;

impl Snapshot {
    /// Returns the status, with the names of its definition.
    ///
    /// Of several frames one decides: a task comes first (running, ready or in backoff), then the
    /// wait with the nearest wake-up, then the first by node.
    pub fn status(&self, names: &dyn NodeNames) -> Status {
        match (&self.end, &self.pause) {
            (Some(end), _) => ended(end, names),
            (None, Some(pause)) => Status::Paused { reason: pause.reason.clone(), by: pause.by.clone() },
            (None, None) => match self.deciding() {
                Some((node, phase)) => waiting(node, phase, names),
                None => Status::InProgress,
            },
        }
    }

    /// Returns the status without details, which needs no names.
    pub fn status_code(&self) -> StatusCode {
        match (&self.end, &self.pause) {
            (Some(End::Completed { .. }), _) => StatusCode::Completed,
            (Some(End::TaskFailed { .. } | End::DeadlineExceeded), _) => StatusCode::Failed,
            (Some(End::Cancelled { .. }), _) => StatusCode::Cancelled,
            (None, Some(_)) => StatusCode::Paused,
            (None, None) => match self.deciding() {
                Some((_, Phase::Delay { .. })) => StatusCode::Waiting,
                Some((_, Phase::Signal { .. })) => StatusCode::AwaitingSignal,
                _ => StatusCode::InProgress,
            },
        }
    }

    /// Returns everything that the instance waits for, by frame; nothing while a branch is not
    /// read.
    pub fn waits(&self, names: &dyn NodeNames) -> Vec<Status> {
        let waits =
            self.frames.iter().filter(|(_, frame)| matches!(frame.phase, Phase::Delay { .. } | Phase::Signal { .. }));
        waits.filter(|_| self.end.is_none()).map(|(_, frame)| waiting(frame.node, &frame.phase, names)).collect()
    }

    /// Returns the node and phase that decide where the instance stands: a task comes first, then
    /// the wait with the nearest wake-up, then the first by node.
    pub(super) fn deciding(&self) -> Option<(u32, &Phase)> {
        if self.unread_frames > 0 {
            return self.shown.as_ref().map(|shown| (shown.node, &shown.phase));
        }
        self.frames.deciding().map(|frame| (frame.node, &frame.phase))
    }

    /// Returns the frame that goes on: one that has work to do, else the one with the nearest
    /// wake-up.
    pub(crate) fn deciding_frame(&self) -> Option<&Frame> {
        self.frames.deciding()
    }

    /// Returns when the store's due index should list the instance. `None` while a task is with the
    /// executor, except in a pause: recovery finds the instance by its status in progress, and its
    /// actor keeps its own wake-up. A paused instance is found by its due time alone, even while a
    /// task still runs.
    pub fn due(&self) -> Option<Timestamp> {
        if self.is_running() && !self.is_paused() { None } else { self.next_wake() }
    }

    /// Returns true if a pause keeps a signal that came in time from the frame that waits for it.
    /// Signals go to the frames that have waited longest, as without the pause.
    pub(super) fn holds_back(&self, id: FrameId) -> bool {
        self.is_paused() && self.frames.is_held(id)
    }
}

fn ended(end: &End, names: &dyn NodeNames) -> Status {
    match end {
        End::Completed { .. } => Status::Completed,
        End::TaskFailed { node, attempt, kind, message } => Status::Failed {
            failure: Failure::Task(TaskFailure {
                task: path(names, *node),
                attempt: *attempt,
                kind: *kind,
                message: message.clone(),
            }),
        },
        End::DeadlineExceeded => Status::Failed { failure: Failure::DeadlineExceeded },
        End::Cancelled { reason, by } => Status::Cancelled { reason: reason.clone(), by: by.clone() },
    }
}

fn waiting(node: u32, phase: &Phase, names: &dyn NodeNames) -> Status {
    match phase {
        Phase::Delay { until } => Status::Waiting { wake_at: *until, delay: path(names, node) },
        Phase::Signal { signal, until, .. } => {
            Status::AwaitingSignal { node: path(names, node), signal: signal.to_string(), wake_at: *until }
        }
        _ => Status::InProgress,
    }
}

fn path(names: &dyn NodeNames, node: u32) -> NodePath {
    names.path(node).cloned().unwrap_or_else(|| NodePath::new(""))
}
