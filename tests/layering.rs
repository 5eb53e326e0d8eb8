//! The house's rules, read from the sources: who may use whom, who knows which library, and a few
//! habits that no lint checks. The order of the modules is the one in `src/lib.rs`.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this wants to be two.
const FILE_MAX_LINES: usize = 500;

const EXPORTER: &str = "metrics_exporter_prometheus";

/// Beyond the order of `lib.rs`: who never sees whom.
const STRANGERS: [(&str, &[&str]); 7] = [
    ("bench", &["http", "worker", "cli", "gate", "fence", "reconcile"]),
    ("http", &["worker", "cli", "embedded", "data_dir"]),
    ("worker", &["http", "gate", "cli", "embedded", "data_dir"]),
    ("cli", &["http", "worker", "gate"]),
    ("doctor", &["http", "worker", "gate", "cli", "embedded", "data_dir"]),
    ("redis", &["postgres"]),
    ("postgres", &["redis"]),
];

/// Modules about the machine: they use nothing but these.
const MACHINE: [(&str, &[&str]); 2] =
    [("data_dir", &["config"]), ("embedded", &["config", "data_dir", "disk", "tasks"])];

struct Source {
    /// Relative to `src`.
    path: String,
    text: String,
}

impl Source {
    /// `http` for `http.rs` and `http/claims.rs`.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// Lines of the program itself with their numbers: no comments, no tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut in_tests = false;
        self.text.lines().enumerate().filter_map(move |(index, line)| {
            in_tests |= line == "#[cfg(test)]";
            let counts = !in_tests && !line.trim_start().starts_with("//");
            // The formatter closes a module at the margin.
            in_tests &= line != "}";
            counts.then_some((index + 1, line))
        })
    }

    /// The crate's modules that this file names.
    fn uses(&self) -> BTreeSet<String> {
        let code: String = self.code().flat_map(|(_, line)| [line, "\n"]).collect();
        let mut used = BTreeSet::new();
        for (at, _) in code.match_indices("crate::") {
            // `$crate::` and the like are no module of ours.
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            used.extend(first_segments(&code[at + "crate::".len()..]));
        }
        used
    }
}

/// `a` of `a::b`, `a` and `c` of `{a::{b}, c as d}`.
fn first_segments(path: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![word(path)] };
    let (mut depth, mut segments, mut start) = (0, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                segments.push(word(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    segments.retain(|segment| !segment.is_empty());
    segments
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let relative = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.push(Source { path: relative, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 5, "no {extension} files in {}", folder.display());
    found
}

fn sources() -> Vec<Source> {
    files_below(&root().join("src"), "rs")
}

/// The modules in the order of `lib.rs`.
fn modules() -> Vec<String> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules: Vec<String> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    assert!(modules.len() > 5, "lib.rs lists no modules: {modules:?}");
    modules
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// Lines of code outside the given modules that `is_bad` finds fault with.
fn lines_outside(modules: &[&str], is_bad: impl Fn(&str) -> bool) -> Vec<String> {
    let sources = sources();
    let outside = sources.iter().filter(|source| !modules.contains(&source.module()));
    outside
        .flat_map(|source| {
            let bad = source.code().filter(|(_, line)| is_bad(line));
            bad.map(|(number, line)| format!("src/{}:{number}: {}", source.path, line.trim()))
        })
        .collect()
}

fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + name.len()..];
        before.is_none_or(|c| !c.is_alphanumeric() && !"_:.\"".contains(c))
            && (after.starts_with("::") || (line.trim_start().starts_with("use ") && after.starts_with(';')))
    })
}

#[test]
fn only_redis_knows_fred() {
    assert_none("fred outside src/redis", &lines_outside(&["redis"], |line| names_crate(line, "fred")));
}

#[test]
fn only_postgres_and_the_bench_know_sqlx() {
    // What people do instead of this program has statements of its own.
    let found = lines_outside(&["postgres", "bench"], |line| names_crate(line, "sqlx"));
    assert_none("sqlx outside src/postgres and src/bench", &found);
}

#[test]
fn only_http_and_the_bench_know_warp() {
    // The ceiling that the program is measured against is warp's own server.
    let found = lines_outside(&["http", "bench"], |line| names_crate(line, "warp"));
    assert_none("warp outside src/http and src/bench", &found);
}

#[test]
fn only_metrics_knows_its_exporter() {
    let exporter = |line: &str| names_crate(line, EXPORTER);
    assert_none("the exporter outside src/metrics.rs", &lines_outside(&["metrics"], exporter));
}

#[test]
fn every_library_is_found_where_it_belongs() {
    // Else the tests above could not fail.
    let homes = [("redis", "fred"), ("postgres", "sqlx"), ("http", "warp"), ("metrics", EXPORTER)];
    for (module, library) in homes {
        let found = lines_outside(&[], |line| names_crate(line, library));
        assert!(!found.is_empty(), "nothing in src/{module} names {library}");
    }
}

#[test]
fn a_module_uses_only_modules_listed_before_it() {
    let modules = modules();
    let place = |name: &str| modules.iter().position(|module| module == name);
    let mut found = Vec::new();
    for source in sources() {
        // The program's start and the tour itself.
        if ["main", "lib"].contains(&source.module()) {
            continue;
        }
        let own = place(source.module());
        assert!(own.is_some(), "src/{} belongs to no module of lib.rs", source.path);
        for used in source.uses() {
            if place(&used).is_none_or(|used| Some(used) > own) {
                found.push(format!("src/{} uses crate::{used}", source.path));
            }
        }
    }
    assert_none("against the order in lib.rs", &found);
}

