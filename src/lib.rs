//! Durable workflows for Rust services, as supervised actors.
//!
//! A service writes ordinary async functions, composes them into a workflow, and starts instances
//! by id. Each instance survives crashes, restarts and days of waiting: finished tasks never run
//! again, delays and signals wait at no cost, and a restarted process resumes every instance by
//! itself. There is no server to run: the default store is an embedded directory.
//!
//! ```
//! use std::convert::Infallible;
//! use std::time::Duration;
//! use everstep::{FileStore, RetryPolicy, Runtime, Workflow, task};
//!
//! async fn reserve(order: u32) -> Result<String, Infallible> {
//!     Ok(format!("order {order} reserved"))
//! }
//! async fn ship((reserved, approved_by): (String, String)) -> Result<String, Infallible> {
//!     Ok(format!("{reserved}, approved by {approved_by}, shipped"))
//! }
//!
//! # #[tokio::main(flavor = "multi_thread", worker_threads = 2)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let directory = dir.path().join("data");
//! let checkout = Workflow::builder("checkout")
//!     .then(
//!         "reserve",
//!         task(reserve).retry(RetryPolicy::exponential(5)).timeout(Duration::from_secs(30)),
//!     )
//!     .wait_for_signal_keeping::<String>("approval", "approved")
//!     .then("ship", ship)
//!     .build()?;
//!
//! let store = FileStore::open(directory).await?;
//! let runtime = Runtime::builder(store).register(&checkout).start().await?;
//!
//! let order = runtime.start(&checkout, "order-42", 42).await?;
//! order.signal("approved", &"ana".to_owned()).await?;
//! assert_eq!(order.result().await?, "order 42 reserved, approved by ana, shipped");
//! # runtime.shutdown(Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! # Not included
//!
//! * No replay: a snapshot is written after each task, and a restarted instance goes on from it.
//!   Tasks may do anything; there are no determinism rules. A task that was running when the
//!   process crashed runs again, so effects outside the process need
//!   [`TaskContext::idempotency_key`].
//! * No server and no network protocol: Everstep is a library, and the workflows are the service's
//!   own code.
//! * No queue between machines: one process at a time owns a [`FileStore`].
//!
//! # Changing a workflow
//!
//! An instance keeps the definition it was started with, identified by a hash of the workflow's
//! name, version and structure. Lengths of timeouts and delays, retry policies, limits of loops and
//! maps, priorities, tags and texts are not part of the hash and can be changed freely. Adding,
//! removing, renaming or reordering nodes, or changing a signal name, a branch or route key, or the
//! version of the workflow or a task makes another definition. Then there are two ways:
//!
//! * Register the old workflow beside the new one until no instance needs it any more: each
//!   instance runs on its own.
//! * Let the new workflow upgrade instances of the old one ([`UpgradeFrom`]): they go on with it
//!   when next activated, if it has a place for everything they have in progress.
//!
//! All other instances stay unchanged: [`Runtime::report`] lists those whose definition is not
//! known to this runtime, and [`Runtime::left_alone`] those that cannot be upgraded.
//!
//! Payload types are not part of the hash either: add fields with `#[serde(default)]`, or change
//! the version of the workflow.
//!
//! # Table of contents
//!
//! | to | see |
//! |---|---|
//! | build a workflow | [`Workflow`], [`Builder`], [`task`], [`RetryPolicy`], [`Handler`] |
//! | branch, choose, repeat, fan out | [`Builder::fork`], [`Builder::route`], [`Builder::repeat`], [`Builder::map`], [`Builder::child`] |
//! | change it while instances run | [`UpgradeFrom`], [`Runtime::left_alone`] |
//! | draw it | [`Workflow::to_mermaid`], [`Manifest`] |
//! | give tasks what they need | [`Dep`], [`TaskContext`], [`Permanent`], [`RetryAfter`] |
//! | run it | [`Runtime`], [`RuntimeBuilder`], [`StartOptions`], [`RunOnce`] |
//! | send messages to an instance and read it | [`InstanceHandle`], [`Status`], [`StatusWatch`] |
//! | resume failed and quarantined instances | [`InstanceHandle::retry`], [`InstanceHandle::release`] |
//! | find tasks that block their thread | [`Runtime::stalled`] |
//! | list, count and delete instances | [`Runtime::list`], [`Runtime::count`], [`InstanceFilter`], [`InstanceHandle::delete`] |
//! | delete ended instances by themselves | [`Retention`] |
//! | choose a store | [`FileStore`], [`MemoryStore`], [`Durability`], [`store`] |
//! | choose a codec | [`Codec`], [`CustomCodec`] |
//! | tune the limits | [`Limits`], [`WhenBusy`] |
//! | drive instances with a scheduler of your own | [`lifecycle`], [`machine`] |
//! | test with time that you move | [`ManualClock`] |
//! | test with crashes, stubs and a store that fails | the module `testing`, behind the feature of that name |

