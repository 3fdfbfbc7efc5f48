//! What the lifecycle commits through.

use crate::clock::BoxFuture;
use crate::store::{Conflict, Store, StoreError, Write};

/// Where transitions are made durable: any store, or the runtime's persistence actor, which commits many at once.
pub trait Port: Send + Sync {
    /// Commits one write. When this returns `Ok`, it is durable.
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<(), CommitError>>;

    /// Where committed state is read.
    fn store(&self) -> &dyn Store;
}

/// Why a write was not committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Its condition did not hold; nothing was written.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The store failed; whether it was written is unknown.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<S: Store> Port for S {
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async move {
            let answers = Store::commit(self, &[write]).await?;
            match answers.into_iter().next() {
                Some(answer) => Ok(answer?),
                None => Err(StoreError::Fatal("the store gave no answer to a write".into()).into()),
            }
        })
    }

    fn store(&self) -> &dyn Store {
        self
    }
}
