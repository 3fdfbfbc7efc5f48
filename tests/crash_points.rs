//! A crash after the n-th commit, for every n, of every kind of node within every other, at every
//! position.
//!
//! Each workflow runs once without a crash. Then for every n the process ends after its n-th
//! commit, and a new one continues with the same store. The output is the same; no recorded task
//! runs again, none runs more than once per process, and every answer holds. A process ends in one
//! of two ways: no caller learns of the last commit; or work goes on until one more commit is
//! tried, so that tasks run whose outcome is lost. In the first, signals are sent before any wait
//! for them. Then each case runs with a second crash, right after the first commit of the second
//! process.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

#[path = "crash_points/doom.rs"]
mod doom;
#[path = "crash_points/life.rs"]
mod life;
#[path = "crash_points/tasks.rs"]
mod tasks;
#[path = "common/through.rs"]
mod through;
#[path = "crash_points/workflows.rs"]
mod workflows;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Mutex;

use bytes::Bytes;
use everstep::{InstanceId, MemoryStore, RunId, StatusCode, Store as _, Workflow};

use common::still_clock;
use doom::{Durable, End};
use life::{Caller, World};
use tasks::{List, Log, Ran};
use workflows::{KINDS, Kind, POSITIONS, workflow};

/// The end of a run, over all its processes.
struct Ended {
    numbers: Vec<u64>,
    signals: u32,
    /// The expected number of runs of each task: its number of different keys.
    tasks: BTreeMap<String, usize>,
    /// The keys of the rows that are left.
    rows: BTreeSet<Bytes>,
    /// Transitions in all processes.
    commits: u64,
    /// Processes that ended before the run did.
    crashes: usize,
    /// Statuses that the instance reported.
    told: usize,
}

/// Runs an instance over these ends of the process and one more process, and checks the conditions
/// that always hold.
async fn run(workflow: &Workflow<List, List>, ends: &[End], early: u32) -> Ended {
    let world = World { workflow, store: MemoryStore::new(), clock: still_clock(), log: Log::default() };
    let mut caller = Caller { early, ..Caller::default() };
    let mut lives: Vec<Durable> = Vec::new();
    let mut output = None;
    for end in ends.iter().copied().map(Some).chain([None]) {
        let (gave, durable) = world.live(lives.len(), end, &mut caller).await;
        lives.push(durable);
        if gave.is_some() {
            output = gave;
            break;
        }
    }
    let ran = world.log.ran();
    check_runs(&ran, &lives);
    check_answers(&caller, &lives);
    let run = caller.run.unwrap();
    let mut keys = BTreeMap::<String, HashSet<String>>::new();
    for one in ran {
        keys.entry(one.path).or_default().insert(one.key);
    }
    Ended {
        numbers: output.unwrap().into_iter().map(|item| item.number).collect(),
        signals: caller.sent,
        tasks: keys.into_iter().map(|(path, keys)| (path, keys.len())).collect(),
        rows: check_store(&world, run).await,
        commits: lives.iter().map(|life| life.commits).sum(),
        crashes: lives.len() - 1,
        told: caller.told.lock().unwrap().len(),
    }
}

/// Checks that a task ran at most once per process, and never again once its result was recorded.
fn check_runs(ran: &[Ran], lives: &[Durable]) {
    let mut seen = HashSet::new();
    for one in ran {
        assert!(seen.insert((one.life, &one.key)), "twice in one process: {one:?}");
        assert_eq!(one.attempt, 1, "a crash is no failure: {one:?}");
        let recorded = lives[..one.life].iter().any(|life| life.keys.contains(&one.key));
        assert!(!recorded, "its result was recorded: {one:?}");
    }
}

/// Checks that every status that the instance reported was durable, in that process or before.
fn check_answers(caller: &Caller, lives: &[Durable]) {
    let told = caller.told.lock().unwrap();
    for (life, status) in &*told {
        let status = status.as_ref().unwrap();
        let so_far = &lives[..=*life];
        assert!(so_far.iter().any(|life| life.statuses.contains(status)), "reported but never durable: {status}");
    }
}

