//! Checks of the source: the invariants of ARCHITECTURE.md that it shows, and the language of its
//! comments.
#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

use std::path::{Path, PathBuf};

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let nested = entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    nested.filter(|path| path.extension().is_some_and(|end| end == "rs")).collect()
}

/// Returns the lines of code of a place in `src`, a folder or a file, without comments and without
/// the tests at a file's end.
fn code(place: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(place);
    let file = path.with_extension("rs");
    let files = if path.is_dir() { rust_files(&path) } else { vec![file] };
    let mut lines = Vec::new();
    // `golden` holds tests only.
    for file in files.into_iter().filter(|file| !file.to_string_lossy().contains("/golden/")) {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            lines.push((file.display().to_string(), line.to_owned()));
        }
    }
    lines
}

fn assert_never_names(place: &str, names: &[&str]) {
    for (file, line) in code(place) {
        for name in names {
            assert!(!line.contains(name), "{file} names {name}: {line}");
        }
    }
}

/// Method: read the source. A second crate of actors would need a second set of rules.
#[test]
fn only_the_actors_name_ractor() {
    let places = ["clock", "codec", "definition", "executor", "handle", "lifecycle", "machine", "runtime", "store"];
    for place in places {
        assert_never_names(place, &["ractor"]);
    }
}

/// Method: read the source. If the machine read anything besides its input, equal inputs could give
/// different outputs.
#[test]
fn machine_names_no_clock_randomness_or_store() {
    assert_never_names(
        "machine",
        &["tokio", "crate::clock", "SystemTime", "Instant", "getrandom", "RandomState", "crate::store", "async"],
    );
}

/// Method: read the source, place by place, from the bottom up. An arrow that points up makes two
/// places one.
#[test]
fn arrows_between_places_point_one_way() {
    let up_from = [
        ("limits", "codec definition machine store lifecycle executor actors runtime handle run_once testing"),
        ("id", "codec definition machine store lifecycle executor actors runtime handle run_once clock testing"),
        ("time", "codec definition machine store lifecycle executor actors runtime handle run_once clock testing"),
        ("clock", "codec definition machine store lifecycle executor actors runtime handle run_once testing"),
        ("codec", "definition machine store lifecycle executor actors runtime handle run_once clock testing"),
        ("definition", "machine store lifecycle executor actors runtime handle run_once testing"),
        ("status", "machine store lifecycle executor actors runtime handle run_once clock testing"),
        ("machine", "store lifecycle executor actors runtime handle run_once clock testing"),
        ("store", "lifecycle executor actors runtime handle run_once testing"),
        ("lifecycle", "executor actors runtime handle run_once testing"),
        ("executor", "store actors runtime handle run_once testing"),
        ("actors", "runtime handle run_once testing"),
        ("run_once", "store actors runtime handle testing"),
        ("handle", "runtime run_once testing"),
        ("runtime", "run_once testing"),
    ];
    for (place, above) in up_from {
        let names: Vec<String> = above.split(' ').map(|name| format!("crate::{name}::")).collect();
        assert_never_names(place, &names.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// The folders whose comments are checked.
const COMMENTED: [&str; 5] = ["src", "tests", "benches", "examples", "fuzz/fuzz_targets"];

/// Openings that make a sentence hard to read fast: its noun comes late, or is in the sentence
/// before.
const OPENINGS: [&str; 8] = ["What ", "Who ", "Whether ", "That ", "Those ", "Nobody ", "It ", "The same "];

/// The most columns of a line of comment.
const COLUMNS_MAX: usize = 100;

/// A line that is a comment, without its marker and without spaces around it.
fn comment(line: &str) -> Option<&str> {
    let line = line.trim();
    let text = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).or_else(|| line.strip_prefix("//"));
    text.map(str::trim)
}

/// Returns the lines of comment in a file, each with its number, without code and drawings in
/// fences; none for every other line.
fn comments(text: &str) -> Vec<(usize, Option<&str>)> {
    let mut is_fenced = false;
    let lines = (1..).zip(text.lines()).map(|(number, line)| {
        let comment = comment(line);
        let is_fence = comment.is_some_and(|comment| comment.starts_with("```"));
        is_fenced ^= is_fence;
        (number, comment.filter(|_| !is_fence && !is_fenced))
    });
    lines.collect()
}

/// Returns the sentences of the comments in a file.
fn sentences(text: &str) -> Vec<String> {
    let mut paragraphs = vec![String::new()];
    for (_, comment) in comments(text) {
        match comment {
            Some(comment) if !comment.is_empty() => {
                let item = comment.strip_prefix("* ").or_else(|| comment.strip_prefix("- "));
                if item.is_some() {
                    paragraphs.push(String::new());
                }
                let paragraph = paragraphs.last_mut().unwrap();
                paragraph.push_str(item.unwrap_or(comment));
                paragraph.push(' ');
            }
            _ => paragraphs.push(String::new()),
        }
    }
    let sentences = paragraphs.iter().flat_map(|paragraph| paragraph.split(". ")).map(str::trim);
    let sentences = sentences.filter(|sentence| !sentence.is_empty() && !sentence.starts_with('#'));
    sentences.map(|sentence| sentence.strip_prefix("Method: ").unwrap_or(sentence).to_owned()).collect()
}

fn opens_hard(sentence: &str) -> bool {
    // After "Method: " an opening begins with a small letter.
    OPENINGS
        .iter()
        .any(|opening| sentence.get(..opening.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(opening)))
}

/// Reads every commented file: its path in the repository, and its text.
fn commented_files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in COMMENTED.map(|folder| root.join(folder)) {
        for file in rust_files(&folder) {
            let name = file.strip_prefix(root).unwrap().display().to_string();
            files.push((name, std::fs::read_to_string(&file).unwrap()));
        }
    }
    files
}

/// Method: in all comments, count the sentences that open with a word that stands for a noun.
#[test]
fn comments_open_with_a_verb_or_a_noun() {
    let (mut all, mut hard) = (0, Vec::new());
    for (file, text) in commented_files() {
        for sentence in sentences(&text) {
            all += 1;
            if opens_hard(&sentence) {
                hard.push(format!("{file}: {sentence}"));
            }
        }
    }
    let (share, bar) = (100 * hard.len() / all, 1);
    assert!(share <= bar, "{} of {all} sentences, more than {bar} %:\n{}", hard.len(), hard.join("\n"));
}

/// Method: measure every line that is a comment, except rows of tables, which cannot be wrapped,
/// and code and drawings in fences.
#[test]
fn comment_lines_have_at_most_a_hundred_columns() {
    let mut long = Vec::new();
    for (file, text) in commented_files() {
        for ((number, comment), line) in comments(&text).into_iter().zip(text.lines()) {
            if comment.is_some_and(|comment| !comment.starts_with('|')) && line.chars().count() > COLUMNS_MAX {
                long.push(format!("{file}:{number}: {}", line.trim()));
            }
        }
    }
    let first = long.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
    assert!(long.is_empty(), "{} lines of comment over {COLUMNS_MAX} columns, wrap them:\n{first}", long.len());
}

/// Method: read the names of all functions that are tests.
#[test]
fn test_names_have_at_most_sixty_characters() {
    for folder in ["src", "tests"] {
        for file in rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)) {
            let text = std::fs::read_to_string(&file).unwrap();
            for name in text.lines().filter_map(|line| line.split_once("fn ")?.1.split_once('(').map(|(name, _)| name))
            {
                assert!(name.len() <= 60, "{}: {name}", file.display());
            }
        }
    }
}

