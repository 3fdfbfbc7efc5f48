//! Quarantining and releasing instances.

use std::sync::Arc;

use bytes::Bytes;

use super::life::{
    Life, Plan, commit, commit_all, conflict, done, everywhere, id, listed, paged, refused, run, unreadable,
};
use crate::machine::RowKey;
use crate::status::StatusCode;
use crate::store::{Change, Condition, Loaded, Store, Write};

async fn load(store: &Arc<dyn Store>, life: &Life) -> Option<Loaded> {
    done(store.load(life.id()).await)
}

/// Returns the record of a quarantine write.
fn record(quarantine: &Write) -> Option<Bytes> {
    match &quarantine.change {
        Change::Quarantine(record) => Some(record.clone()),
        Change::Head(_) | Change::Delete => None,
    }
}

/// A quarantine keeps the head and the rows byte for byte, and stores its record beside them. The
/// instance is listed only as quarantined. A later record replaces the first.
pub async fn quarantine_keeps_the_head_and_unlists_the_instance(store: &Arc<dyn Store>) {
    let plan = Plan::new("aside");
    let (life, insert) = plan.start("one", 1);
    let (_, insert_beside) = plan.start("beside", 2);
    commit_all(store, &[insert.row(RowKey::Input, Some(b"input")), insert_beside]).await;
    assert_eq!(everywhere(store, &plan).await, ["beside", "one", "beside", "one"].map(id), "due, then by status");
    for (reason, seen) in [("a bug", life.version()), ("another bug", life.version().set_aside())] {
        let quarantine = life.quarantine(reason).under(Condition::Seen(seen));
        commit_all(store, std::slice::from_ref(&quarantine)).await;
        let expected = Some(Loaded { head: life.head(), quarantine: record(&quarantine) });
        assert_eq!(load(store, &life).await, expected, "quarantined for {reason}");
        assert_eq!(done(store.quarantined(None, 10).await), [id("one")]);
        assert_eq!(everywhere(store, &plan).await, [id("beside"), id("beside")], "only the other one is listed");
    }
    assert_eq!(done(store.row(run(1), &RowKey::Input).await), Some(Bytes::from_static(b"input")), "its rows stay");
}

/// The quarantined instances of all definitions are returned by id, in pages.
pub async fn the_quarantined_are_ordered_and_paged(store: &Arc<dyn Store>) {
    let plans = [Plan::new("aside"), Plan::new("other")];
    let mut expected = Vec::new();
    for (n, plan) in (0..20).zip(plans.iter().cycle()) {
        let (life, insert) = plan.start(&format!("i{}", (n * 7) % 20), n);
        commit_all(store, &[insert, life.quarantine("a bug")]).await;
        expected.push(life.id().clone());
        commit_all(store, &[plan.start(&format!("sound {n}"), 100 + n).1]).await;
    }
    expected.sort();
    for limit in [1, 6, 19, 20, 21] {
        let pages = paged(limit, |after| async move { store.quarantined(after.as_ref(), limit).await }).await;
        assert_eq!(pages, expected, "in pages of {limit}");
    }
}

/// A quarantined instance refuses inserts and updates, even at its last transition, in later
/// batches and in the same one. The answer names the transition.
pub async fn a_quarantined_instance_takes_no_update(store: &Arc<dyn Store>) {
    let plan = Plan::new("aside");
    let (mut life, insert) = plan.start("one", 1);
    commit_all(store, &[insert]).await;
    let moved = life.wake();
    let kept = life.clone();
    let quarantine = life.quarantine("a bug");
    let answers = commit(store, &[moved, quarantine.clone(), life.wake()]).await;
    let conflict = conflict(Some(kept.at()));
    assert_eq!(answers, [Ok(()), Ok(()), Err(conflict)], "an update after the quarantine, in its batch");
    let expected = Some(Loaded { head: kept.head(), quarantine: record(&quarantine) });
    assert_eq!(load(store, &kept).await, expected, "the head that was there at the quarantine");
    assert_eq!(refused(store, kept.clone().pause()).await, Some(kept.at()), "an update");
    assert_eq!(refused(store, plan.start("one", 9).1).await, Some(kept.at()), "an insert");
    assert_eq!(load(store, &kept).await, expected, "after an update and an insert");
    assert_eq!(everywhere(store, &plan).await, [], "it is still listed nowhere");
}

/// A replacement, delete, quarantine or release applies only to the version that its writer has
/// seen, never to a run that was committed since.
pub async fn what_was_seen_is_what_is_set_aside_released_and_ended(store: &Arc<dyn Store>) {
    let plan = Plan::new("meanwhile");
    for (n, aside) in [(1, true), (3, false)] {
        let (mut old, insert) = plan.start("one", n);
        let mut seen = old.version();
        commit_all(store, &[insert]).await;
        if aside {
            commit_all(store, &[old.quarantine("a bug")]).await;
            seen = seen.set_aside();
        }
        let mut new = plan.start("one", n + 1).0;
        commit_all(store, &[new.replace(seen)]).await;
        let delete = old.delete().under(Condition::Seen(seen));
        let quarantine = old.quarantine("another bug").under(Condition::Seen(seen));
        let mut third = plan.start("one", 9).0;
        for late in [delete, quarantine, third.replace(seen), old.put(seen)] {
            assert_eq!(refused(store, late.clone()).await, Some(new.at()), "{late:?}");
        }
        assert_eq!(
            load(store, &new).await,
            Some(Loaded { head: new.head(), quarantine: None }),
            "quarantined: {aside}"
        );
        commit_all(store, &[new.delete()]).await;
    }
}

