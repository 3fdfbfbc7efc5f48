//! Repeating a batch with an unknown outcome.

use std::slice;
use std::sync::Arc;

use bytes::Bytes;

use super::life::{Image, Life, Plan, commit, commit_all, conflict, sweep_all, unreadable, unseen};
use crate::machine::RowKey;
use crate::store::{Change, Conflict, Store, Write};

/// Returns a batch of every kind of write, on existing and on new instances. All its conditions
/// hold.
pub(super) async fn mixed_batch(store: &Arc<dyn Store>) -> Vec<Write> {
    let plan = Plan::new("repeats");
    let start = |name: &str, run| -> (Life, Write) { plan.start(name, run) };
    let (mut updated, insert_updated) = start("updated", 1);
    let (old, insert_old) = start("restarted", 2);
    let (mut aside, insert_aside) = start("quarantined", 3);
    let (released, insert_released) = start("released", 4);
    let (mut ended, insert_ended) = start("ended", 10);
    let earlier = [insert_updated, insert_old, insert_aside, insert_released, released.quarantine("by mistake")];
    commit_all(store, &earlier).await;
    commit_all(store, &[insert_ended]).await;

    let (mut pipelined, insert_pipelined) = start("pipelined", 5);
    let (_, inserted) = start("inserted", 6);
    let (mut restarted, _) = start("restarted", 7);
    let (mut fresh, _) = start("released", 8);
    vec![
        insert_pipelined.row(plan.result(0), Some(b"old")).row(plan.result(1), Some(b"put")),
        inserted.row(RowKey::Input, Some(b"large")),
        pipelined.signal("s1", b"early").row(plan.result(0), Some(b"new")),
        updated.wake(),
        pipelined.wake().row(plan.result(1), None),
        restarted.replace(old.version()),
        restarted.wake(),
        aside.wake(),
        aside.quarantine("a bug"),
        fresh.replace(released.version().set_aside()),
        fresh.wake(),
        ended.cancel(),
        ended.delete(),
    ]
}

/// A committed batch that is repeated succeeds in all its writes and changes nothing: several
/// transitions of one instance, inserts, replacements and quarantines.
pub async fn a_repeated_batch_succeeds_and_changes_nothing(store: &Arc<dyn Store>) {
    let batch = mixed_batch(store).await;
    commit_all(store, &batch).await;
    let before = Image::of(store, &batch).await;
    for _ in 0..2 {
        let answers = commit(store, &batch).await;
        assert!(answers.iter().all(Result::is_ok), "every write of the batch is already stored: {answers:?}");
        assert_eq!(Image::of(store, &batch).await, before, "what the store holds after the same batch again");
    }
}

/// A repeated batch answers each write as it did the first time: a refused write is not reported as
/// successful, nor a successful one as refused.
pub async fn a_repeated_batch_tells_winners_from_losers(store: &Arc<dyn Store>) {
    let plan = Plan::new("repeats");
    let (_, first) = plan.start("wanted twice", 1);
    let (_, second) = plan.start("wanted twice", 2);
    let (mut moved, insert_moved) = plan.start("moved", 3);
    let (mut led, insert_led) = plan.start("led", 4);
    commit_all(store, &[insert_moved, insert_led]).await;
    let (mut stale, mut lost) = (moved.clone(), led.clone());
    let lost = lost.pause().under(unseen(led.run(), 77));
    // The winner is before its rival in the first two pairs, and after it in the third.
    let batch = [first, second, moved.wake(), stale.pause(), lost, led.wake()];
    let expected = [true, false, true, false, false, true];
    let mut images = Vec::new();
    for time in ["first", "second"] {
        let answers = commit(store, &batch).await;
        let succeeded: Vec<bool> = answers.iter().map(Result::is_ok).collect();
        assert_eq!(succeeded, expected, "which writes succeeded the {time} time");
        images.push(Image::of(store, &batch).await);
    }
    assert!(
        images.windows(2).all(|pair| matches!(pair, [first, second] if first == second)),
        "what the batch left: {images:?}"
    );
}

