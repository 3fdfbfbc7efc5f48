//! Stories of known failures: each is the shortest that once differed.

use crate::driver::{Begin, Driver};
use crate::plan::{End, Options, Spec, plan};
use crate::story::{Happening, Output, Which};

/// Applies the story to both sides, and then brings the instance to its end.
fn tell(specs: &[Spec], list_bytes_max: Option<usize>, story: &[Happening]) {
    let plan = plan(specs);
    let mut both = Driver::new(&plan, Begin { deadline: None, list_bytes_max, input: "a".into() });
    for what in story {
        both.happen(what);
    }
    both.bring_to_its_end();
}

fn wait() -> Spec {
    Spec::Wait { signal: "a", timeout: None, keeps: false }
}

/// Returns a loop that may run once.
fn loops(drains: bool, body: Vec<Spec>) -> Spec {
    Spec::Loop { limit: Some(1), exits: false, drains, body, end: End::Task(Options::default()) }
}

fn map(concurrency: Option<usize>, body: Spec) -> Spec {
    Spec::Map { concurrency, collects: false, body: vec![body] }
}

fn well(texts: &[&str], again: bool) -> Happening {
    let texts = texts.iter().map(ToString::to_string).collect();
    Happening::Well(Which::Current(0), Output { texts, again })
}

fn signal(id: u32, payload: &str) -> Happening {
    Happening::Signal { name: "a", id, payload: payload.into() }
}

/// Returns the events of a task that returns a list, and of the map that splits it.
fn list(items: &[&str]) -> [Happening; 2] {
    [well(items, false), well(&[], false)]
}

#[test]
fn retry_that_fails_again_has_no_effects() {
    // Two items; the first one's loop is at its limit, and still is when the run is retried.
    let once = loops(false, vec![]);
    let fails = [well(&["a"], true), Happening::Retry(None)];
    tell(&[map(None, once)], None, &[list(&["a", "a"]), fails].concat());
}

#[test]
fn list_limit_does_not_apply_to_a_fork_branch() {
    // A branch returns more bytes than a list may have.
    tell(&[Spec::Fork(vec![vec![wait()]])], Some(20), &[signal(0, &"a".repeat(150))]);
}

#[test]
fn items_start_in_order_when_one_ends_at_once() {
    // Of three items two may be in progress at once, and two signals are there before them: for the
    // first and the second.
    let signals = [signal(0, "a"), signal(1, "b")];
    tell(&[map(Some(2), wait())], None, &[signals, list(&["a", "b", "c"])].concat());
}

#[test]
fn unpause_serves_longest_waiter_first() {
    // One branch waits twice, the other once, and two signals come in a pause: one for each branch.
    let fork = Spec::Fork(vec![vec![wait(), wait()], vec![wait()]]);
    tell(&[fork], None, &[Happening::Pause, signal(0, "a"), signal(1, "b"), Happening::Unpause]);
}

#[test]
fn retry_starts_branches_that_a_failure_held_back() {
    // The first item ends at once with more bytes than the list of results may have, before the
    // second one starts.
    let story = [&[signal(0, &"a".repeat(150))][..], &list(&["a", "a"])].concat();
    tell(&[map(None, wait())], Some(20), &story);
}

#[test]
fn retry_serves_signals_left_by_failed_unpause() {
    // Two items wait, and two signals come in a pause; at its end the first one is too large for
    // the list of results.
    let paused = [Happening::Pause, signal(0, &"a".repeat(150)), signal(1, "b"), Happening::Unpause];
    tell(&[map(None, wait())], Some(20), &[&list(&["a", "a"])[..], &paused].concat());
}

#[test]
fn buffered_signal_holds_timeout_of_first_of_two_waits() {
    // In a pause two branches begin to wait in one transition: first the deeper one, which comes
    // later in the order of frames. The other one has a short timeout, but the buffered signal is
    // for it.
    let deep = Spec::Fork(vec![vec![Spec::Fork(vec![vec![wait()]])]]);
    let short = Spec::Wait { signal: "a", timeout: Some(0), keeps: false };
    let specs = [Spec::Task(Options::default()), Spec::Fork(vec![vec![deep], vec![short]])];
    tell(&specs, None, &[signal(0, "b"), Happening::Pause, well(&[], false)]);
}

#[test]
fn upgrade_in_a_pause_leaves_a_wait_to_its_signal() {
    // In a pause a signal comes for a wait whose time passes: the signal wins, also in the record
    // that an upgrade writes.
    let wait = Spec::Wait { signal: "a", timeout: Some(3), keeps: false };
    tell(&[wait], None, &[Happening::Pause, signal(0, "b"), Happening::Upgraded]);
}

#[test]
fn overdue_instance_ends_before_any_attempt_proceeds() {
    // After a crash one branch has started, and the other is announced; then the deadline passes.
    let fork = Spec::Fork(vec![vec![Spec::Task(Options::default())], vec![Spec::Task(Options::default())]]);
    let plan = plan(&[fork]);
    let mut both = Driver::new(&plan, Begin { deadline: Some(5), list_bytes_max: None, input: "a".into() });
    let died = Happening::Resumed { process_crashed: true, alive: 0 };
    let started = Happening::Started(Which::Current(0));
    for what in [started.clone(), Happening::Restart { fill: false }, died, started] {
        both.happen(&what);
    }
    both.pass(6);
    both.happen(&Happening::Resumed { process_crashed: false, alive: u8::MAX });
    both.bring_to_its_end();
}

#[test]
fn draining_loop_continues_for_a_signal_in_its_last_task() {
    // The second signal comes while the task runs that then returns `Done`. At its limit the loop
    // fails instead, and a retry continues it, as the deploy before that allows two iterations
    // more.
    let story = [signal(0, "a"), signal(1, "b"), well(&["c"], false)];
    for rest in [vec![], vec![Happening::Redeploy, Happening::Retry(None)]] {
        tell(&[loops(true, vec![wait()])], None, &[&story[..], &rest].concat());
    }
}