/// Checks that no work is left, and returns the keys of the rows.
async fn check_store(world: &World<'_>, run: RunId) -> BTreeSet<Bytes> {
    let (store, hash) = (&world.store, world.workflow.hash());
    assert_eq!(store.due(None, 9).await.unwrap(), []);
    for status in StatusCode::ALL {
        let wanted = if status == StatusCode::Completed { vec![InstanceId::new("id").unwrap()] } else { vec![] };
        assert_eq!(store.instances(&hash, status, None, 9).await.unwrap(), wanted);
    }
    let rows = store.rows(run, &[], None).await.unwrap();
    rows.into_iter().map(|(key, _)| key).collect()
}

/// Crashes one workflow at every point, and returns the number of crashes and of answers checked.
async fn crash_everywhere(workflow: &Workflow<List, List>) -> (usize, usize) {
    let usual = run(workflow, &[], 0).await;
    let (mut crashes, mut told) = (0, usual.told);
    for (answered, twice) in [(false, false), (true, false), (false, true), (true, true)] {
        for commit in 1.. {
            let early = if answered { 0 } else { usual.signals };
            let ends = [End { commit, answered }, End { commit: 1, answered: !answered }];
            let ends = if twice { &ends[..] } else { &ends[..1] };
            let ended = run(workflow, ends, early).await;
            let case = format!("{}: {ends:?}", workflow.definition().info().name());
            assert_eq!(ended.numbers, usual.numbers, "{case}");
            assert_eq!((ended.signals, &ended.tasks), (usual.signals, &usual.tasks), "{case}");
            assert_eq!(ended.rows, usual.rows, "{case}");
            (crashes, told) = (crashes + ended.crashes, told + ended.told);
            if ended.crashes == 0 {
                // The run had ended before. Work that is due at once may end with the commit before
                // it or not, so the number of commits varies a little.
                assert!(commit + 3 >= usual.commits, "{case} of {}", usual.commits);
                break;
            }
        }
    }
    (crashes, told)
}

/// The number of workflows that run at once.
const THREADS: usize = 8;

/// Crashes everything within one kind of node. Each workflow has a thread of its own for everything
/// but its store, so that work that can continue after a crash does so before it is checked.
fn crash_everywhere_within(outer: Kind) {
    let cases = KINDS.into_iter().flat_map(|inner| POSITIONS.map(|position| (inner, position)));
    let (cases, sums) = (Mutex::new(cases), Mutex::new((0, 0)));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let next = || cases.lock().unwrap().next();
                while let Some((inner, position)) = next() {
                    let (crashes, told) = tokio.block_on(crash_everywhere(&workflow(outer, inner, position)));
                    let mut sums = sums.lock().unwrap();
                    *sums = (sums.0 + crashes, sums.1 + told);
                }
            });
        }
    });
    let (crashes, told) = sums.into_inner().unwrap();
    assert!(told > crashes, "{told} answers, with a call at each commit");
    println!("{crashes} crashes within {outer:?}, {told} answers");
}

#[test]
fn crashes_in_a_chain_of_tasks_are_invisible() {
    // Every kind of node before, between and after tasks of the main chain.
    crash_everywhere_within(Kind::Task);
}

#[test]
fn crashes_in_a_chain_of_delays_are_invisible() {
    // Every kind of node before, between and after delays of the main chain.
    crash_everywhere_within(Kind::Delay);
}

#[test]
fn crashes_in_a_chain_of_signal_waits_are_invisible() {
    // Every kind of node before, between and after waits of the main chain.
    crash_everywhere_within(Kind::Signal);
}

#[test]
fn crashes_within_a_fork_are_invisible() {
    // Every kind of node as first, middle and last of a branch, beside another branch.
    crash_everywhere_within(Kind::Fork);
}

#[test]
fn crashes_within_a_route_are_invisible() {
    // Every kind of node as first, middle and last of an arm.
    crash_everywhere_within(Kind::Route);
}

#[test]
fn crashes_within_a_loop_are_invisible() {
    // Every kind of node as first, middle and last of a body that runs twice.
    crash_everywhere_within(Kind::Loop);
}

#[test]
fn crashes_within_a_map_are_invisible() {
    // Every kind of node as first, middle and last of two items, all at once and one by one.
    crash_everywhere_within(Kind::Map);
}

#[test]
fn crashes_within_a_child_are_invisible() {
    // Every kind of node as first, middle and last of a child.
    crash_everywhere_within(Kind::Child);
}
