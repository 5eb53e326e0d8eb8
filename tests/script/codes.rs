//! Each script's header against its decoder and against its own body: the same names, the same numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

type Codes = BTreeMap<String, i64>;

struct Script {
    name: String,
    header: String,
    body: String,
}

fn folder(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn scripts() -> Vec<Script> {
    let mut scripts: Vec<Script> = fs::read_dir(folder("lua"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let first_code = text.find("\n\n").expect("a header, an empty line, the code");
            let (header, body) = text.split_at(first_code);
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            Script { name, header: header.into(), body: without_comments(body) }
        })
        .collect();
    scripts.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(scripts.len() >= 11, "scripts are missing");
    scripts
}

fn without_comments(lua: &str) -> String {
    lua.lines().filter(|line| !line.trim_start().starts_with("--")).flat_map(|line| [line, "\n"]).collect()
}

/// `CODE name N` as `NAME`, `STATUS name N` as `STATUS_NAME`.
fn codes_of_header(header: &str) -> Codes {
    let mut codes = Codes::new();
    for line in header.lines() {
        let words: Vec<&str> = line.trim_start_matches(['-', ' ']).split_whitespace().collect();
        let (prefix, name, number) = match words[..] {
            ["CODE", name, number, ..] => ("", name, number),
            ["STATUS", name, number, ..] => ("STATUS_", name, number),
            _ => continue,
        };
        let number = number.parse().expect("a code is a number");
        let doubled = codes.insert(format!("{prefix}{}", name.to_uppercase()), number);
        assert_eq!(doubled, None, "{name} stands twice in a header");
    }
    codes
}

/// The constants of `pub mod <module>` in the decoder's source.
fn codes_of_decoder(module: &str) -> Option<Codes> {
    let sources = ["src/redis/script.rs", "src/redis/claim.rs", "src/redis/rebuild.rs"];
    let source: String = sources.iter().map(|path| fs::read_to_string(folder(path)).unwrap()).collect();
    let (_, rest) = source.split_once(&format!("pub mod {module} {{\n"))?;
    let (block, _) = rest.split_once("\n}").expect("the module ends");
    let codes = block.lines().map(|line| {
        let (name, number) = line
            .trim()
            .strip_prefix("pub const ")
            .and_then(|rest| rest.strip_suffix(';'))
            .and_then(|rest| rest.split_once(": i64 = ").or_else(|| rest.split_once(": u8 = ")))
            .unwrap_or_else(|| panic!("{module} holds constants only: {line}"));
        // One of many codes in a string is a digit, `b'1'`.
        let number = number.trim_start_matches("b'").trim_end_matches('\'');
        (name.to_owned(), number.parse().unwrap())
    });
    Some(codes.collect())
}

/// Whole numbers that the script's body returns as they stand: `return 3`, `return { 3, …`.
fn numbers_returned(body: &str) -> BTreeSet<i64> {
    let after = body.match_indices("return ").map(|(at, word)| &body[at + word.len()..]);
    after
        .filter_map(|rest| {
            let rest = rest.strip_prefix("{ ").unwrap_or(rest);
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(rest.len());
            rest[..end].parse().ok()
        })
        .collect()
}

#[test]
fn the_decoder_knows_the_numbers_of_every_header() {
    let mut rebuild = Codes::new();
    for script in scripts() {
        let header = codes_of_header(&script.header);
        if script.name.starts_with("rebuild_") {
            // They share one module, so none may contradict another.
            for (name, number) in header {
                assert!(rebuild.insert(name.clone(), number).is_none_or(|old| old == number), "{name}");
            }
        } else {
            let decoder = codes_of_decoder(&format!("{}_code", script.name)).unwrap_or_default();
            assert_eq!(header, decoder, "lua/{}.lua and its decoder", script.name);
        }
    }
    assert_eq!(Some(rebuild), codes_of_decoder("rebuild_code"), "lua/rebuild_*.lua and their decoder");
}

#[test]
fn the_headers_of_the_scripts_with_codes_are_read() {
    // Else the comparison above would hold between two empty maps.
    let with_codes = scripts().into_iter().filter(|script| !codes_of_header(&script.header).is_empty());
    let names: Vec<String> = with_codes.map(|script| script.name).collect();
    assert_eq!(
        names,
        [
            "claim",
            "note_lsn",
            "publish",
            "rebuild_begin",
            "rebuild_chunk",
            "rebuild_coupon",
            "rebuild_events",
            "rebuild_ready",
            "recount",
            "release",
            "remove_consumer",
            "settle"
        ]
    );
}

#[test]
fn every_number_a_script_returns_is_in_its_header() {
    for script in scripts() {
        let header = codes_of_header(&script.header);
        let returned = numbers_returned(&script.body);
        if script.name == "claim" {
            // A whole batch's answer is a table that begins with its status; `done` is built step by step.
            let statuses = header.iter().filter(|(name, _)| name.starts_with("STATUS_"));
            let mut statuses: BTreeSet<i64> = statuses.map(|(_, number)| *number).collect();
            assert!(statuses.remove(&0));
            assert_eq!(returned, statuses, "lua/claim.lua");
        } else if !header.is_empty() {
            assert_eq!(returned, header.into_values().collect(), "lua/{}.lua", script.name);
        }
    }
}

#[test]
fn every_header_says_what_the_script_takes_and_answers() {
    for script in scripts() {
        for word in ["-- KEYS", "-- ARGV", "-- Reply"] {
            assert!(script.header.contains(word), "lua/{}.lua: no `{word}` in its header", script.name);
        }
    }
}
