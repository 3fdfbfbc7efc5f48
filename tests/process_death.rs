//! State that survives a crash of the process. Each test starts its own binary again as a child,
//! which runs the same test function in the child's role, and kills it or lets it crash.
#![cfg(all(unix, feature = "file-store"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic anywhere")]

use std::convert::Infallible;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use everstep::{ConflictPolicy, FileStore, Runtime, StartOptions, Status, Workflow};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

const SIGABRT: i32 = 6;
const DATA: &str = "EVERSTEP_TEST_DATA";

/// Returns the working directory if this process is a child.
fn role() -> Option<PathBuf> {
    std::env::var_os(DATA).map(PathBuf::from)
}

fn child(test: &str, data: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(DATA, data).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until the child prints that something was acknowledged.
async fn acknowledged(child: &mut Child) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains("ACKNOWLEDGED") {
            return;
        }
    }
    panic!("the child ended before anything was acknowledged");
}

async fn echo(text: String) -> Result<String, Infallible> {
    Ok(text)
}

fn waiting() -> Workflow<String, String> {
    let first = Workflow::builder("waiting").then("before", echo).delay("for an hour", Duration::from_hours(1));
    first.wait_for_signal::<String>("wait", "word").then("after", echo).build().unwrap()
}

/// Method: a child starts an instance that is parked in a delay, sends it a signal, prints the
/// acknowledgement, and is killed. The parent opens the directory. The signal is buffered there, so
/// the instance has it when the delay is over and the wait begins.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_signal_survives_a_kill() {
    if let Some(data) = role() {
        let workflow = waiting();
        let runtime = Runtime::builder(FileStore::open(data).await.unwrap()).register(&workflow).start().await.unwrap();
        let handle = runtime.start(&workflow, "one", "input".to_owned()).await.unwrap();
        handle.signal("word", &"payload".repeat(1_000)).await.unwrap();
        println!("ACKNOWLEDGED");
        std::future::pending::<()>().await;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut child = child("acknowledged_signal_survives_a_kill", &data);
    acknowledged(&mut child).await;
    child.kill().await.unwrap();

    let workflow = waiting();
    let clock = everstep::ManualClock::new(everstep::Clock::now(&everstep::SystemClock));
    let store = FileStore::open(data).await.unwrap();
    let runtime = Runtime::builder(store).register(&workflow).clock(clock.clone()).start().await.unwrap();
    let handle = runtime.handle(&workflow, "one").await.unwrap();
    let mut watch = handle.watch().await.unwrap();
    // If the kill came before the first task was recorded, that runs first.
    while !matches!(watch.next().await.unwrap(), Status::Waiting { .. }) {}
    clock.advance(Duration::from_hours(1));
    assert_eq!(handle.result().await.unwrap(), "payload".repeat(1_000));
}

async fn crash(_: String) -> Result<String, Infallible> {
    std::process::abort()
}

fn deadly() -> Workflow<String, String> {
    Workflow::builder("deadly").then("die", crash).build().unwrap()
}

fn healthy() -> Workflow<String, String> {
    let first = Workflow::builder("healthy").then("first", echo).delay("a moment", Duration::from_millis(1));
    first.then("second", echo).build().unwrap()
}

/// Method: a task in a child aborts the process, and the child is started again until it survives.
/// The instance is then quarantined and its status says so, and another one has completed.
#[tokio::test(flavor = "multi_thread")]
async fn crashing_task_is_quarantined_and_others_continue() {
    if let Some(data) = role() {
        let (deadly, healthy) = (deadly(), healthy());
        let store = FileStore::open(data).await.unwrap();
        let runtime = Runtime::builder(store).register(&deadly).register(&healthy).start().await.unwrap();
        let policy = || StartOptions::new().policy(ConflictPolicy::UseExisting);
        let good = runtime.start_with(&healthy, "good", "fine".to_owned(), policy()).await.unwrap().handle;
        let bad = runtime.start_with(&deadly, "bad", String::new(), policy()).await.unwrap().handle;
        let mut watch = bad.watch().await.unwrap();
        while !matches!(watch.next().await.unwrap(), Status::Quarantined { .. }) {}
        assert_eq!(good.result().await.unwrap(), "fine");
        println!("ACKNOWLEDGED");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut deaths = 0;
    loop {
        let child = child("crashing_task_is_quarantined_and_others_continue", &data);
        let ended = child.wait_with_output().await.unwrap();
        if ended.status.success() {
            break;
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.signal(), Some(SIGABRT), "the child did not crash in its task: {said}");
        deaths += 1;
        assert!(deaths <= 5, "the task keeps crashing the process");
    }
    assert_eq!(deaths, 5);

    let (deadly, healthy) = (deadly(), healthy());
    let store = FileStore::open(data).await.unwrap();
    let runtime = Runtime::builder(store).register(&deadly).register(&healthy).start().await.unwrap();
    let status = runtime.handle(&deadly, "bad").await.unwrap().status().await.unwrap();
    let Status::Quarantined { reason } = status else { panic!("{status}") };
    assert!(reason.contains("`die`"), "{reason}");
    assert_eq!(runtime.handle(&healthy, "good").await.unwrap().result().await.unwrap(), "fine");
}

/// Method: a child runs fifty tasks that sleep for less than their timeout, beside a delay. The
/// child is stopped for longer than the timeout and continued, like a suspended machine: a task
/// that finished in the stop does not time out, and the delay ends.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_process_times_out_no_finished_task() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    if role().is_some() {
        let (begun, mut all_begun) = tokio::sync::watch::channel(0_u32);
        let nap = move |n: u32| {
            begun.send_modify(|begun| *begun += 1);
            async move {
                tokio::time::sleep(TIMEOUT / 2).await;
                Ok::<_, Infallible>(n)
            }
        };
        let naps = Workflow::builder("naps").then("nap", everstep::task(nap).timeout(TIMEOUT)).build().unwrap();
        let delays = Workflow::builder_for::<u32>("delays").delay("a while", TIMEOUT).build().unwrap();
        let builder = Runtime::builder(everstep::MemoryStore::new()).register(&naps).register(&delays);
        let runtime = builder.start().await.unwrap();
        let mut handles = vec![runtime.start(&delays, "delay", 0).await.unwrap()];
        for n in 1..=50 {
            handles.push(runtime.start(&naps, format!("{n}"), n).await.unwrap());
        }
        all_begun.wait_for(|begun| *begun == 50).await.unwrap();
        println!("ACKNOWLEDGED");
        let mut failed = 0;
        for (n, handle) in (0..).zip(&handles) {
            failed += i32::from(handle.result().await != Ok(n));
        }
        std::process::exit(failed);
    }
    let mut child = child("stopped_process_times_out_no_finished_task", Path::new("-"));
    acknowledged(&mut child).await;
    let pid = child.id().unwrap();
    for (signal, rest) in [("STOP", 2 * TIMEOUT), ("CONT", Duration::ZERO)] {
        // Every shell has a builtin `kill`.
        let kill = format!("kill -{signal} {pid}");
        assert!(Command::new("sh").args(["-c", &kill]).status().await.unwrap().success());
        tokio::time::sleep(rest).await;
    }
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "number of tasks with a wrong result");
}
