//! Results of `prepare_resume` and `get_resume_input`, and the effect of `finalize_execution`.

use std::convert::Infallible;
use std::time::Duration;

use everstep::lifecycle::{
    Ending, FinalizeError, ResumeError, ResumeInputError, ResumeOutcome, Stored, fill, finalize_execution,
    get_resume_input, load, prepare_resume,
};
use everstep::machine::{Effect, Event, Refusal, Snapshot};
use everstep::{
    AttemptFailure, Codec, FailureKind, MemoryStore, RetryPolicy, Status, StatusCode, Store as _, Workflow, task,
};

use crate::bench::{Bench, NOW};
use crate::common::quarantine;
use crate::world::instance;

async fn double(n: u64) -> Result<u64, Infallible> {
    Ok(2 * n)
}

/// Returns a workflow of a task, a delay of ten seconds, a wait, and a task.
fn workflow() -> Workflow<u64, u64> {
    Workflow::builder("table")
        .then("first", task(double).retry(RetryPolicy::fixed(1, Duration::from_secs(5))))
        .delay("nap", Duration::from_secs(10))
        .wait_for_signal::<u64>("wait", "go")
        .then("last", double)
        .build()
        .unwrap()
}

fn number(outcome: ResumeOutcome) -> u64 {
    let ResumeOutcome::Ready { snapshot, input } = outcome else { panic!("not ready: {outcome:?}") };
    assert_eq!(get_resume_input(&snapshot), Ok(input.clone()));
    // Read as a workflow's output would be: one payload.
    workflow().decode_output(&input, &Codec::MessagePack).unwrap()
}

#[tokio::test]
async fn resuming_a_missing_instance_finds_nothing() {
    // An empty store.
    let bench = Bench::new(workflow());
    assert!(matches!(bench.resume().await, Ok(ResumeOutcome::NotFound)));
}

#[tokio::test]
async fn resume_with_other_definition_is_refused_untouched() {
    // A workflow with one node less tries to resume the instance; the stored bytes are compared.
    let bench = Bench::new(workflow());
    bench.start(3).await;
    let before = bench.store.load(&instance()).await.unwrap();
    let other = Workflow::builder("table").then("first", double).build().unwrap();
    let error = prepare_resume(&bench.store, other.definition(), &instance(), NOW).await.unwrap_err();
    assert_eq!(error, ResumeError::DefinitionMismatch { expected: other.hash(), found: bench.workflow.hash() });
    assert_eq!(bench.store.load(&instance()).await.unwrap(), before);
    assert_eq!(number(bench.resume().await.unwrap()), 3);
}

#[tokio::test]
async fn resume_continues_with_input_result_then_payload() {
    // At each place of the chain the instance is read back from the store, as after a crash.
    let mut bench = Bench::new(workflow());
    bench.start(3).await;
    assert_eq!(number(bench.resume().await.unwrap()), 3, "the initial input");
    bench.finish_task(6).await;
    let Ok(ResumeOutcome::NotReady(status)) = bench.resume().await else { panic!("the delay lasts") };
    assert_eq!(status.code(), StatusCode::Waiting);
    bench.now = NOW.after(Duration::from_micros(9_999_999));
    assert!(matches!(bench.resume().await, Ok(ResumeOutcome::NotReady(_))), "never early");
    bench.now = NOW.after(Duration::from_secs(10));
    assert_eq!(number(bench.resume().await.unwrap()), 6, "the last finished task's output");
    bench.apply(Event::Wake).await.unwrap();
    let Ok(ResumeOutcome::NotReady(status)) = bench.resume().await else { panic!("it waits for its signal") };
    assert_eq!(status.code(), StatusCode::AwaitingSignal);
    bench.signal("s1", 50).await;
    assert_eq!(number(bench.resume().await.unwrap()), 50, "the consumed signal's payload");
    bench.finish_task(100).await;
    assert_eq!(bench.terminal().await, StatusCode::Completed);
}

