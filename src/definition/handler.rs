//! How an async function becomes a task.

use std::sync::Arc;

use super::deps::Requirement;
use super::{AttemptFailure, BoxError, Deps, FailureKind, MissingDep, Task, TaskContext, TaskOptions};
use crate::clock::BoxFuture;
use crate::codec::{Codec, CodecError, Decode, Output, Value};
use crate::limits::PayloadLimits;

/// What one attempt is given.
#[derive(Clone, Debug)]
pub struct TaskScope {
    /// The attempt.
    pub context: TaskContext,
    /// The services provided.
    pub deps: Arc<Deps>,
    /// The instance's codec.
    pub codec: Codec,
    /// The bounds on what it takes and gives.
    pub limits: PayloadLimits,
}

/// A parameter that a task takes from the runtime: [`Dep<T>`](crate::Dep) or [`TaskContext`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a parameter of a task",
    label = "not something the runtime can hand to a task",
    note = "the first parameter is the input; behind it come `Dep<T>` and `TaskContext`, in any order"
)]
pub trait Extract: Sized {
    /// Adds what must have been provided.
    #[doc(hidden)]
    fn require(_requirements: &mut Vec<Requirement>) {}

    /// Takes the parameter from the scope.
    ///
    /// # Errors
    /// [`MissingDep`] for a service nobody provided; the runtime refuses to start before that can happen.
    fn extract(scope: &TaskScope) -> Result<Self, MissingDep>;
}

/// An async function that can be a task: `async fn(I) -> Result<O, E>`, with up to six further parameters that
/// implement [`Extract`]; or such a function with options, made by [`task`](crate::task).
///
/// `I` is what flows in, `O` what flows on; `M` tells the arities apart and is always inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the task here, where `{I}` flows in",
    label = "expected an async function from `{I}` to a `Result`",
    note = "a task is an `async fn(I) -> Result<O, E>`, where `I` is what the node before it gives",
    note = "further parameters, at most 6, must be `Dep<T>` (`T: Send + Sync`) or `TaskContext`",
    note = "`I: Deserialize`, `O: Serialize + Deserialize` or a `LoopResult` of such, `E: Into<Box<dyn Error + Send + Sync>>`, and its future is `Send`"
)]
pub trait Handler<M, I>: Send + Sync + 'static {
    /// What the task gives. That it is an [`Output`] is asked for where the task is added: asked for here, the compiler would
    /// find no task at all where a result has no serde derives, and not say that.
    type Output;

    /// Starts one attempt.
    fn call(&self, input: I, scope: &TaskScope) -> BoxFuture<'static, Result<Self::Output, BoxError>>;

    /// The services the task asks for.
    #[doc(hidden)]
    fn requirements(&self) -> Vec<Requirement> {
        Vec::new()
    }

    /// The options it was given.
    #[doc(hidden)]
    fn options(&self) -> TaskOptions {
        TaskOptions::default()
    }
}

macro_rules! impl_handler {
    ($($param:ident),*) => {
        impl<F, Fut, I, O, E, $($param,)*> Handler<fn(I, $($param,)*), I> for F
        where
            F: Fn(I, $($param,)*) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = Result<O, E>> + Send + 'static,
            E: Into<BoxError> + 'static,
            I: Send + 'static,
            $($param: Extract,)*
        {
            type Output = O;

            #[allow(unused_variables, reason = "a task without further parameters does not look at the scope")]
            fn call(&self, input: I, scope: &TaskScope) -> BoxFuture<'static, Result<O, BoxError>> {
                let start = || Ok::<_, MissingDep>(self(input, $($param::extract(scope)?,)*));
                match start() {
                    Ok(future) => Box::pin(async move { future.await.map_err(Into::into) }),
                    Err(missing) => {
                        let error = format!("nobody provided {missing}");
                        Box::pin(async move { Err(error.into()) })
                    }
                }
            }

            fn requirements(&self) -> Vec<Requirement> {
                #[allow(unused_mut, reason = "as above")]
                let mut requirements = Vec::new();
                $($param::require(&mut requirements);)*
                requirements
            }
        }
    };
}

impl_handler!();
impl_handler!(A);
impl_handler!(A, B);
impl_handler!(A, B, C);
impl_handler!(A, B, C, D);
impl_handler!(A, B, C, D, E1);
impl_handler!(A, B, C, D, E1, F1);

