//! Tools for tests of workflows, of services around them, and of stores (feature `testing`).
//!
//! ```toml
//! [dev-dependencies]
//! everstep = { version = "0.1", features = ["testing"] }
//! ```
//!
//! | to | see |
//! |---|---|
//! | run workflows in a test, in memory and without waiting for real time | [`TestBed`], [`TestRuntime::finish`] |
//! | replace a task | [`Stub`], [`Workflow::with_stub`](crate::Workflow::with_stub) |
//! | hold a task while the test does something | [`Stub::hold`], [`Gate`] |
//! | crash, and continue | [`TestRuntime::crash`] |
//! | crash at every point, and compare | [`crash_everywhere`] |
//! | make the store fail | [`FaultyStore`], [`TestRuntime::store`] |
//! | test a store of your own | [`conformance`] |
//!
//! All of them run on tokio, with one thread or several. [`TestRuntime::finish`], [`Gate::arrived`]
//! and [`crash_everywhere`] give up after 30 seconds of tokio's time, so that a test which hangs
//! reports where.

mod bed;
mod crash;
mod gate;
mod stub;

use std::time::Duration;

pub use crate::definition::StubError;
pub use crate::store::{Call, CrashPoint, Fault, FaultyStore, conformance};
pub use bed::{FinishError, TestBed, TestRuntime};
pub use crash::{Crash, CrashFailure, CrashProblem, CrashReport, crash_everywhere};
pub use gate::Gate;
pub use stub::{ByStub, Stub, StubCall};

/// Time after which a test is told that an event will never happen. Never a measure of speed.
const PATIENCE: Duration = Duration::from_secs(30);
