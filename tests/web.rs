//! The pages' files, read as text: every text that a page uses exists in both languages, and no line runs what the
//! content security policy forbids. `tests/browser` uses the pages.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The text of each script and page, without the vendored ones.
fn sources() -> BTreeMap<String, String> {
    let files = fs::read_dir("web").unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "js" || end == "html"));
    let read = |path: std::path::PathBuf| {
        (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
    };
    files.map(read).collect()
}

/// The scripts that a page loads, with those that they import.
fn scripts_of(page: &str, sources: &BTreeMap<String, String>) -> BTreeSet<String> {
    let loaded = sources[page].split("src=\"/assets/").skip(1).filter_map(|rest| rest.split('"').next());
    let mut waiting: Vec<String> =
        loaded.filter(|name| sources.contains_key(*name)).map(str::to_owned).collect();
    let mut scripts = BTreeSet::new();
    while let Some(script) = waiting.pop() {
        let imports = sources[&script].split("\"./").skip(1).filter_map(|rest| rest.split('"').next());
        if scripts.insert(script.clone()) {
            waiting.extend(imports.filter(|name| sources.contains_key(*name)).map(str::to_owned));
        }
    }
    scripts
}

fn is_key(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The keys of a file of texts: `key: ["English", "Chinese"],`.
fn keys(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (key, rest) = line.trim().split_once(": [")?;
        (rest.starts_with('"') && is_key(key)).then_some(key)
    })
}

/// The keys that a file names where it uses a text.
fn used(text: &str) -> impl Iterator<Item = &str> {
    let calls = text.match_indices("t(\"").filter(|(at, _)| {
        !text[..*at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.')
    });
    let calls = calls.map(|(at, call)| &text[at + call.len()..]);
    let attributes = ["data-t=\"", "data-t-label=\""].into_iter();
    let attributes = attributes.flat_map(|attribute| text.split(attribute).skip(1));
    calls.chain(attributes).filter_map(|rest| rest.split('"').next())
}

#[test]
fn every_text_that_a_page_uses_exists() {
    let sources = sources();
    for page in ["storefront.html", "admin.html"] {
        let scripts = scripts_of(page, &sources);
        assert!(scripts.contains("i18n.js"), "{page} loads {scripts:?}");
        let known: BTreeSet<&str> = scripts.iter().flat_map(|script| keys(&sources[script])).collect();
        assert!(known.len() > 100, "{page}: only {} texts", known.len());
        let files = scripts.iter().map(String::as_str).chain([page]);
        let missing: Vec<String> = files
            .flat_map(|file| used(&sources[file]).map(move |key| (file, key)))
            .filter(|(_, key)| !known.contains(key))
            .map(|(file, key)| format!("{file}: {key}"))
            .collect();
        assert!(missing.is_empty(), "texts that {page} does not have:\n  {}", missing.join("\n  "));
    }
}

/// Settings of Redis by their names.
const SAME_IN_BOTH: [&str; 1] = ["always"];

#[test]
fn every_text_is_in_both_languages() {
    let is_chinese = |text: &str| text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
    let mut same = Vec::new();
    for (file, text) in sources() {
        let texts = text.lines().filter_map(|line| line.trim().split_once(": [\""));
        for (key, pair) in texts.filter(|(key, _)| is_key(key)) {
            let Some((english, chinese)) = pair.split_once("\", \"") else { continue };
            // A template without words is the same in both.
            let has_words = english.split('{').any(|part| {
                part.split('}').next_back().unwrap().chars().filter(char::is_ascii_lowercase).count() > 3
            });
            if has_words && !SAME_IN_BOTH.contains(&key) && !is_chinese(chinese) {
                same.push(format!("{file}: {key}"));
            }
            assert!(!is_chinese(english), "{file}: {key} is Chinese on the English page");
        }
    }
    assert!(same.is_empty(), "not Chinese:\n  {}", same.join("\n  "));
}

#[test]
fn no_page_has_inline_code_or_style() {
    for (file, text) in sources() {
        let forbidden = [" onclick=\"", " onload=\"", " style=\"", "<style", "innerHTML", "eval("];
        for what in forbidden {
            assert!(!text.contains(what), "{file} has {what}");
        }
        for script in text.split("<script").skip(1) {
            assert!(script.split('>').next().unwrap().contains("src="), "{file} has an inline script");
        }
    }
}
