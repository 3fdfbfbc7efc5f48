//! Turns async functions into tasks.

use std::sync::Arc;

use super::deps::Requirement;
use super::{AttemptFailure, BoxError, Deps, FailureKind, MissingDep, Task, TaskContext, TaskOptions};
use crate::clock::BoxFuture;
use crate::codec::{Codec, CodecError, Decode, Output, Value};
use crate::limits::PayloadLimits;

/// The surroundings of one attempt.
#[derive(Clone, Debug)]
pub struct TaskScope {
    /// The attempt.
    pub context: TaskContext,
    /// The services provided.
    pub deps: Arc<Deps>,
    /// The instance's codec.
    pub codec: Codec,
    /// The limits on its input and output.
    pub limits: PayloadLimits,
}

/// A parameter that a task gets from the runtime: [`Dep<T>`](crate::Dep) or [`TaskContext`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a parameter of a task",
    label = "the runtime cannot pass a value of this type to a task",
    note = "the first parameter is the input; after it come `Dep<T>` and `TaskContext`, in any order"
)]
pub trait Extract: Sized {
    /// Adds the services that must have been provided.
    #[doc(hidden)]
    fn require(_requirements: &mut Vec<Requirement>) {}

    /// Takes the parameter from the scope.
    ///
    /// # Errors
    /// [`MissingDep`] for a service that was not provided. The runtime checks this before it
    /// starts.
    fn extract(scope: &TaskScope) -> Result<Self, MissingDep>;
}

/// An async function that can be a task: `async fn(I) -> Result<O, E>`, with up to six further
/// parameters that implement [`Extract`]; or such a function with options, made by
/// [`task`](crate::task).
///
/// `I` is the input and `O` the output. `M` distinguishes the numbers of parameters and is always
/// inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the task here, where the input is `{I}`",
    label = "expected an async function from `{I}` to a `Result`",
    note = "a task is an `async fn(I) -> Result<O, E>`, where `I` is the output of the previous node",
    note = "further parameters, at most 6, must be `Dep<T>` (`T: Send + Sync`) or `TaskContext`",
    note = "`I: Deserialize`, `O: Serialize + Deserialize` or a `LoopResult` of such, `E: Into<Box<dyn Error + Send + Sync>>`, and its future is `Send`"
)]
pub trait Handler<M, I>: Send + Sync + 'static {
    /// The output of the task. The bound [`Output`] is required where the task is added: if it were
    /// required here, the compiler would find no task at all for a result without serde derives,
    /// and not say why.
    type Output;

    /// Starts one attempt.
    fn call(&self, input: I, scope: &TaskScope) -> BoxFuture<'static, Result<Self::Output, BoxError>>;

    /// Returns the services that the task needs.
    #[doc(hidden)]
    fn requirements(&self) -> Vec<Requirement> {
        Vec::new()
    }

    /// Returns the task's options.
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
                        let error = format!("a service is missing: {missing}");
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

/// Marks a function with options, as opposed to a plain one.
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

/// User code without its types, from value to value. All of it, including serde's, runs when the
/// future is polled.
type Run = dyn Fn(Value, TaskScope) -> BoxFuture<'static, Result<Value, AttemptFailure>> + Send + Sync;

/// User code of a definition: a task, or the code that decides a route or splits a list. Cheap to
/// clone.
#[derive(Clone)]
pub(crate) struct ErasedTask {
    run: Arc<Run>,
    pub(crate) options: Arc<TaskOptions>,
    pub(crate) requirements: Arc<[Requirement]>,
    /// True if the output is a list for a map, which has a limit of its own.
    gives_list: bool,
    /// Types that a stub of this task must have. Absent if this is not a task.
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

    /// Wraps a function of the value that flows in, which the machine needs to go on. Not a task,
    /// so without options, retries and services.
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

    /// Replaces the code by that of `other`, and keeps the options.
    #[cfg(feature = "testing")]
    pub(super) fn replaced_by(&self, other: Self) -> Self {
        Self { options: Arc::clone(&self.options), gives_list: self.gives_list, ..other }
    }

    pub(super) fn give_list(&mut self) {
        self.gives_list = true;
    }

    /// Runs one attempt.
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
