//! What the compiler says to the likeliest mistakes: each a small program in `tests/compile_messages`, which `rustc` compiles
//! against the library that cargo built for this test. Key phrases are compared and not whole messages, since the rest
//! differs between toolchains.
#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The library as cargo built it last, beside the tests. With several sets of features there are several: any will do.
fn library(beside: &Path) -> PathBuf {
    let entries = std::fs::read_dir(beside).unwrap().map(|entry| entry.unwrap().path());
    let ours = entries.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libeverstep-") && name.ends_with(".rlib")
    });
    let newest = ours.max_by_key(|path| path.metadata().and_then(|file| file.modified()).unwrap());
    newest.unwrap_or_else(|| panic!("there is no libeverstep in {}: run the tests with cargo", beside.display()))
}

/// Compiles one of the programs: what the compiler said if it refused, else none.
fn compile(program: &str) -> Option<String> {
    let test = std::env::current_exe().unwrap();
    let dependencies = test.parent().unwrap();
    let out = tempfile::tempdir().unwrap();
    let set = |flag: &str, path: &Path| [OsString::from(flag), path.into()].into_iter().collect::<OsString>();
    let compiled = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition=2024", "--crate-type=bin", "--emit=metadata", "--color=never", "--diagnostic-width=1000"])
        .arg(set("--extern=everstep=", &library(dependencies)))
        .arg(set("-Ldependency=", dependencies))
        .arg(set("--out-dir=", out.path()))
        .arg(format!("{}/tests/compile_messages/{program}.rs", env!("CARGO_MANIFEST_DIR")))
        .output()
        .unwrap();
    (!compiled.status.success()).then(|| String::from_utf8_lossy(&compiled.stderr).into_owned())
}

fn assert_says(program: &str, phrases: &[&str]) {
    let said = compile(program).unwrap_or_else(|| panic!("{program} compiles, although it is a mistake"));
    for phrase in phrases {
        assert!(said.contains(phrase), "the compiler does not say \"{phrase}\" to {program}, but:\n{said}");
    }
}

/// Method: compiles a program like the others, without their mistakes. Without this, the others might not compile because
/// the compiler does not find the library.
#[test]
fn what_is_right_compiles() {
    assert_eq!(compile("all_right"), None);
}

/// Method: two tasks in a row, and a join whose parts stand in another order than its branches.
#[test]
fn mismatched_task_input_names_the_flowing_type() {
    let phrases = |flows: &str| {
        let (flows, expected) = (format!("where `{flows}` flows in"), format!("an async function from `{flows}`"));
        [flows, expected, "a task is an `async fn(I) -> Result<O, E>`".to_owned()]
    };
    for (program, flows) in
        [("wrong_input", "u32"), ("wrong_input_with_options", "u32"), ("join_in_another_order", "(u32, String)")]
    {
        assert_says(program, &phrases(flows).each_ref().map(String::as_str));
    }
}

/// Method: a task that gives a struct without serde derives.
#[test]
fn a_result_that_cannot_be_stored_is_told_what_to_derive() {
    assert_says(
        "output_without_serde",
        &["`Card` cannot be what a task gives", "derive `serde::Serialize` and `serde::Deserialize`"],
    );
}

/// Method: one body gives a plain value, another one a `LoopResult` that carries on what the body does not take.
#[test]
fn the_body_of_a_loop_is_told_what_it_must_end_with() {
    for (program, gives) in
        [("loop_without_result", "`u32`"), ("loop_carries_another_type", "`LoopResult<String, u32>`")]
    {
        let gives = format!("the body of this loop returns {gives}, not a `LoopResult<u32, _>`");
        assert_says(program, &[&gives, "the body's last task must return a `LoopResult<u32, _>`"]);
    }
}

/// Method: an arm that gives text beside one that gives a number. That is a plain mismatch of types, in the compiler's words;
/// what counts is that both are named, and nothing inside of ours.
#[test]
fn arms_of_two_types_are_both_named() {
    assert_says("arms_of_two_types", &["Builder<u32, String>", "Builder<u32, u32>"]);
}
