//! The main job, killed with `kill -9` at random moments: no recorded task runs again, and nothing
//! is lost.
#![cfg(all(unix, feature = "file-store"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic anywhere")]

mod kill;
#[path = "common/recorded.rs"]
mod recorded;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use everstep::{FileStore, Store};
use tokio::process::{Child, Command};

use crate::kill::{PEACE, Random, example, kill_after};
use crate::recorded::recorded as result;

const FILES: usize = 1_000;
const KILLS: usize = 20;

struct Job {
    input: PathBuf,
    data: PathBuf,
    ledger: PathBuf,
}

impl Job {
    fn new(root: &Path, round: usize) -> Self {
        let data = root.join(format!("data-{round}"));
        Self { input: root.join("input"), ledger: root.join(format!("ledger-{round}")), data }
    }

    fn spawn(&self) -> Child {
        let mut command = Command::new(example("ingest"));
        command.arg(&self.input).arg("--data").arg(&self.data).arg("--ledger").arg(&self.ledger);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Returns how often each file was really read so far.
    fn reads(&self) -> BTreeMap<String, usize> {
        let mut reads = BTreeMap::new();
        for line in std::fs::read_to_string(&self.ledger).unwrap_or_default().lines() {
            *reads.entry(line.to_owned()).or_default() += 1;
        }
        reads
    }

    /// Returns the files whose reading is recorded in the store: these must never be read again.
    async fn recorded(&self) -> BTreeSet<String> {
        let store = self.data.join("store");
        let mut recorded = BTreeSet::new();
        if !store.exists() {
            return recorded;
        }
        let store = FileStore::open(store).await.unwrap();
        for number in 0..FILES {
            let name = name(number);
            if result(&store, &name, "read", &[]).await.is_some() {
                recorded.insert(name);
            }
        }
        store.close().await;
        recorded
    }

    fn assert_report_is_complete(&self) {
        let report = std::fs::read_to_string(self.data.join("report.jsonl")).unwrap();
        let mut paths = BTreeSet::new();
        for line in report.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(paths.insert(line["path"].as_str().unwrap().to_owned()), "recorded twice: {line}");
        }
        assert_eq!(paths, (0..FILES).map(name).collect());
    }
}

fn name(number: usize) -> String {
    format!("file{number:04}.txt")
}

/// Method: a parent starts the job, kills it at a random moment, reads from its store which files
/// are recorded as read, starts it again, and compares with the ledger of the files that were
/// really read. When a job ends before it is killed, a new one begins in an empty directory.
#[tokio::test]
async fn killed_ingest_rereads_no_recorded_file() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("input")).unwrap();
    for number in 0..FILES {
        std::fs::write(root.path().join("input").join(name(number)), format!("file {number}\n").repeat(20)).unwrap();
    }
    let mut random = Random::seeded();

    let mut kills = 0;
    let mut round = 0;
    while kills < KILLS {
        let job = Job::new(root.path(), round);
        round += 1;
        loop {
            let recorded = job.recorded().await;
            let reads_before = job.reads();
            // After enough kills the job may end undisturbed: on a busy machine it may get nowhere
            // between two kills.
            let after = if kills < KILLS { Duration::from_millis(random.below(800)) } else { PEACE };
            let ended = kill_after(job.spawn(), after).await;
            for (file, reads) in job.reads() {
                let again = reads - reads_before.get(&file).copied().unwrap_or_default();
                assert!(again <= 1, "{file} was read {again} times in one process");
                assert!(
                    again == 0 || !recorded.contains(&file),
                    "{file} was read again although its reading was recorded"
                );
            }
            if ended {
                break;
            }
            kills += 1;
        }
        job.assert_report_is_complete();
    }
}
