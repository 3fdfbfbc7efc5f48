//! The workflow: what is done with a directory, node by node.

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

/// What that signal carries.
#[derive(Serialize, Deserialize)]
pub(crate) struct Approval {
    /// Who approved.
    pub(crate) by: String,
}

/// The delay between the last card and the report.
const SETTLE: Duration = Duration::from_millis(200);

/// After the first failure another try at 100, 200 and 400 ms: enough for a file that is being moved into place.
const RETRY: RetryPolicy = RetryPolicy::exponential(3);

/// The workflow from nothing to the report's summary. One with approval is another workflow, with a name of its own.
///
/// `at_once` is not part of what the definition is recognised by: each process may choose anew.
pub(crate) fn workflow(approve: bool, at_once: usize) -> Result<Workflow<(), Summary>, BuildErrors> {
    let counting = counting()?;
    let name = if approve { "fan-out-approved" } else { "fan-out" };
    let cards = Workflow::builder(name)
        .description("makes a card of each file of a directory, and a report of all cards")
        .then("list", on_disk(list))
        // A file that fails for good is an `Err` in the list, and stops no other.
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

/// How a file becomes a card, by its kind: each arm gives one.
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

/// Counts a text page by page: a workflow of its own, which others can have as a child.
///
/// The loop is not limited: each turn costs the same, and a kill costs one page, however large the file is.
fn counting() -> Result<Workflow<Look, Counts>, BuildErrors> {
    Workflow::builder("counting")
        .then("begin", begin)
        .repeat("pages", LoopLimit::Unlimited, |body| body.then("page", on_disk(page)))
        .build()
}

/// A task that reads or writes files: it blocks its thread, and is tried again.
fn on_disk<F>(function: F) -> Task<F> {
    task(function).blocking().retry(RETRY)
}
