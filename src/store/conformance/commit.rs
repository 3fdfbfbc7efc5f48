//! Conditions and batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::life::{DAWN, Plan, commit, commit_all, conflict, done, id, listed, refused, run, sweep_all, unseen};
use crate::machine::{HeadIndex, RowKey};
use crate::status::StatusCode;
use crate::store::{Condition, Loaded, Store, Write};

async fn head(store: &Arc<dyn Store>, instance: &str) -> Option<Bytes> {
    done(store.load(&id(instance)).await).map(|loaded| loaded.head)
}

/// A batch has one answer for each write, in their order; an empty batch has none.
pub async fn answers_come_in_order(store: &Arc<dyn Store>) {
    assert!(commit(store, &[]).await.is_empty(), "an empty batch has no answers");
    let plan = Plan::new("order");
    let (mut lives, inserts): (Vec<_>, Vec<_>) = (0..200).map(|n| plan.start(&format!("{n}"), n)).unzip();
    let even: Vec<Write> = inserts.into_iter().step_by(2).collect();
    commit_all(store, &even).await;
    // Heads that differ from the stored ones, so that none is a repeat.
    let batch: Vec<Write> = lives.iter_mut().map(|life| life.pause().under(Condition::Absent)).collect();
    for (n, answer) in commit(store, &batch).await.iter().enumerate() {
        assert_eq!(answer.is_err(), n % 2 == 0, "write {n}: instances with an even number exist");
    }
}

/// Of many inserts of one instance in a batch, only the first succeeds. The others write no row,
/// and each is answered with the run that exists.
pub async fn of_many_inserts_the_first_wins(store: &Arc<dyn Store>) {
    let plan = Plan::new("inserts");
    let (lives, batch): (Vec<_>, Vec<_>) = (0..100).map(|n| plan.start("one", n)).unzip();
    let batch: Vec<Write> = batch.into_iter().map(|write| write.row(RowKey::Signal(0), Some(b"its"))).collect();
    let answers = commit(store, &batch).await;
    let mut lives = lives.iter().zip(&answers);
    let Some((winner, first)) = lives.next() else { panic!("100 instances were started") };
    assert_eq!(*first, Ok(()), "the first insert finds no instance");
    for (loser, answer) in lives {
        assert_eq!(*answer, Err(conflict(Some(winner.at()))), "an insert after the first");
        let row = done(store.row(loser.run(), &RowKey::Signal(0)).await);
        assert_eq!(row, None, "a row of an insert that was refused");
    }
    assert_eq!(head(store, "one").await, Some(winner.head()), "the head is the winner's");
    assert!(done(store.row(winner.run(), &RowKey::Signal(0)).await).is_some(), "the winner's row is there");
    let (_, late) = plan.start("one", 200);
    assert_eq!(refused(store, late).await, Some(winner.at()), "an insert in a later batch");
}

/// One insert that is many times in its batch counts as one insert and its repeats.
pub async fn an_insert_repeated_in_its_batch_counts_once(store: &Arc<dyn Store>) {
    let (life, insert) = Plan::new("inserts").start("one", 1);
    commit_all(store, &vec![insert; 100]).await;
    assert_eq!(head(store, "one").await, Some(life.head()));
}

/// An update needs the run and transition that it names; if refused, it is answered with those that
/// exist.
pub async fn an_update_needs_run_and_seq(store: &Arc<dyn Store>) {
    let (mut life, insert) = Plan::new("updates").start("one", 1);
    let early = life.clone().pause();
    assert_eq!(refused(store, early).await, None, "an update of an instance that does not exist");
    commit_all(store, &[insert]).await;
    let there = life.at();
    let update = life.wake();
    for (at, seq) in [(run(1), there.1 - 1), (run(1), there.1 + 1), (run(2), there.1), (run(0), there.1)] {
        let other = update.clone().under(unseen(at, seq));
        assert_eq!(refused(store, other).await, Some(there), "the condition named run {at} at {seq}");
    }
    commit_all(store, &[update]).await;
    assert_eq!(head(store, "one").await, Some(life.head()), "the update that named the stored transition");
    assert_eq!(refused(store, life.cancel().under(Condition::Absent)).await, Some((run(1), there.1 + 1)));
}

/// A write sees the earlier writes of its instance in the same batch: a chain of transitions
/// succeeds at once, and of two writes from the same version only the first does.
pub async fn writes_of_one_instance_see_those_before_them(store: &Arc<dyn Store>) {
    let (mut life, insert) = Plan::new("chains").start("one", 1);
    let chain = [insert, life.wake(), life.wake(), life.signal("s1", b"yes")];
    commit_all(store, &chain).await;
    assert_eq!(head(store, "one").await, Some(life.head()), "the head at the end of a chain");

    let (mut life, insert) = Plan::new("chains").start("two", 2);
    commit_all(store, &[insert]).await;
    let mut rival = life.clone();
    let answers = commit(store, &[life.wake(), rival.pause()]).await;
    assert_eq!(answers, [Ok(()), Err(conflict(Some(life.at())))], "two writers of one transition");
    assert_eq!(head(store, "two").await, Some(life.head()));
}

