//! The first program of the README: the example `hello`, as it is, and killed.
#![cfg(all(unix, feature = "file-store"))]
#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

mod kill;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::kill::example;

fn hello(directory: &Path) -> Command {
    let mut command = Command::new(example("hello"));
    command.current_dir(directory).stdin(Stdio::null());
    command
}

fn printed_by(mut hello: Command) -> Vec<String> {
    let output = hello.output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed.lines().map(str::to_owned).collect()
}

/// Method: compare the README's first Rust block with the code of the example, without its head.
#[test]
fn readme_shows_the_example_as_it_is() {
    let readme = include_str!("../README.md");
    let program = readme.split("```rust,no_run\n").nth(1).and_then(|rest| rest.split("```").next());
    let code = include_str!("../examples/hello.rs").lines().skip_while(|line| line.starts_with("//!"));
    let code: String = code.skip_while(|line| line.is_empty()).flat_map(|line| [line, "\n"]).collect();
    assert_eq!(program, Some(code.as_str()), "copy the example's code to the README");
}

/// Method: kill the example when its first task runs, let it end in a second process, and repeat it
/// in a third.
#[test]
fn killed_hello_goes_on_and_its_result_stays() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = hello(directory.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "reserving the lamp\n");
    first.kill().unwrap();
    first.wait().unwrap();

    // The result of the first task may not have been durable.
    let mut second = printed_by(hello(directory.path()));
    second.retain(|line| line != "reserving the lamp");
    assert_eq!(second, ["shipping", "lamp reserved and shipped"]);
    assert_eq!(printed_by(hello(directory.path())), ["lamp reserved and shipped"]);
}
