//! Two schedulers of one instance, and commits whose outcome is unknown.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use everstep::lifecycle::{
    CommitError, Committer, DeleteError, Ending, Existing, FinalizeError, PrepareRunOutcome, ReleaseError,
    ResumeOutcome, StartError, check_existing_instance, delete_instance, finalize_execution, prepare_run,
    read_signal_id, release, step,
};
use everstep::machine::{Context, Effect, Event, NewRun, RowKey};
use everstep::store::{Conflict, Write};
use everstep::{BoxFuture, Codec, ConflictPolicy, MemoryStore, RunId, Status, Store, StoreError, Workflow};

use crate::bench::{Bench, NOW, encoded, new_run};
use crate::common::quarantine;
use crate::world::instance;

async fn double(n: u64) -> Result<u64, Infallible> {
    Ok(2 * n)
}

fn workflow() -> Workflow<u64, u64> {
    Workflow::builder("race").then("task", double).build().unwrap()
}

const MINE: u8 = 2;
const THEIRS: u8 = 3;

/// A committer that loses a race: before its first commit it commits `rival`.
struct Slower {
    store: MemoryStore,
    rival: std::sync::Mutex<Option<Write>>,
}

impl Committer for Slower {
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async move {
            let rival = self.rival.lock().unwrap().take();
            if let Some(rival) = rival {
                Committer::commit(&self.store, rival).await.unwrap();
            }
            Committer::commit(&self.store, write).await
        })
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }
}

/// A committer that carries out the first commit, and then returns an unknown outcome.
struct Unsure {
    store: MemoryStore,
    told: AtomicBool,
}

impl Unsure {
    fn new(store: &MemoryStore) -> Self {
        Self { store: store.clone(), told: AtomicBool::new(false) }
    }
}

impl Committer for Unsure {
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async move {
            let answer = Committer::commit(&self.store, write).await;
            if self.told.swap(true, Ordering::Relaxed) {
                return answer;
            }
            Err(StoreError::Transient("the answer was lost".into()).into())
        })
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }
}

type Prepared = Result<PrepareRunOutcome, StartError>;

async fn prepare(bench: &Bench<u64, u64>, committer: &dyn Committer, new: NewRun, policy: ConflictPolicy) -> Prepared {
    let definition = bench.workflow.definition();
    let existing = check_existing_instance(committer, definition, &instance(), policy).await?;
    prepare_run(committer, &bench.context(), definition, new, policy, existing).await
}

/// A committer that stores the write to be committed.
struct Copying(MemoryStore, std::sync::Mutex<Option<Write>>);

impl Committer for Copying {
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<(), CommitError>> {
        *self.1.lock().unwrap() = Some(write);
        Box::pin(async { Ok(()) })
    }

    fn store(&self) -> &dyn Store {
        &self.0
    }
}

/// Returns the write by which a rival starts the instance, taken from a start on a store of its
/// own.
async fn rival_start(bench: &Bench<u64, u64>) -> Write {
    let copying = Copying(MemoryStore::new(), std::sync::Mutex::default());
    prepare(bench, &copying, new_run(THEIRS, &1_u64), ConflictPolicy::Fail).await.unwrap();
    copying.1.into_inner().unwrap().unwrap()
}

async fn lose_a_race(policy: ConflictPolicy) -> (Bench<u64, u64>, Prepared) {
    let bench = Bench::new(workflow());
    let rival = std::sync::Mutex::new(Some(rival_start(&bench).await));
    let committer = Slower { store: bench.store.clone(), rival };
    let prepared = prepare(&bench, &committer, new_run(MINE, &2_u64), policy).await;
    (bench, prepared)
}

