//! Tasks controlled by a test.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Gate;
use crate::clock::BoxFuture;
use crate::codec::Output;
use crate::definition::{BoxError, Handler, TaskContext, TaskScope};

/// Marks a stub, as opposed to a function.
#[doc(hidden)]
pub struct ByStub;

/// An attempt of a stub.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StubCall<I> {
    /// The input of the attempt.
    pub input: I,
    /// The instance, node, attempt, idempotency key and the like.
    pub context: TaskContext,
}

type Answer<I, O> = dyn Fn(I) -> Result<O, BoxError> + Send + Sync;

/// A task for tests: records its calls, fails when told to, waits where told to. Replaces a task of
/// a workflow by [`Workflow::with_stub`](crate::Workflow::with_stub), or is added like any task.
///
/// Clones are the same stub. A stub outlives runtimes, so its record spans crashes.
///
/// ```
/// use std::convert::Infallible;
/// use everstep::testing::{Stub, TestBed};
/// use everstep::{RetryPolicy, Workflow, task};
///
/// async fn charge(cents: u32) -> Result<String, Infallible> {
///     unreachable!("charges a real card {cents}")
/// }
/// async fn thank(receipt: String) -> Result<String, Infallible> {
///     Ok(format!("thank you for {receipt}"))
/// }
///
/// # #[tokio::main(flavor = "multi_thread", worker_threads = 2)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let order = Workflow::builder("order")
///     .then("charge", task(charge).retry(RetryPolicy::exponential(3)))
///     .then("thank", thank)
///     .build()?;
///
/// let charging = Stub::new(|cents: u32| format!("{cents} cents"));
/// charging.fail_next(2, "card declined");
///
/// let bed = TestBed::new();
/// let order = order.with_stub("charge", charging.clone())?;
/// let runtime = bed.start(|builder| builder.register(&order)).await?;
/// let handle = runtime.start(&order, "order-1", 990).await?;
/// assert_eq!(runtime.finish(&handle).await?, "thank you for 990 cents");
/// let attempts: Vec<_> = charging.calls().iter().map(|call| call.context.attempt()).collect();
/// assert_eq!(attempts, [1, 2, 3]);
/// # Ok(())
/// # }
/// ```
pub struct Stub<I, O> {
    shared: Arc<Shared<I, O>>,
}

struct Shared<I, O> {
    answer: Box<Answer<I, O>>,
    state: Mutex<State<I>>,
}

struct State<I> {
    calls: Vec<StubCall<I>>,
    failures: Vec<String>,
    gate: Option<Gate>,
}

impl<I: Clone + Send + 'static, O: Output> Stub<I, O> {
    /// Creates a task whose output is computed from its input by this function.
    pub fn new(answer: impl Fn(I) -> O + Send + Sync + 'static) -> Self {
        Self::failing(move |input| Ok::<_, std::convert::Infallible>(answer(input)))
    }

    /// Creates a task whose output is computed from its input by this function, which may fail.
    /// [`Permanent`](crate::Permanent) and [`RetryAfter`](crate::RetryAfter) work as in any task.
    pub fn failing<E: Into<BoxError>>(answer: impl Fn(I) -> Result<O, E> + Send + Sync + 'static) -> Self {
        let answer = Box::new(move |input| answer(input).map_err(Into::into));
        let state = State { calls: Vec::new(), failures: Vec::new(), gate: None };
        Self { shared: Arc::new(Shared { answer, state: Mutex::new(state) }) }
    }

    /// Makes the next attempts fail with this message, for any input.
    pub fn fail_next(&self, attempts: usize, message: &str) {
        self.state().failures.extend(std::iter::repeat_n(message.to_owned(), attempts));
    }

    /// Makes each attempt, once recorded, wait at a gate from now on. Returns the same gate on
    /// every call.
    pub fn hold(&self) -> Gate {
        self.state().gate.get_or_insert_default().clone()
    }

    /// Returns all attempts so far, in order. An attempt lost in a crash did not fail: the next one
    /// has the same number.
    pub fn calls(&self) -> Vec<StubCall<I>> {
        self.state().calls.clone()
    }

    fn state(&self) -> MutexGuard<'_, State<I>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I: Clone + Send + 'static, O: Output> Handler<ByStub, I> for Stub<I, O> {
    type Output = O;

    fn call(&self, input: I, scope: &TaskScope) -> BoxFuture<'static, Result<O, BoxError>> {
        let (stub, context) = (self.clone(), scope.context.clone());
        Box::pin(async move {
            let gate = {
                let mut state = stub.state();
                state.calls.push(StubCall { input: input.clone(), context });
                state.gate.clone()
            };
            if let Some(gate) = gate {
                gate.pass().await;
            }
            let failure = {
                let mut state = stub.state();
                (!state.failures.is_empty()).then(|| state.failures.remove(0))
            };
            match failure {
                Some(message) => Err(message.into()),
                None => (stub.shared.answer)(input),
            }
        })
    }
}

impl<I, O> Clone for Stub<I, O> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<I, O> std::fmt::Debug for Stub<I, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let calls = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).calls.len();
        write!(f, "Stub({calls} calls)")
    }
}
