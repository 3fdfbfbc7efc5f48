//! The report: all cards as one JSON file, and their sums.

use std::collections::BTreeMap;
use std::fs;

use everstep::{Dep, TaskContext, TaskFailure};
use serde::{Deserialize, Serialize};

use crate::card::Card;
use crate::kind::Kind;
use crate::source::Source;
use crate::workflow::Approval;

/// Failures that the summary repeats; the report has all of them.
const FAILED_SHOWN_MAX: usize = 50;

/// The report as written.
#[derive(Serialize)]
struct Report<'a> {
    directory: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    approved_by: Option<&'a str>,
    sums: &'a BTreeMap<Kind, Sum>,
    /// The cards, in the order of their names.
    files: &'a [Card],
    /// Failures of files that have no card.
    failed: Vec<String>,
}

/// The sums of the report: the output of the whole workflow, which is one payload and so must stay
/// small.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) kinds: BTreeMap<Kind, Sum>,
    pub(crate) failed: u64,
    /// The first failures.
    pub(crate) first_failed: Vec<String>,
}

/// One row of sums.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    pub(crate) words: u64,
}

impl Sum {
    pub(crate) fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.lines += other.lines;
        self.words += other.words;
    }
}

impl From<&Card> for Sum {
    fn from(card: &Card) -> Self {
        let (lines, words) = (card.lines.unwrap_or_default(), card.words.unwrap_or_default());
        Self { files: 1, bytes: card.bytes, lines, words }
    }
}

/// Task: writes the report of all files, in their order.
pub(crate) async fn report(
    cards: Vec<Result<Card, TaskFailure>>,
    source: Dep<Source>,
    context: TaskContext,
) -> std::io::Result<Summary> {
    write(cards, None, &source, &context)
}

/// Task: writes the report, with the name of the person who approved.
pub(crate) async fn report_approved(
    (cards, approval): (Vec<Result<Card, TaskFailure>>, Approval),
    source: Dep<Source>,
    context: TaskContext,
) -> std::io::Result<Summary> {
    write(cards, Some(&approval.by), &source, &context)
}

/// Writes the report. May run again, if the process crashes before its end is recorded: so it
/// writes a new file each time and renames it, and never leaves half of one.
fn write(
    cards: Vec<Result<Card, TaskFailure>>,
    approved_by: Option<&str>,
    source: &Source,
    context: &TaskContext,
) -> std::io::Result<Summary> {
    source.note(context, "")?;
    let (mut files, mut failed) = (Vec::with_capacity(cards.len()), Vec::new());
    for card in cards {
        match card {
            Ok(card) => files.push(card),
            Err(failure) => failed.push(failure.to_string()),
        }
    }
    let mut sums: BTreeMap<Kind, Sum> = BTreeMap::new();
    for card in &files {
        sums.entry(card.kind).or_default().add(card.into());
    }
    let directory = source.root().to_string_lossy().into_owned();
    let (at, beside) = (source.report(), source.report().with_extension("json.new"));
    let first_failed = failed.iter().take(FAILED_SHOWN_MAX).cloned().collect();
    let summary = Summary { kinds: sums.clone(), failed: failed.len() as u64, first_failed };
    let report = Report { directory, approved_by, sums: &sums, files: &files, failed };
    fs::write(&beside, serde_json::to_vec_pretty(&report)?)?;
    fs::rename(&beside, at)?;
    Ok(summary)
}
