//! All limits in one place, each with its unit in its name.
//!
//! The constants are limits of the format or of a definition. [`Limits`] holds those that a service
//! may tune.

use std::time::Duration;

/// Longest instance id, in bytes of UTF-8.
pub const INSTANCE_ID_BYTES_MAX: usize = 256;
/// Longest node id or signal name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest signal id, in bytes of UTF-8.
pub const SIGNAL_ID_BYTES_MAX: usize = 128;
/// Longest traceparent of a start, in bytes. The traceparent is part of the head, and so of every
/// write.
pub const TRACEPARENT_BYTES_MAX: usize = 256;
/// Deepest nesting of nodes in one workflow: branches, arms, loop bodies, children and maps within
/// each other.
pub const NESTING_MAX: usize = 64;
/// Most nodes in one workflow.
pub const NODES_MAX: usize = 100_000;
/// Longest task failure message that is kept, in bytes; a longer one is cut.
pub const FAILURE_MESSAGE_BYTES_MAX: usize = 2_048;
/// Longest reason or name of a person or service in a cancel or pause, in bytes; a longer one is
/// refused.
pub const REASON_BYTES_MAX: usize = 1_024;
/// Largest value stored in the snapshot, in bytes; a larger one is written once, as a row of its
/// own.
pub const INLINE_BYTES_MAX: usize = 128;
/// Bytes of results stored in the snapshot, each of at most [`INLINE_BYTES_MAX`]. Beyond that they
/// are written as rows: the snapshot is part of every write, so more of them would cost more than
/// rows do.
pub const INLINE_RESULTS_BYTES_MAX: usize = 512;
/// Most results of one instance, of tasks with
/// [`Checkpoint::Deferred`](crate::Checkpoint::Deferred), that are not durable yet.
pub const DEFERRED_RESULTS_MAX: usize = 64;
/// Most bytes of deferred results of one instance, not counting the last one.
pub const DEFERRED_BYTES_MAX: usize = 256 << 10;
/// Longest time that a deferred result waits for another commit.
pub const DEFERRED_FOR: Duration = Duration::from_millis(50);
/// Approximate bytes of a map's list per row; one row is read for one item.
pub const LIST_ROW_BYTES: usize = 16 << 10;
/// Most items of a map's list in one row.
pub const LIST_ROW_ITEMS_MAX: u32 = 1_024;
/// Deepest nesting of lists, maps, structs and enums in a payload, in MessagePack and in JSON. A
/// decoder recurses on the stack of a thread, and a payload may come from outside.
pub const PAYLOAD_DEPTH_MAX: usize = 127;
/// Signal ids remembered per run, so that a repeated one is ignored.
pub const SIGNAL_IDS_REMEMBERED: u64 = 10_000;
/// Most findings listed by a verification of a store; further ones are only counted.
pub const FINDINGS_MAX: usize = 10_000;
/// Runs that a verification holds in memory, each with its instance's id. With more runs it reads
/// the heads several times.
pub const RUNS_VERIFIED_AT_ONCE: usize = 100_000;
/// Rows of consumed signals or ended branches that a read of an instance skips over. With more, the
/// read begins after them.
pub const ROWS_PASSED_BY_MAX: u64 = 64;
/// Rows of branches and buffered signals from which on an instance that has nothing to do stays in
/// memory for a while.
pub const RESTING_ROWS_MIN: usize = 16;
/// Process crashes in a row at one position after which the instance is quarantined.
pub const CRASHES_MAX: u32 = 5;
/// Process crashes in a row from which an attempt runs only while no other such attempt does. This
/// tells the attempt that crashes the process from those that only ran beside it.
pub const CRASHES_ALONE: u32 = 3;

/// Behavior of a call that reaches a limit of [`Limits`]: see [`LimitReached`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenBusy {
    /// Waits in line with other callers. To give up, drop the call: it had no effect unless it had
    /// its place already.
    ///
    /// Waiting for a store that fails is separate: a call that has its place waits until the store
    /// is back, whatever is chosen here. [`Runtime::health`](crate::Runtime::health) tells; put a
    /// timeout around calls that must not wait.
    #[default]
    Wait,
    /// Refuses the call at once. The call had no effect and may be repeated.
    Refuse,
}

/// A limit reached by a start or a message. The call had no effect: try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum LimitReached {
    /// [`Limits::instance_messages_max`].
    #[error("limit of messages queued for the instance reached (Limits::instance_messages_max)")]
    InstanceMessages,
    /// [`Limits::resident_max`].
    #[error("limit of active instances reached (Limits::resident_max)")]
    Residents,
    /// [`Limits::writes_queued_max`].
    #[error("limit of starts in progress reached (Limits::writes_queued_max)")]
    WritesQueued,
    /// [`Limits::payload_bytes_under_way_max`].
    #[error("limit of payload bytes in progress reached (Limits::payload_bytes_under_way_max)")]
    PayloadBytes,
}

