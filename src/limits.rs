//! Every bound in one place, each with its unit in its name.
//!
//! The constants are bounds of the format or of a definition; [`Limits`] holds those a service may tune.

use std::time::Duration;

/// Longest instance id, in bytes of UTF-8.
pub const INSTANCE_ID_BYTES_MAX: usize = 256;
/// Longest node id or signal name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest signal id, in bytes of UTF-8.
pub const SIGNAL_ID_BYTES_MAX: usize = 128;
/// Longest traceparent of a start, in bytes: it is in the head, and so in every write.
pub const TRACEPARENT_BYTES_MAX: usize = 256;
/// Deepest nesting of nodes in one workflow: branches, arms, loop bodies, children and maps within each other.
pub const NESTING_MAX: usize = 64;
/// Most nodes in one workflow.
pub const NODES_MAX: usize = 100_000;
/// Longest task failure message that is kept, in bytes; a longer one is cut.
pub const FAILURE_MESSAGE_BYTES_MAX: usize = 2_048;
/// Longest reason or name of an actor given with cancel and pause, in bytes; a longer one is refused.
pub const REASON_BYTES_MAX: usize = 1_024;
/// A value up to this size, in bytes, rides in the snapshot; a larger one is written once, as a row of its own.
pub const INLINE_BYTES_MAX: usize = 128;
/// Results of at most [`INLINE_BYTES_MAX`] ride in the snapshot too, up to this many bytes of them together: then they are
/// written as rows. They are in every write, so more of them would cost more than the rows do.
pub const KEPT_RESULTS_BYTES_MAX: usize = 512;
/// Most results of tasks with [`Checkpoint::Deferred`](crate::Checkpoint::Deferred) of an instance that are not durable.
pub const DEFERRED_RESULTS_MAX: usize = 64;
/// Most bytes of these, but for the last one.
pub const DEFERRED_BYTES_MAX: usize = 256 << 10;
/// How long such a result waits for another commit.
pub const DEFERRED_FOR: Duration = Duration::from_millis(50);
/// About how many bytes of a map's list stand in one row: what is read for one item.
pub const LIST_ROW_BYTES: usize = 16 << 10;
/// Most items of a map's list in one row.
pub const LIST_ROW_ITEMS_MAX: u32 = 1_024;
/// Deepest nesting of lists, maps, structs and enums in a payload, in MessagePack and in JSON: a decoder follows it on the
/// stack of a thread, and a payload may come from outside.
pub const PAYLOAD_DEPTH_MAX: usize = 127;
/// Signal ids remembered per run, so that a repeated one is ignored.
pub const SIGNAL_IDS_REMEMBERED: u64 = 10_000;
/// Most findings that a verification of a store lists; further ones are counted.
pub const FINDINGS_MAX: usize = 10_000;
/// Runs that a verification holds in memory, each with its instance's id; of more the heads are gone through again.
pub const RUNS_VERIFIED_AT_ONCE: usize = 100_000;
/// Rows of consumed signals, or of branches that have ended, that a read of an instance passes by: it begins behind them once
/// there are more.
pub const ROWS_PASSED_BY_MAX: u64 = 64;
/// Deaths of the process in a row at one position after which the instance is quarantined.
pub const DEATHS_MAX: u32 = 5;
/// Deaths in a row from which an attempt runs only while no other such attempt does, so that those who merely ran beside
/// the one that kills the process are told from it.
pub const DEATHS_ALONE: u32 = 3;

/// What a call does that reaches one of these [`Limits`]: see [`Bound`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenBusy {
    /// It waits, in line with the others. Who gives up drops the call: nothing was done then, unless it had its place.
    ///
    /// Waiting for a store that fails is another matter: what has its place waits until the store is back, whatever is chosen
    /// here. [`Runtime::health`](crate::Runtime::health) says so; put a timeout around calls that must not wait.
    #[default]
    Wait,
    /// It is refused at once: nothing was done, and it may be repeated.
    Refuse,
}

/// A bound that was reached by those who start instances and send messages. Nothing was done; try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Bound {
    /// [`Limits::instance_messages_max`].
    #[error("the instance has as many messages queued as Limits::instance_messages_max allows")]
    InstanceMessages,
    /// [`Limits::resident_max`].
    #[error("as many instances are awake as Limits::resident_max allows, and this one is not")]
    Residents,
    /// [`Limits::writes_queued_max`].
    #[error("as many starts are under way as Limits::writes_queued_max allows")]
    WritesQueued,
    /// [`Limits::payload_bytes_under_way_max`].
    #[error("as many payload bytes are under way as Limits::payload_bytes_under_way_max allows")]
    PayloadBytes,
}

