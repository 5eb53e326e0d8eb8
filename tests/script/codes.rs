//! The codes of the scripts' replies are the same in Lua, in Rust and in the header of each script.

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

/// The scripts as in their files, without the parts that they include.
fn scripts() -> Vec<Script> {
    let files = fs::read_dir(folder("lua")).unwrap().map(|entry| entry.unwrap().path());
    let mut scripts: Vec<Script> = files
        .filter(|path| path.is_file())
        .map(|path| {
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

/// Lines `CODE name N` or `OUTCOME name N` of a header.
fn codes_of_header(header: &str, kind: &str) -> Codes {
    let mut codes = Codes::new();
    for line in header.lines() {
        let words: Vec<&str> = line.trim_start_matches(['-', ' ']).split_whitespace().collect();
        let [found, name, number, ..] = words[..] else { continue };
        if found == kind {
            let number = number.parse().expect("a code is a number");
            let doubled = codes.insert(name.to_uppercase(), number);
            assert_eq!(doubled, None, "{name} is in a header twice");
        }
    }
    codes
}

/// The table in `lua/lib/codes.lua`.
fn table() -> Codes {
    let text = fs::read_to_string(folder("lua/lib/codes.lua")).unwrap();
    let mut codes = Codes::new();
    for line in without_comments(&text).lines() {
        let line = line.strip_prefix("local ").expect("lua/lib/codes.lua has local constants only");
        let (names, numbers) = line.split_once(" = ").unwrap();
        for (name, number) in names.split(", ").zip(numbers.split(", ")) {
            assert_eq!(codes.insert(name.to_owned(), number.parse().unwrap()), None, "{name}");
        }
    }
    codes
}

/// The constants of `mod <module>` in a Rust file.
fn constants(file: &str, module: &str) -> Codes {
    let source = fs::read_to_string(folder("src/redis").join(file)).unwrap();
    let (_, rest) = source.split_once(&format!("mod {module} {{\n")).expect("the module is there");
    let (block, _) = rest.split_once("\n}").expect("the module ends");
    let codes = block.lines().map(|line| {
        let (name, number) = line
            .trim()
            .strip_prefix("pub const ")
            .and_then(|rest| rest.strip_suffix(';'))
            .and_then(|rest| rest.split_once(": i64 = ").or_else(|| rest.split_once(": u8 = ")))
            .unwrap_or_else(|| panic!("{module} has constants only: {line}"));
        // An outcome is a digit of a string, such as `b'1'`.
        let number = number.trim_start_matches("b'").trim_end_matches('\'');
        (name.to_owned(), number.parse().unwrap())
    });
    codes.collect()
}

/// Names of the table that the script's body uses.
fn names_used(body: &str, table: &Codes) -> BTreeSet<String> {
    let words = body.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| table.contains_key(*word)).map(str::to_owned).collect()
}

/// Whether the script returns a number without a name: `return 3`, `return { 3, …`.
fn returns_a_number(body: &str) -> bool {
    let after = body.match_indices("return ").map(|(at, word)| &body[at + word.len()..]);
    after
        .map(|rest| rest.strip_prefix("{ ").unwrap_or(rest))
        .any(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '-'))
}

#[test]
fn lua_and_rust_have_the_same_numbers_and_no_number_has_two_names() {
    let table = table();
    assert_eq!(table, constants("lua.rs", "code"), "lua/lib/codes.lua and src/redis/lua.rs");
    let numbers: BTreeSet<i64> = table.values().copied().collect();
    assert_eq!(numbers.len(), table.len());
}

#[test]
fn every_header_has_the_numbers_of_the_table() {
    let table = table();
    for script in scripts() {
        for (name, number) in codes_of_header(&script.header, "CODE") {
            assert_eq!(table.get(&name), Some(&number), "lua/{}.lua: {name}", script.name);
        }
    }
}

#[test]
fn the_decoder_of_a_claim_has_the_outcomes_of_its_header() {
    let claim = scripts().into_iter().find(|script| script.name == "claim").unwrap();
    let header = codes_of_header(&claim.header, "OUTCOME");
    assert_eq!(header.len(), 9);
    assert_eq!(header, constants("scripts/claim.rs", "outcome_code"));
}

#[test]
fn the_decoder_of_a_join_has_the_outcomes_of_its_header() {
    let join = scripts().into_iter().find(|script| script.name == "waitlist_join").unwrap();
    let header = codes_of_header(&join.header, "OUTCOME");
    assert_eq!(header.len(), 9);
    assert_eq!(header, constants("waitlist.rs", "outcome_code"));
}

#[test]
fn the_headers_of_the_scripts_with_codes_are_read() {
    // Otherwise the comparisons above could compare empty maps.
    let with_codes =
        scripts().into_iter().filter(|script| !codes_of_header(&script.header, "CODE").is_empty());
    let names: Vec<String> = with_codes.map(|script| script.name).collect();
    assert_eq!(
        names,
        [
            "acknowledge",
            "claim",
            "publish",
            "rebuild_begin",
            "rebuild_chunk",
            "rebuild_coupon",
            "rebuild_events",
            "rebuild_line",
            "rebuild_ready",
            "rebuild_types",
            "record_wal_position",
            "recount_tally",
            "release",
            "remove_consumer",
            "requeue",
            "settle_tally",
            "take",
            "trim",
            "waitlist_join",
            "waitlist_leave",
            "waitlist_serve"
        ]
    );
}

#[test]
fn a_script_returns_each_code_of_its_header_by_name_and_no_other() {
    let table = table();
    for script in scripts() {
        let header = codes_of_header(&script.header, "CODE");
        let names: BTreeSet<String> = header.into_keys().collect();
        assert_eq!(names_used(&script.body, &table), names, "lua/{}.lua", script.name);
        assert!(
            names.is_empty() || !returns_a_number(&script.body),
            "lua/{}.lua: a bare number",
            script.name
        );
    }
}

#[test]
fn every_header_says_what_the_script_takes_and_returns() {
    for script in scripts() {
        for word in ["-- KEYS", "-- ARGV", "-- Reply"] {
            assert!(script.header.contains(word), "lua/{}.lua: no `{word}` in its header", script.name);
        }
    }
}
