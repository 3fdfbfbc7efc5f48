//! The workflow of one file: read, classify, wait a moment, with approvals wait for one, record.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use everstep::{BuildErrors, Dep, RetryPolicy, Workflow, task};
use serde::{Deserialize, Serialize};

use crate::files::FileRef;
use crate::ledger::Ledger;
use crate::report::{Record, Report};
use crate::{language, scan};

/// The signal that a file waits for in a job with approvals.
pub(crate) const APPROVE: &str = "approve";

/// The delay between classifying a file and recording it.
pub(crate) const DELAY: Duration = Duration::from_millis(50);

/// Retry policy: after 100, 200 and 400 ms, enough for a file that is being moved into place.
const RETRY: RetryPolicy = RetryPolicy::exponential(3);

/// The service of the tasks: the location of the files, and the record of the work.
pub(crate) struct Source {
    root: PathBuf,
    ledger: Option<Ledger>,
    tasks_run: AtomicU64,
}

impl Source {
    pub(crate) fn new(root: PathBuf, ledger: Option<Ledger>) -> Self {
        Self { root, ledger, tasks_run: AtomicU64::new(0) }
    }

    /// Task attempts in this process.
    pub(crate) fn tasks_run(&self) -> u64 {
        self.tasks_run.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.tasks_run.fetch_add(1, Ordering::Relaxed);
    }
}

/// Result of reading a file. Never its contents, which do not belong in a durable payload.
#[derive(Serialize, Deserialize)]
struct Facts {
    path: String,
    sha256: String,
    bytes: u64,
    lines: u64,
    words: u64,
    longest_line: u64,
}

/// Payload of the signal [`APPROVE`].
#[derive(Serialize, Deserialize)]
pub(crate) struct Approval {
    /// The person who approved.
    pub(crate) by: String,
}

async fn read(file: FileRef, source: Dep<Source>) -> io::Result<Facts> {
    source.count();
    let opened = File::open(source.root.join(file.real()))?;
    if let Some(ledger) = &source.ledger {
        ledger.append(&file.path)?;
    }
    let scan::Scan { sha256, bytes, lines, words, longest_line } = scan::scan(opened)?;
    Ok(Facts { path: file.path, sha256, bytes, lines, words, longest_line })
}

async fn classify(facts: Facts, source: Dep<Source>) -> io::Result<Record> {
    source.count();
    let language = language::of(&facts.path).to_owned();
    let Facts { path, sha256, bytes, lines, words, longest_line } = facts;
    Ok(Record { path, sha256, bytes, lines, words, longest_line, language })
}

async fn record(record: Record, report: Dep<Report>, source: Dep<Source>) -> io::Result<Record> {
    source.count();
    report.record(&record)?;
    Ok(record)
}

async fn record_approved(
    (record, approval): (Record, Approval),
    report: Dep<Report>,
    source: Dep<Source>,
) -> io::Result<Record> {
    tracing::debug!(path = record.path, by = approval.by, "approved");
    self::record(record, report, source).await
}

/// Builds the workflow from a file to its record. The one with approvals is another workflow, with
/// its own name.
pub(crate) fn workflow(approve: bool) -> Result<Workflow<FileRef, Record>, BuildErrors> {
    let name = if approve { "ingest-approved" } else { "ingest" };
    let classified = Workflow::builder(name)
        .description("reads a file, classifies it and records it in the report")
        .then("read", task(read).blocking().retry(RETRY))
        .then("classify", classify)
        .delay("settle", DELAY);
    if approve {
        classified
            .wait_for_signal_keeping::<Approval>("approval", APPROVE)
            .then("record", task(record_approved).blocking().retry(RETRY))
            .build()
    } else {
        classified.then("record", task(record).blocking().retry(RETRY)).build()
    }
}