#[tokio::test]
async fn start_losing_a_race_applies_its_policy_again() {
    // The id is free when it is checked; before the insert a rival starts it.
    let (bench, lost) = lose_a_race(ConflictPolicy::Fail).await;
    assert!(matches!(lost, Err(StartError::InstanceAlreadyExists { status: Status::InProgress, .. })), "{lost:?}");
    assert_eq!(bench.stored().await.snapshot.run(), RunId::from_bytes([THEIRS; 16]));

    let (bench, lost) = lose_a_race(ConflictPolicy::UseExisting).await;
    let PrepareRunOutcome::ExistingStatus(found) = lost.unwrap() else { panic!("theirs is used") };
    assert_eq!((found.run, found.status, found.output), (RunId::from_bytes([THEIRS; 16]), Status::InProgress, None));
    assert_eq!(bench.stored().await.snapshot.run(), RunId::from_bytes([THEIRS; 16]));

    let (bench, lost) = lose_a_race(ConflictPolicy::TerminateExisting).await;
    let PrepareRunOutcome::Fresh { effects, .. } = lost.unwrap() else { panic!("mine replaces theirs") };
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Run(_))));
    assert_eq!(bench.stored().await.snapshot.run(), RunId::from_bytes([MINE; 16]));
}

#[tokio::test]
async fn start_losing_to_another_definition_is_a_mismatch() {
    // As above, but the rival's workflow has another node.
    let (mine, theirs) = (Bench::new(workflow()), Workflow::builder("race").then("other", double).build().unwrap());
    let rival = rival_start(&Bench::new(theirs.clone())).await;
    for policy in [ConflictPolicy::Fail, ConflictPolicy::UseExisting] {
        let (store, rival) = (MemoryStore::new(), std::sync::Mutex::new(Some(rival.clone())));
        let lost = prepare(&mine, &Slower { store, rival }, new_run(MINE, &2_u64), policy).await.unwrap_err();
        let (expected, found) = (mine.workflow.hash(), theirs.hash());
        assert_eq!(lost, StartError::DefinitionMismatch { instance: instance(), expected, found });
    }
}

#[tokio::test]
async fn second_of_two_schedulers_is_fenced() {
    // Both load the instance. The first one's commit moves it, so the second one's is a conflict
    // and changes nothing.
    let bench = Bench::new(workflow());
    bench.start(3).await;
    let Ok(ResumeOutcome::Ready { snapshot: mut first, .. }) = bench.resume().await else { panic!("it is ready") };
    let mut second = first.clone();
    let mut effects = Vec::new();
    for snapshot in [&mut first, &mut second] {
        let event = Event::Resumed { alive: Vec::new(), process_crashed: true };
        effects.push(step(&bench.context(), snapshot, event).unwrap());
    }
    let (second_write, first_write) = (effects.pop().unwrap().write.unwrap(), effects.pop().unwrap().write.unwrap());
    let attempt_id = first.running().next().unwrap();
    Committer::commit(&bench.store, first_write).await.unwrap();
    let done = Ending::Task { attempt_id, outcome: Ok(encoded(&6_u64).into()) };
    finalize_execution(&bench.store, &bench.context(), &mut first, done).await.unwrap();
    let before = bench.store.load(&instance()).await.unwrap();
    let conflict = Conflict { found: Some((first.run(), first.seq())), is_over: false };
    assert_eq!(Committer::commit(&bench.store, second_write).await, Err(conflict.clone().into()));
    let late = Ending::Cancelled { reason: "late".into(), by: "the second".into() };
    let refused = finalize_execution(&bench.store, &bench.context(), &mut second, late).await.unwrap_err();
    assert_eq!(refused, FinalizeError::Commit(conflict.into()));
    assert_eq!(bench.store.load(&instance()).await.unwrap(), before);
}

