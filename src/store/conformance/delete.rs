//! Deleting instances, and reusing their ids.

use std::sync::Arc;

use bytes::Bytes;

use super::life::{
    Image, Plan, commit, commit_all, conflict, done, everywhere, id, refused, run, sweep_all, unreadable, unseen,
};
use super::sweep::{rows_left, with_rows};
use crate::machine::RowKey;
use crate::store::{Change, Condition, Loaded, Store};

/// A delete removes the head, the quarantine record and the index entries of an instance; the next
/// sweeps remove its rows. Other instances are unchanged.
pub async fn a_deleted_instance_leaves_nothing_behind(store: &Arc<dyn Store>) {
    let plan = Plan::new("deleted");
    let (_, insert_beside) = plan.start("beside", 9);
    commit_all(store, &[with_rows(&plan, insert_beside, 2)]).await;
    for (n, how) in [(1, "ended"), (2, "due"), (3, "quarantined")] {
        let (mut life, insert) = plan.start("one", n);
        commit_all(store, &[with_rows(&plan, insert, 4)]).await;
        match how {
            "ended" => commit_all(store, &[life.cancel()]).await,
            "quarantined" => commit_all(store, &[life.quarantine("a bug")]).await,
            _ => {}
        }
        let version = if how == "quarantined" { life.version().set_aside() } else { life.version() };
        commit_all(store, &[life.delete().under(Condition::Seen(version))]).await;
        assert_eq!(done(store.load(life.id()).await), None, "deleted while {how}");
        assert_eq!(done(store.quarantined(None, 10).await), [], "deleted while {how}");
        assert_eq!(everywhere(store, &plan).await, [id("beside"), id("beside")], "deleted while {how}");
        sweep_all(store).await;
        assert_eq!(rows_left(store, &plan, life.run()).await, 0, "rows of an instance deleted while {how}");
    }
    assert_eq!(rows_left(store, &plan, run(9)).await, 6, "rows of the one beside");
}

/// A deleted id is free, in the same batch and in later ones: an insert succeeds, and its run has
/// only its own rows.
pub async fn a_deleted_id_starts_anew(store: &Arc<dyn Store>) {
    let plan = Plan::new("anew");
    for together in [true, false] {
        let name = format!("together: {together}");
        let (old, insert_old) = plan.start(&name, if together { 1 } else { 3 });
        let (mut new, insert_new) = plan.start(&name, if together { 2 } else { 4 });
        commit_all(store, &[with_rows(&plan, insert_old, 3)]).await;
        let batch = [old.delete(), with_rows(&plan, insert_new, 3), new.pause()];
        for part in batch.chunks(if together { 3 } else { 1 }) {
            commit_all(store, part).await;
        }
        sweep_all(store).await;
        assert_eq!(done(store.load(&id(&name)).await), Some(Loaded { head: new.head(), quarantine: None }), "{name}");
        assert_eq!(rows_left(store, &plan, old.run()).await, 0, "{name}: rows of the deleted run");
        assert_eq!(rows_left(store, &plan, new.run()).await, 7, "{name}: rows of the new run");
        assert_eq!(everywhere(store, &plan).await.iter().filter(|found| **found == id(&name)).count(), 2, "{name}");
        assert_eq!(refused(store, old.clone().pause()).await, Some(new.at()), "{name}: a late write of the old run");
    }
}

/// A delete needs the version that its writer has seen: an instance that was changed or quarantined
/// since is kept.
pub async fn a_delete_needs_run_and_seq(store: &Arc<dyn Store>) {
    let plan = Plan::new("kept");
    let (mut life, insert) = plan.start("one", 1);
    let early = life.delete();
    commit_all(store, &[insert.row(RowKey::Input, Some(b"input")), life.pause()]).await;
    assert_eq!(refused(store, early).await, Some(life.at()), "a delete that missed a transition");
    let other = life.delete().under(unseen(run(2), life.at().1));
    assert_eq!(refused(store, other).await, Some(life.at()), "a delete of another run");
    assert_eq!(refused(store, life.delete().under(Condition::Absent)).await, Some(life.at()));
    let answers = commit(store, &[life.unpause(), life.clone().delete(), life.quarantine("a bug")]).await;
    let nothing = Err(conflict(None));
    assert_eq!(answers, [Ok(()), Ok(()), nothing], "a transition, a delete that saw it, a quarantine of nothing");

    let (life, insert) = plan.start("two", 2);
    commit_all(store, &[insert, life.quarantine("a bug")]).await;
    assert_eq!(refused(store, life.delete()).await, Some(life.at()), "a delete of what was quarantined meanwhile");
    sweep_all(store).await;
    assert_eq!(done(store.load(life.id()).await).map(|loaded| loaded.head), Some(life.head()), "it stays");
}

