//! Messages of the compiler for the likeliest mistakes. Each mistake is a small program in
//! `tests/compile_messages`, which `rustc` compiles against the library that cargo built for this
//! test. Only key phrases are compared, since the rest differs between toolchains.
#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the library as cargo built it last, beside the tests. Several sets of features leave
/// several libraries: any of them will do.
fn library(beside: &Path) -> PathBuf {
    let entries = std::fs::read_dir(beside).unwrap().map(|entry| entry.unwrap().path());
    let ours = entries.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libeverstep-") && name.ends_with(".rlib")
    });
    let newest = ours.max_by_key(|path| path.metadata().and_then(|file| file.modified()).unwrap());
    newest.unwrap_or_else(|| panic!("there is no libeverstep in {}: run the tests with cargo", beside.display()))
}

/// Compiles one of the programs, and returns the compiler's message if it refused.
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

/// Method: compile a program like the others, without their mistakes. If the compiler did not find
/// the library, the other programs would fail for that reason only.
#[test]
fn program_without_mistakes_compiles() {
    assert_eq!(compile("all_right"), None);
}

/// Method: compile two tasks in a row, and a join whose parts are in another order than its
/// branches.
#[test]
fn mismatched_task_input_names_the_flowing_type() {
    let phrases = |flows: &str| {
        let (flows, expected) = (format!("where the input is `{flows}`"), format!("an async function from `{flows}`"));
        [flows, expected, "a task is an `async fn(I) -> Result<O, E>`".to_owned()]
    };
    for (program, flows) in
        [("wrong_input", "u32"), ("wrong_input_with_options", "u32"), ("join_in_another_order", "(u32, String)")]
    {
        assert_says(program, &phrases(flows).each_ref().map(String::as_str));
    }
}

/// Method: compile a task that returns a struct without serde derives.
#[test]
fn unstorable_result_names_the_missing_derives() {
    assert_says(
        "output_without_serde",
        &["`Card` cannot be the result of a task", "derive `serde::Serialize` and `serde::Deserialize`"],
    );
}

/// Method: compile a body that returns a plain value, and one that returns a `LoopResult` with a
/// value that the body does not take.
#[test]
fn loop_body_with_wrong_end_names_the_loop_result() {
    for (program, gives) in
        [("loop_without_result", "`u32`"), ("loop_carries_another_type", "`LoopResult<String, u32>`")]
    {
        let gives = format!("the body of this loop returns {gives}, not a `LoopResult<u32, _>`");
        assert_says(program, &[&gives, "the body's last task must return a `LoopResult<u32, _>`"]);
    }
}

/// Method: compile an arm that returns text beside one that returns a number. The compiler reports
/// a plain mismatch of types; its message must name both, and nothing internal to this crate.
#[test]
fn mismatched_arms_name_both_types() {
    assert_says("arms_of_two_types", &["Builder<u32, String>", "Builder<u32, u32>"]);
}
