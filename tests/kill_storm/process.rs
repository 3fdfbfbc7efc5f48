//! The child, as its parent sees it.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::mpsc;

use crate::child::{Ask, READY, SAYS, Says};

pub(crate) const DATA: &str = "EVERSTEP_TEST_DATA";
pub(crate) const LIFE: &str = "EVERSTEP_TEST_LIFE";

pub(crate) struct Child {
    process: tokio::process::Child,
    asks: ChildStdin,
    said: mpsc::UnboundedReceiver<Said>,
    /// True once its runtime has started.
    pub(crate) is_ready: bool,
}

pub(crate) enum Said {
    Ready,
    Answer(Says),
}

impl Child {
    /// Starts this test's binary once more, in the other role.
    pub(crate) fn spawn(test: &str, data: &Path, life: u32) -> Self {
        let errors = OpenOptions::new().create(true).append(true).open(data.join("stderr")).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(DATA, data).env(LIFE, life.to_string()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut process = command.spawn().unwrap();
        let (asks, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (sender, said) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut output = BufReader::new(output);
            let mut heard = String::new();
            // A line that a kill cuts off counts as not printed.
            while output.read_line(&mut heard).await.unwrap() > 0 && heard.ends_with('\n') {
                if let Some((_, says)) = heard.split_once(SAYS) {
                    let _ = sender.send(Said::Answer(serde_json::from_str(says).unwrap()));
                } else if heard.contains(READY) {
                    let _ = sender.send(Said::Ready);
                }
                heard.clear();
            }
        });
        Self { process, asks, said, is_ready: false }
    }

    pub(crate) async fn ask(&mut self, ask: &Ask) {
        let line = serde_json::to_string(ask).unwrap() + "\n";
        // The end of a crashed child is noticed by `said`.
        let _ = self.asks.write_all(line.as_bytes()).await;
    }

    /// Returns the child's next line, or none when the child has ended.
    pub(crate) async fn said(&mut self) -> Option<Said> {
        let said = self.said.recv().await;
        self.is_ready |= matches!(said, Some(Said::Ready));
        said
    }

    /// Sends SIGKILL; lines that it printed before can still be read.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }
}
