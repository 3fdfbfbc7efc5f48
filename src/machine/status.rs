//! Where a snapshot stands, in words.

use super::Snapshot;
use super::snapshot::{End, Frame, Phase};
use crate::definition::Names;
use crate::id::NodePath;
use crate::status::{Failure, Status, StatusCode, TaskFailure};
use crate::time::Timestamp;

impl Snapshot {
    /// The status, with the names of its definition.
    ///
    /// With several frames: a task at work comes first; then the wait with the nearest wake-up; then the first by node.
    pub fn status(&self, names: &dyn Names) -> Status {
        match (&self.end, &self.pause) {
            (Some(end), _) => ended(end, names),
            (None, Some(pause)) => Status::Paused { reason: pause.reason.clone(), by: pause.by.clone() },
            (None, None) => match self.deciding_frame() {
                Some(frame) => frame.status(names),
                None => Status::InProgress,
            },
        }
    }

    /// The status without details, which needs no names.
    pub fn status_code(&self) -> StatusCode {
        match (&self.end, &self.pause) {
            (Some(End::Completed { .. }), _) => StatusCode::Completed,
            (Some(End::TaskFailed { .. } | End::DeadlineExceeded), _) => StatusCode::Failed,
            (Some(End::Cancelled { .. }), _) => StatusCode::Cancelled,
            (None, Some(_)) => StatusCode::Paused,
            (None, None) => match self.deciding_frame().map(|frame| &frame.phase) {
                Some(Phase::Delay { .. }) => StatusCode::Waiting,
                Some(Phase::Signal { .. }) => StatusCode::AwaitingSignal,
                Some(Phase::Task { .. }) | None => StatusCode::InProgress,
            },
        }
    }

    fn deciding_frame(&self) -> Option<&Frame> {
        self.frames.values().min_by_key(|frame| match &frame.phase {
            Phase::Task { .. } => (0, Timestamp::EPOCH, frame.node),
            Phase::Delay { until } | Phase::Signal { until: Some(until), .. } => (1, *until, frame.node),
            Phase::Signal { until: None, .. } => (2, Timestamp::EPOCH, frame.node),
        })
    }

    /// When the store's due index should list the instance: only while nothing of it runs, since a running task's actor
    /// keeps its own wake-up.
    pub fn due(&self) -> Option<Timestamp> {
        if self.is_running() { None } else { self.next_wake() }
    }

    /// Whether a signal that came in time is kept from the frame that waits for it, because of a pause.
    pub(super) fn holds_back(&self, signal: &str) -> bool {
        self.is_paused() && self.signals.has(signal)
    }
}

fn ended(end: &End, names: &dyn Names) -> Status {
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

impl Frame {
    fn status(&self, names: &dyn Names) -> Status {
        match &self.phase {
            Phase::Task { .. } => Status::InProgress,
            Phase::Delay { until } => Status::Waiting { wake_at: *until, delay: path(names, self.node) },
            Phase::Signal { signal, until } => {
                Status::AwaitingSignal { node: path(names, self.node), signal: signal.to_string(), wake_at: *until }
            }
        }
    }
}

fn path(names: &dyn Names, node: u32) -> NodePath {
    names.path(node).cloned().unwrap_or_else(|| NodePath::new(""))
}
