//! The documents name only tests and files that exist, and every text of the project is in plain words.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// Texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Folders from which the documents name files.
const ROOTS: [&str; 7] = ["", "src", "lua", "sql", "sql/queries", "tests", "docs"];

/// Documents that describe where each part of the project is.
const MAPS: [&str; 5] = [
    "CONTRIBUTING.md",
    "docs/ARCHITECTURE.md",
    "docs/GLOSSARY.md",
    "docs/GUARANTEES.md",
    "docs/OPERATING.md",
];

/// Whether a text between backticks names one file or, with a slash at its end, one folder.
fn is_path(text: &str) -> bool {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let ends = [".rs", ".lua", ".sql", ".md", ".json", ".toml", ".yml", "/"];
    plain && ends.iter().any(|end| text.len() > end.len() && text.ends_with(end))
}

/// Files that may contain the test `module::test`.
fn candidates(module: &str) -> Vec<String> {
    let name = module.rsplit('/').next().unwrap();
    let folder = module.strip_suffix(name).unwrap();
    if folder.is_empty() {
        vec![format!("tests/system/{name}.rs"), format!("tests/{name}.rs"), format!("tests/{name}/main.rs")]
    } else {
        let in_package = ["tests", "tests/searches"].map(|tests| format!("{folder}{tests}/{name}.rs"));
        let of_target = ["tests", "tests/system"].map(|tests| format!("{tests}/{folder}{name}.rs"));
        [of_target.to_vec(), in_package.to_vec()].concat()
    }
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let document = fs::read_to_string("docs/GUARANTEES.md").unwrap();
    let named: Vec<(&str, &str)> = quoted(&document).filter_map(|text| text.split_once("::")).collect();
    assert!(named.len() > 60, "only {} tests are named", named.len());
    for (module, test) in named {
        if (module, test) == ("file", "test") {
            continue;
        }
        let files = candidates(module).into_iter().filter(|file| Path::new(file).exists());
        let is_there = files.map(|file| fs::read_to_string(file).unwrap()).any(|source| {
            source.match_indices(&format!("fn {test}(")).any(|(at, _)| {
                let before = source[..at].trim_end().trim_end_matches("async").trim_end();
                before.ends_with(']')
            })
        });
        assert!(is_there, "docs/GUARANTEES.md names {module}::{test}, which is not a test");
    }
}

#[test]
fn the_glossary_has_each_word_once() {
    let glossary = fs::read_to_string("docs/GLOSSARY.md").unwrap();
    let words = glossary.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let mut words: Vec<&str> = words.filter(|word| *word != "word").collect();
    assert!(words.len() > 60, "only {} words", words.len());
    words.sort_unstable();
    let doubled = words.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(doubled, None, "a word that stands twice in docs/GLOSSARY.md");
}

#[test]
fn every_file_that_the_documents_name_exists() {
    let mut missing = Vec::new();
    for document in MAPS {
        let text = fs::read_to_string(document).unwrap();
        let paths: Vec<&str> = quoted(&text).filter(|text| is_path(text)).collect();
        assert!(!paths.is_empty(), "{document} names no file");
        let is_missing = |path: &&&str| !ROOTS.iter().any(|root| Path::new(root).join(path).exists());
        missing.extend(paths.iter().filter(is_missing).map(|path| format!("{document}: {path}")));
    }
    assert!(missing.is_empty(), "no such file:\n  {}", missing.join("\n  "));
}

/// Words that hide the actor or the meaning of a sentence. CONTRIBUTING says how to write instead.
const UNCLEAR: [&str; 9] =
    ["whoever", "somebody", "someone", "nobody", "anybody", "everybody", "meanwhile", "lest", "affair"];

/// Files in which one of these words is allowed: the name of a Unix user, and a merged migration, which is never
/// edited.
const NAMES: [(&str, &str); 3] = [
    ("src/embedded/user.rs", "nobody"),
    ("tests/system/own_stores.rs", "nobody"),
    ("sql/migrations/0004_dead_letters.sql", "somebody"),
];

#[test]
fn every_text_is_in_plain_words() {
    let mut found = Vec::new();
    let mut folders = ["src", "lua", "sql", "docs", "tests", "model", "scripts", "deploy", "web"]
        .map(PathBuf::from)
        .to_vec();
    let mut files = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Dockerfile", "Makefile"]
        .map(PathBuf::from)
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    assert!(files.len() > 300, "only {} files", files.len());
    // This file and the rules of the language name the words.
    files.retain(|file| !["tests/docs.rs", "CONTRIBUTING.md"].contains(&file.to_str().unwrap()));
    // What others wrote, and pictures.
    files.retain(|file| !file.starts_with("web/vendor") && file.extension().is_none_or(|end| end != "png"));
    for file in &files {
        let text = fs::read_to_string(file).unwrap().to_lowercase();
        for (number, line) in text.lines().enumerate() {
            let words = line.split(|c: char| !c.is_ascii_alphanumeric());
            let unclear = words.filter(|word| UNCLEAR.contains(word));
            let unclear = unclear.filter(|word| !NAMES.contains(&(file.to_str().unwrap(), word)));
            found.extend(unclear.map(|word| format!("{}:{}: {word}", file.display(), number + 1)));
        }
    }
    assert!(found.is_empty(), "unclear words:\n  {}", found.join("\n  "));
}