/// Tells a function with options from a plain one.
#[doc(hidden)]
pub struct WithOptions<M>(std::marker::PhantomData<fn(M)>);

#[diagnostic::do_not_recommend]
impl<M, I, H> Handler<WithOptions<M>, I> for Task<H>
where
    H: Handler<M, I>,
    M: 'static,
{
    type Output = H::Output;

    fn call(&self, input: I, scope: &TaskScope) -> BoxFuture<'static, Result<Self::Output, BoxError>> {
        self.function.call(input, scope)
    }

    fn requirements(&self) -> Vec<Requirement> {
        self.function.requirements()
    }

    fn options(&self) -> TaskOptions {
        self.options.clone()
    }
}

/// User code without its types: value in, value out. It, serde's included, runs when the future is polled.
type Run = dyn Fn(Value, TaskScope) -> BoxFuture<'static, Result<Value, AttemptFailure>> + Send + Sync;

/// User code of a definition: a task, or what decides a route or splits a list. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ErasedTask {
    run: Arc<Run>,
    pub(crate) options: Arc<TaskOptions>,
    pub(crate) requirements: Arc<[Requirement]>,
    /// Whether what it gives is a list for a map, which has a limit of its own.
    gives_list: bool,
    /// Of a task: what a stub in its place must take and give.
    #[cfg(feature = "testing")]
    pub(super) types: Option<Arc<super::stub::TaskTypes>>,
}

impl ErasedTask {
    pub(crate) fn new<M, I, H>(handler: H, decode: Decode<I>) -> Self
    where
        H: Handler<M, I, Output: Output>,
        I: Send + 'static,
    {
        let options = Arc::new(handler.options());
        let requirements = handler.requirements().into();
        #[cfg(feature = "testing")]
        let types = Some(Arc::new(super::stub::TaskTypes::of::<I, H::Output>(decode.clone())));
        let code = Arc::new((decode, handler));
        let run = move |value: Value, scope: TaskScope| -> BoxFuture<'static, Result<Value, AttemptFailure>> {
            let code = Arc::clone(&code);
            Box::pin(async move {
                let (decode, handler) = &*code;
                let input = decode.decode(&value, &scope.codec).map_err(|error| codec_failure(&error))?;
                drop(value);
                let output = handler.call(input, &scope).await;
                let output = output.map_err(|error| AttemptFailure::from_error(&error))?;
                let encoded = output.encode(&scope.codec, scope.limits.payload_bytes_max);
                encoded.map_err(|error| codec_failure(&error))
            })
        };
        Self {
            run: Arc::new(run),
            options,
            requirements,
            gives_list: false,
            #[cfg(feature = "testing")]
            types,
        }
    }

    /// A function of what flows in, which the machine needs to go on: not a task, so without options, retries and services.
    pub(crate) fn inner<I: 'static>(
        decode: Decode<I>,
        function: impl Fn(I, &TaskScope) -> Result<Value, CodecError> + Send + Sync + 'static,
    ) -> Self {
        let code = Arc::new((decode, function));
        let run = move |value: Value, scope: TaskScope| -> BoxFuture<'static, Result<Value, AttemptFailure>> {
            let code = Arc::clone(&code);
            Box::pin(async move {
                let (decode, function) = &*code;
                let decoded = decode.decode(&value, &scope.codec);
                decoded.and_then(|input| function(input, &scope)).map_err(|error| codec_failure(&error))
            })
        };
        Self {
            run: Arc::new(run),
            options: Arc::default(),
            requirements: [].into(),
            gives_list: false,
            #[cfg(feature = "testing")]
            types: None,
        }
    }

    /// The other one's code in this one's place.
    #[cfg(feature = "testing")]
    pub(super) fn replaced_by(&self, other: Self) -> Self {
        Self { options: Arc::clone(&self.options), gives_list: self.gives_list, ..other }
    }

    pub(super) fn give_list(&mut self) {
        self.gives_list = true;
    }

    /// One attempt.
    pub(crate) fn run(&self, value: Value, mut scope: TaskScope) -> BoxFuture<'static, Result<Value, AttemptFailure>> {
        if self.gives_list {
            scope.limits.payload_bytes_max = scope.limits.list_bytes_max;
        }
        (self.run)(value, scope)
    }
}

fn codec_failure(error: &CodecError) -> AttemptFailure {
    AttemptFailure::new(FailureKind::Codec, error.to_string())
}
