//! Finding instances by due time, by definition and status, and by end.

use std::sync::Arc;
use std::time::Duration;

use super::life::{DAWN, HOUR, Life, Plan, all_ended, commit, commit_all, done, id, listed, paged};
use crate::id::InstanceId;
use crate::status::StatusCode;
use crate::store::{Store, Write};
use crate::time::Timestamp;

async fn all_due(store: &Arc<dyn Store>) -> Vec<(Timestamp, InstanceId)> {
    done(store.due(None, 10_000).await)
}

fn due(life: &Life) -> (Timestamp, InstanceId) {
    match life.due() {
        Some(at) => (at, life.id().clone()),
        None => panic!("the suite's instance `{}` is not due", life.id()),
    }
}

/// The due index is ordered by time, then by id. Pages have no gaps and no repeats, also after an
/// entry that was removed and after a point without an entry.
pub async fn the_due_index_is_ordered_and_paged(store: &Arc<dyn Store>) {
    let plan = Plan::new("due");
    assert_eq!(all_due(store).await, [], "an empty store");
    // Latest first, three at each time; the times cross byte boundaries.
    let at = |n: u64| Timestamp::from_micros(DAWN.as_micros() + 100 * (n / 3));
    let starts = (0..60).rev().map(|n| plan.start_at(&format!("i{:02}", 59 - n), u8::try_from(n).unwrap_or(0), at(n)));
    let (lives, inserts): (Vec<Life>, Vec<Write>) = starts.unzip();
    commit_all(store, &inserts).await;
    let mut expected: Vec<_> = lives.iter().map(due).collect();
    expected.sort();
    assert_eq!(all_due(store).await, expected, "all at once");
    for limit in [1, 2, 7, 59, 60, 61] {
        let pages = paged(limit, |after| async move { store.due(after.as_ref(), limit).await }).await;
        assert_eq!(pages, expected, "in pages of {limit}");
    }

    let Some(mut cancelled) = lives.get(30).cloned() else { panic!("60 instances were started") };
    let gone = due(&cancelled);
    commit_all(store, &[cancelled.cancel()]).await;
    for point in [(gone.0, id("i")), gone.clone(), (gone.0, id("zz"))] {
        let behind: Vec<_> =
            expected.iter().filter(|entry| **entry > point && **entry != gone).take(5).cloned().collect();
        assert_eq!(done(store.due(Some(&point), 5).await), behind, "after {point:?}, where there is no entry");
    }
}

/// An instance has at most one due entry, that of its last head: a commit moves or removes it, a
/// refused write does not.
pub async fn a_due_entry_moves_with_its_instance(store: &Arc<dyn Store>) {
    let plan = Plan::new("due");
    let (mut life, insert) = plan.start("one", 1);
    let (beside, insert_beside) = plan.start_at("beside", 2, DAWN.after(Duration::from_mins(1)));
    commit_all(store, &[insert, insert_beside]).await;
    assert_eq!(all_due(store).await, [due(&life), due(&beside)]);
    let mut stale = life.clone();
    commit_all(store, &[life.pause()]).await;
    assert_eq!(all_due(store).await, [due(&life), due(&beside)], "a write that leaves the time as it was");
    commit_all(store, &[life.unpause(), life.wake()]).await;
    assert_eq!(due(&life).0, DAWN.after(2 * HOUR));
    assert_eq!(all_due(store).await, [due(&beside), due(&life)], "a write that moves the time");
    let answers = commit(store, &[stale.wake()]).await;
    assert!(matches!(*answers, [Err(_)]), "a stale write: {answers:?}");
    assert_eq!(all_due(store).await, [due(&beside), due(&life)], "a write that was refused");
    commit_all(store, &[life.wake()]).await;
    assert_eq!(all_due(store).await, [due(&beside)], "a head that is not due");

    let (mut quick, insert) = plan.start("quick", 3);
    commit_all(store, &[insert, quick.wake(), quick.wake()]).await;
    assert_eq!(all_due(store).await, [due(&beside)], "times that a batch only passed through");
}

