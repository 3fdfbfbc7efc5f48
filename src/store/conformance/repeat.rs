//! A batch comes again, because its outcome is not known.

use std::sync::Arc;

use super::life::{Image, Life, Plan, commit, commit_all};
use crate::machine::RowKey;
use crate::store::{Condition, Store, Write};

/// A batch of every kind of write on instances that are there and that are not. All its conditions hold.
pub(super) async fn mixed_batch(store: &Arc<dyn Store>) -> Vec<Write> {
    let plan = Plan::new("repeats");
    let start = |name: &str, run| -> (Life, Write) { plan.start(name, run) };
    let (mut updated, insert_updated) = start("updated", 1);
    let (old, insert_old) = start("restarted", 2);
    let (mut aside, insert_aside) = start("set aside", 3);
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
        restarted.replace(Some(old.run())),
        restarted.wake(),
        aside.wake(),
        aside.quarantine("a bug"),
        fresh.replace(Some(released.run())),
        fresh.wake(),
        ended.cancel(),
        ended.delete(),
    ]
}

/// A batch that was committed succeeds when it comes again, in all its writes, and changes nothing: several transitions
/// of one instance, inserts, restarts and quarantines alike.
pub async fn a_repeated_batch_succeeds_and_changes_nothing(store: &Arc<dyn Store>) {
    let batch = mixed_batch(store).await;
    commit_all(store, &batch).await;
    let before = Image::of(store, &batch).await;
    for _ in 0..2 {
        let answers = commit(store, &batch).await;
        assert!(answers.iter().all(Result::is_ok), "every write of the batch is stored already: {answers:?}");
        assert_eq!(Image::of(store, &batch).await, before, "what the store holds after the same batch again");
    }
}

/// A batch that comes again answers each write as it did the first time: who was refused then is not told that it
/// succeeded, and who succeeded is not told that it was refused.
pub async fn a_repeated_batch_tells_winners_from_losers(store: &Arc<dyn Store>) {
    let plan = Plan::new("repeats");
    let (_, first) = plan.start("wanted twice", 1);
    let (_, second) = plan.start("wanted twice", 2);
    let (mut moved, insert_moved) = plan.start("moved", 3);
    let (mut led, insert_led) = plan.start("led", 4);
    commit_all(store, &[insert_moved, insert_led]).await;
    let (mut stale, mut lost) = (moved.clone(), led.clone());
    let lost = lost.pause().under(Condition::At { run: led.run(), seq: 77 });
    // The winner stands before its rival in the first two pairs, behind it in the third.
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
