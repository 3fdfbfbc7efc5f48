//! Tasks that a test tells what to do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Gate;
use crate::clock::BoxFuture;
use crate::codec::Output;
use crate::definition::{BoxError, Handler, TaskContext, TaskScope};

/// Tells a stub from a function.
#[doc(hidden)]
pub struct ByStub;

/// An attempt of a stub.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StubCall<I> {
    /// What flowed in.
    pub input: I,
    /// Instance, node, attempt, idempotency key and the like.
    pub context: TaskContext,
}

type Answer<I, O> = dyn Fn(I) -> Result<O, BoxError> + Send + Sync;

/// A task for tests: remembers who called it, fails when it is told to, waits where it is told to. In a workflow under test
/// it stands in for a task by [`Workflow::with_stub`](crate::Workflow::with_stub); it can also be added like any task.
///
/// Clones are the same stub. It outlives runtimes, so that what it remembers spans crashes.
///
/// ```
/// use std::convert::Infallible;
/// use everstep::testing::{Stub, TestBed};
/// use everstep::{RetryPolicy, Workflow, task};
///
/// async fn charge(cents: u32) -> Result<String, Infallible> { unreachable!("charges a real card {cents}") }
/// async fn thank(receipt: String) -> Result<String, Infallible> { Ok(format!("thank you for {receipt}")) }
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
/// assert_eq!(charging.calls().iter().map(|call| call.context.attempt()).collect::<Vec<_>>(), [1, 2, 3]);
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
    /// A task that gives what this function makes of its input.
    pub fn new(answer: impl Fn(I) -> O + Send + Sync + 'static) -> Self {
        Self::failing(move |input| Ok::<_, std::convert::Infallible>(answer(input)))
    }

    /// A task that gives what this function makes of its input, or fails. [`Permanent`](crate::Permanent) and
    /// [`RetryAfter`](crate::RetryAfter) work as in any task.
    pub fn failing<E: Into<BoxError>>(answer: impl Fn(I) -> Result<O, E> + Send + Sync + 'static) -> Self {
        let answer = Box::new(move |input| answer(input).map_err(Into::into));
        let state = State { calls: Vec::new(), failures: Vec::new(), gate: None };
        Self { shared: Arc::new(Shared { answer, state: Mutex::new(state) }) }
    }

    /// The next few attempts fail with this message, whatever their input.
    pub fn fail_next(&self, attempts: usize, message: &str) {
        self.state().failures.extend(std::iter::repeat_n(message.to_owned(), attempts));
    }

    /// From now on each attempt is remembered and then waits at this gate: the same one, however often this is asked for.
    pub fn hold(&self) -> Gate {
        self.state().gate.get_or_insert_default().clone()
    }

    /// Every attempt so far, in order. One that was lost with its process did not fail: the next one has the same number.
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
