//! Ingests a directory of files with one durable workflow instance per file. May be killed at any
//! moment.
//!
//! ```text
//! cargo run --release --example ingest -- \
//!     [PATH] [--data DIR] [--ledger FILE] [--approve] [--approve-after SECONDS]
//! ```
//!
//! Each file is read once as a stream, classified, held for a moment and recorded as a line of
//! `DIR/report.jsonl`. The instances live in `DIR/store`. Started again after `kill -9`, the job
//! continues where it was, reads no file again whose reading was recorded, and writes no line
//! twice. A file keeps its record: to ingest new contents, use another data directory.
//!
//! * [`files`]: the files to ingest; [`scan`] and [`language`]: the facts about a file.
//! * [`tasks`]: the workflow; [`report`] and [`ledger`]: the files it writes.
//! * [`job`]: starts an instance per file and waits for the end of each; [`approval`]: asks the
//!   person at the terminal.
//! * [`progress`], [`tally`], [`summary`]: the output; [`card`]: the owner of the data directory;
//!   [`stop`]: errors at the start.
//!
//! Exit codes: 0 every file is recorded; 1 some files failed; 2 the job could not begin; 3 files
//! wait for approval.

mod approval;
mod card;
mod files;
mod job;
mod language;
mod ledger;
mod progress;
mod report;
mod scan;
mod stop;
mod summary;
mod tally;
mod tasks;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use everstep::{FileStore, Runtime};

use crate::card::Card;
use crate::files::Listing;
use crate::job::Job;
use crate::ledger::Ledger;
use crate::report::Report;
use crate::stop::Stop;
use crate::tally::Tally;
use crate::tasks::Source;

/// Time for running tasks to finish when the job ends.
const GRACE: Duration = Duration::from_secs(5);

/// Ingests a directory of files: one durable workflow instance per file.
#[derive(Parser)]
#[command(name = "ingest")]
struct Args {
    /// The directory to ingest; `.git` and `target` directly in it are skipped.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The directory for the store and `report.jsonl`.
    #[arg(long, value_name = "DIR", default_value = "./ingest-data")]
    data: PathBuf,
    /// A file that gets a line with the path each time a file is really read.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Every file waits for an approval before it is recorded; the job asks for it.
    #[arg(long)]
    approve: bool,
    /// Approves by itself after this many seconds; implies --approve.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    approve_after: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match run(Args::parse()).await {
        Ok(end) => end.into(),
        Err(stop) => {
            summary::warn(&format!("ingest: {stop}"));
            ExitCode::from(2)
        }
    }
}

/// Result of a job that could begin.
enum End {
    AllRecorded,
    SomeFailed,
    Waiting,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        match end {
            End::AllRecorded => Self::SUCCESS,
            End::SomeFailed => Self::from(1),
            End::Waiting => Self::from(3),
        }
    }
}

async fn run(args: Args) -> Result<End, Stop> {
    let root = files::root(&args.path)?;
    let left_out = [Some(&args.data), args.ledger.as_ref()];
    let left_out: Vec<_> = left_out.into_iter().flatten().filter_map(|path| path.canonicalize().ok()).collect();
    let listing = files::list(&root, &left_out)?;
    if listing.files.is_empty() && listing.unreadable.is_empty() {
        summary::say(&format!("nothing to do: there are no files in {}", args.path.display()));
        return Ok(End::AllRecorded);
    }
    begin(&args, &root, listing).await
}

/// Opens everything in the data directory. The store comes first: its lock keeps other processes
/// away from the rest.
async fn begin(args: &Args, root: &Path, listing: Listing) -> Result<End, Stop> {
    let data = args.data.as_path();
    std::fs::create_dir_all(data).map_err(|error| Stop::io("create the data directory", data, error))?;
    let store = FileStore::open(data.join("store")).await?;
    let card = Card::read_or_write(data, root, args.approve || args.approve_after.is_some())?;
    let report = Arc::new(Report::open(data.join("report.jsonl"))?);
    let ledger = args.ledger.as_deref().map(Ledger::open).transpose()?;
    let source = Arc::new(Source::new(root.to_owned(), ledger));

    let workflow = tasks::workflow(card.approve)?;
    let runtime = Runtime::builder(store)
        .register(&workflow)
        .provide_arc(Arc::clone(&report))
        .provide_arc(Arc::clone(&source))
        .start()
        .await?;
    for other in &runtime.report().unregistered {
        let name = other.workflow.as_deref().unwrap_or("unknown");
        summary::warn(&format!(
            "the store also holds instances of another version of workflow `{name}`, which stay unchanged"
        ));
    }
    let job = Arc::new(Job::new(runtime, workflow, Arc::clone(&report), card.approve));
    let (tally, end) = work(&job, args, listing).await;
    job.shutdown(GRACE).await;
    summary::print(&report, &tally, source.tasks_run());
    Ok(end)
}

/// Takes every file as far as possible: with approvals in two rounds, with the question between
/// them.
async fn work(job: &Arc<Job>, args: &Args, listing: Listing) -> (Tally, End) {
    let mut tally = Tally::new(listing.unreadable, listing.left_out);
    let begun = Instant::now();
    let waiting = job.bring(listing.files, &mut tally).await;
    tally.worked = begun.elapsed();
    if !waiting.is_empty() {
        if !approval::ask(waiting.len(), args.approve_after).await {
            let count = waiting.len();
            summary::say(&format!("{count} files still wait for approval: start the job again to be asked"));
            return (tally, End::Waiting);
        }
        let begun = Instant::now();
        job.approve(waiting, &mut tally).await;
        tally.worked += begun.elapsed();
    }
    let end = if tally.failed.is_empty() { End::AllRecorded } else { End::SomeFailed };
    (tally, end)
}