mod actors;
mod cause;
mod clock;
mod codec;
mod definition;
mod executor;
mod handle;
mod id;
pub mod lifecycle;
pub mod limits;
pub mod machine;
mod panic;
mod run_once;
mod runtime;
mod status;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod time;

pub use tokio_util::sync::CancellationToken;
// Part of signatures of traits that users implement.
pub use {bytes, erased_serde};

pub use cause::Cause;
pub use clock::{BoxFuture, Clock, ManualClock, SystemClock};
pub use codec::{
    Block, CUSTOM_CODEC_ID_MIN, Codec, CodecError, CustomCodec, DeserializeFn, Home, Leaf, LoopResult, Output, Place,
    SignalOutcome, Token, Value,
};
pub use definition::{
    AttemptFailure, BoxError, BuildError, BuildErrors, Builder, Checkpoint, Concurrency, Definition, Dep, Deps,
    Extract, FailureKind, Fork, ForkOp, Handler, Join, LoopLimit, LoopOp, Manifest, ManifestNode, MapOp, MissingDep,
    NamedFork, Node, NodeKind, NodeNames, Op, Permanent, Priority, Program, RetryAfter, RetryPolicy, Route, RouteKey,
    RouteOp, SignalError, Target, Task, TaskContext, TaskFailure, TaskOp, TaskOptions, TaskScope, UpgradeFrom, WaitOp,
    Workflow, WorkflowBuilder, WorkflowInfo, task,
};
pub use handle::{HandleError, InstanceHandle, MessageError, ResultError, StatusWatch};
pub use id::{DefinitionHash, IdError, InstanceId, NodePath, ParseHashError, RunId, Stamp};
pub use lifecycle::{ConflictPolicy, ExistingInstance, StartError};
pub use limits::{LimitReached, Limits, WhenBusy};
pub use run_once::{RunOnce, RunOnceError};
pub use runtime::{
    Health, InstanceFilter, InstancePage, InstanceSummary, LeftAlone, ListCursor, ListError, ParseCursorError,
    Retention, Runtime, RuntimeBuilder, RuntimeError, StallCause, Stalled, StartOptions, StartOutcome, StartReport,
    Unreadable, Unregistered, WeakRuntime,
};
pub use status::{Failure, Status, StatusCode};
#[cfg(feature = "file-store")]
pub use store::FileStore;
pub use store::{Durability, MemoryStore, Store, StoreError};
pub use time::Timestamp;

/// The programs in the README and the guide, which are compiled as tests.
#[cfg(all(doctest, feature = "file-store", feature = "testing"))]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/guide/first_workflow.md")]
    struct FirstWorkflow;
    #[doc = include_str!("../docs/guide/waiting_and_signals.md")]
    struct WaitingAndSignals;
    #[doc = include_str!("../docs/guide/branching.md")]
    struct Branching;
    #[doc = include_str!("../docs/guide/failing_and_retrying.md")]
    struct FailingAndRetrying;
    #[doc = include_str!("../docs/guide/testing.md")]
    struct Testing;
    #[doc = include_str!("../docs/guide/upgrading.md")]
    struct Upgrading;
    #[doc = include_str!("../docs/guide/operating.md")]
    struct Operating;
}
