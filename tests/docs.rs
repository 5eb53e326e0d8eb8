//! The documents name only tests that exist: else a guarantee would have no proof.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

use std::fs;
use std::path::Path;

/// Texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Files that may contain the test `module::test`.
fn candidates(module: &str) -> Vec<String> {
    let name = module.rsplit('/').next().unwrap();
    let folder = module.strip_suffix(name).unwrap();
    if folder.is_empty() {
        vec![format!("tests/system/{name}.rs"), format!("tests/{name}.rs"), format!("tests/{name}/main.rs")]
    } else {
        vec![format!("tests/{folder}{name}.rs"), format!("{folder}tests/{name}.rs")]
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
