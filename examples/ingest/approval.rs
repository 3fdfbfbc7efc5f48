//! Asks the person at the terminal whether the files may be recorded.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::sync::oneshot;

/// Asks once for all waiting files. No answer (standard input has ended) means no; after
/// `answers_after` the answer is yes.
pub(crate) async fn ask(waiting: usize, answers_after: Option<Duration>) -> bool {
    let by_itself = answers_after.map(|after| format!("(yes by itself in {} s) ", after.as_secs_f64()));
    let by_itself = by_itself.unwrap_or_default();
    let question = format!("{waiting} files wait for approval. Record them? [y/N] {by_itself}");
    let mut out = std::io::stdout();
    // A closed terminal gives no answer either.
    let _gone = out.write_all(question.as_bytes()).and_then(|()| out.flush());
    let (yes, is_on_screen) = tokio::select! {
        Ok(answer) = typed() => (is_yes(&answer), std::io::stdin().is_terminal()),
        () = tokio::time::sleep(answers_after.unwrap_or_default()), if answers_after.is_some() => (true, false),
        else => (false, false),
    };
    if !is_on_screen {
        let _gone = writeln!(out, "{}", if yes { "yes" } else { "no" });
    }
    yes
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// Reads the next line; an error if standard input has ended. Reads on a thread of its own: the
/// runtime would wait at its end for one of its own threads that still reads.
fn typed() -> oneshot::Receiver<String> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut answer = String::new();
        if matches!(std::io::stdin().read_line(&mut answer), Ok(1..)) {
            let _nobody_waits = sender.send(answer);
        }
    });
    receiver
}
