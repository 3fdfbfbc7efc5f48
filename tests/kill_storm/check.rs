//! Checks of the ledger against the acknowledgements.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::child::State;
use crate::instance::{Instance, Request};
use crate::kinds::{BACKOFF, Plan, Step};
use crate::ledger::{Line, Mark};

type Place = (String, Vec<u32>);

/// Lines of one place, with their numbers in the ledger.
type Runs<'a> = HashMap<Place, Vec<(usize, &'a Line)>>;

pub(crate) fn check(instances: &[Instance], ledger: &[Line]) {
    let mut by_instance: HashMap<&str, Runs<'_>> = HashMap::new();
    for (number, line) in ledger.iter().enumerate() {
        let runs = by_instance.entry(&line.instance).or_default();
        runs.entry((line.node.clone(), line.trail.clone())).or_default().push((number, line));
    }
    let mut keys = HashSet::new();
    for instance in instances {
        let plan = instance.kind.plan(instance.number, instance.signals());
        let runs = by_instance.remove(&*instance.id).unwrap_or_default();
        let known: HashSet<_> = plan.steps.iter().map(|step| &step.place).collect();
        assert!(runs.keys().all(|place| known.contains(place)), "{}: {:?} is not planned", instance.id, runs.keys());
        for step in &plan.steps {
            let lines = runs.get(&step.place).map_or(&[][..], |lines| lines);
            let about = format!("{} ({:?}) at {:?}: {lines:#?}", instance.id, instance.kind, step.place);
            check_place(step, lines, &mut keys, &about);
            check_order(&plan, step, lines, &runs, &about);
            check_requests(instance, lines, &about);
            let ended = lines.last().is_some_and(|(_, line)| line.mark == Mark::End);
            assert!(ended || instance.end == Some(State::Cancelled), "completed without this step: {about}");
        }
    }
    assert!(by_instance.is_empty(), "instances without a start: {:?}", by_instance.keys());
}

/// Checks that a place has one key of its own, that each attempt ran at most once in a process, and
/// that no ended attempt ran again.
fn check_place<'a>(step: &Step, lines: &[(usize, &'a Line)], keys: &mut HashSet<&'a str>, about: &str) {
    if let Some((_, first)) = lines.first() {
        assert!(keys.insert(&first.key), "another place has this key: {about}");
        assert!(lines.iter().all(|(_, line)| line.key == first.key), "several keys: {about}");
    }
    let mut begun = HashSet::new();
    for (_, line) in lines.iter().filter(|(_, line)| line.mark == Mark::Begin) {
        assert!(begun.insert((line.life, line.attempt)), "twice in process {}: {about}", line.life);
    }
    for (_, line) in lines {
        let planned = match line.mark {
            Mark::Begin => line.attempt <= step.failures + 1,
            Mark::Fail => line.attempt <= step.failures,
            Mark::End => line.attempt == step.failures + 1,
        };
        assert!(planned, "attempt {} is not planned: {about}", line.attempt);
    }
    for pair in lines.windows(2) {
        let ((_, before), (_, after)) = (pair[0], pair[1]);
        assert!(before.attempt <= after.attempt, "attempt {} was recorded: {about}", after.attempt);
        if before.attempt < after.attempt {
            assert_eq!(before.mark, Mark::Fail, "{about}");
            assert_later(before, after, BACKOFF, about);
        }
    }
}

/// Checks that once a task has begun, the tasks before it are recorded and never run again, and
/// their delay has passed.
fn check_order(plan: &Plan, step: &Step, lines: &[(usize, &Line)], runs: &Runs<'_>, about: &str) {
    let Some((number, first)) = lines.first() else { return };
    for before in &step.after {
        let before = runs.get(&plan.steps[*before].place).and_then(|lines| lines.last());
        let Some((last_number, last)) = before else { panic!("nothing ran before: {about}") };
        assert!(last_number < number && last.mark == Mark::End, "{last:#?} ran although it was recorded: {about}");
        assert_later(last, first, step.delay, about);
    }
}

fn assert_later(before: &Line, after: &Line, delay: Duration, about: &str) {
    let passed = Duration::from_micros(after.at.saturating_sub(before.at));
    assert!(passed >= delay, "{passed:?} instead of {delay:?}: {about}");
}

/// Checks that no task begins in a process after that of an acknowledged cancel, nor in a pause
/// from an earlier process.
fn check_requests(instance: &Instance, lines: &[(usize, &Line)], about: &str) {
    for (_, line) in lines.iter().filter(|(_, line)| line.mark == Mark::Begin) {
        if let Request::Since(life) = instance.cancel {
            assert!(line.life <= life, "cancelled in process {life}: {about}");
        }
        for pause in &instance.pauses {
            let within = line.life > pause.since_life && pause.until.is_none_or(|until| line.at < until);
            assert!(!within, "paused in process {}, until {:?}: {about}", pause.since_life, pause.until);
        }
    }
}