/// Limits that a service may tune, passed to
/// [`RuntimeBuilder::limits`](crate::RuntimeBuilder::limits).
///
/// Each limit that is reached causes a typed error or a documented wait; nothing acknowledged is
/// dropped to make room. Where nothing could run with a limit of 0, it counts as 1.
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
    /// Bytes of such a list, and of the list of its results. Default 64 MiB. Each item and each
    /// result is also a payload. A map that collects failures keeps them beyond this limit, without
    /// their messages.
    pub list_bytes_max: usize,
    /// Signals buffered by one instance. Default 10,000.
    pub signals_buffered_max: u32,
    /// Payload bytes of the signals buffered by one instance. Default 64 MiB.
    pub signal_buffer_bytes_max: u64,
    /// Instances active (with an actor in memory) at once; callers of further ones wait or are
    /// refused. Default 20,000. An instance whose task waits for another instance is active: see
    /// [`Limits::tasks_running_max`].
    pub resident_max: usize,
    /// Seconds that an instance stays in memory when it has nothing to do, if reading it again
    /// would cost much: if it has 16 or more branches and buffered signals. Its next message or
    /// wake-up then costs what it changes, not what the instance holds. Such instances do not count
    /// as active (see [`Limits::resident_max`]). Default 5; with 0 they leave at once.
    pub resting_seconds: u64,
    /// Bytes of memory, estimated, that all of these may take. Those that have stayed longest leave
    /// first. Default 64 MiB.
    pub resting_bytes_max: usize,
    /// Tasks that run at once. Default 1,024.
    ///
    /// A task that waits for another instance, for example for its
    /// [`result`](crate::InstanceHandle::result), keeps its slot meanwhile. If such tasks hold all
    /// slots, the awaited instances get none, and nothing moves. Wait in the workflow instead (a
    /// signal sent by the other instance's last task, or a [`child`](crate::Builder::child)), or
    /// keep such tasks fewer than this.
    pub tasks_running_max: usize,
    /// Tasks running at once that are [`blocking`](crate::Task::blocking); they count as running
    /// tasks too. Each takes a thread of tokio's pool for blocking work, and holds its place until
    /// that thread is free, even if the attempt has timed out. Keep this below the size of that
    /// pool (512 unless the service sets `max_blocking_threads`), which file systems and name
    /// lookups use too. Default 384.
    pub blocking_tasks_running_max: usize,
    /// Messages queued for one instance; further callers wait or are refused. Default 64.
    pub instance_messages_max: usize,
    /// Starts queued at the store; further callers wait or are refused. As many more starts may
    /// wait for the instances that they replace. Default 4,096.
    pub writes_queued_max: usize,
    /// Payload bytes of starts and signals that are queued or being committed; further callers wait
    /// or are refused. Payloads of at most 128 bytes do not count; a payload larger than this limit
    /// goes alone. Default 256 MiB.
    pub payload_bytes_under_way_max: usize,
    /// Wake-ups held in memory; later ones stay in the store's due index. Default 10,000.
    pub timer_window_max: usize,
    /// Seconds of waiting in the task queue that raise a task by one priority; at least 1. Default
    /// 300. Of an instance's tasks with the same priority only the first waits in that queue, and
    /// the others wait after it: instances take turns.
    pub priority_aging_seconds: u64,
    /// Actor panics of one instance within [`Limits::panic_window_seconds`] after which it is
    /// quarantined. Default 5.
    pub panics_max: u32,
    /// Length of the window in which actor panics are counted, in seconds. Default 60.
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
            resting_seconds: 5,
            resting_bytes_max: 64 << 20,
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

/// Longest time among the limits, in seconds: a hundred years. A longer one means the same, and
/// would overflow.
const SECONDS_MAX: u64 = 100 * 365 * 24 * 60 * 60;
/// Largest number of places of a queue. A larger one means the same: no limit.
const PLACES_MAX: usize = u32::MAX as usize >> 3;

impl Limits {
    /// Returns limits with which everything works: 0 counts as 1 where nothing could run with 0,
    /// and values that mean "no limit" are as large as queues and clocks can count.
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
        self.resting_seconds = self.resting_seconds.min(SECONDS_MAX);
        self.priority_aging_seconds = self.priority_aging_seconds.clamp(1, SECONDS_MAX);
        self.panic_window_seconds = self.panic_window_seconds.min(SECONDS_MAX);
        self
    }
}

/// The limits on inputs and outputs of a task.
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
