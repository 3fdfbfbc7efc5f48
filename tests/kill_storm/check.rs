//! Compares the ledger with what was acknowledged.

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
            assert!(ended || instance.end == Some(State::Cancelled), "completed without this: {about}");
        }
    }
    assert!(by_instance.is_empty(), "instances that nobody started: {:?}", by_instance.keys());
}

/// One key, of this place alone; each attempt at most once in a life, and never one that was over.
fn check_place<'a>(step: &Step, lines: &[(usize, &'a Line)], keys: &mut HashSet<&'a str>, about: &str) {
    if let Some((_, first)) = lines.first() {
        assert!(keys.insert(&first.key), "another place has this key: {about}");
        assert!(lines.iter().all(|(_, line)| line.key == first.key), "several keys: {about}");
    }
    let mut begun = HashSet::new();
    for (_, line) in lines.iter().filter(|(_, line)| line.mark == Mark::Begin) {
        assert!(begun.insert((line.life, line.attempt)), "twice in life {}: {about}", line.life);
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

/// Once a task has begun, those before it are recorded: they never run again; and their delay has passed.
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

/// No task begins in a life behind that of an acknowledged cancel, nor in a pause that came from an earlier life.
fn check_requests(instance: &Instance, lines: &[(usize, &Line)], about: &str) {
    for (_, line) in lines.iter().filter(|(_, line)| line.mark == Mark::Begin) {
        if let Request::Since(life) = instance.cancel {
            assert!(line.life <= life, "cancelled in life {life}: {about}");
        }
        for pause in &instance.pauses {
            let within = line.life > pause.since_life && pause.until.is_none_or(|until| line.at < until);
            assert!(!within, "paused in life {}, until {:?}: {about}", pause.since_life, pause.until);
        }
    }
}
