//! Runs a scenario with a crash at every possible point.

use std::fmt::{self, Debug};

use super::PATIENCE;
use super::bed::{TestBed, TestRuntime};
use crate::definition::BoxError;
use crate::runtime::{RuntimeBuilder, RuntimeError};
use crate::store::CrashPoint;

/// Statistics of [`crash_everywhere`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrashReport {
    /// Number of times the scenario was run.
    pub runs: u64,
    /// Number of crashes in all of them.
    pub crashes: u64,
}

/// A crash that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Crash {
    /// The point of the crash.
    pub point: CrashPoint,
    /// The transition that had just become durable: its instance, and the tasks whose results it
    /// recorded.
    pub behind: String,
}

/// A crash that changed the outcome of the scenario.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", list(crashes))]
#[non_exhaustive]
pub struct CrashFailure {
    /// The crashes, one per life of the process; empty if there were none yet.
    pub crashes: Vec<Crash>,
    /// The problem that the crash caused.
    pub why: CrashProblem,
}

/// A problem that a crash caused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CrashProblem {
    /// The scenario returned another value than without a crash.
    #[error("the scenario returned {found}; expected {expected}, as without a crash")]
    Differs {
        /// The value without a crash.
        expected: String,
        /// The value with the crash.
        found: String,
    },
    /// The scenario returned another value the second time, both times without a crash. The value
    /// must not depend on run ids, times or the order in which tasks run.
    #[error("the scenario returned {first}, then {second}, both without a crash: make it deterministic")]
    NotTheSameTwice {
        /// The first value.
        first: String,
        /// The second value.
        second: String,
    },
    /// The scenario failed in a life that had not crashed.
    #[error("the scenario failed: {0}")]
    Failed(BoxError),
    /// The runtime did not start.
    #[error("the runtime did not start: {0}")]
    Start(#[from] RuntimeError),
    /// The scenario took longer than 30 seconds.
    #[error("the scenario did not finish within 30 seconds: check for a wait without a signal")]
    Hung,
}

fn list(crashes: &[Crash]) -> impl fmt::Display {
    let text = |Crash { point: CrashPoint { commit, answered }, behind }: &Crash| {
        let answered = if *answered { "was answered" } else { "was not answered" };
        format!("a crash after transition {commit}, {behind}, which {answered}")
    };
    let crashes: Vec<_> = crashes.iter().map(text).collect();
    if crashes.is_empty() { "without a crash".to_owned() } else { format!("with {}", crashes.join(", and then ")) }
}

