//! The example that encrypts payloads, run as it is: its stored bytes hold no plaintext, and are
//! readable only with its key.
#![cfg(all(unix, feature = "file-store"))]
#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

mod kill;

use std::path::Path;
use std::process::Command;

use crate::kill::example;

/// Payloads of the example's workflow: its input, a result, its signal.
const SECRETS: [&str; 5] = ["Wilhelmina", "broken heart", "BROKEN HEART", "Faustus", "findings"];

fn run(data: &Path, keys: &Path) -> String {
    let ran = Command::new(example("encrypted")).arg(data).arg(keys).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    String::from_utf8(ran.stdout).unwrap()
}

/// Returns how many files of the directory hold a text.
fn holds(directory: &Path, text: &str) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.map(|path| {
        if path.is_dir() {
            return holds(&path, text);
        }
        usize::from(std::fs::read(path).unwrap().windows(text.len()).any(|bytes| bytes == text.as_bytes()))
    });
    found.sum()
}

#[test]
fn encrypted_payloads_are_readable_only_with_their_key() {
    // The example runs and its files are read; then it runs again with the same key, with another
    // one, and with a newer one beside the first.
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let (data, keys) = (path("data"), path("keys"));
    let result = "result: Wilhelmina: A BROKEN HEART, signed by Doctor Faustus\n";
    assert_eq!(run(&data, &keys), result);
    assert!(holds(&data, "report-7") > 0, "ids stay readable: otherwise this looks in the wrong place");
    for secret in SECRETS {
        assert_eq!(holds(&data, secret), 0, "`{secret}` is in the data directory");
    }
    assert_eq!(run(&data, &keys), result, "read again");

    let others = run(&data, &path("others"));
    assert!(others.starts_with("not readable: ") && others.contains("do not decode"), "{others}");
    assert!(!SECRETS.iter().any(|secret| others.contains(secret)), "{others}");

    let newer = std::fs::read_to_string(path("others")).unwrap().replacen('1', "2", 1);
    let first = std::fs::read_to_string(&keys).unwrap();
    std::fs::write(&keys, format!("{first}{newer}")).unwrap();
    assert_eq!(run(&data, &keys), result, "with the newer key, the first still decrypts");
    std::fs::write(&keys, newer).unwrap();
    assert!(run(&data, &keys).starts_with("not readable: "), "its key is gone");
}