/// Method: commits a chain of transitions, and repeats it from each of its transitions on, up to
/// each, and with one more at its end. Only the new write changes the store.
pub async fn a_part_of_a_batch_repeated_is_known(store: &Arc<dyn Store>) {
    let (mut life, insert) = Plan::new("parts").start("one", 1);
    let chain = [insert, life.wake(), life.pause(), life.quarantine("a bug")];
    commit_all(store, &chain).await;
    let before = Image::of(store, &chain).await;
    for from in 0..chain.len() {
        commit_all(store, chain.get(from..).unwrap_or_default()).await;
        assert_eq!(Image::of(store, &chain).await, before, "from write {from} on");
    }
    for to in 1..chain.len() {
        let answers = commit(store, chain.get(..to).unwrap_or_default()).await;
        assert!(answers.iter().all(Result::is_err), "no repeat without the last write of the chain: {answers:?}");
        assert_eq!(Image::of(store, &chain).await, before, "the first {to}");
    }
    let released = [&chain[..], &[life.put(life.version().set_aside())]].concat();
    commit_all(store, &released).await;
    let before = Image::of(store, &chain).await;
    commit_all(store, &released).await;
    assert_eq!(Image::of(store, &chain).await, before, "with a release at its end");
}

/// A repeated quarantine succeeds, and the first record is kept. Another writer's is refused, since
/// that writer has not seen the instance quarantined.
pub async fn a_repeated_quarantine_succeeds_and_a_rivals_does_not(store: &Arc<dyn Store>) {
    let (life, insert) = Plan::new("aside").start("one", 1);
    commit_all(store, &[insert]).await;
    let (first, second) = (life.quarantine("a bug"), life.quarantine("another bug"));
    commit_all(store, slice::from_ref(&first)).await;
    let before = Image::of(store, slice::from_ref(&first)).await;
    assert_eq!(commit(store, &[second.clone(), first.clone()]).await, [Err(conflict(Some(life.at()))), Ok(())]);
    assert_eq!(commit(store, &[second]).await, [Err(conflict(Some(life.at())))]);
    assert_eq!(Image::of(store, &[first]).await, before);
}

/// A start that is repeated after its run was deleted or replaced is refused, with `is_over` set,
/// as long as rows of that run may be left: it would lose them to the sweep.
pub async fn a_start_repeated_after_its_run_is_refused(store: &Arc<dyn Store>) {
    let plan = Plan::new("over");
    let (life, insert) = plan.start("deleted", 1);
    commit_all(store, slice::from_ref(&insert)).await;
    commit_all(store, &[life.delete()]).await;
    let refused = conflict(None);
    assert_eq!(commit(store, slice::from_ref(&insert)).await, [Err(Conflict { is_over: true, ..refused })]);

    let (old, insert) = plan.start("replaced", 2);
    let (mut new, _) = plan.start("replaced", 3);
    commit_all(store, &[insert.clone(), new.replace(old.version())]).await;
    let over = Conflict { is_over: true, ..conflict(Some(new.at())) };
    assert_eq!(commit(store, slice::from_ref(&insert)).await, [Err(over)]);
    let answers = commit(store, &[new.delete(), insert.clone()]).await;
    assert_eq!(answers, [Ok(()), Err(Conflict { is_over: true, ..conflict(None) })]);
    sweep_all(store).await;
    let (_, another) = plan.start("replaced", 4);
    commit_all(store, &[another]).await;

    // In place of an unreadable head, where the start names no run that it ends.
    let (mut old, insert) = plan.start("unreadable", 5);
    let (head, mut damaged) = (Bytes::from_static(b"not a head"), old.wake());
    damaged.change = Change::Head(head.clone());
    commit_all(store, &[insert, damaged]).await;
    let (mut new, _) = plan.start("unreadable", 6);
    let mut start = new.replace(unreadable(&head));
    start.superseded = None;
    commit_all(store, &[start.clone(), new.cancel(), new.delete()]).await;
    let over = Conflict { is_over: true, ..conflict(None) };
    assert_eq!(commit(store, slice::from_ref(&start)).await, [Err(over)]);
}