/// Runs a scenario without a crash, then once with a crash after each transition that becomes
/// durable, and checks that it returns the same value every time.
///
/// * `world` creates what outlives a process beside the store: [`Stub`](super::Stub)s, a ledger of
///   effects. Called once per run; use `|| ()` if there is nothing.
/// * `setup` registers workflows and provides services, for each life of the process.
/// * `scenario` does the work of the callers. When the process crashes it is dropped where it
///   awaits, and in the next life it starts from its beginning. So it must do what careful callers
///   do: start with [`ConflictPolicy::UseExisting`](crate::ConflictPolicy), and send signals [with
///   an id](crate::InstanceHandle::signal_with_id). Its value is compared: outputs, and anything
///   else that must not depend on crashes, such as the number of different idempotency keys that
///   the world has seen. The value must be the same in every run, so it cannot contain the keys
///   themselves, which depend on the run's id. Errors count only in a life that has not crashed.
///
/// Each transition has two crashes: one before anything learns of it; one after it is answered,
/// when everything goes on until the next transition is about to become durable, so that tasks run
/// whose results are lost. Each run is repeated with a second crash, right after the first
/// transition of the second life. A scenario with `n` transitions is run about `4 n` times.
///
/// ```
/// use std::collections::BTreeSet;
/// use everstep::testing::{Stub, crash_everywhere};
/// use everstep::{ConflictPolicy, StartOptions, Workflow};
///
/// # #[tokio::main(flavor = "multi_thread", worker_threads = 2)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let transfer = |account: &Stub<u32, u32>| {
///     let builder = Workflow::builder("transfer").then("withdraw", account.clone());
///     builder.wait_for_signal_keeping::<bool>("approval", "ok").build()
/// };
/// let report = crash_everywhere(
///     || Stub::new(|cents: u32| cents),
///     |account, builder| builder.register(&transfer(account).unwrap()),
///     async |account, runtime| {
///         let options = StartOptions::new().policy(ConflictPolicy::UseExisting);
///         let handle = runtime.start_with(&transfer(account)?, "one", 100, options).await?.handle;
///         handle.signal_with_id("ok", &true, "the approval").await?;
///         let output = runtime.finish(&handle).await?;
///         // The account drops a withdrawal whose key it knows.
///         let calls = account.calls();
///         let keys = calls.iter().map(|call| call.context.idempotency_key());
///         let keys: BTreeSet<_> = keys.collect();
///         Ok((output, keys.len()))
///     },
/// )
/// .await?;
/// assert!(report.crashes > 10);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`CrashFailure`], at the first crash that changes the outcome.
pub async fn crash_everywhere<W, T>(
    world: impl Fn() -> W,
    setup: impl Fn(&W, RuntimeBuilder) -> RuntimeBuilder,
    scenario: impl AsyncFn(&W, &TestRuntime) -> Result<T, BoxError>,
) -> Result<CrashReport, CrashFailure>
where
    T: PartialEq + Debug,
{
    let run = async |points: &[CrashPoint]| {
        let (bed, world) = (TestBed::new(), world());
        let mut crashes = Vec::new();
        for point in points.iter().copied().map(Some).chain([None]) {
            let started = bed.start_until(point, |builder| setup(&world, builder)).await;
            let runtime = match started {
                Ok(runtime) => runtime,
                Err(error) => return Err(CrashFailure { crashes, why: error.into() }),
            };
            let outcome = tokio::select! {
                biased;
                outcome = scenario(&world, &runtime) => Some(outcome),
                () = runtime.store().crashed() => None,
                () = tokio::time::sleep(PATIENCE) => return Err(CrashFailure { crashes, why: CrashProblem::Hung }),
            };
            let (is_over, behind) = (runtime.store().has_crashed(), runtime.store().last_transition());
            runtime.crash().await;
            match outcome {
                Some(Ok(given)) => return Ok((given, crashes)),
                Some(Err(error)) if !is_over => return Err(CrashFailure { crashes, why: CrashProblem::Failed(error) }),
                _ => crashes.extend(point.map(|point| Crash { point, behind: behind.unwrap_or_default() })),
            }
        }
        unreachable!("the last process of a run has no crash point")
    };
    let (expected, _) = run(&[]).await?;
    let (second, crashes) = run(&[]).await?;
    if second != expected {
        let why = CrashProblem::NotTheSameTwice { first: format!("{expected:?}"), second: format!("{second:?}") };
        return Err(CrashFailure { crashes, why });
    }
    let mut report = CrashReport { runs: 2, crashes: 0 };
    for (answered, twice) in [(false, false), (true, false), (false, true), (true, true)] {
        for commit in 1.. {
            let points = [CrashPoint { commit, answered }, CrashPoint { commit: 1, answered: !answered }];
            let points = if twice { &points[..] } else { &points[..1] };
            let (found, crashes) = run(points).await?;
            if found != expected {
                let why = CrashProblem::Differs { expected: format!("{expected:?}"), found: format!("{found:?}") };
                return Err(CrashFailure { crashes, why });
            }
            report = CrashReport { runs: report.runs + 1, crashes: report.crashes + crashes.len() as u64 };
            if crashes.is_empty() {
                break;
            }
        }
    }
    Ok(report)
}
