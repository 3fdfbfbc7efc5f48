//! Map: one branch per item of a list known only at run time.

use std::num::NonZeroU32;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::draft::{NodeDraft, NodeDraftKind};
use super::handler::{ErasedTask, TaskScope};
use super::{Builder, TaskFailure};
use crate::codec::{CodecError, Decode, Token, Value};

/// Number of items of a map that are between start and end at once, including items that wait. Not
/// part of the definition hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// All items. The number of tasks that really run at once is limited for the whole runtime
    /// ([`Limits::tasks_running_max`](crate::Limits::tasks_running_max)).
    Unlimited,
    /// At most this many; an item starts when another has ended. Zero does not build.
    AtMost(usize),
}

impl<I, T> Builder<I, Vec<T>>
where
    T: Serialize + DeserializeOwned + Send + 'static,
{
    /// Runs `body` for each item of the list that flows in; the outputs flow on as a list in the
    /// order of the items. An empty list gives an empty list. An item whose task fails for good
    /// fails the instance, as a branch of a fork does.
    ///
    /// A list has at most [`Limits::list_items_max`](crate::Limits::list_items_max) items and
    /// [`Limits::list_bytes_max`](crate::Limits::list_bytes_max) bytes; each item and each result
    /// is a payload with the limit of a payload. A task right before the map may return a list of
    /// that size. A list from elsewhere (the instance's input, an arm, a child) that is one payload
    /// has the limit of a payload.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// use everstep::{Concurrency, Workflow};
    ///
    /// async fn double(n: u32) -> Result<u32, Infallible> {
    ///     Ok(2 * n)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let workflow = Workflow::builder_for::<Vec<u32>>("double all")
    ///     .map("each", Concurrency::AtMost(4), |item| item.then("double", double))
    ///     .build()?;
    /// assert_eq!(workflow.run_once(vec![1, 2, 3]).await?, [2, 4, 6]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn map<U: Send + 'static>(
        mut self,
        id: impl Into<String>,
        concurrency: Concurrency,
        body: impl FnOnce(Builder<T, T>) -> Builder<T, U>,
    ) -> Builder<I, Vec<U>> {
        let output = self.add_map(id, concurrency, body, false);
        self.flowing(output.list())
    }

    /// Runs a map as [`map`](Self::map) does, but a failed item stops nothing: its result is an
    /// `Err`.
    pub fn map_collect<U: Send + 'static>(
        mut self,
        id: impl Into<String>,
        concurrency: Concurrency,
        body: impl FnOnce(Builder<T, T>) -> Builder<T, U>,
    ) -> Builder<I, Vec<Result<U, TaskFailure>>> {
        let output = self.add_map(id, concurrency, body, true);
        self.flowing(output.collected(TaskFailure::from_bytes).list())
    }

    fn add_map<U: 'static>(
        &mut self,
        id: impl Into<String>,
        concurrency: Concurrency,
        body: impl FnOnce(Builder<T, T>) -> Builder<T, U>,
        collects: bool,
    ) -> Decode<U> {
        let concurrency = match concurrency {
            Concurrency::Unlimited => None,
            Concurrency::AtMost(items) => Some(items),
        };
        if let Some(NodeDraft { kind: NodeDraftKind::Task(task), .. }) = self.nodes.last_mut() {
            task.give_list();
        }
        let split = ErasedTask::inner(self.decode.clone(), |list: Vec<T>, scope| split(&list, scope));
        let chain = body(Builder::within(&self.about, Decode::payload()));
        let body: Vec<NodeDraft> = chain.nodes;
        self.add(id, NodeDraftKind::Map { split, body, concurrency, collects });
        chain.decode
    }
}

/// Encodes a list as one value, one payload per item.
fn split<T: Serialize>(list: &[T], scope: &TaskScope) -> Result<Value, CodecError> {
    let limits = scope.limits;
    let (items, items_max, bytes_max) = (list.len(), limits.list_items_max, limits.list_bytes_max);
    let too_large = |bytes| CodecError::ListTooLarge { items, bytes, items_max, bytes_max };
    let count = u32::try_from(items).ok().filter(|_| items <= items_max).ok_or_else(|| too_large(0))?;
    let mut tokens = Vec::with_capacity(1 + items);
    tokens.push(Token::List(count));
    let mut bytes = 0;
    for item in list {
        let item = scope.codec.encode(item, limits.payload_bytes_max)?;
        bytes += item.len();
        if bytes > bytes_max {
            return Err(too_large(bytes));
        }
        tokens.extend(Value::leaf(item, None).into_tokens());
    }
    Ok(Value::from_tokens(tokens))
}

/// Returns the limit for the program; `None` if unlimited, and for 0, which does not build.
pub(super) fn limit(concurrency: Option<usize>) -> Option<NonZeroU32> {
    concurrency.and_then(|items| NonZeroU32::new(u32::try_from(items).unwrap_or(u32::MAX)))
}
