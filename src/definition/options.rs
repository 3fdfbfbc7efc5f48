//! Options of tasks.

use std::time::Duration;

use super::RetryPolicy;

/// Priority of a task when more are ready than may run at once. A waiting task rises by one every
/// [`priority_aging_seconds`](crate::Limits::priority_aging_seconds).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    /// Runs before everything else.
    Critical = 1,
    /// Runs before normal tasks.
    High = 2,
    /// The default.
    #[default]
    Normal = 3,
    /// Runs after normal tasks.
    Low = 4,
    /// Runs after everything else.
    Minimal = 5,
}

/// Time at which a task's result is made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Checkpoint {
    /// The result is committed before anything after the task starts.
    #[default]
    Immediate,
    /// The result is committed together with a later one; the next task may start first. For short
    /// tasks that may run twice: **after a crash the task runs again** if its result was not
    /// durable yet, and so does every task started after it, deferred or not. The task may return
    /// another result then, and the tasks after it run with that one. A failing store or a crashed
    /// actor does the same, within one life of the process, to the tasks started after it.
    ///
    /// Nothing outside sees a result before it is durable: answers, the status, waiting callers and
    /// the end of the run wait for all results before them. So do a delay, a wait for a signal, the
    /// decision of a route, the join of branches, and anything after a failed attempt; and nothing
    /// starts with a signal that is not durable itself. Limits per instance: 64 results or 256 KiB
    /// that are not durable yet, for about 50 ms plus the time of a commit; beyond that tasks wait
    /// as if they were not deferred. Results become durable in their order.
    Deferred,
}

/// Everything about a task except its code.
#[derive(Clone, Debug, Default)]
pub struct TaskOptions {
    pub(crate) timeout: Option<Duration>,
    pub(crate) retry: RetryPolicy,
    pub(crate) priority: Priority,
    pub(crate) tags: Vec<String>,
    pub(crate) version: String,
    pub(crate) display_name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) blocking: bool,
    pub(crate) checkpoint: Checkpoint,
}

impl TaskOptions {
    /// Returns how long one attempt may run.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Returns the retry policy.
    pub fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// Returns the priority.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// Returns the labels.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// Returns the version that is part of the definition hash; empty by default.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns the name for people.
    pub fn display_name(&self) -> Option<&str> {
        self.display_name.as_deref()
    }

    /// Returns the text for people.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Returns the time at which the result is made durable.
    pub fn checkpoint(&self) -> Checkpoint {
        self.checkpoint
    }

    /// Returns true if the task runs on the pool for blocking work.
    pub fn is_blocking(&self) -> bool {
        self.blocking
    }
}

/// A task function with options, made by [`task`].
#[derive(Clone, Debug)]
pub struct Task<F> {
    pub(crate) function: F,
    pub(crate) options: TaskOptions,
}

/// Wraps a task function to set its options.
///
/// ```
/// use std::time::Duration;
/// use everstep::{RetryPolicy, Workflow, task};
///
/// async fn charge(cents: u64) -> Result<String, std::io::Error> {
///     Ok(format!("charged {cents}"))
/// }
///
/// let workflow = Workflow::builder("checkout")
///     .then(
///         "charge",
///         task(charge).retry(RetryPolicy::exponential(5)).timeout(Duration::from_secs(30)),
///     )
///     .build()?;
/// # Ok::<(), everstep::BuildErrors>(())
/// ```
pub fn task<F>(function: F) -> Task<F> {
    Task { function, options: TaskOptions::default() }
}

impl<F> Task<F> {
    /// Sets the longest time of one attempt. A longer attempt fails, and is retried by the policy.
    /// The time counts from the moment the attempt gets its slot; after a crash the attempt has the
    /// rest of it. Checked where the task awaits; for work that blocks its thread, see
    /// [`blocking`](Self::blocking). Not part of the definition hash.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Sets the retry policy. By default a failed attempt is not retried. Not part of the
    /// definition hash.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.options.retry = policy;
        self
    }

    /// Sets the priority. Not part of the definition hash.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.options.priority = priority;
        self
    }

    /// Adds a label. Not part of the definition hash.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.options.tags.push(tag.into());
        self
    }

    /// Sets a version that **is** part of the definition hash. Change it if running instances must
    /// not go on with the new code.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.options.version = version.into();
        self
    }

    /// Sets when the task's result is made durable: [`Checkpoint::Immediate`] by default. Not part
    /// of the definition hash.
    ///
    /// ```
    /// use everstep::{Checkpoint, Workflow, task};
    /// # async fn words(line: String) -> Result<Vec<String>, std::io::Error> { Ok(vec![line]) }
    /// # async fn index(words: Vec<String>) -> Result<usize, std::io::Error> { Ok(words.len()) }
    ///
    /// // Splitting a line again costs less than waiting for the disk.
    /// let workflow = Workflow::builder("index")
    ///     .then("words", task(words).checkpoint(Checkpoint::Deferred))
    ///     .then("index", index)
    ///     .build()?;
    /// # Ok::<(), everstep::BuildErrors>(())
    /// ```
    pub fn checkpoint(mut self, checkpoint: Checkpoint) -> Self {
        self.options.checkpoint = checkpoint;
        self
    }

    /// Sets a name for people.
    pub fn display_name(mut self, name: impl Into<String>) -> Self {
        self.options.display_name = Some(name.into());
        self
    }

    /// Sets a text for people.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.options.description = Some(text.into());
        self
    }

    /// Runs the task on the pool for blocking work, because it blocks its thread (file system,
    /// computation). When such an attempt is cancelled or times out, it ends at once, but its
    /// thread stays busy until its next await.
    pub fn blocking(mut self) -> Self {
        self.options.blocking = true;
        self
    }
}
