//! Starts an instance per file, or finds the existing one, and waits for the end of each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use everstep::{ConflictPolicy, InstanceHandle, Runtime, StartError, StartOptions, StartOutcome, Status, Workflow};
use tokio::task::{JoinError, JoinSet};

use crate::files::FileRef;
use crate::progress::Progress;
use crate::report::{Record, Report};
use crate::tally::Tally;
use crate::tasks::{APPROVE, Approval};

/// Files in progress at once. This limits the memory, however many files there are.
const IN_FLIGHT: usize = 256;

/// The running job.
pub(crate) struct Job {
    runtime: Runtime,
    workflow: Workflow<FileRef, Record>,
    report: Arc<Report>,
    approve: bool,
}

/// A file that waits for its approval.
pub(crate) struct Waiting {
    path: String,
    handle: InstanceHandle<Record>,
}

/// The outcome of one visit to a file.
enum Brought {
    /// The instance had ended before.
    Before,
    /// The instance ended now.
    Now,
    /// The instance waits for its approval.
    Waiting(InstanceHandle<Record>),
    /// The instance failed.
    Failed(String),
}

/// Outcome of one file, and how long it took.
struct Visit {
    path: String,
    brought: Brought,
    /// The time to start a new instance.
    start: Option<Duration>,
    /// The time from before the start, or the approval, to the end.
    whole: Duration,
}

impl Visit {
    /// Reports a visit whose task panicked. No task here does, but a file must never vanish.
    fn lost(error: &JoinError) -> Self {
        let brought = Brought::Failed(error.to_string());
        Self { path: "(one file)".into(), brought, start: None, whole: Duration::ZERO }
    }
}

impl Job {
    pub(crate) fn new(
        runtime: Runtime,
        workflow: Workflow<FileRef, Record>,
        report: Arc<Report>,
        approve: bool,
    ) -> Self {
        Self { runtime, workflow, report, approve }
    }

    pub(crate) async fn shutdown(&self, grace: Duration) {
        self.runtime.shutdown(grace).await;
    }

    /// Brings every file to its end, or to its wait for approval. Returns the files that wait.
    pub(crate) async fn bring(self: &Arc<Self>, files: Vec<FileRef>, tally: &mut Tally) -> Vec<Waiting> {
        let mut waiting = Vec::new();
        let progress = Progress::new(if self.approve { "read" } else { "recorded" }, files.len());
        let visit = |file: FileRef| {
            let job = Arc::clone(self);
            async move { job.visit(file).await }
        };
        let done = |visit: Visit| {
            tally.starts.add(visit.start);
            match visit.brought {
                Brought::Waiting(handle) => waiting.push(Waiting { path: visit.path, handle }),
                Brought::Now => {
                    // An instance started by an earlier process has no whole latency here.
                    tally.ends.add(visit.start.map(|_| visit.whole));
                    tally.now += 1;
                }
                Brought::Before => tally.before += 1,
                Brought::Failed(why) => tally.failed.push((visit.path, why)),
            }
        };
        each(files, visit, done, progress).await;
        waiting
    }

    /// Approves every waiting file and waits for its end.
    pub(crate) async fn approve(self: &Arc<Self>, waiting: Vec<Waiting>, tally: &mut Tally) {
        let progress = Progress::new("recorded", waiting.len());
        let visit = |waiting: Waiting| {
            let job = Arc::clone(self);
            async move { job.approve_one(waiting).await }
        };
        let done = |visit: Visit| {
            if let Brought::Failed(why) = visit.brought {
                tally.failed.push((visit.path, why));
            } else {
                tally.approvals.add(Some(visit.whole));
                tally.now += 1;
            }
        };
        each(waiting, visit, done, progress).await;
    }

    async fn visit(&self, file: FileRef) -> Visit {
        let begun = Instant::now();
        let mut start = None;
        let brought = self.try_visit(&file, &mut start).await;
        let brought = brought.unwrap_or_else(|error| Brought::Failed(error.to_string()));
        Visit { path: file.path, brought, start, whole: begun.elapsed() }
    }

    async fn try_visit(
        &self,
        file: &FileRef,
        start: &mut Option<Duration>,
    ) -> Result<Brought, Box<dyn std::error::Error + Send + Sync>> {
        let begun = Instant::now();
        let mut started = self.start(file, ConflictPolicy::UseExisting).await?;
        if let Some(existing) = &started.existing {
            if let Some(record) = &existing.output {
                // Recorded already, unless the report was lost: then the store has the output.
                self.report.record(record)?;
                return Ok(Brought::Before);
            }
            if existing.status.is_terminal() {
                // The instance failed in an earlier process: starting the job again means trying
                // again.
                started = self.start(file, ConflictPolicy::TerminateExisting).await?;
            }
        }
        if started.existing.is_none() {
            *start = Some(begun.elapsed());
        }
        if self.approve && waits(&started.handle).await? {
            return Ok(Brought::Waiting(started.handle));
        }
        started.handle.result().await?;
        Ok(Brought::Now)
    }

    async fn start(&self, file: &FileRef, policy: ConflictPolicy) -> Result<StartOutcome<Record>, StartError> {
        let options = StartOptions::new().policy(policy);
        self.runtime.start_with(&self.workflow, &file.instance(), file.clone(), options).await
    }

    async fn approve_one(&self, waiting: Waiting) -> Visit {
        let Waiting { path, handle } = waiting;
        let begun = Instant::now();
        let approval = Approval { by: "the person at the terminal".into() };
        let ended = async {
            // The signal id makes a second approval, after a kill in between, the same as the
            // first.
            handle.signal_with_id(APPROVE, &approval, "approval").await.map_err(|error| error.to_string())?;
            handle.result().await.map_err(|error| error.to_string())
        };
        let brought = ended.await.map_or_else(Brought::Failed, |_| Brought::Now);
        Visit { path, brought, start: None, whole: begun.elapsed() }
    }
}

/// Waits until an instance waits for its approval (true) or has ended.
async fn waits(handle: &InstanceHandle<Record>) -> Result<bool, everstep::HandleError> {
    let mut watch = handle.watch().await?;
    while let Some(status) = watch.next().await {
        match status {
            Status::AwaitingSignal { .. } => return Ok(true),
            Status::Quarantined { .. } => break,
            status if status.is_terminal() => break,
            _ => {}
        }
    }
    Ok(false)
}

/// Runs `work` for every item, [`IN_FLIGHT`] at a time.
async fn each<T, Work>(items: Vec<T>, work: impl Fn(T) -> Work, mut done: impl FnMut(Visit), mut progress: Progress)
where
    Work: Future<Output = Visit> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut items = items.into_iter();
    loop {
        let free = IN_FLIGHT.saturating_sub(running.len());
        items.by_ref().take(free).for_each(|item| drop(running.spawn(work(item))));
        let Some(visit) = running.join_next().await else { break };
        done(visit.unwrap_or_else(|error| Visit::lost(&error)));
        progress.one();
    }
    progress.end();
}
