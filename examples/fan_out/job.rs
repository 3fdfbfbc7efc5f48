//! Starts the one instance, or finds the existing one, and waits for its end.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use everstep::{ConflictPolicy, HandleError, InstanceHandle, ResultError, Runtime, StartOptions, Status, Workflow};

use crate::approval;
use crate::card::Card;
use crate::files::FileName;
use crate::progress::Progress;
use crate::report::Summary;
use crate::stop::Stop;
use crate::workflow::{APPROVE, Approval};

/// The instance's id: a data directory has one instance.
const INSTANCE: &str = "report";

/// The running job.
pub(crate) struct Job {
    runtime: Runtime,
    workflow: Workflow<(), Summary>,
    progress: Arc<Progress>,
}

/// Result of a job that could begin.
pub(crate) enum End {
    /// The report is written; the number of its files that this process did.
    Done(Summary, u64),
    /// The report was written before.
    DoneBefore(Summary),
    /// The report waits for an approval.
    Waiting,
    /// The instance failed. Started again, it continues from the failure.
    Failed(String),
    /// The job was stopped by Ctrl-C.
    Stopped,
}

impl End {
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Done(summary, _) | Self::DoneBefore(summary) if summary.failed == 0 => ExitCode::SUCCESS,
            Self::Done(..) | Self::DoneBefore(_) | Self::Failed(_) => ExitCode::from(1),
            Self::Waiting => ExitCode::from(3),
            Self::Stopped => ExitCode::from(130),
        }
    }
}

impl Job {
    pub(crate) fn new(runtime: Runtime, workflow: Workflow<(), Summary>, progress: Arc<Progress>) -> Self {
        Self { runtime, workflow, progress }
    }

    /// Brings the report to its end, or to its wait for an approval that is refused.
    pub(crate) async fn run(&self, again: bool, answers_after: Option<Duration>) -> Result<End, Stop> {
        let policy = if again { ConflictPolicy::TerminateExisting } else { ConflictPolicy::UseExisting };
        let started = self.runtime.start_with(&self.workflow, INSTANCE, (), StartOptions::new().policy(policy)).await?;
        let handle = started.handle;
        if let Some(existing) = started.existing {
            if let Some(summary) = existing.output {
                return Ok(End::DoneBefore(summary));
            }
            self.go_on(&handle, &existing.status).await?;
        }
        self.see_to_end(&handle, answers_after).await
    }

    /// Continues the work of an earlier process. The runtime does so by itself, unless the instance
    /// failed: then starting the job again means trying again.
    async fn go_on(&self, handle: &InstanceHandle<Summary>, status: &Status) -> Result<(), Stop> {
        if let Status::Failed { failure } = status {
            self.progress.say(&format!("retrying the failed job: {failure}"));
            handle.retry().await?;
        }
        if let Some(files) = handle.task_result::<Vec<FileName>>("list").await? {
            let before = self.done_before(handle, &files).await?;
            self.progress.go_on(files.len(), before);
            self.progress.say(&format!("going on: {before} of {} files done before", files.len()));
        }
        Ok(())
    }

    async fn see_to_end(&self, handle: &InstanceHandle<Summary>, answers_after: Option<Duration>) -> Result<End, Stop> {
        let mut was_quarantined = false;
        loop {
            if self.waits(handle).await? {
                self.progress.end();
                if !approval::ask(answers_after).await {
                    return Ok(End::Waiting);
                }
                let approval = Approval { by: "the person at the terminal".into() };
                // The signal id makes a second approval, after a kill in between, the same as the
                // first.
                handle.signal_with_id(APPROVE, &approval, "approval").await?;
            }
            match handle.result().await {
                Ok(summary) => return Ok(End::Done(summary, self.progress.now())),
                // The process crashed five times in a row at one place. A service would call a
                // person; here a person has started the job once more.
                Err(ResultError::Quarantined { reason }) if !was_quarantined => {
                    self.progress.say(&format!("releasing the quarantined job: {reason}"));
                    handle.release().await?;
                    was_quarantined = true;
                }
                Err(error) => return Ok(End::Failed(error.to_string())),
            }
        }
    }

    /// Counts the files done by earlier processes: the result of their last task is recorded, and
    /// this process did not do it (the instance may be running again already).
    async fn done_before(&self, handle: &InstanceHandle<Summary>, files: &[FileName]) -> Result<u64, HandleError> {
        let mut done = 0;
        for (index, file) in (0..).zip(files) {
            let is_done = handle.task_result_at::<Card>("files/finish", &[index]).await?.is_some();
            done += u64::from(is_done && !self.progress.did(file));
        }
        Ok(done)
    }

    /// Waits until the instance waits for its approval (true) or has ended.
    async fn waits(&self, handle: &InstanceHandle<Summary>) -> Result<bool, HandleError> {
        let mut watch = handle.watch().await?;
        while let Some(status) = watch.next().await {
            match status {
                Status::AwaitingSignal { .. } => return Ok(true),
                Status::Quarantined { .. } => break,
                _ => {}
            }
        }
        Ok(false)
    }

    /// Clears the progress bar.
    pub(crate) fn end(&self) {
        self.progress.end();
    }
}
