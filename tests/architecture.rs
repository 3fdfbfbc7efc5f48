//! The invariants of ARCHITECTURE.md that can be read off the source: who names whom.
#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

use std::path::{Path, PathBuf};

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let nested = entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    // `golden` holds tests alone.
    nested
        .filter(|path| path.extension().is_some_and(|end| end == "rs") && !path.to_string_lossy().contains("/golden/"))
        .collect()
}

/// The lines of code of a place in `src`: a folder, or a file. Comments and the tests at a file's end are left out.
fn code(place: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(place);
    let file = path.with_extension("rs");
    let files = if path.is_dir() { rust_files(&path) } else { vec![file] };
    let mut lines = Vec::new();
    for file in files {
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

/// Method: read the source. Whatever the machine read besides its input would make the same input give another output.
#[test]
fn the_machine_names_no_clock_no_randomness_and_no_store() {
    assert_never_names(
        "machine",
        &["tokio", "crate::clock", "SystemTime", "Instant", "getrandom", "RandomState", "crate::store", "async"],
    );
}

/// Method: read the source, place by place, from the bottom up. An arrow that points up makes two places one.
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

/// Openings that make a sentence hard to read fast: its noun comes late, or stands in the sentence before.
const OPENINGS: [&str; 8] = ["What ", "Who ", "Whether ", "That ", "Those ", "Nobody ", "It ", "The same "];

/// The sentences of the documentation in a file, without examples and drawings.
fn doc_sentences(text: &str) -> Vec<String> {
    let (mut paragraphs, mut is_code) = (vec![String::new()], false);
    for line in text.lines().map(str::trim) {
        let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).map(str::trim);
        let is_fence = doc.is_some_and(|doc| doc.starts_with("```"));
        is_code ^= is_fence;
        match doc {
            Some(doc) if !doc.is_empty() && !is_fence && !is_code => {
                let item = doc.strip_prefix("* ").or_else(|| doc.strip_prefix("- "));
                if item.is_some() {
                    paragraphs.push(String::new());
                }
                let paragraph = paragraphs.last_mut().unwrap();
                paragraph.push_str(item.unwrap_or(doc));
                paragraph.push(' ');
            }
            _ => paragraphs.push(String::new()),
        }
    }
    let sentences = paragraphs.iter().flat_map(|paragraph| paragraph.split(". ")).map(str::trim);
    sentences.filter(|sentence| !sentence.is_empty() && !sentence.starts_with('#')).map(str::to_owned).collect()
}

/// Method: count the sentences of all documentation under `src` that open with a word that stands for a noun.
#[test]
fn docs_open_with_a_verb_or_a_noun() {
    let (mut all, mut hard) = (0, Vec::new());
    for file in rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        for sentence in doc_sentences(&std::fs::read_to_string(&file).unwrap()) {
            all += 1;
            if OPENINGS.iter().any(|opening| sentence.starts_with(opening)) {
                hard.push(format!("{}: {sentence}", file.display()));
            }
        }
    }
    let (share, bar) = (100 * hard.len() / all, 1);
    assert!(share <= bar, "{} of {all} sentences, more than {bar} %:\n{}", hard.len(), hard.join("\n"));
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

/// Words that no text for users says, and the word to say instead.
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

/// The string literals of all calls in `text` that begin with `opening`, up to their closing parenthesis.
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

/// Method: read the texts of all errors and log events under `src`, and look for words of which users know another.
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