/// A writer that has not seen the last transition is refused, even if its own head has the same
/// number as the stored one. The answer names the stored transition, and the head stays.
pub async fn a_stale_writer_is_refused_and_told_what_was_found(store: &Arc<dyn Store>) {
    let (mut life, insert) = Plan::new("stale").start("one", 1);
    let mut stale = life.clone();
    commit_all(store, &[insert, life.wake()]).await;
    let write = stale.pause();
    assert_eq!(stale.at(), life.at(), "both are at the same transition, each with another head");
    assert_eq!(refused(store, write).await, Some(life.at()));
    assert_eq!(refused(store, stale.cancel().under(unseen(run(1), 1))).await, Some(life.at()));
    assert_eq!(head(store, "one").await, Some(life.head()), "the stored head");
}

/// Of two writers that each make the next transition, the second is refused, even if its head is
/// equal: its rows may differ, and none of them is written. Its later writes, in the same batch or
/// the next, are refused too.
pub async fn two_writers_with_equal_heads_are_told_apart(store: &Arc<dyn Store>) {
    for together in [true, false] {
        let name = format!("together: {together}");
        let (mut first, insert) = Plan::new("rivals").start(&name, u8::from(together));
        commit_all(store, &[insert]).await;
        let mut second = first.clone();
        let one = first.signal("s1", b"of the first");
        let others = [second.signal("s2", b"of the second").row(RowKey::Input, Some(b"second")), second.wake()];
        assert_eq!(first.at().1 + 1, second.at().1, "{name}");
        let refused = Err(conflict(Some(first.at())));
        if together {
            let [other, next] = others;
            assert_eq!(commit(store, &[one, other, next]).await, [Ok(()), refused.clone(), refused], "{name}");
        } else {
            commit_all(store, &[one]).await;
            for other in others {
                let answers = commit(store, &[other]).await;
                assert!(answers.iter().eq([&refused]), "{name}: {answers:?}");
            }
        }
        assert_eq!(head(store, &name).await, Some(first.head()), "{name}");
        assert_eq!(done(store.row(first.run(), &RowKey::Input).await), None, "{name}: a row of the second writer");
        commit_all(store, &[first.wake()]).await;
    }
}

/// A refused write leaves nothing: no head, no row, no index entry, no run to be swept. The other
/// writes of its batch are committed.
pub async fn a_refused_write_leaves_nothing_behind(store: &Arc<dyn Store>) {
    let plan = Plan::new("refusals");
    let (mut a, insert_a) = plan.start("a", 1);
    let (mut c, insert_c) = plan.start("c", 3);
    let insert_a = insert_a.row(RowKey::Signal(0), Some(b"kept")).row(plan.result(0), Some(b"kept"));
    commit_all(store, &[insert_a]).await;
    let before = a.clone();

    let mut ghost = plan.start("ghost", 9).0;
    let wrong = a.cancel().under(unseen(run(1), 77));
    let wrong =
        wrong.row(RowKey::Signal(0), None).row(plan.result(0), Some(b"changed")).row(RowKey::Input, Some(b"new"));
    let ended = Write { superseded: Some(run(1)), ..wrong };
    let batch = [insert_c, ended, ghost.pause().row(RowKey::Input, Some(b"ghost")), c.wake(), ghost.quarantine("no")];
    let answers = commit(store, &batch).await;
    let unseen = Err(conflict(None));
    assert_eq!(answers, [Ok(()), Err(conflict(Some(before.at()))), unseen.clone(), Ok(()), unseen]);

    assert_eq!(head(store, "c").await, Some(c.head()), "the other writes of the batch are committed");
    let kept = Some(Loaded { head: before.head(), quarantine: None });
    assert_eq!(done(store.load(&id("a")).await), kept, "the head of a refused write");
    assert_eq!(done(store.load(&id("ghost")).await), None, "an instance that only a refused write named");
    assert_eq!(done(store.quarantined(None, 10).await), [], "a quarantine that was refused");
    assert_eq!(listed(store, &plan, StatusCode::Cancelled).await, [], "the status of a refused write");
    assert_eq!(listed(store, &plan, StatusCode::Paused).await, [], "the status of a refused write");
    assert_eq!(listed(store, &plan, StatusCode::Waiting).await, [id("a"), id("c")]);
    assert_eq!(done(store.due(None, 10).await).len(), 2, "the due index has the two stored instances");

    sweep_all(store).await;
    let kept = Some(Bytes::from_static(b"kept"));
    assert_eq!(done(store.row(run(1), &RowKey::Signal(0)).await), kept, "a row that a refused write deletes");
    assert_eq!(done(store.row(run(1), &plan.result(0)).await), kept, "a row that a refused write changes");
    assert_eq!(done(store.row(run(1), &RowKey::Input).await), None, "a row that a refused write adds");
    assert_eq!(done(store.row(run(9), &RowKey::Input).await), None, "a row of an instance that does not exist");
}

