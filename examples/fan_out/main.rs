//! Makes a report of all files of a directory, with ONE durable workflow instance that fans out
//! over them. May be killed at any moment.
//!
//! ```text
//! cargo run --release --example fan_out -- \
//!     [PATH] [--data DIR] [--at-once N] [--approve] [--again] [--draw]
//! ```
//!
//! The workflow uses every kind of node (`--draw` prints it as a Mermaid flowchart). A task lists
//! the files, and a map runs over them. A route separates text, binary and other files; for a text
//! a fork computes a hash and a count side by side, and a child workflow with a loop counts page by
//! page. All cards are joined into `DIR/report.json`. The instance lives in `DIR/store`: started
//! again after `kill -9`, it continues where it was, in every file in progress, and repeats nothing
//! that was recorded.
//!
//! * [`workflow`]: the nodes and their connections. Start reading there.
//! * The tasks, by their output: [`files`] (the list), [`kind`], [`hash`], [`pages`] (counts),
//!   [`card`], [`report`].
//! * The services they need: [`source`] (the location of the files), [`progress`].
//! * [`job`]: starts the instance, or finds the existing one, and waits for its end; [`approval`]:
//!   asks the person at the terminal.
//! * [`owner`]: the owner of the data directory; [`table`]: the output at the end; [`stop`]: errors
//!   at the start.
//!
//! Exit codes: 0 the report is complete; 1 some files, or the whole job, failed; 2 the job could
//! not begin; 3 it waits for approval; 130 it was stopped by Ctrl-C.

mod approval;
mod card;
mod files;
mod hash;
mod job;
mod kind;
mod owner;
mod pages;
mod progress;
mod report;
mod source;
mod stop;
mod table;
mod workflow;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use everstep::{FileStore, Runtime};

use crate::job::{End, Job};
use crate::owner::Owner;
use crate::progress::Progress;
use crate::source::Source;
use crate::stop::Stop;

/// Time for running tasks to finish when the job ends.
const GRACE: Duration = Duration::from_secs(5);

/// Makes a report of all files of a directory, with one durable workflow instance.
#[derive(Parser)]
#[command(name = "fan_out")]
struct Args {
    /// The directory; `.git` and `target` directly in it are skipped.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The directory for the store and `report.json`.
    #[arg(long, value_name = "DIR", default_value = "./fan-out-data")]
    data: PathBuf,
    /// Files in progress at once; each start may use another number.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,
    /// The report waits for an approval before it is written; the job asks for it.
    #[arg(long)]
    approve: bool,
    /// Approves by itself after this many seconds; implies --approve.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    approve_after: Option<Duration>,
    /// Starts from the beginning, and discards an earlier job.
    #[arg(long)]
    again: bool,
    /// A file that gets a line each time a task really runs.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Prints the workflow as a Mermaid flowchart, and does nothing else.
    #[arg(long)]
    draw: bool,
}

impl Args {
    fn approve(&self) -> bool {
        self.approve || self.approve_after.is_some()
    }
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
        Ok(code) => code,
        Err(stop) => {
            table::warn(&format!("fan_out: {stop}"));
            ExitCode::from(2)
        }
    }
}

async fn run(args: Args) -> Result<ExitCode, Stop> {
    if args.draw {
        let drawing = workflow::workflow(args.approve(), args.at_once.into())?.to_mermaid();
        table::say(drawing.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let root = files::root(&args.path)?;
    let data = args.data.as_path();
    std::fs::create_dir_all(data).map_err(|error| Stop::io("create the data directory", data, error))?;
    // The store comes first: its lock keeps other processes away from the rest.
    let store = FileStore::open(data.join("store")).await?;
    let owner = Owner::check(data, &root, args.approve(), args.again)?;
    let source = Arc::new(Source::new(root, data, args.ledger.as_deref())?);
    let progress = Arc::new(Progress::new());

    let workflow = workflow::workflow(owner.approve, args.at_once.into())?;
    let runtime = Runtime::builder(store)
        .register(&workflow)
        .provide_arc(Arc::clone(&source))
        .provide_arc(Arc::clone(&progress))
        .start()
        .await?;
    let job = Job::new(runtime.clone(), workflow, progress);
    let end = tokio::select! {
        end = job.run(args.again, args.approve_after) => end,
        _ = tokio::signal::ctrl_c() => Ok(End::Stopped),
    };
    job.end();
    runtime.shutdown(GRACE).await;
    let end = end?;
    table::print(&end, source.report());
    Ok(end.code())
}
