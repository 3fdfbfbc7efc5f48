//! Sweeping: the rows of replaced runs are deleted later.

use std::sync::Arc;

use bytes::Bytes;

use super::life::{Life, Plan, commit_all, done, signal_rows};
use crate::id::RunId;
use crate::machine::{RowChange, RowKey};
use crate::store::{Store, Write};

/// Replaces the rows of a write by rows of every kind: `signals` signal rows and four others.
pub(super) fn with_rows(plan: &Plan, mut write: Write, signals: u64) -> Write {
    let keys = [RowKey::Input, plan.result(0), plan.result(1), plan.result(2)];
    let keys = keys.into_iter().chain((0..signals).map(RowKey::Signal));
    write.rows = keys.map(|key| RowChange { key, value: Some(Bytes::from_static(b"row")) }).collect();
    write
}

/// Returns how many rows of [`with_rows`] a run still has.
pub(super) async fn rows_left(store: &Arc<dyn Store>, plan: &Plan, run: RunId) -> usize {
    let mut left = signal_rows(store, run).await.len();
    for key in [RowKey::Input, plan.result(0), plan.result(1), plan.result(2)] {
        left += usize::from(done(store.row(run, &key).await).is_some());
    }
    left
}

/// Sweeps as the runtime does, until a call sweeps less than `limit`. Returns the number of calls.
async fn sweep_until_done(store: &Arc<dyn Store>, limit: usize) -> usize {
    for calls in 1..1_000 {
        let swept = done(store.sweep(limit).await);
        assert!(swept <= limit, "{swept} swept where at most {limit} were asked for");
        if swept < limit {
            return calls;
        }
    }
    panic!("1,000 sweeps of {limit} are not done with some hundred rows");
}

/// A sweep deletes rows of replaced runs, at most `limit` in a call. Rows of the new run and of
/// other instances stay. With nothing to sweep, a sweep returns 0.
pub async fn a_superseded_run_is_swept_in_small_batches(store: &Arc<dyn Store>) {
    let plan = Plan::new("swept");
    assert_eq!(done(store.sweep(10).await), 0, "an empty store");
    let (beside, insert_beside) = plan.start("beside", 5);
    commit_all(store, &[with_rows(&plan, insert_beside, 6)]).await;
    // Runs whose ids are adjacent to the swept run's, before and after it.
    for (limit, old, new, signals) in [(10, 4, 6, 21), (5, 14, 13, 6), (1, 24, 26, 3), (1_000, 34, 36, 96)] {
        let (old, insert) = plan.start(&format!("by {limit}"), old);
        commit_all(store, &[with_rows(&plan, insert, signals)]).await;
        assert_eq!(done(store.sweep(limit).await), 0, "no run was replaced yet");
        let mut new = plan.start(&format!("by {limit}"), new).0;
        commit_all(store, &[with_rows(&plan, new.replace(old.version()), signals)]).await;
        let all = rows_left(store, &plan, new.run()).await;
        let mut left = all;
        for _ in 0..1_000 {
            let swept = done(store.sweep(limit).await);
            let now = rows_left(store, &plan, old.run()).await;
            assert!(swept <= limit && left - now <= limit, "{left} rows became {now} in a sweep of {limit}");
            left = now;
            if swept < limit {
                break;
            }
        }
        assert_eq!(left, 0, "rows of the replaced run after the last sweep of {limit}");
        assert_eq!(rows_left(store, &plan, new.run()).await, all, "rows of the run that replaced it");
        assert_eq!(done(store.sweep(limit).await), 0, "there is nothing more to sweep");
        let loaded = done(store.load(new.id()).await).map(|loaded| loaded.head);
        assert_eq!(loaded, Some(new.head()), "the head stays");
    }
    assert_eq!(rows_left(store, &plan, beside.run()).await, 10, "rows of another instance");
}

/// After a sweep of less than the limit, no row of a replaced run is left: a sweep does not stop at
/// the end of a run, nor at a run without rows.
pub async fn less_than_the_limit_swept_means_done(store: &Arc<dyn Store>) {
    let plan = Plan::new("swept");
    for (round, limit) in [(0_u8, 100), (1, 4), (2, 3), (3, 1)] {
        let mut replaced = Vec::new();
        for (n, signals) in (round * 20..).step_by(2).zip([3, 0, 7, 1]) {
            let (old, insert) = plan.start(&format!("{n}"), n);
            let mut new: Life = plan.start(&format!("{n}"), n + 1).0;
            let insert = if signals == 0 { insert } else { with_rows(&plan, insert, signals) };
            commit_all(store, &[insert, new.replace(old.version())]).await;
            replaced.push(old.run());
        }
        let calls = sweep_until_done(store, limit).await;
        for run in replaced {
            let left = rows_left(store, &plan, run).await;
            assert_eq!(left, 0, "rows of a replaced run after {calls} sweeps of {limit}, of which the last did less");
        }
    }
}