/// A head that replaces a quarantined version ends the quarantine, in a later batch or the same
/// one: the record is gone, the instance is listed by its new head and accepts updates.
pub async fn a_head_that_replaces_a_quarantined_one_lists_it_again(store: &Arc<dyn Store>) {
    for (n, name) in [(1, "in a later batch"), (3, "in the same batch")] {
        let plan = Plan::new(name);
        let (old, insert) = plan.start(name, n);
        let (mut new, _) = plan.start(name, n + 1);
        let batch = [insert, old.quarantine("a bug"), new.replace(old.version().set_aside())];
        for part in batch.chunks(if n == 1 { 2 } else { 3 }) {
            commit_all(store, part).await;
        }
        assert_eq!(load(store, &new).await, Some(Loaded { head: new.head(), quarantine: None }), "replaced {name}");
        assert_eq!(done(store.quarantined(None, 10).await), [], "replaced {name}");
        assert_eq!(everywhere(store, &plan).await, [id(name), id(name)], "replaced {name}: due, and by status");
        assert_eq!(refused(store, old.clone().pause()).await, Some(new.at()), "an update of the run that was replaced");
        commit_all(store, &[new.cancel()]).await;
        let listed = listed(store, &plan, StatusCode::Cancelled).await;
        assert_eq!(listed, [id(name)], "replaced {name}: it takes updates");
        commit_all(store, &[new.delete()]).await;
    }
}

/// A release whose head equals the quarantined one byte for byte ends the quarantine: it is no
/// repeat.
pub async fn a_release_with_the_same_head_lists_it_again(store: &Arc<dyn Store>) {
    let plan = Plan::new("released");
    let (mut life, insert) = plan.start("one", 1);
    commit_all(store, &[insert, life.quarantine("a bug")]).await;
    let mut seen = life.version().set_aside();
    for time in ["first", "second"] {
        commit_all(store, &[life.put(seen)]).await;
        seen = life.version();
        let expected = Some(Loaded { head: life.head(), quarantine: None });
        assert_eq!(load(store, &life).await, expected, "released for the {time} time");
        assert_eq!(done(store.quarantined(None, 10).await), [], "released for the {time} time");
        assert_eq!(everywhere(store, &plan).await, [id("one"), id("one")], "due, and by status");
    }
    commit_all(store, &[life.wake()]).await;
    let quarantine = life.quarantine("a bug");
    commit_all(store, &[quarantine, life.put(life.version().set_aside())]).await;
    assert_eq!(
        load(store, &life).await.map(|loaded| loaded.quarantine),
        Some(None),
        "quarantined and released at once"
    );
    assert_eq!(everywhere(store, &plan).await, [id("one"), id("one")], "due, and by status");
}

/// A quarantine of an instance that does not exist is refused and leaves nothing: an instance with
/// that id may start.
pub async fn only_what_is_there_can_be_quarantined(store: &Arc<dyn Store>) {
    let plan = Plan::new("aside");
    let (life, insert) = plan.start("one", 1);
    let there = life.version();
    assert_eq!(refused(store, life.quarantine("a bug")).await, None);
    assert_eq!(refused(store, life.clone().put(there)).await, None, "a head for an instance that must be there");
    assert_eq!(load(store, &life).await, None);
    commit_all(store, &[insert]).await;
    assert_eq!(load(store, &life).await, Some(Loaded { head: life.head(), quarantine: None }));
    assert_eq!(done(store.quarantined(None, 10).await), []);
}

/// A head that the store cannot read, such as one of a later version of this crate, is kept as it
/// is. Inserts and updates are refused, since the transition is unknown; the instance can be
/// quarantined and replaced.
pub async fn a_head_that_cannot_be_read_is_kept_and_can_be_set_aside(store: &Arc<dyn Store>) {
    let plan = Plan::new("unreadable");
    let (mut life, insert) = plan.start("one", 1);
    let before = life.clone();
    commit_all(store, &[insert]).await;
    let mut damaged = life.wake();
    let head = Bytes::from([&life.head()[..], b"?"].concat());
    damaged.change = Change::Head(head.clone());
    commit_all(store, &[damaged]).await;
    let mut kept = Loaded { head, quarantine: None };
    assert_eq!(load(store, &life).await, Some(kept.clone()));
    assert_eq!(everywhere(store, &plan).await, [], "an unreadable head is not listed");
    for seen in [before.version(), life.version()] {
        let update = life.clone().wake().under(Condition::Seen(seen));
        assert_eq!(refused(store, update).await, None, "an update of an unreadable head");
    }
    assert_eq!(refused(store, plan.start("one", 2).1).await, None, "an insert where an unreadable head is");
    let seen = unreadable(&kept.head);
    let quarantine = life.quarantine("unreadable").under(Condition::Seen(seen));
    kept.quarantine = record(&quarantine);
    commit_all(store, &[quarantine]).await;
    assert_eq!(load(store, &life).await, Some(kept));
    assert_eq!(done(store.quarantined(None, 10).await), [id("one")]);
    let mut new = plan.start("one", 3).0;
    let replacing = Write { superseded: Some(life.run()), ..new.put(seen.set_aside()) };
    commit_all(store, &[replacing]).await;
    assert_eq!(load(store, &new).await, Some(Loaded { head: new.head(), quarantine: None }));
    assert_eq!(everywhere(store, &plan).await, [id("one"), id("one")], "due, and by status");
}
