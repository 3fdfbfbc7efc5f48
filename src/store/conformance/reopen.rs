//! Reopening a store.

use std::sync::Arc;

use bytes::Bytes;

use super::life::{Image, Plan, commit, commit_all, done, sweep_all};
use super::repeat::mixed_batch;
use super::sweep::{rows_left, with_rows};
use crate::machine::RowKey;
use crate::store::Store;

/// After [`Store::reopen`], with or without a close before it, the store has everything: heads,
/// rows, quarantines, indexes, manifests, and the runs still to be swept. Conditions hold and fail
/// as before.
pub async fn a_reopened_store_has_everything(store: &Arc<dyn Store>) {
    let plan = Plan::new("reopened");
    let (mut life, insert) = plan.start("one", 101);
    let batch = [insert, life.signal("s1", b"early"), life.wake().row(RowKey::Input, Some(b"input"))];
    commit_all(store, &batch).await;
    let (old, insert) = plan.start("two", 102);
    let mut new = plan.start("two", 103).0;
    commit_all(store, &[with_rows(&plan, insert, 4), new.replace(old.version())]).await;
    let manifest = Bytes::from_static(b"manifest");
    done(store.save_manifest(&plan.hash(), manifest.clone()).await);
    let mixed = mixed_batch(store).await;
    commit_all(store, &mixed).await;
    let batch = [mixed.as_slice(), batch.as_slice()].concat();
    for how in ["reopened", "closed and reopened"] {
        let before = Image::of(store, &batch).await;
        if how != "reopened" {
            store.close().await;
        }
        done(store.reopen().await);
        assert_eq!(Image::of(store, &batch).await, before, "what the store holds when {how}");
        assert_eq!(done(store.manifest(&plan.hash()).await), Some(manifest.clone()), "the manifest when {how}");
        let answers = commit(store, &[plan.start("one", 9).1, life.pause(), life.unpause()]).await;
        assert!(matches!(*answers, [Err(_), Ok(()), Ok(())]), "an insert of what is there, two updates: {answers:?}");
    }
    sweep_all(store).await;
    assert_eq!(rows_left(store, &plan, old.run()).await, 0, "rows of the run that was to be swept");
    assert_eq!(rows_left(store, &plan, life.run()).await, 2, "rows of the run that was not");
}

/// A batch with an unknown outcome is repeated after the store was reopened: if it was stored, it
/// succeeds and changes nothing.
pub async fn a_batch_is_repeated_after_reopening(store: &Arc<dyn Store>) {
    let batch = mixed_batch(store).await;
    commit_all(store, &batch).await;
    let before = Image::of(store, &batch).await;
    done(store.reopen().await);
    commit_all(store, &batch).await;
    assert_eq!(Image::of(store, &batch).await, before, "what the store holds after the same batch again");
}
