//! A suite of checks for the promises of [`Store`], for authors of stores.
//!
//! * [`run`] makes a new store for each check of [`CHECKS`] and reports the promises that it broke.
//! * [`commit`], [`repeat`]: conditions, batches, and the answers to a repeated batch.
//! * [`reads`], [`index`]: reading back, and finding instances by due time, status and end.
//! * [`quarantine`], [`delete`], [`sweep`], [`reopen`]: quarantine, removal, reopening.
//!
//! Not tested is what takes a crash, a full disk or a second process, since that depends on the
//! kind of store; nor `close`, which a store in memory may ignore.
//!
//! ```
//! use everstep::store::{MemoryStore, conformance};
//!
//! # tokio::runtime::Builder::new_multi_thread().build()?.block_on(async {
//! conformance::run(|| async { MemoryStore::new() }).await;
//! # });
//! # Ok::<(), std::io::Error>(())
//! ```

#![expect(clippy::missing_panics_doc, reason = "panicking when a promise is broken is what every check here is for")]

mod life;

pub mod commit;
pub mod delete;
pub mod index;
pub mod quarantine;
pub mod reads;
pub mod reopen;
pub mod repeat;
pub mod sweep;

use std::sync::Arc;

use super::Store;
use crate::clock::BoxFuture;

/// A check of one promise. Panics if the store breaks the promise.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// The promise, as the name of its function.
    pub name: &'static str,
    check: for<'a> fn(&'a Arc<dyn Store>) -> BoxFuture<'a, ()>,
}

impl Check {
    /// Runs the check on an empty store.
    pub async fn run(&self, store: &Arc<dyn Store>) {
        (self.check)(store).await;
    }
}

macro_rules! checks {
    ($($module:ident: $($check:ident),+;)+) => {
        /// All checks, in the order in which [`run`] tries them: promises that others build on come
        /// first.
        pub const CHECKS: &[Check] =
            &[$($(Check { name: stringify!($check), check: |store| Box::pin($module::$check(store)) },)+)+];
    };
}

checks! {
    reads: heads_and_rows_read_back_byte_for_byte, signal_rows_come_in_order_and_only_of_their_run,
        rows_come_by_prefix_in_the_order_of_their_keys,
        a_manifest_reads_back;
    commit: answers_come_in_order, of_many_inserts_the_first_wins, an_insert_repeated_in_its_batch_counts_once,
        an_update_needs_run_and_seq, writes_of_one_instance_see_those_before_them,
        a_stale_writer_is_refused_and_told_what_was_found,
        two_writers_with_equal_heads_are_told_apart, a_refused_write_leaves_nothing_behind,
        a_batch_leaves_the_last_head_and_every_row, a_reader_sees_a_write_whole_or_not_at_all;
    repeat: a_repeated_batch_succeeds_and_changes_nothing, a_repeated_batch_tells_winners_from_losers,
        a_part_of_a_batch_repeated_is_known, a_repeated_quarantine_succeeds_and_a_rivals_does_not,
        a_start_repeated_after_its_run_is_refused;
    index: the_due_index_is_ordered_and_paged, a_due_entry_moves_with_its_instance,
        the_status_index_is_ordered_and_paged, a_status_entry_moves_with_its_instance,
        definitions_are_listed_once_each, the_index_of_ends_is_ordered_and_paged,
        an_end_is_listed_while_its_run_is_there;
    quarantine: quarantine_keeps_the_head_and_unlists_the_instance, the_quarantined_are_ordered_and_paged,
        a_quarantined_instance_takes_no_update, what_was_seen_is_what_is_set_aside_released_and_ended,
        a_head_that_replaces_a_quarantined_one_lists_it_again,
        a_release_with_the_same_head_lists_it_again, only_what_is_there_can_be_quarantined,
        a_head_that_cannot_be_read_is_kept_and_can_be_set_aside;
    delete: a_deleted_instance_leaves_nothing_behind, a_deleted_id_starts_anew, a_delete_needs_run_and_seq,
        what_is_not_there_is_deleted_already, a_repeated_delete_succeeds_and_changes_nothing,
        a_head_that_cannot_be_read_can_be_deleted;
    sweep: a_superseded_run_is_swept_in_small_batches, less_than_the_limit_swept_means_done;
    reopen: a_reopened_store_has_everything, a_batch_is_repeated_after_reopening;
}

/// Runs all checks, each on a store of its own, which `make` returns new and empty.
///
/// Runs on tokio; on a runtime with several threads one check reads while another task writes.
///
/// # Panics
/// After all checks have run, if some failed: with their names. Each check prints its own panic on
/// standard error.
pub async fn run<S, F, Fut>(make: F)
where
    S: Store,
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
{
    let mut broken = Vec::new();
    for check in CHECKS {
        let store: Arc<dyn Store> = Arc::new(make().await);
        // A task of its own, so that a panic does not prevent the next checks.
        if tokio::spawn(async move { check.run(&store).await }).await.is_err() {
            broken.push(check.name);
        }
    }
    assert!(broken.is_empty(), "the store broke {} of {} promises: {}", broken.len(), CHECKS.len(), broken.join(", "));
}
