//! How a task is run.

use std::time::Duration;

use super::RetryPolicy;

/// How urgent a task is when more are ready than may run at once. A waiting task rises by one per
/// [`priority_aging_seconds`](crate::Limits::priority_aging_seconds).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    /// Before everything else.
    Critical = 1,
    /// Before the usual.
    High = 2,
    /// The usual.
    #[default]
    Normal = 3,
    /// After the usual.
    Low = 4,
    /// When there is nothing else.
    Minimal = 5,
}

/// When a task's result is made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Checkpoint {
    /// Before anything behind the task starts.
    #[default]
    Immediate,
    /// With a later commit of the instance: what is behind the task may start before. For short tasks that may as well run
    /// again, since **after a crash it runs again** if its result was not durable yet, and so does what had started behind it,
    /// also if that is not deferred itself. It may give another result then, and what is behind it is run with that one. A
    /// store that fails, and an actor that dies, do the same to what had started behind it, in one life of the process.
    ///
    /// Nobody outside learns of a result before it is durable: whatever is answered, shown or waited for, and the end of the run,
    /// waits for all results before it. So do a delay, a wait for a signal, the decision of a route, the join of branches and what
    /// follows a failed attempt; and nothing starts with a signal that is not durable itself. At most 64 results, or 256 KiB, of an instance are not durable, for about 50 ms at most and as long as a commit
    /// takes; then tasks wait as if they were not deferred. Results become durable in their order.
    Deferred,
}

/// Everything about a task besides its code.
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
    /// How long one attempt may run.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// When a failed attempt is tried again.
    pub fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// How urgent it is.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// Free labels.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// The version that is part of the definition hash; empty by default.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A name for people.
    pub fn display_name(&self) -> Option<&str> {
        self.display_name.as_deref()
    }

    /// A text for people.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// When its result is made durable.
    pub fn checkpoint(&self) -> Checkpoint {
        self.checkpoint
    }

    /// Whether it runs on the pool for blocking work.
    pub fn is_blocking(&self) -> bool {
        self.blocking
    }
}

/// A task function with options; made by [`task`].
#[derive(Clone, Debug)]
pub struct Task<F> {
    pub(crate) function: F,
    pub(crate) options: TaskOptions,
}

/// Takes a task function to give it options.
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
///     .then("charge", task(charge).retry(RetryPolicy::exponential(5)).timeout(Duration::from_secs(30)))
///     .build()?;
/// # Ok::<(), everstep::BuildErrors>(())
/// ```
pub fn task<F>(function: F) -> Task<F> {
    Task { function, options: TaskOptions::default() }
}

impl<F> Task<F> {
    /// Ends an attempt that runs longer as failed; it is retried by policy. Counted from the moment the attempt gets
    /// its slot, and after a crash goes on from what is left of it. Looked at where the task awaits; for work that blocks
    /// its thread, see [`blocking`](Self::blocking). Not part of the definition hash.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// When a failed attempt is tried again. The default is never. Not part of the definition hash.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.options.retry = policy;
        self
    }

    /// How urgent the task is. Not part of the definition hash.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.options.priority = priority;
        self
    }

    /// Adds a free label. Not part of the definition hash.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.options.tags.push(tag.into());
        self
    }

    /// A version that **is** part of the definition hash: change it when running instances must not go on with the new
    /// code.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.options.version = version.into();
        self
    }

    /// When the task's result is made durable: [`Checkpoint::Immediate`] by default. Not part of the definition hash.
    ///
    /// ```
    /// use everstep::{Checkpoint, Workflow, task};
    /// # async fn words(line: String) -> Result<Vec<String>, std::io::Error> { Ok(vec![line]) }
    /// # async fn index(words: Vec<String>) -> Result<u32, std::io::Error> { Ok(words.len() as u32) }
    ///
    /// // To split a line again costs less than to wait for the disk.
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

    /// A name for people.
    pub fn display_name(mut self, name: impl Into<String>) -> Self {
        self.options.display_name = Some(name.into());
        self
    }

    /// A text for people.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.options.description = Some(text.into());
        self
    }

    /// Runs the task on the pool for blocking work, because it blocks its thread (file system, computation). When such
    /// an attempt is cancelled or timed out, it counts as ended at once, though its thread stays busy to its next await.
    pub fn blocking(mut self) -> Self {
        self.options.blocking = true;
        self
    }
}