/// Words that no text for users has, each with the word in its place.
const OTHER_WORDS: [(&str, &str); 9] = [
    ("set aside", "quarantined"),
    ("take over", "upgrade"),
    ("taken over", "upgraded"),
    ("awake", "active"),
    ("asleep", "parked"),
    ("behind", "after"),
    ("died", "crashed"),
    ("death", "crash"),
    ("not ours", "of another program"),
];

/// Returns the string literals of all calls in `text` that begin with `opening`, up to their
/// closing parenthesis.
fn literals(text: &str, opening: &str) -> Vec<String> {
    let mut all = Vec::new();
    for call in text.split(opening).skip(1) {
        let (mut depth, mut is_text, mut literal) = (0, false, String::new());
        let plain = call.replace("\\\"", "'");
        for letter in plain.chars().skip_while(|letter| *letter != '(') {
            match letter {
                '"' if is_text => all.push(std::mem::take(&mut literal)),
                '(' if !is_text => depth += 1,
                ')' if !is_text => depth -= 1,
                _ if is_text => literal.push(letter),
                _ => {}
            }
            is_text ^= letter == '"';
            if depth == 0 {
                break;
            }
        }
    }
    all
}

/// Method: read the texts of all errors and log events under `src`, and look for words that have a
/// standard one.
#[test]
fn errors_and_logs_say_the_words_of_the_status() {
    let mut texts = 0;
    for file in rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for literal in ["#[error", "tracing::"].iter().flat_map(|opening| literals(&text, opening)) {
            texts += 1;
            for (word, instead) in OTHER_WORDS {
                assert!(!literal.contains(word), "{}: say `{instead}`, not `{word}`: {literal}", file.display());
            }
        }
    }
    assert!(texts > 100, "only {texts} texts were found: does the search still work?");
}