/// A delete of an instance that does not exist succeeds under every condition, and does not affect
/// a later instance of that id.
pub async fn what_is_not_there_is_deleted_already(store: &Arc<dyn Store>) {
    let plan = Plan::new("absent");
    let (life, insert) = plan.start("one", 1);
    let delete = life.delete();
    let conditions = [delete.condition, Condition::Seen(life.version().set_aside()), Condition::Absent];
    for condition in conditions {
        commit_all(store, &[delete.clone().under(condition)]).await;
    }
    commit_all(store, &[with_rows(&plan, insert, 0)]).await;
    sweep_all(store).await;
    assert_eq!(rows_left(store, &plan, life.run()).await, 4, "rows of a run that a delete named before it was there");
    commit_all(store, &[delete.clone(), delete.clone()]).await;
    commit_all(store, &[delete]).await;
    assert_eq!(done(store.load(life.id()).await), None);
}

/// A repeated batch with deletes succeeds as before and changes nothing, also where transitions led
/// to the deleted instance, and where the id was taken again. After a sweep, nothing recognizes
/// transitions that led to a delete: they are refused then, and change nothing.
pub async fn a_repeated_delete_succeeds_and_changes_nothing(store: &Arc<dyn Store>) {
    let plan = Plan::new("repeats");
    let (mut ended, insert_ended) = plan.start("ended", 1);
    let (mut restarted, insert_restarted) = plan.start("restarted", 2);
    let (aside, insert_aside) = plan.start("aside", 3);
    commit_all(store, &[with_rows(&plan, insert_ended, 2), insert_restarted, insert_aside]).await;
    let mut late = ended.clone();
    late.wake();
    let (mut anew, insert_anew) = plan.start("restarted", 4);
    let (mut brief, insert_brief) = plan.start("brief", 5);
    let late = late.pause().under(unseen(ended.run(), 77));
    let batch = [
        late,
        ended.cancel(),
        ended.delete(),
        restarted.cancel(),
        restarted.delete(),
        insert_anew.row(RowKey::Input, Some(b"input")),
        anew.wake(),
        aside.quarantine("a bug"),
        aside.delete().under(Condition::Seen(aside.version().set_aside())),
        insert_brief,
        brief.cancel(),
        brief.delete(),
    ];
    let mut images = Vec::new();
    for time in ["first", "second", "third"] {
        let answers = commit(store, &batch).await;
        let refused: Vec<usize> = (0..).zip(&answers).filter(|(_, answer)| answer.is_err()).map(|(n, _)| n).collect();
        assert_eq!(refused, [0], "the refused writes of the batch the {time} time");
        images.push(Image::of(store, &batch).await);
    }
    assert!(
        images.windows(2).all(|pair| matches!(pair, [one, next] if one == next)),
        "what the batch left: {images:?}"
    );
    sweep_all(store).await;
    images = vec![Image::of(store, &batch).await];
    let last = commit(store, &batch).await;
    let deletes = batch.iter().zip(last).filter(|(write, _)| matches!(write.change, Change::Delete));
    assert!(deletes.into_iter().all(|(_, answer)| answer.is_ok()), "a delete of no instance succeeds");
    sweep_all(store).await;
    assert_eq!(images, [Image::of(store, &batch).await], "what the batch left when its rows were swept");
    assert_eq!(done(store.load(&id("restarted")).await).map(|loaded| loaded.head), Some(anew.head()));
}

/// A head that the store cannot read can be deleted, together with its index entries.
pub async fn a_head_that_cannot_be_read_can_be_deleted(store: &Arc<dyn Store>) {
    let plan = Plan::new("unreadable");
    for (n, aside) in [(1, false), (2, true)] {
        let (mut life, insert) = plan.start("one", n);
        commit_all(store, &[insert]).await;
        let mut damaged = life.wake();
        let head = Bytes::from_static(b"not a head");
        damaged.change = Change::Head(head.clone());
        commit_all(store, &[damaged]).await;
        let mut seen = unreadable(&head);
        if aside {
            commit_all(store, &[life.quarantine("unreadable").under(Condition::Seen(seen))]).await;
            assert_eq!(refused(store, life.delete().under(Condition::Seen(seen))).await, None, "it was quarantined");
            seen = seen.set_aside();
        }
        let other = Condition::Seen(unreadable(&Bytes::from_static(b"another head")));
        assert_eq!(refused(store, life.delete().under(other)).await, None, "a delete that saw another head");
        assert_eq!(refused(store, life.delete()).await, None, "a delete that names a transition");
        let mut delete = life.delete().under(Condition::Seen(seen));
        delete.superseded = None;
        commit_all(store, &[delete]).await;
        assert_eq!(done(store.load(&id("one")).await), None, "quarantined: {aside}");
        assert_eq!(done(store.quarantined(None, 10).await), [], "quarantined: {aside}");
        assert_eq!(everywhere(store, &plan).await, [], "quarantined: {aside}");
    }
    commit_all(store, &[plan.start("one", 3).1]).await;
    assert_eq!(everywhere(store, &plan).await, [id("one"), id("one")], "the id is free");
}
