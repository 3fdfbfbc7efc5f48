//! The interface that the lifecycle commits through.

use crate::clock::BoxFuture;
use crate::store::{Conflict, Store, StoreError, Write};

/// Makes transitions durable: any store, or the runtime's persistence actor, which commits many at
/// once.
pub trait Committer: Send + Sync {
    /// Commits one write.
    ///
    /// # Errors
    /// [`CommitError`]. On `Ok` the write is durable.
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<(), CommitError>>;

    /// Returns the store, to read committed state.
    fn store(&self) -> &dyn Store;
}

/// The reason why a write was not committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The write's condition did not hold; nothing was written. Load the instance again.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The store failed; the outcome is unknown. Load the instance again to see it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<S: Store> Committer for S {
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async move {
            let answers = Store::commit(self, &[write]).await?;
            match answers.into_iter().next() {
                Some(answer) => Ok(answer?),
                None => Err(StoreError::Fatal("the store returned no answer to a write".into()).into()),
            }
        })
    }

    fn store(&self) -> &dyn Store {
        self
    }
}