#[tokio::test]
async fn replaced_run_cannot_write() {
    // A scheduler has the old run's snapshot while a new run takes the id.
    let bench = Bench::new(workflow());
    bench.start(3).await;
    let mut old = bench.snapshot().await;
    prepare(&bench, &bench.store, new_run(MINE, &5_u64), ConflictPolicy::TerminateExisting).await.unwrap();
    let late = Ending::Cancelled { reason: "late".into(), by: "the old run".into() };
    let refused = finalize_execution(&bench.store, &bench.context(), &mut old, late).await.unwrap_err();
    assert!(matches!(refused, FinalizeError::Commit(CommitError::Conflict(_))), "{refused:?}");
    assert_eq!(bench.stored().await.snapshot.run(), RunId::from_bytes([MINE; 16]));
}

#[tokio::test]
async fn repeated_start_of_unknown_outcome_is_fresh() {
    // The first insert is durable but its answer is lost; the repeat has the same run id. The
    // repeat comes right away, or a second later, when the head it would write is no longer the
    // same bytes.
    for later in [Duration::ZERO, Duration::from_secs(1)] {
        let mut bench = Bench::new(workflow());
        let committer = Unsure::new(&bench.store);
        let new = new_run(MINE, &3_u64);
        let first = prepare(&bench, &committer, new.clone(), ConflictPolicy::Fail).await;
        assert!(matches!(first, Err(StartError::OutcomeUnknown(StoreError::Transient(_)))), "{first:?}");
        bench.now = NOW.after(later);
        let (context, definition) = (bench.context(), bench.workflow.definition());
        let again = prepare_run(&committer, &context, definition, new, ConflictPolicy::Fail, Existing::Free).await;
        let PrepareRunOutcome::Fresh { snapshot, .. } = again.unwrap() else { panic!("it is this very start") };
        assert_eq!((snapshot.run(), snapshot.seq()), (RunId::from_bytes([MINE; 16]), 1));
        assert!(matches!(bench.resume().await, Ok(ResumeOutcome::Ready { .. })), "after {later:?}");
    }
}

#[tokio::test]
async fn repeated_start_has_no_effects_and_asks_to_load() {
    // As above, a second later: the instance may have moved on, so the only way is to resume it as
    // after a crash, which runs its first task, of which no executor has heard yet.
    let mut bench = Bench::new(workflow());
    let committer = Unsure::new(&bench.store);
    let new = new_run(MINE, &3_u64);
    prepare(&bench, &committer, new.clone(), ConflictPolicy::Fail).await.unwrap_err();
    bench.now = NOW.after(Duration::from_secs(1));
    let (context, definition) = (bench.context(), bench.workflow.definition());
    let again = prepare_run(&committer, &context, definition, new, ConflictPolicy::Fail, Existing::Free).await;
    let PrepareRunOutcome::Fresh { effects, .. } = again.unwrap() else { panic!("it is this very start") };
    assert!(effects.is_empty(), "{effects:?}");
    let effects = bench.apply(Event::Resumed { alive: Vec::new(), process_crashed: true }).await.unwrap();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Run(_))), "{effects:?}");
}

#[tokio::test]
async fn repeated_replacement_keeps_its_own_rows() {
    // `TerminateExisting`, its answer lost, then repeated from its check a second later, with the
    // same run id. The input is in a row of its own, which the sweep of the replaced run must leave
    // alone.
    let workflow =
        Workflow::builder("long").then("task", async |s: String| Ok::<_, Infallible>(s.len())).build().unwrap();
    let bench = Bench::new(workflow);
    bench.start("x".repeat(500)).await;
    let committer = Unsure::new(&bench.store);
    let (definition, policy) = (bench.workflow.definition(), ConflictPolicy::TerminateExisting);
    for attempt in 1..=2 {
        let context = Context { now: NOW.after(Duration::from_secs(attempt)), ..bench.context() };
        let existing = check_existing_instance(&committer, definition, &instance(), policy).await.unwrap();
        let new = new_run(MINE, &"y".repeat(500));
        let prepared = prepare_run(&committer, &context, definition, new, policy, existing).await;
        assert_eq!(prepared.is_ok(), attempt == 2, "{prepared:?}");
    }
    while bench.store.sweep(100).await.unwrap() > 0 {}
    let resumed = bench.resume().await;
    let Ok(ResumeOutcome::Ready { input, .. }) = resumed else { panic!("its own rows are gone: {resumed:?}") };
    let echo = Workflow::builder("echo").then("t", async |s: String| Ok::<_, Infallible>(s)).build().unwrap();
    assert_eq!(echo.decode_output(&input, &Codec::MessagePack), Ok("y".repeat(500)));
}

