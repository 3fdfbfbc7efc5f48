//! The example of a service that is asked to end, in a process of its own: it ends in order, and
//! the next process continues.
#![cfg(all(unix, feature = "file-store"))]
#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

mod kill;

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::kill::{PEACE, example};

struct Service {
    child: Child,
    input: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
    said: Vec<String>,
}

impl Service {
    /// Starts it with a second of grace.
    async fn start(data: &Path) -> Self {
        let mut command = Command::new(example("graceful_shutdown"));
        command.arg(data).arg("1").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut service = Self { child, input, says: BufReader::new(output).lines(), said: Vec::new() };
        service.says("ready").await;
        service
    }

    /// Waits until the service prints this line.
    async fn says(&mut self, wanted: &str) {
        let found = tokio::time::timeout(PEACE, async {
            while let Some(line) = self.says.next_line().await.unwrap() {
                self.said.push(line.clone());
                if line == wanted {
                    return true;
                }
            }
            false
        });
        assert!(found.await.unwrap_or(false), "no line `{wanted}`: {:?}", self.said);
    }

    async fn take(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        self.says(&format!("accepted `{line}`")).await;
    }

    /// Asks it to end with this signal, and returns all lines that it printed.
    async fn end(mut self, signal: &str) -> Vec<String> {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
        while let Some(line) = tokio::time::timeout(PEACE, self.says.next_line()).await.unwrap().unwrap() {
            self.said.push(line);
        }
        let ended = tokio::time::timeout(PEACE, self.child.wait()).await.unwrap().unwrap();
        assert!(ended.success(), "{ended}: {:?}", self.said);
        self.said
    }
}

/// Method: a child gets a line that takes a second and one that takes longer than its grace, and is
/// asked to end while it works on the second, by SIGTERM and by ctrl-c. The next child works on
/// that line again, by itself, and on no other.
#[tokio::test]
async fn sigterm_leaves_unfinished_work_to_the_next_process() {
    let root = tempfile::tempdir().unwrap();
    for signal in ["-TERM", "-INT"] {
        let data = root.path().join(signal);
        let mut service = Service::start(&data).await;
        service.take("x").await;
        service.says("done with `x`").await;
        let long = "a line that takes so many seconds as it has characters";
        service.take(long).await;
        let said = service.end(signal).await;
        assert_eq!(said.last().unwrap(), &format!("left for the next start: `{long}`"), "{said:?}");
        assert!(said.contains(&"shutting down".to_owned()), "{said:?}");

        let mut service = Service::start(&data).await;
        service.says(&format!("working on `{long}`")).await;
        let said = service.end(signal).await;
        assert!(!said.iter().any(|line| line.contains("`x`")), "a finished line was worked on again: {said:?}");
    }
}
