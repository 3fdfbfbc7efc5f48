//! Checks of the documents: the README's program is the example `hello`, which survives a kill;
//! links lead to files; named files exist. The other programs in them are doctests.
#![cfg(all(unix, feature = "file-store"))]
#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

mod kill;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::kill::example;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the Markdown files of a folder and of those within it.
fn documents(folder: &Path) -> Vec<PathBuf> {
    let paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let nested = paths.iter().filter(|path| path.is_dir()).flat_map(|path| documents(path));
    let here = paths.iter().filter(|path| path.extension().is_some_and(|end| end == "md")).cloned();
    here.chain(nested).collect()
}

fn all_documents() -> Vec<(PathBuf, String)> {
    let top = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let top = top.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let paths = top.chain(documents(&root().join("docs")));
    paths.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// Returns the words between single backticks, outside of blocks of code.
fn code_words(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|prose| prose.split('`').skip(1).step_by(2)).collect()
}

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
fn killed_hello_continues_and_its_result_stays() {
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

/// Method: look up the target of every link that is not an address.
#[test]
fn links_between_documents_lead_to_files() {
    for (path, text) in all_documents() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let exists = path.parent().unwrap().join(file).exists();
            assert!(target.contains("://") || exists, "{}: nothing at {target}", path.display());
        }
    }
}

/// Method: look up every word in backticks that ends as a source file does, or begins with a
/// folder.
#[test]
fn files_and_folders_named_in_documents_exist() {
    let is_folder = |name: &str| root().join(name).is_dir() || root().join("src").join(name).is_dir();
    for (path, text) in all_documents() {
        for word in code_words(&text).into_iter().filter(|word| !word.contains(' ')) {
            let is_source = Path::new(word).extension().is_some_and(|end| end == "rs");
            if is_source || word.split_once('/').is_some_and(|(first, _)| is_folder(first)) {
                let folders = ["", "src", "src/machine", "src/definition", "src/actors", "src/handle"];
                let found = folders.map(|folder| root().join(folder).join(word));
                let exists = found.iter().any(|path| path.exists() || path.with_extension("rs").exists());
                assert!(exists, "{}: there is no {word}", path.display());
            }
        }
    }
}

/// Method: read the code map of ARCHITECTURE.md: each lower-case word is a file or a folder of its
/// row's place.
#[test]
fn code_map_names_files_and_folders_that_exist() {
    let text = include_str!("../ARCHITECTURE.md");
    let map = text.split("## Code map").nth(1).and_then(|rest| rest.split("## Invariants").next()).unwrap();
    for row in map.lines().filter(|line| line.starts_with("| `")) {
        let words = code_words(row);
        let place = root().join("src").join(words.first().unwrap());
        let is_name = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '/');
        for word in words.iter().filter(is_name) {
            let exists = [root().join("src"), place.clone()].into_iter().any(|folder| {
                let path = folder.join(word);
                path.exists() || path.with_extension("rs").exists()
            });
            assert!(exists, "there is no {word} in {}", place.display());
        }
    }
    assert!(text.lines().count() <= 200, "ARCHITECTURE.md is to stay short");
}
