//! Loop: a body that is repeated until it says that it is done.

use serde::de::DeserializeOwned;

use super::Builder;
use super::draft::{NodeDraft, NodeDraftKind};
use crate::codec::{Decode, LoopResult};

/// How often a loop's body may run. Not part of the definition hash: it can be changed while instances run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopLimit {
    /// As often as the body says [`Again`](LoopResult::Again). Each iteration costs the same bytes, and memory is constant.
    Unlimited,
    /// So many times, at least once; a further [`Again`](LoopResult::Again) fails the instance by
    /// [`FailureKind::LoopLimit`](crate::FailureKind::LoopLimit).
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

/// What the body of a loop may give that a `T` flows into: a [`LoopResult<T, _>`](LoopResult) and nothing else. A trait only
/// so that the compiler says it in these words.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "the body of this loop gives `{Self}`, not a `LoopResult<{T}, _>`",
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
    /// Repeats `body` until its last task returns [`LoopResult::Done`], whose value flows on. With [`LoopResult::Again`] the
    /// body runs once more, with that value. So the body gives a [`LoopResult<O, U>`](LoopResult), and the loop a `U`.
    ///
    /// The number of the iteration and the carried value are durable. Of the results of tasks in the body the latest
    /// iteration's are kept.
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

    /// Repeats `body` at most `iterations` times, at least once; when the last of them says [`LoopResult::Again`], its value
    /// is the loop's output. So the body gives a [`LoopResult<O, O>`](LoopResult).
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

    /// Repeats `body` until its last task returns [`LoopResult::Done`] and no signal named `signal` is buffered that no other
    /// node waits for: what was acknowledged while the body's last task ran is consumed, in a further iteration, and not left
    /// unread. That is decided in the write that ends the loop. So the body gives a [`LoopResult<O, O>`](LoopResult), and with
    /// `Done` as with `Again` its value is what a further iteration begins with.
    ///
    /// A wait for the signal must stand in the body, or the build fails by [`BuildError::NothingDrains`](crate::BuildError::NothingDrains);
    /// let it be the
    /// first node of the body, and no other node wait for that signal: a wait that is not on every way through the body lets the
    /// loop go round and round, and one that finds its signal taken by another wait stays there. A signal that keeps the loop from its end
    /// at its last iteration fails the instance by [`FailureKind::LoopLimit`](crate::FailureKind::LoopLimit), and is there after
    /// a retry. A signal that comes after the end of the loop is not consumed by it: let the loop be the last node, then such a
    /// signal is refused, as the run has ended.
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// use everstep::{LoopLimit, LoopResult, SignalOutcome, Workflow};
    ///
    /// type Cart = Vec<String>;
    ///
    /// /// Saves the cart when nothing was added for an hour.
    /// async fn add_or_save((mut cart, item): (Cart, SignalOutcome<String>)) -> Result<LoopResult<Cart, Cart>, Infallible> {
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
    ///         body.wait_for_signal_timeout_keeping::<String>("item", "add", hour).then("add or save", add_or_save)
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
        // First comes what flows in, then what a task carried on: one payload.
        let input = self.decode.clone().or(&Decode::payload());
        body(Builder::within(&self.about, input)).nodes
    }
}