/// The status index returns the instances of one definition in one status, by id and in pages.
pub async fn the_status_index_is_ordered_and_paged(store: &Arc<dyn Store>) {
    let (plan, other) = (Plan::new("listed"), Plan::new("other"));
    let names = ["b", "a", "ab", "aa", "a/b", "a b", "ä", "z", "Z", "10", "9", "order-1", "order-10", "order-2"];
    let mut batch = Vec::new();
    for (n, name) in (0..).step_by(3).zip(names) {
        batch.push(plan.start(name, n).1);
        batch.push(other.start(&format!("{name} of another"), n + 1).1);
        let (mut paused, insert) = plan.start(&format!("{name} paused"), n + 2);
        batch.extend([insert, paused.pause()]);
    }
    commit_all(store, &batch).await;
    let mut expected: Vec<InstanceId> = names.map(id).to_vec();
    expected.sort();
    assert_eq!(listed(store, &plan, StatusCode::Waiting).await, expected, "all at once");
    assert_eq!(listed(store, &other, StatusCode::Waiting).await.len(), names.len(), "those of another definition");
    assert_eq!(listed(store, &plan, StatusCode::Paused).await.len(), names.len(), "those in another status");
    for limit in [1, 3, 13, 14, 15] {
        let (hash, waiting) = (plan.hash(), StatusCode::Waiting);
        let page = |after: Option<_>| async move { store.instances(&hash, waiting, after.as_ref(), limit).await };
        assert_eq!(paged(limit, page).await, expected, "in pages of {limit}");
    }
    let behind = done(store.instances(&plan.hash(), StatusCode::Waiting, Some(&id("order-1x")), 2).await);
    assert_eq!(behind, [id("order-2"), id("z")], "after an id that is not listed");
    for status in StatusCode::ALL {
        let nobody = listed(store, &Plan::new("nobody's"), status).await;
        assert_eq!(nobody, [], "a definition without instances");
    }
}

/// An instance is listed only in the status of its last head.
pub async fn a_status_entry_moves_with_its_instance(store: &Arc<dyn Store>) {
    let plan = Plan::new("listed");
    let (mut life, insert) = plan.start("one", 1);
    let steps = [
        (insert, StatusCode::Waiting),
        (life.pause(), StatusCode::Paused),
        (life.unpause(), StatusCode::Waiting),
        (life.wake(), StatusCode::Waiting),
        (life.wake(), StatusCode::AwaitingSignal),
        (life.signal("s1", b"yes"), StatusCode::Completed),
    ];
    for (write, now) in steps {
        commit_all(store, &[write]).await;
        for status in StatusCode::ALL {
            let expected = if status == now { vec![id("one")] } else { Vec::new() };
            assert_eq!(listed(store, &plan, status).await, expected, "{status:?} of an instance that is {now:?}");
        }
    }
}

/// Every definition with instances is listed once. A definition whose last instance was replaced by
/// one of another definition is not listed.
pub async fn definitions_are_listed_once_each(store: &Arc<dyn Store>) {
    assert_eq!(done(store.definitions().await), [], "an empty store");
    let plans: Vec<Plan> = (0..20).map(|n| Plan::new(&format!("plan {n}"))).collect();
    let mut batch = Vec::new();
    let mut moving = None;
    for (n, plan) in (0_u8..).step_by(3).zip(&plans) {
        let (first, insert) = plan.start(&format!("{n}"), n);
        let (mut second, insert_second) = plan.start(&format!("{n} again"), n + 1);
        batch.extend([insert, insert_second, second.cancel()]);
        moving.get_or_insert((first, second));
    }
    commit_all(store, &batch).await;
    let mut expected: Vec<_> = plans.iter().map(Plan::hash).collect();
    expected.sort();
    let mut found = done(store.definitions().await);
    found.sort();
    assert_eq!(found, expected, "20 definitions, each with instances in two states");

    let (Some((first, second)), Some(busy)) = (moving, plans.get(1)) else { panic!("20 definitions were made") };
    let replaced =
        [busy.start("0", 200).0.replace(first.version()), busy.start("0 again", 201).0.replace(second.version())];
    commit_all(store, &replaced).await;
    let gone = plans.first().map(Plan::hash);
    expected.retain(|definition| Some(*definition) != gone);
    let mut found = done(store.definitions().await);
    found.sort();
    assert_eq!(found, expected, "the first definition has no instances any more");
}