#[tokio::test]
async fn resuming_in_a_backoff_is_not_ready_before_its_end() {
    // The first attempt fails; its retry is due five seconds later, which a restart must not
    // shorten.
    let mut bench = Bench::new(workflow());
    bench.start(3).await;
    bench.fail_task(FailureKind::Error).await;
    let Ok(ResumeOutcome::NotReady(status)) = bench.resume().await else { panic!("it backs off") };
    assert_eq!(status, Status::InProgress);
    bench.now = NOW.after(Duration::from_secs(5));
    assert_eq!(number(bench.resume().await.unwrap()), 3);
}

#[tokio::test]
async fn resuming_an_ended_run_returns_its_end() {
    // Failed for good, and cancelled; the chain above ends with a completed one.
    let bench = Bench::new(workflow());
    bench.start(3).await;
    bench.fail_task(FailureKind::Permanent).await;
    assert_eq!(bench.terminal().await, StatusCode::Failed);
    let bench = Bench::new(workflow());
    bench.start(3).await;
    bench.apply(Event::Cancel { reason: "why".into(), by: "who".into() }).await.unwrap();
    assert_eq!(bench.terminal().await, StatusCode::Cancelled);
}

#[tokio::test]
async fn resume_of_paused_names_the_pauser_and_continues_later() {
    // Paused while its task was with the executor, whose process then crashed.
    let bench = Bench::new(workflow());
    bench.start(3).await;
    bench.apply(Event::Pause { reason: "why".into(), by: "who".into() }).await.unwrap();
    let Ok(ResumeOutcome::Paused(status)) = bench.resume().await else { panic!("it is paused") };
    assert_eq!(status, Status::Paused { reason: "why".into(), by: "who".into() });
    bench.apply(Event::Unpause).await.unwrap();
    assert_eq!(number(bench.resume().await.unwrap()), 3);
    let effects = bench.apply(Event::Resumed { alive: Vec::new(), process_crashed: true }).await.unwrap();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Run(_))), "{effects:?}");
}

#[tokio::test]
async fn resuming_a_quarantined_instance_returns_its_reason() {
    // Quarantined by a write to the store.
    let bench = Bench::new(workflow());
    bench.start(3).await;
    quarantine(&bench.store, instance().as_str(), "it bites").await;
    let Ok(ResumeOutcome::Quarantined(status)) = bench.resume().await else { panic!("it is quarantined") };
    assert_eq!(status, Status::Quarantined { reason: "it bites".into() });
}

#[tokio::test]
async fn resume_has_no_input_when_paused_ended_or_unread() {
    // An instance with its input in a row of its own: read without its rows, paused, ended.
    let long = Workflow::builder("long").then("first", async |s: String| Ok::<_, Infallible>(s)).build().unwrap();
    let bench = Bench::new(long);
    bench.start("x".repeat(500)).await;
    let Stored { mut snapshot, .. } = bench.stored().await;
    assert_eq!(get_resume_input(&snapshot), Err(ResumeInputError::Missing));
    fill(&bench.store, bench.workflow.definition().program(), &mut snapshot).await.unwrap();
    assert!(get_resume_input(&snapshot).is_ok());
    bench.apply(Event::Pause { reason: "why".into(), by: "who".into() }).await.unwrap();
    assert_eq!(get_resume_input(&bench.snapshot().await), Err(ResumeInputError::NotInProgress));
    bench.apply(Event::Cancel { reason: "why".into(), by: "who".into() }).await.unwrap();
    assert_eq!(get_resume_input(&bench.snapshot().await), Err(ResumeInputError::NotInProgress));
}

