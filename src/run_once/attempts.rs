//! The attempts of a run in memory, polled by the run itself.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use crate::clock::BoxFuture;
use crate::executor::until_cancelled;
use crate::machine::{AttemptId, Outcome};

/// One attempt. Ends without an outcome if it is stopped.
pub(super) struct Attempt<'a> {
    pub(super) id: AttemptId,
    pub(super) token: CancellationToken,
    pub(super) call: BoxFuture<'a, Option<Outcome>>,
}

impl Attempt<'_> {
    /// Waits for the outcome. Dropping this future loses nothing.
    async fn ended(&mut self) -> Option<Outcome> {
        until_cancelled(&mut self.call, &self.token).await.flatten()
    }
}

/// The attempts in progress.
#[derive(Default)]
pub(super) struct Attempts<'a> {
    /// The only attempt in progress, as in a chain: polled directly, without a table.
    alone: Option<Attempt<'a>>,
    /// All attempts in progress, if there are several.
    running: FuturesUnordered<BoxFuture<'a, (AttemptId, Option<Outcome>)>>,
    tokens: HashMap<AttemptId, CancellationToken>,
}

impl<'a> Attempts<'a> {
    pub(super) fn begin(&mut self, attempt: Attempt<'a>) {
        let first = self.alone.take();
        if first.is_none() && self.running.is_empty() {
            self.alone = Some(attempt);
            return;
        }
        for mut attempt in first.into_iter().chain([attempt]) {
            self.tokens.insert(attempt.id, attempt.token.clone());
            self.running.push(Box::pin(async move { (attempt.id, attempt.ended().await) }));
        }
    }

    pub(super) fn stop(&mut self, attempt_id: AttemptId) {
        let alone = self.alone.as_ref().filter(|alone| alone.id == attempt_id).map(|alone| alone.token.clone());
        if let Some(token) = alone.or_else(|| self.tokens.remove(&attempt_id)) {
            token.cancel();
        }
    }

    /// Waits for the next outcome; `None` if no attempt is in progress. Dropping this future loses
    /// nothing.
    pub(super) async fn next(&mut self) -> Option<(AttemptId, Outcome)> {
        loop {
            let (attempt_id, outcome) = if let Some(alone) = &mut self.alone {
                let ended = (alone.id, alone.ended().await);
                self.alone = None;
                ended
            } else {
                let ended = self.running.next().await?;
                self.tokens.remove(&ended.0);
                ended
            };
            if let Some(outcome) = outcome {
                return Some((attempt_id, outcome));
            }
        }
    }
}
