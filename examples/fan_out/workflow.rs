//! The workflow: the work on a directory, node by node.

use std::time::Duration;

use everstep::{BuildErrors, Concurrency, LoopLimit, RetryPolicy, Route, Task, Workflow, task};
use serde::{Deserialize, Serialize};

use crate::card::{Card, binary_card, finish, rest_card, text_card};
use crate::files::list;
use crate::hash::hash;
use crate::kind::{Kind, Look, look};
use crate::pages::{Counts, begin, page};
use crate::report::{Summary, report, report_approved};

/// The signal that a job with approval waits for.
pub(crate) const APPROVE: &str = "approve";

/// Payload of the signal.
#[derive(Serialize, Deserialize)]
pub(crate) struct Approval {
    /// The person who approved.
    pub(crate) by: String,
}

/// The delay between the last card and the report.
const SETTLE: Duration = Duration::from_millis(200);

/// Retry policy: after 100, 200 and 400 ms, enough for a file that is being moved into place.
const RETRY: RetryPolicy = RetryPolicy::exponential(3);

/// Builds the workflow from nothing to the report's summary. The one with approval is another
/// workflow, with its own name.
///
/// `at_once` is not part of the definition hash: each process may choose another number.
pub(crate) fn workflow(approve: bool, at_once: usize) -> Result<Workflow<(), Summary>, BuildErrors> {
    let counting = counting()?;
    let name = if approve { "fan-out-approved" } else { "fan-out" };
    let cards = Workflow::builder(name)
        .description("makes a card of each file of a directory, and a report of all cards")
        .then("list", on_disk(list))
        // A file that fails for good becomes an `Err` in the list, and stops no other file.
        .map_collect("files", Concurrency::AtMost(at_once), |file| {
            file.then("look", on_disk(look))
                .route("kind", |look: &Look| look.kind, |kind| arms(kind, &counting))
                .then("finish", finish)
        })
        .delay("settle", SETTLE);
    if approve {
        cards.wait_for_signal_keeping::<Approval>("approval", APPROVE).then("report", on_disk(report_approved)).build()
    } else {
        cards.then("report", on_disk(report)).build()
    }
}

/// Builds the card of a file, by its kind: each arm returns one.
fn arms(kind: Route<Look, Kind, Card>, counting: &Workflow<Look, Counts>) -> Route<Look, Kind, Card> {
    kind.arm(Kind::Text, |text| {
        text.fork("facts", |facts| {
            facts
                .branch("hash", |branch| branch.then("hash", on_disk(hash)))
                .branch("count", |branch| branch.child("by_page", counting))
        })
        .join("card", text_card)
    })
    .arm(Kind::Binary, |binary| binary.then("hash", on_disk(hash)).then("card", binary_card))
    .otherwise(|rest| rest.then("card", rest_card))
}

/// Counts a text page by page: a workflow of its own, which others can use as a child.
///
/// The loop is not limited: each iteration costs the same, and a kill costs one page, however large
/// the file is.
fn counting() -> Result<Workflow<Look, Counts>, BuildErrors> {
    Workflow::builder("counting")
        .then("begin", begin)
        .repeat("pages", LoopLimit::Unlimited, |body| body.then("page", on_disk(page)))
        .build()
}

/// Wraps a task that reads or writes files: it blocks its thread, and is retried.
fn on_disk<F>(function: F) -> Task<F> {
    task(function).blocking().retry(RETRY)
}