/// Method: two drivers load one instance, and each applies a signal: their heads are equal, their
/// rows are not. The second driver's write is refused, and so are its later writes.
#[tokio::test]
async fn driver_with_an_equal_head_is_refused() {
    let delay = Duration::from_hours(1);
    let chain = Workflow::builder_for::<u64>("late").delay("nap", delay);
    let bench = Bench::new(chain.wait_for_signal::<u64>("wait", "go").build().unwrap());
    bench.start(1).await;
    let mut drivers = Vec::new();
    for id in ["first", "second"] {
        let mut snapshot = bench.stored().await.snapshot;
        read_signal_id(&bench.store, &mut snapshot, &id.into()).await.unwrap();
        let event = Event::Signal { name: "go".into(), id: id.into(), payload: encoded(&id) };
        let write = step(&bench.context(), &mut snapshot, event).unwrap().write.unwrap();
        drivers.push((snapshot, write));
    }
    let (mut snapshot, second) = drivers.pop().unwrap();
    let (_, first) = drivers.pop().unwrap();
    Committer::commit(&bench.store, first).await.unwrap();
    let conflict = Conflict { found: Some((snapshot.run(), snapshot.seq())), is_over: false };
    assert_eq!(Committer::commit(&bench.store, second).await, Err(conflict.clone().into()));
    let pause = Event::Pause { reason: "lunch".into(), by: "ana".into() };
    let on_top = step(&bench.context(), &mut snapshot, pause).unwrap().write.unwrap();
    assert_eq!(Committer::commit(&bench.store, on_top).await, Err(conflict.into()));
    let stored = bench.stored().await.snapshot;
    assert_eq!(bench.store.rows(stored.run(), RowKey::SIGNALS, None).await.unwrap().len(), 1);
}

/// Method: a quarantined instance is loaded; before it is released, deleted or replaced, another
/// client starts a new run in its place.
#[tokio::test]
async fn new_run_survives_writes_to_the_run_it_replaced() {
    let terminate = ConflictPolicy::TerminateExisting;
    for what in ["release", "delete", "replace"] {
        let bench = Bench::new(workflow());
        bench.start(1).await;
        quarantine(&bench.store, instance().as_str(), "it bites").await;
        let copying = Copying(bench.store.clone(), std::sync::Mutex::default());
        prepare(&bench, &copying, new_run(THEIRS, &2_u64), terminate).await.unwrap();
        let rival = copying.1;
        let committer = Slower { store: bench.store.clone(), rival };
        let mut owner = THEIRS;
        match what {
            "release" => {
                let released = release(&committer, &bench.context(), bench.stored().await).await.unwrap_err();
                assert!(matches!(released, ReleaseError::Commit(CommitError::Conflict(_))), "{released:?}");
            }
            "delete" => {
                let deleted = delete_instance(&committer, &instance()).await.unwrap_err();
                assert!(matches!(deleted, DeleteError::NotTerminal(_)), "{deleted:?}");
            }
            _ => {
                // By its policy it ends their run in turn.
                prepare(&bench, &committer, new_run(MINE, &3_u64), terminate).await.unwrap();
                owner = MINE;
            }
        }
        let stored = bench.stored().await;
        assert_eq!((stored.snapshot.run(), stored.quarantine), (RunId::from_bytes([owner; 16]), None), "{what}");
        while bench.store.sweep(100).await.unwrap() > 0 {}
        bench.snapshot().await;
    }
}