/// The index of ends returns the instances that ended in a status, by the time of their end and
/// then by id, up to a time and in pages. Pages have no gaps and no repeats, also after an entry
/// that was removed.
pub async fn the_index_of_ends_is_ordered_and_paged(store: &Arc<dyn Store>) {
    let plan = Plan::new("ended");
    let cancelled = StatusCode::Cancelled;
    // Latest first, three at each time; the times cross byte boundaries.
    let mut ends: Vec<(Timestamp, Life)> = Vec::new();
    for n in 0..60 {
        let at = DAWN.after(Duration::from_micros(100 * (20 - u64::from(n) / 3)));
        let (mut life, insert) = plan.start_at(&format!("i{n:02}"), n, at);
        commit_all(store, &[insert, life.cancel()]).await;
        ends.push((at, life));
    }
    let (_, waiting) = plan.start("waiting", 100);
    commit_all(store, &[waiting]).await;
    let mut expected: Vec<_> = ends.iter().map(|(at, life)| (*at, life.id().clone())).collect();
    expected.sort();
    assert_eq!(all_ended(store, cancelled).await, expected, "all at once");
    for limit in [1, 2, 7, 59, 60, 61] {
        let page = |after: Option<_>| async move {
            store.ended(cancelled, Timestamp::from_micros(u64::MAX), after.as_ref(), limit).await
        };
        assert_eq!(paged(limit, page).await, expected, "in pages of {limit}");
    }
    for micros in [0, 100, 101, 1_000, 2_000, 2_001] {
        let before = DAWN.after(Duration::from_micros(micros));
        let earlier: Vec<_> = expected.iter().filter(|(at, _)| *at < before).cloned().collect();
        let found = done(store.ended(cancelled, before, None, 100).await);
        assert_eq!(found, earlier, "ended in the first {micros} microseconds, and not at their end");
    }
    let Some((at, gone)) = ends.get(30) else { panic!("60 instances have ended") };
    commit_all(store, &[gone.delete()]).await;
    for point in [(*at, id("i")), (*at, gone.id().clone()), (*at, id("zz"))] {
        let behind = |entry: &&(Timestamp, InstanceId)| **entry > point && entry.1 != *gone.id();
        let behind: Vec<_> = expected.iter().filter(behind).take(5).cloned().collect();
        let end = Timestamp::from_micros(u64::MAX);
        let found = done(store.ended(cancelled, end, Some(&point), 5).await);
        assert_eq!(found, behind, "after {point:?}, where there is no entry");
    }
}

/// An instance that has ended is listed by its status and the time of its end, until a new run
/// replaces it, or it is quarantined or deleted.
pub async fn an_end_is_listed_while_its_run_is_there(store: &Arc<dyn Store>) {
    let plan = Plan::new("ended");
    for (n, then) in [(1, "replaced"), (3, "quarantined"), (5, "deleted")] {
        let (mut life, insert) = plan.start(then, n);
        commit_all(store, &[insert, life.wake(), life.wake()]).await;
        for status in StatusCode::ALL {
            assert_eq!(all_ended(store, status).await, [], "{status:?} before its end");
        }
        life.rest(HOUR);
        commit_all(store, &[life.signal("s1", b"yes")]).await;
        for status in StatusCode::ALL {
            let ended = vec![(DAWN.after(3 * HOUR), id(then))];
            let expected = if status == StatusCode::Completed { ended } else { Vec::new() };
            assert_eq!(all_ended(store, status).await, expected, "{status:?} after its end");
        }
        let is_due = all_due(store).await.iter().any(|(_, instance)| *instance == id(then));
        assert!(!is_due, "an ended instance is not due");
        let end = match then {
            "replaced" => plan.start(then, n + 1).0.replace(life.version()),
            "quarantined" => life.quarantine("a bug"),
            _ => life.delete(),
        };
        commit_all(store, &[end]).await;
        assert_eq!(all_ended(store, StatusCode::Completed).await, [], "{then}");
    }
}
