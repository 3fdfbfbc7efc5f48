//! Crashes in the middle of a workflow, in a child process, and continues it in the parent.
//!
//! ```text
//! cargo run --example crash_and_resume
//! ```

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use everstep::{BoxError, BuildErrors, Dep, FileStore, Runtime, Workflow};

/// Record of the tasks that ran.
struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// Notes that a task ran, and in which process.
    fn note(&self, task: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(self.directory.join("journal"))?;
        file.write_all(format!("{task} ran in process {}\n", std::process::id()).as_bytes())
    }

    fn text(&self) -> io::Result<String> {
        std::fs::read_to_string(self.directory.join("journal"))
    }
}

async fn reserve(item: String, journal: Dep<Journal>) -> io::Result<String> {
    journal.note("reserve")?;
    Ok(format!("{item} reserved"))
}

async fn charge(so_far: String, journal: Dep<Journal>) -> io::Result<String> {
    journal.note("charge")?;
    Ok(format!("{so_far}, charged"))
}

/// Crashes the process the first time, as a segmentation fault or a power failure would.
async fn pack(so_far: String, journal: Dep<Journal>) -> io::Result<String> {
    journal.note("pack")?;
    let marker = journal.directory.join("crashed");
    if !marker.exists() {
        std::fs::write(marker, "")?;
        std::process::abort();
    }
    Ok(format!("{so_far}, packed"))
}

async fn ship(so_far: String, journal: Dep<Journal>) -> io::Result<String> {
    journal.note("ship")?;
    Ok(format!("{so_far}, shipped"))
}

fn order() -> Result<Workflow<String, String>, BuildErrors> {
    Workflow::builder("order")
        .then("reserve", reserve)
        .then("charge", charge)
        .then("pack", pack)
        .then("ship", ship)
        .build()
}

/// Opens the store; its unfinished instances continue by themselves.
async fn runtime(directory: &Path, order: &Workflow<String, String>) -> Result<Runtime, BoxError> {
    let store = FileStore::open(directory.join("store")).await?;
    let journal = Journal { directory: directory.to_owned() };
    Ok(Runtime::builder(store).register(order).provide(journal).start().await?)
}

/// Starts the order, in the child process, which crashes before the order ends.
async fn child(directory: &Path) -> Result<(), BoxError> {
    let order = order()?;
    let runtime = runtime(directory, &order).await?;
    let handle = runtime.start(&order, "order-1", "lamp".to_owned()).await?;
    println!("child {}: started {}", std::process::id(), handle.id());
    handle.result().await?;
    Err("the child was to crash".into())
}

async fn parent() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let died = Command::new(std::env::current_exe()?).arg(directory.path()).status()?;
    println!("parent {}: the child ended with {died}", std::process::id());

    let order = order()?;
    let runtime = runtime(directory.path(), &order).await?;
    let handle = runtime.handle(&order, "order-1").await?;
    println!("parent {}: {} ended with \"{}\"", std::process::id(), handle.id(), handle.result().await?);
    runtime.shutdown(Duration::from_secs(1)).await;

    let journal = Journal { directory: directory.path().to_owned() };
    print!("tasks and their processes (only `pack`, which was running at the crash, ran twice):\n{}", journal.text()?);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    match std::env::args_os().nth(1) {
        Some(directory) => child(Path::new(&directory)).await,
        None => parent().await,
    }
}
