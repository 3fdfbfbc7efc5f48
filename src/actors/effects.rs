//! The effects of an active instance, once they are durable: tasks to start or stop, a wake-up.

use std::sync::Arc;

use super::active::ActiveInstance;
use crate::executor::{AttemptKey, Job};
use crate::id::RunId;
use crate::lifecycle::{Caller, Committer as _, LoadError, fill_next_run};
use crate::limits::PayloadLimits;
use crate::machine::{AttemptId, Effect, Run};

impl ActiveInstance {
    /// Lets the executor drop the result of an attempt.
    pub(super) fn forget(&self, run: RunId, attempt_id: AttemptId) {
        self.shared.running().executor.forget(&AttemptKey { run, ..self.key(attempt_id) });
    }

    pub(super) async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let executor = &self.shared.running().executor;
            match effect {
                // The instance may have moved on while this was being written.
                Effect::Run(run) if !self.snapshot.runs(run.attempt_id) => {}
                Effect::Run(run) => self.submit(run).await,
                Effect::Proceed { attempt_id } => executor.proceed(&self.key(attempt_id)),
                Effect::Withdraw { attempt_id } => executor.withdraw(&self.key(attempt_id)),
                Effect::Stop { attempt_id } => executor.stop(&self.key(attempt_id)),
                Effect::WakeAt(wake) => self.shared.arm(self.snapshot.instance(), wake),
                Effect::Ended => self.log_end(),
                Effect::Quarantine { reason } => self.to_quarantine = Some(reason),
            }
            // A map starts or stops up to 100,000 attempts at once: yield to other actors on this
            // thread.
            tokio::task::consume_budget().await;
        }
    }

    /// Logs the end of a run, with the signals that it leaves unread: acknowledged, but no wait
    /// took them.
    fn log_end(&self) {
        let (instance, unread) = (self.snapshot.instance(), self.snapshot.buffered_signals());
        if unread.is_empty() {
            tracing::debug!(%instance, "an instance has ended");
        } else {
            tracing::warn!(%instance, ?unread, "an instance has ended with buffered signals that no node received");
        }
    }

    /// Submits an attempt to the executor, after reading the parts of its input that are only in
    /// the store.
    async fn submit(&mut self, mut run: Run) {
        let (store, names) = (self.shared.persistence().store(), self.definition.program());
        // Boxed, since the future is large and rarely needed: only a loaded instance has parts to
        // be read.
        let filled = if run.value.unread().is_empty() {
            Ok(())
        } else {
            Box::pin(fill_next_run(store, names, &self.snapshot, &mut run, &mut self.row_cache)).await
        };
        match filled {
            Ok(()) => {}
            Err(LoadError::Store(error)) => {
                self.broken = Some(error.into());
                return;
            }
            Err(LoadError::Damaged(damaged)) => {
                self.cannot_read(damaged);
                return;
            }
        }
        let caller = Caller {
            definition: Arc::clone(&self.definition),
            deps: Arc::clone(&self.shared.deps),
            codec: self.codec.clone(),
            limits: PayloadLimits::from(&self.shared.limits),
        };
        self.shared.running().executor.submit(Job { key: self.key(run.attempt_id), run, caller });
    }

    pub(super) fn key(&self, attempt_id: AttemptId) -> AttemptKey {
        AttemptKey { instance: self.snapshot.instance().clone(), run: self.snapshot.run(), attempt_id }
    }
}