/// Bounds a service may tune, given to [`RuntimeBuilder::limits`](crate::RuntimeBuilder::limits).
///
/// Each has a typed error or a stated wait where it is reached; nothing acknowledged is dropped to make room. Where nothing could
/// go on with none, 0 counts as 1.
///
/// ```
/// let mut limits = everstep::Limits::default();
/// limits.tasks_running_max = 64;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Largest payload (input, task output, signal), in encoded bytes. Default 1 MiB.
    pub payload_bytes_max: usize,
    /// Items of a list that a map runs over. Default 100,000.
    pub list_items_max: usize,
    /// Bytes of such a list, and of the list of its results. Default 64 MiB. Each item and each result is also a payload. A map
    /// that collects failures keeps them beyond it, without their messages.
    pub list_bytes_max: usize,
    /// Signals one instance buffers. Default 10,000.
    pub signals_buffered_max: u32,
    /// Payload bytes one instance buffers in signals. Default 64 MiB.
    pub signal_buffer_bytes_max: u64,
    /// Instances awake (with an actor in memory) at once; callers of further ones wait or are refused. Default 20,000. An instance
    /// whose task waits for another instance is awake: see [`Limits::tasks_running_max`].
    pub resident_max: usize,
    /// Tasks that run at once. Default 1,024.
    ///
    /// A task that waits for another instance, for its [`result`](crate::InstanceHandle::result) say, keeps its place meanwhile: if all
    /// places are taken by such tasks, the instances they wait for get none, and nothing moves. Wait in the workflow instead
    /// (a signal that the other instance's last task sends, or a [`child`](crate::Builder::child)), or keep such tasks fewer than this.
    pub tasks_running_max: usize,
    /// Of these, tasks that are [`blocking`](crate::Task::blocking): each takes a thread of tokio's pool for blocking work, and
    /// keeps its place until that thread is free, even if the attempt has timed out. Keep it below the size of that pool (512
    /// unless the service sets `max_blocking_threads`), which file systems and name lookups use too. Default 384.
    pub blocking_tasks_running_max: usize,
    /// Messages of callers queued at one instance; further callers wait or are refused. Default 64.
    pub instance_messages_max: usize,
    /// Writes of callers (starts) queued at the store; further callers wait or are refused. As many starts more may wait for the
    /// instances that they replace. Default 4,096.
    pub writes_queued_max: usize,
    /// Payload bytes of starts and signals that are queued or being committed; further callers wait or are refused. Payloads
    /// of at most 128 bytes do not count; a payload larger than this goes alone. Default 256 MiB.
    pub payload_bytes_under_way_max: usize,
    /// Wake-ups held in memory; later ones stay in the store's due index. Default 10,000.
    pub timer_window_max: usize,
    /// Seconds of waiting in the task queue that raise a task by one priority; at least 1. Default 300. Of the tasks of an instance
    /// that have the same priority one waits in that queue, and the others behind it: instances take turns.
    pub priority_aging_seconds: u64,
    /// Actor panics of one instance within [`Limits::panic_window_seconds`] after which it is quarantined. Default 5.
    pub panics_max: u32,
    /// The window in which actor panics are counted, in seconds. Default 60.
    pub panic_window_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes_max: 1 << 20,
            list_items_max: 100_000,
            list_bytes_max: 64 << 20,
            signals_buffered_max: 10_000,
            signal_buffer_bytes_max: 64 << 20,
            resident_max: 20_000,
            tasks_running_max: 1_024,
            blocking_tasks_running_max: 384,
            instance_messages_max: 64,
            writes_queued_max: 4_096,
            payload_bytes_under_way_max: 256 << 20,
            timer_window_max: 10_000,
            priority_aging_seconds: 300,
            panics_max: 5,
            panic_window_seconds: 60,
        }
    }
}

/// The longest time among the limits, in seconds: a hundred years. What is longer means the same, and would overflow.
const SECONDS_MAX: u64 = 100 * 365 * 24 * 60 * 60;
/// The largest number of places of a queue. Larger ones mean the same: no bound.
const PLACES_MAX: usize = u32::MAX as usize >> 3;

impl Limits {
    /// Returns limits with which everything works: where nothing could go on with none, 0 counts as 1, and what stands for
    /// "no limit" is as large as queues and clocks can count.
    pub(crate) fn clamped(mut self) -> Self {
        let places = [
            &mut self.resident_max,
            &mut self.tasks_running_max,
            &mut self.blocking_tasks_running_max,
            &mut self.instance_messages_max,
            &mut self.writes_queued_max,
        ];
        for places in places {
            *places = (*places).clamp(1, PLACES_MAX);
        }
        self.timer_window_max = self.timer_window_max.clamp(2, PLACES_MAX);
        self.priority_aging_seconds = self.priority_aging_seconds.clamp(1, SECONDS_MAX);
        self.panic_window_seconds = self.panic_window_seconds.min(SECONDS_MAX);
        self
    }
}

/// The bounds on what a task takes and gives.
#[derive(Clone, Copy, Debug)]
pub struct PayloadLimits {
    /// [`Limits::payload_bytes_max`].
    pub payload_bytes_max: usize,
    /// [`Limits::list_items_max`].
    pub list_items_max: usize,
    /// [`Limits::list_bytes_max`].
    pub list_bytes_max: usize,
}

impl From<&Limits> for PayloadLimits {
    fn from(limits: &Limits) -> Self {
        let Limits { payload_bytes_max, list_items_max, list_bytes_max, .. } = *limits;
        Self { payload_bytes_max, list_items_max, list_bytes_max }
    }
}
