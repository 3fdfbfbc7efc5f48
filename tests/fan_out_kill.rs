//! The example of one instance that fans out, killed with `kill -9` at random moments: it continues
//! in every file in progress, no recorded task runs again, and the report shows no difference.
#![cfg(all(unix, feature = "file-store"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic anywhere")]

mod kill;
#[path = "common/recorded.rs"]
mod recorded;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use everstep::{Codec, FileStore, Store, Token};
use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::kill::{PEACE, Random, example, kill_after};
use crate::recorded::recorded as result;

const FILES: u32 = 200;
const KILLS: usize = 15;
const PAGE_BYTES: u64 = 64 << 10;

/// The task of the loop, and the other tasks that work on a file.
const PAGE: &str = "files/kind/Text/facts/count/by_page/pages/page";
const ONCE: [&str; 4] = ["files/look", "files/kind/Text/facts/hash/hash", "files/kind/Binary/hash", "files/finish"];

struct Job {
    input: PathBuf,
    data: PathBuf,
    ledger: PathBuf,
}

/// The part that matters here of the value that the example carries from page to page.
#[derive(Deserialize)]
struct Pages {
    counts: Counts,
}

#[derive(Deserialize)]
struct Counts {
    bytes: u64,
}

impl Job {
    fn new(root: &Path, name: &str) -> Self {
        let [data, ledger] = ["data", "ledger"].map(|what| root.join(format!("{what}-{name}")));
        Self { input: root.join("input"), data, ledger }
    }

    fn spawn(&self) -> Child {
        let mut command = Command::new(example("fan_out"));
        command.arg(&self.input).arg("--data").arg(&self.data).arg("--ledger").arg(&self.ledger);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Returns the tasks that really ran so far, each with its file.
    fn ledger(&self) -> Vec<String> {
        let ledger = std::fs::read_to_string(&self.ledger).unwrap_or_default();
        ledger.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    fn report(&self) -> String {
        std::fs::read_to_string(self.data.join("report.json")).unwrap()
    }

    /// Returns the lines of the ledger whose tasks are recorded in the store: these must never be
    /// written again.
    async fn recorded(&self) -> BTreeSet<String> {
        let mut recorded = BTreeSet::new();
        let store = self.data.join("store");
        if !store.exists() {
            return recorded;
        }
        let store = FileStore::open(store).await.unwrap();
        let result = async |task: &str, indices: &[u32]| result(&store, "report", task, indices).await;
        for task in ["list", "report"] {
            if result(task, &[]).await.is_some() {
                recorded.insert(task.to_owned());
            }
        }
        for number in 0..FILES {
            for task in ONCE {
                if result(task, &[number]).await.is_some() {
                    recorded.insert(format!("{task} {}", name(number)));
                }
            }
            if let Some(gave) = result(PAGE, &[number]).await {
                let pages = match gave.tokens() {
                    [Token::Again, Token::Leaf(pages)] => {
                        Codec::MessagePack.decode::<Pages>(&pages.bytes).unwrap().counts.bytes / PAGE_BYTES
                    }
                    _ => u64::from(u32::MAX),
                };
                let pages = pages.min(contents(number).len() as u64 / PAGE_BYTES + 1);
                recorded.extend((0..pages).map(|page| format!("{PAGE} {} {}", name(number), page * PAGE_BYTES)));
            }
        }
        store.close().await;
        recorded
    }
}

fn name(number: u32) -> String {
    format!("file{number:03}")
}

/// Returns the content of a file: every tenth is empty, every tenth binary, every tenth a text of
/// several pages.
fn contents(number: u32) -> Vec<u8> {
    match number % 10 {
        0 => Vec::new(),
        1 => [number.to_be_bytes(); 500].concat(),
        2 => format!("a line of file {number}\n").repeat(10_000).into_bytes(),
        _ => format!("file {number}\n").repeat(20).into_bytes(),
    }
}

/// Method: a parent starts the job, kills it at a random moment, reads from its store which tasks
/// are recorded, starts it again, and compares with the ledger of the tasks that really ran. When a
/// job ends before it is killed, its report must equal that of an undisturbed job, and a new one
/// begins in an empty directory.
#[tokio::test]
async fn killed_fan_out_reruns_no_recorded_task() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("input")).unwrap();
    for number in 0..FILES {
        std::fs::write(root.path().join("input").join(name(number)), contents(number)).unwrap();
    }
    let mut random = Random::seeded();
    let undisturbed = Job::new(root.path(), "undisturbed");
    assert!(kill_after(undisturbed.spawn(), PEACE).await, "the job does not end");
    let all: BTreeSet<_> = undisturbed.ledger().into_iter().collect();

    let (mut kills, mut round) = (0, 0);
    while kills < KILLS {
        let job = Job::new(root.path(), &round.to_string());
        round += 1;
        loop {
            let recorded = job.recorded().await;
            let before = job.ledger().len();
            // After enough kills the job may end undisturbed: on a busy machine it may get nowhere
            // between two kills.
            let after = if kills < KILLS { Duration::from_millis(random.below(800)) } else { PEACE };
            let ended = kill_after(job.spawn(), after).await;
            let mut now = BTreeSet::new();
            for line in &job.ledger()[before..] {
                assert!(!recorded.contains(line), "`{line}` ran again although it was recorded");
                assert!(now.insert(line.clone()), "`{line}` ran twice in one process");
            }
            if ended {
                break;
            }
            kills += 1;
        }
        assert_eq!(
            job.ledger().into_iter().collect::<BTreeSet<_>>(),
            all,
            "other tasks ran than in an undisturbed job"
        );
        assert_eq!(job.recorded().await, all, "every task that ran is recorded in the end");
        assert_eq!(job.report(), undisturbed.report());
    }
}

/// Method: let the example draw its workflow, and read `docs/fan_out.md`.
#[test]
fn document_drawing_equals_the_workflow() {
    let drawn = std::process::Command::new(example("fan_out")).arg("--draw").output().unwrap();
    let drawing = format!("```mermaid\n{}```\n", String::from_utf8(drawn.stdout).unwrap());
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/fan_out.md")).unwrap();
    assert!(document.contains(&drawing), "draw it anew with `cargo run --example fan_out -- --draw`:\n{drawing}");
}