/// Several transitions of an instance in one batch leave its last head, and each row as the last of
/// them has put or deleted it.
pub async fn a_batch_leaves_the_last_head_and_every_row(store: &Arc<dyn Store>) {
    let plan = Plan::new("folds");
    let (mut life, insert) = plan.start("one", 1);
    let insert = insert.row(RowKey::Input, Some(b"old")).row(plan.result(0), Some(b"old"));
    commit_all(store, &[insert]).await;
    let batch = [
        life.wake().row(plan.result(0), Some(b"first")).row(plan.result(1), Some(b"put")).row(RowKey::Signal(7), None),
        life.wake().row(plan.result(0), Some(b"second")).row(plan.result(1), None).row(RowKey::Input, None),
        life.pause().row(RowKey::Signal(7), Some(b"deleted, then put")),
        life.unpause().row(plan.result(2), Some(b"twice")).row(plan.result(2), Some(b"in one write")),
    ];
    commit_all(store, &batch).await;
    assert_eq!(head(store, "one").await, Some(life.head()), "the last head");
    let expected: [(RowKey, Option<&'static [u8]>); 5] = [
        (plan.result(0), Some(b"second")),
        (plan.result(1), None),
        (RowKey::Input, None),
        (RowKey::Signal(7), Some(b"deleted, then put")),
        (plan.result(2), Some(b"in one write")),
    ];
    for (key, value) in expected {
        assert_eq!(done(store.row(run(1), &key).await), value.map(Bytes::from_static), "row {key:?}");
    }
    assert_eq!(done(store.definitions().await), [plan.hash()]);
    assert_eq!(listed(store, &plan, StatusCode::AwaitingSignal).await, [id("one")], "the status of the last head");
    for passed in [StatusCode::Waiting, StatusCode::Paused] {
        assert_eq!(listed(store, &plan, passed).await, [], "a status it only passed through");
    }
}

/// A concurrent reader sees all of a write or nothing: each head with the rows of its transition,
/// and an instance whose due time changes exactly once in the due index. No reader ever sees a
/// refused write.
pub async fn a_reader_sees_a_write_whole_or_not_at_all(store: &Arc<dyn Store>) {
    let plan = Plan::new("readers");
    let at = |n: u8| DAWN.after(Duration::from_secs(u64::from(n) * 37 % 11));
    let mut seen = None;
    let mut heads = |n: u8| {
        let mut life = plan.start_at("moving", n, at(n)).0;
        let write = life.put(seen.unwrap_or(life.version()));
        seen = Some(life.version());
        write.row(RowKey::Signal(1), Some(b"beside the head"))
    };
    let others: Vec<Write> = (0..11).map(|n| plan.start_at(&format!("{n}"), 200 + n, at(n)).1).collect();
    commit_all(store, &others).await;
    commit_all(store, &[heads(0).under(Condition::Absent)]).await;
    let written = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(read_until(Arc::clone(store), Arc::clone(&written)));
    let mut ghost = plan.start("ghost", 255).0;
    let ghost = ghost.put(ghost.version());
    for n in 1..=150 {
        let answers = commit(store, &[ghost.clone().row(RowKey::Signal(1), Some(b"no")), heads(n)]).await;
        assert!(matches!(*answers, [Err(_), Ok(())]), "the first is of no instance, the second holds: {answers:?}");
        tokio::task::yield_now().await;
    }
    written.store(true, Ordering::Relaxed);
    if let Err(error) = reader.await {
        panic!("the reader beside the writer failed: {error}");
    }
}

async fn read_until(store: Arc<dyn Store>, written: Arc<AtomicBool>) {
    let moving = id("moving");
    while !written.load(Ordering::Relaxed) {
        let Some(loaded) = done(store.load(&moving).await) else { panic!("a committed instance is gone") };
        let Ok(index) = HeadIndex::of_head(&moving, &loaded.head) else { panic!("a head was read torn") };
        let row = done(store.row(index.run, &RowKey::Signal(1)).await);
        assert!(row.is_some(), "the head of run {} is stored, but not the row written with it", index.run);
        let due = done(store.due(None, 100).await);
        let entries = due.iter().filter(|(_, instance)| *instance == moving).count();
        assert_eq!(entries, 1, "due entries of an instance that only ever moves");
        assert_eq!(done(store.load(&id("ghost")).await), None, "the head of a refused write");
        assert_eq!(done(store.row(run(255), &RowKey::Signal(1)).await), None, "a row of a refused write");
        tokio::task::yield_now().await;
    }
}