#[test]
fn strangers_never_see_each_other() {
    let mut found = Vec::new();
    for source in sources() {
        let banned = STRANGERS.iter().find(|(module, _)| *module == source.module());
        for used in source.uses() {
            if banned.is_some_and(|(_, banned)| banned.contains(&used.as_str())) {
                found.push(format!("src/{} uses crate::{used}", source.path));
            }
        }
    }
    assert_none("modules that should not know each other", &found);
}

#[test]
fn the_machine_is_no_part_of_the_sale() {
    let mut found = Vec::new();
    for source in sources() {
        let Some((own, allowed)) = MACHINE.iter().find(|(module, _)| *module == source.module()) else {
            continue;
        };
        for used in source.uses() {
            if used != *own && !allowed.contains(&used.as_str()) {
                found.push(format!("src/{} uses crate::{used}", source.path));
            }
        }
    }
    assert_none("more than the machine", &found);
}

#[test]
fn the_rules_name_modules_that_exist() {
    let modules = modules();
    let named = STRANGERS.iter().chain(&MACHINE).flat_map(|(module, others)| {
        std::iter::once(module).chain(others.iter()).map(|name| (*name).to_owned()).collect::<Vec<_>>()
    });
    let unknown: Vec<String> = named.filter(|name| !modules.contains(name)).collect();
    assert_none("modules that lib.rs does not list", &unknown);
}

#[test]
fn every_use_of_a_module_is_read() {
    let source = |text: &str| Source { path: "http.rs".into(), text: text.into() };
    let uses = |text: &str| source(text).uses().into_iter().collect::<Vec<_>>();
    assert_eq!(uses("use crate::redis::{self, keys};"), ["redis"]);
    assert_eq!(
        uses("use crate::{\n    config,\n    redis::{keys, scripts},\n    worker as w,\n};"),
        ["config", "redis", "worker"]
    );
    assert_eq!(uses("pub(crate) fn f() { crate::claims::batcher::g(crate::domain::M) }"), ["gate", "model"]);
    assert!(uses("// crate::worker\n//! [`crate::worker`]\n").is_empty());
    assert!(uses("#[cfg(test)]\nmod tests {\n    use crate::worker;\n}\n").is_empty());
    assert_eq!(uses("#[cfg(test)]\nmod tests {\n}\nuse crate::worker;\n"), ["worker"]);
}

#[test]
fn nothing_unwraps_outside_tests() {
    let bad = |line: &str| line.contains(".unwrap()") || line.contains(".unwrap_err()");
    assert_none("unwrap", &lines_outside(&[], bad));
}

#[test]
fn nothing_is_left_to_do() {
    let marks = ["todo!", "unimplemented!", "dbg!"];
    let found = lines_outside(&[], |line| marks.iter().any(|mark| names_macro(line, mark)));
    assert_none("unfinished", &found);
}

fn names_macro(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[test]
fn only_printing_writes_to_stdout_and_stderr() {
    let streams = |line: &str| line.contains("io::stdout") || line.contains("io::stderr");
    assert_none("a stream outside src/printing", &lines_outside(&["printing"], streams));
    // They panic where nothing reads. Inside a macro's arguments the lint does not see them.
    let macros = ["println!", "print!", "eprintln!", "eprint!"];
    let found = lines_outside(&[], |line| macros.iter().any(|name| names_macro(line, name)));
    assert_none("a macro that panics", &found);
}

#[test]
fn no_result_is_dropped_in_silence() {
    assert_none("a dropped value", &lines_outside(&[], |line| line.trim_start().starts_with("let _ =")));
}

#[test]
fn every_rust_file_says_what_it_owns() {
    let sources = sources();
    let silent = sources.iter().filter(|source| !source.text.starts_with("//! "));
    assert_none("no `//!` in the first line", &silent.map(|s| format!("src/{}", s.path)).collect::<Vec<_>>());
}

#[test]
fn every_script_declares_its_engine_and_its_effect() {
    let scripts = files_below(&root().join("lua"), "lua");
    let silent = scripts.iter().filter(|script| {
        let mut lines = script.text.lines();
        // Without the first line Redis would start a script at full memory and fail half-way.
        let engine = lines.next().is_some_and(|line| line == "#!lua" || line.starts_with("#!lua flags="));
        !(engine && lines.next().is_some_and(|line| line.starts_with("-- ")))
    });
    assert_none("no `#!lua` and purpose", &silent.map(|s| format!("lua/{}", s.path)).collect::<Vec<_>>());
}

#[test]
fn no_file_is_too_long() {
    let long = |source: &Source| source.text.lines().count() > FILE_MAX_LINES;
    let found: Vec<String> =
        sources().iter().filter(|s| long(s)).map(|s| format!("src/{}", s.path)).collect();
    assert_none("longer than 500 lines", &found);
}

#[test]
fn lua_lives_in_files_of_its_own() {
    let found = lines_outside(&[], |line| line.contains("redis.call('") || line.contains("KEYS["));
    assert_none("Lua inside Rust", &found);
}