/// Returns every kind of ending of the running attempt.
fn endings(snapshot: &Snapshot) -> Vec<Ending> {
    let attempt_id = snapshot.running().next().unwrap();
    let failure = AttemptFailure::new(FailureKind::Permanent, "no");
    vec![
        Ending::Task { attempt_id, outcome: Ok(Codec::MessagePack.encode(&9_u64, 100).unwrap().into()) },
        Ending::Task { attempt_id, outcome: Err(failure) },
        Ending::Cancelled { reason: "why".into(), by: "who".into() },
        Ending::Paused { reason: "why".into(), by: "who".into() },
        Ending::Parked,
    ]
}

async fn finalize(bench: &Bench<u64, u64>, snapshot: &mut Snapshot, ending: Ending) -> Result<Status, FinalizeError> {
    Ok(finalize_execution(&bench.store, &bench.context(), snapshot, ending).await?.status)
}

#[tokio::test]
async fn finalizing_an_ended_run_does_nothing() {
    // Cancelled, then every ending on top: the answer is the old end, and the stored bytes stay.
    let bench = Bench::new(workflow());
    bench.start(3).await;
    let endings = endings(&bench.snapshot().await);
    bench.apply(Event::Cancel { reason: "first".into(), by: "who".into() }).await.unwrap();
    let before = bench.store.load(&instance()).await.unwrap();
    for ending in endings {
        let mut snapshot = bench.snapshot().await;
        let finalized = finalize_execution(&bench.store, &bench.context(), &mut snapshot, ending).await.unwrap();
        assert_eq!(finalized.status, Status::Cancelled { reason: "first".into(), by: "who".into() });
        assert!(finalized.effects.is_empty(), "{:?}", finalized.effects);
    }
    assert_eq!(bench.store.load(&instance()).await.unwrap(), before);
}

#[tokio::test]
async fn finalizing_commits_once_and_returns_the_status() {
    // Each ending on a fresh instance: the returned status is the stored one, and the transition
    // number grows by one.
    let codes =
        [StatusCode::Waiting, StatusCode::Failed, StatusCode::Cancelled, StatusCode::Paused, StatusCode::InProgress];
    for (n, code) in codes.into_iter().enumerate() {
        let bench = Bench::new(workflow());
        bench.start(3).await;
        let mut snapshot = bench.snapshot().await;
        let ending = endings(&snapshot).swap_remove(n);
        let commits = u64::from(!matches!(ending, Ending::Parked));
        let status = finalize(&bench, &mut snapshot, ending).await.unwrap();
        let stored = bench.stored().await;
        assert_eq!((status.code(), stored.status(bench.workflow.definition().program())), (code, status));
        assert_eq!(stored.snapshot.seq(), 1 + commits);
    }
}

#[tokio::test]
async fn failure_after_last_retry_keeps_finished_results() {
    // The second task fails for good; the first one's result is still there.
    let bench = Bench::new(Workflow::builder("two").then("one", double).then("two", double).build().unwrap());
    bench.start(3).await;
    bench.finish_task(6).await;
    let recorded = bench.result("one").await;
    assert!(recorded.is_some());
    bench.fail_task(FailureKind::Error).await;
    assert_eq!(bench.terminal().await, StatusCode::Failed);
    assert_eq!(bench.result("one").await, recorded);
}

#[tokio::test]
async fn refused_ending_changes_nothing() {
    // A reason that is longer than its limit.
    let bench = Bench::new(workflow());
    bench.start(3).await;
    let before = bench.store.load(&instance()).await.unwrap();
    let (mut snapshot, reason) = (bench.snapshot().await, "x".repeat(100_000));
    let ending = Ending::Cancelled { reason: reason.into(), by: "who".into() };
    let refused = finalize(&bench, &mut snapshot, ending).await.unwrap_err();
    assert!(matches!(refused, FinalizeError::Refused(Refusal::ReasonTooLong { bytes: 100_000 })), "{refused:?}");
    assert_eq!(bench.store.load(&instance()).await.unwrap(), before);
    let stored = load(&MemoryStore::clone(&bench.store), &instance()).await.unwrap().unwrap();
    assert_eq!(stored.snapshot.seq(), snapshot.seq());
}
