//! Loop: a body that is repeated until it returns `Done`.

use serde::de::DeserializeOwned;

use super::Builder;
use super::draft::{NodeDraft, NodeDraftKind};
use crate::codec::{Decode, LoopResult};

/// Number of times a loop's body may run. Not part of the definition hash: the limit can be changed
/// while instances run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopLimit {
    /// As often as the body returns [`Again`](LoopResult::Again). Each iteration writes the same
    /// number of bytes, and memory is constant.
    Unlimited,
    /// At most this many times, and at least once. A further [`Again`](LoopResult::Again) fails the
    /// instance with [`FailureKind::LoopLimit`](crate::FailureKind::LoopLimit).
    AtMost(u64),
}

impl LoopLimit {
    fn iterations(self) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::AtMost(iterations) => Some(iterations),
        }
    }
}

/// Result of a loop's body into which a `T` flows: only a [`LoopResult<T, _>`](LoopResult). A trait
/// so that the compiler reports a mistake in these words.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "the body of this loop returns `{Self}`, not a `LoopResult<{T}, _>`",
    label = "the body's last task must return a `LoopResult<{T}, _>`",
    note = "`LoopResult::Again` carries the `{T}` that the next iteration begins with, `LoopResult::Done` the loop's output"
)]
pub trait EndOfBody<T> {
    /// The loop's output.
    type Done;
}

impl<T, U> EndOfBody<T> for LoopResult<T, U> {
    type Done = U;
}

impl<I, O: DeserializeOwned + Send + 'static> Builder<I, O> {
    /// Repeats `body` until its last task returns [`LoopResult::Done`], whose value flows on. With
    /// [`LoopResult::Again`] the body runs once more, with that value. So the body returns a
    /// [`LoopResult<O, U>`](LoopResult), and the loop a `U`.
    ///
    /// The number of the iteration and the carried value are durable. For each task in the body,
    /// the result of the latest iteration is kept.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// use everstep::{LoopLimit, LoopResult, Workflow};
    ///
    /// async fn halve(n: u32) -> Result<LoopResult<u32, u32>, Infallible> {
    ///     Ok(if n % 2 == 0 { LoopResult::Again(n / 2) } else { LoopResult::Done(n) })
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let workflow = Workflow::builder_for::<u32>("odd part")
    ///     .repeat("halve", LoopLimit::AtMost(32), |body| body.then("step", halve))
    ///     .build()?;
    /// assert_eq!(workflow.run_once(24).await?, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn repeat<X>(
        mut self,
        id: impl Into<String>,
        limit: LoopLimit,
        body: impl FnOnce(Builder<O, O>) -> Builder<O, X>,
    ) -> Builder<I, X::Done>
    where
        X: EndOfBody<O, Done: DeserializeOwned + Send + 'static>,
    {
        let body = self.body(body);
        let limit = limit.iterations();
        self.add(id, NodeDraftKind::Loop { body, limit, exits: false, drains: None });
        self.flowing(Decode::payload())
    }

    /// Repeats `body` at most `iterations` times, and at least once. If the last of them returns
    /// [`LoopResult::Again`], its value is the loop's output. So the body returns a [`LoopResult<O,
    /// O>`](LoopResult).
    pub fn repeat_or_exit<X: EndOfBody<O, Done = O>>(
        mut self,
        id: impl Into<String>,
        iterations: u64,
        body: impl FnOnce(Builder<O, O>) -> Builder<O, X>,
    ) -> Self {
        let body = self.body(body);
        self.add(id, NodeDraftKind::Loop { body, limit: Some(iterations), exits: true, drains: None });
        self.flowing(Decode::payload())
    }

    /// Repeats `body` until its last task returns [`LoopResult::Done`] and no signal named `signal`
    /// is buffered that no other node waits for. So a signal acknowledged while the body's last
    /// task ran is consumed, in a further iteration, and not left unread. The check is part of the
    /// write that ends the loop. The body returns a [`LoopResult<O, O>`](LoopResult); with `Done`
    /// as with `Again` its value is the input of a further iteration.
    ///
    /// The body must contain a wait for the signal, or the build fails with
    /// [`BuildError::NothingDrains`](crate::BuildError::NothingDrains). Make this wait the first
    /// node of the body, and let no other node wait for the signal: if the wait is not on every
    /// path through the body, the loop never ends; if another wait takes the signal, this wait is
    /// never over. A signal that keeps the loop from ending at its last iteration fails the
    /// instance with [`FailureKind::LoopLimit`](crate::FailureKind::LoopLimit), and is still
    /// buffered after a retry. A signal that comes after the end of the loop is not consumed by it.
    /// If the loop is the last node, such a signal is refused, as the run has ended.
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// use everstep::{LoopLimit, LoopResult, SignalOutcome, Workflow};
    ///
    /// type Cart = Vec<String>;
    ///
    /// /// Saves the cart when nothing was added for an hour.
    /// async fn add_or_save(
    ///     (mut cart, item): (Cart, SignalOutcome<String>),
    /// ) -> Result<LoopResult<Cart, Cart>, Infallible> {
    ///     match item {
    ///         SignalOutcome::Received(item) => cart.push(item),
    ///         SignalOutcome::TimedOut => return Ok(LoopResult::Done(cart)),
    ///     }
    ///     Ok(LoopResult::Again(cart))
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hour = Duration::from_secs(3_600);
    /// let workflow = Workflow::builder_for::<Cart>("cart")
    ///     .repeat_draining("items", LoopLimit::Unlimited, "add", |body| {
    ///         body.wait_for_signal_keeping_timeout::<String>("item", "add", hour)
    ///             .then("add or save", add_or_save)
    ///     })
    ///     .build()?;
    /// # let _ = workflow;
    /// # Ok(())
    /// # }
    /// ```
    pub fn repeat_draining<X: EndOfBody<O, Done = O>>(
        mut self,
        id: impl Into<String>,
        limit: LoopLimit,
        signal: impl Into<String>,
        body: impl FnOnce(Builder<O, O>) -> Builder<O, X>,
    ) -> Self {
        let body = self.body(body);
        let (limit, drains) = (limit.iterations(), Some(signal.into()));
        self.add(id, NodeDraftKind::Loop { body, limit, exits: false, drains });
        self.flowing(Decode::payload())
    }

    fn body<X>(&self, body: impl FnOnce(Builder<O, O>) -> Builder<O, X>) -> Vec<NodeDraft> {
        // Either the value that flows in, or the one carried on by a task: one payload.
        let input = self.decode.clone().or(&Decode::payload());
        body(Builder::within(&self.about, input)).nodes
    }
}
