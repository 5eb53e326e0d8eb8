//! The rules of the architecture, read from the sources: which module may use which, which module may name which library,
//! and a few habits that no lint checks. The order of the modules is the one in `src/lib.rs`.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A longer file probably has more than one purpose.
const FILE_MAX_LINES: usize = 400;

const EXPORTER: &str = "prometheus";

/// Modules that may never use each other, although the order of `lib.rs` would allow it.
const UNRELATED: [(&str, &[&str]); 12] = [
    ("bench", &["http", "worker", "cli", "claims", "waitlist", "orders", "coupons", "fence", "reconcile"]),
    ("http", &["redis", "worker", "cli", "embedded", "data_dir"]),
    ("worker", &["http", "claims", "waitlist", "coupons", "reconcile", "cli", "embedded", "data_dir"]),
    ("cli", &["http", "worker", "claims", "waitlist", "orders", "coupons"]),
    ("doctor", &["http", "worker", "claims", "waitlist", "orders", "cli", "embedded", "data_dir"]),
    ("reconcile", &["claims", "waitlist", "http", "worker"]),
    ("claims", &["postgres", "waitlist"]),
    ("fence", &["coupons", "orders", "claims", "waitlist"]),
    ("coupons", &["orders", "claims", "waitlist"]),
    ("domain", &["postgres", "redis", "metrics"]),
    ("redis", &["postgres"]),
    ("postgres", &["redis"]),
];

/// Modules about the machine, and the only modules that they may use.
const MACHINE: [(&str, &[&str]); 3] = [
    ("data_dir", &["config"]),
    ("other_process", &["config"]),
    ("embedded", &["config", "data_dir", "other_process", "disk", "tasks"]),
];

struct Source {
    /// The path relative to `src`.
    path: String,
    text: String,
}

impl Source {
    /// `http` for `http.rs` and `http/claims.rs`.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// Lines of code with their numbers, without comments and tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut in_tests = false;
        self.text.lines().enumerate().filter_map(move |(index, line)| {
            in_tests |= line == "#[cfg(test)]";
            let counts = !in_tests && !line.trim_start().starts_with("//");
            // The formatter puts the end of a module at the start of a line.
            in_tests &= line != "}";
            counts.then_some((index + 1, line))
        })
    }

    /// The crate's modules that this file names.
    fn uses(&self) -> BTreeSet<String> {
        let code: String = self.code().flat_map(|(_, line)| [line, "\n"]).collect();
        let mut used = BTreeSet::new();
        for (at, _) in code.match_indices("crate::") {
            // `$crate::` and similar paths do not name one of our modules.
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            used.extend(first_segments(&code[at + "crate::".len()..]));
        }
        used
    }

    /// `http::claims` for `http/claims.rs`.
    fn module_path(&self) -> String {
        self.path.trim_end_matches(".rs").replace('/', "::")
    }

    /// Every path of the crate that this file names, without `crate::`, and with `super::` resolved.
    fn paths(&self) -> BTreeSet<String> {
        let code: String = self.code().flat_map(|(_, line)| [line, "\n"]).collect();
        let own = self.module_path();
        let parent = own.rsplit_once("::").map_or("", |(parent, _)| parent);
        let mut paths = BTreeSet::new();
        for (prefix, base) in [("crate::", ""), ("super::", parent)] {
            for (at, _) in code.match_indices(prefix) {
                // `super::super::` and `$crate::` are not resolved.
                if code[..at].ends_with(|c: char| c.is_alphanumeric() || "_:$".contains(c)) {
                    continue;
                }
                let named = expanded(&code[at + prefix.len()..]);
                let join = |path| if base.is_empty() { path } else { format!("{base}::{path}") };
                paths.extend(named.into_iter().map(join));
            }
        }
        paths
    }
}

/// The paths of a use tree: `a::b` and `a::c::d` of `a::{b, c::d}`.
fn expanded(tree: &str) -> Vec<String> {
    let end = tree.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(tree.len());
    let (path, rest) = tree.split_at(end);
    let Some(base) = path.strip_suffix("::").or(path.is_empty().then_some("")) else {
        return vec![path.to_owned()];
    };
    let Some(group) = rest.strip_prefix('{') else { return vec![base.to_owned()] };
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                parts.extend(expanded(group[start..at].trim()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    let join = |part: String| if base.is_empty() { part } else { format!("{base}::{part}") };
    parts.into_iter().filter(|part| !part.is_empty()).map(join).collect()
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

/// Lines of code outside the given modules for which `is_bad` is true.
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
    // The alternatives in the bench have their own statements.
    let found = lines_outside(&["postgres", "bench"], |line| names_crate(line, "sqlx"));
    assert_none("sqlx outside src/postgres and src/bench", &found);
}

#[test]
fn only_http_and_the_bench_know_warp() {
    // The bench compares the program with warp's own server.
    let found = lines_outside(&["http", "bench"], |line| names_crate(line, "warp"));
    assert_none("warp outside src/http and src/bench", &found);
}

#[test]
fn only_metrics_knows_its_exporter() {
    let exporter = |line: &str| names_crate(line, EXPORTER);
    assert_none("the exporter outside src/metrics", &lines_outside(&["metrics"], exporter));
}

#[test]
fn each_library_is_named_in_its_own_module() {
    // Otherwise the tests above could not fail.
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
        // The start of the program, and the file that lists the modules.
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
fn unrelated_modules_never_use_each_other() {
    let mut found = Vec::new();
    for source in sources() {
        let banned = UNRELATED.iter().find(|(module, _)| *module == source.module());
        for used in source.uses() {
            if banned.is_some_and(|(_, banned)| banned.contains(&used.as_str())) {
                found.push(format!("src/{} uses crate::{used}", source.path));
            }
        }
    }
    assert_none("modules that should not know each other", &found);
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let sources = sources();
    let files: BTreeSet<String> = sources.iter().map(Source::module_path).collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !["main", "lib"].contains(&source.module())) {
        let own = source.module_path();
        let named = source.paths().into_iter().filter_map(|path| file_of(&path, &files));
        // A file and the files below it belong to the same module.
        let others = named.filter(|used| !is_within(used, &own) && !is_within(&own, used)).collect();
        uses.insert(own, others);
    }
    assert!(uses.values().map(BTreeSet::len).sum::<usize>() > 300, "too few uses were read");
    let circles = uses.keys().filter_map(|start| circle(start, &uses)).map(|circle| circle.join(" -> "));
    assert_none("files that use each other in a circle", &circles.collect::<Vec<_>>());
}

fn is_within(path: &str, module: &str) -> bool {
    path == module || path.strip_prefix(module).is_some_and(|rest| rest.starts_with("::"))
}

/// The file of the longest module in a path such as `fence::probe::compare`.
fn file_of(path: &str, files: &BTreeSet<String>) -> Option<String> {
    let mut path = path;
    loop {
        if files.contains(path) {
            return Some(path.to_owned());
        }
        path = path.rsplit_once("::")?.0;
    }
}

/// The shortest chain of uses from a file back to itself.
fn circle(start: &str, uses: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in uses.get(way.last()?).into_iter().flatten() {
                let mut way = way.clone();
                way.push(next.clone());
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}

#[test]
fn data_dir_and_embedded_use_only_the_modules_that_they_may() {
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
    assert_none("modules of the sale in a module about the machine", &found);
}

#[test]
fn the_rules_name_modules_that_exist() {
    let modules = modules();
    let named = UNRELATED.iter().chain(&MACHINE).flat_map(|(module, others)| {
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
    assert_eq!(
        uses("pub(crate) fn f() { crate::claims::batcher::g(crate::domain::M) }"),
        ["claims", "domain"]
    );
    assert!(uses("// crate::worker\n//! [`crate::worker`]\n").is_empty());
    assert!(uses("#[cfg(test)]\nmod tests {\n    use crate::worker;\n}\n").is_empty());
    assert_eq!(uses("#[cfg(test)]\nmod tests {\n}\nuse crate::worker;\n"), ["worker"]);
}

#[test]
fn every_path_is_read() {
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let paths = |path: &str, text: &str| source(path, text).paths().into_iter().collect::<Vec<_>>();
    assert_eq!(
        paths("a.rs", "use crate::redis::{self, keys::{GROUP, Keys}, x::f};"),
        ["redis::keys::GROUP", "redis::keys::Keys", "redis::self", "redis::x::f"]
    );
    assert_eq!(paths("a/b.rs", "use super::c::D;\nfn f() { super::g() }"), ["a::c::D", "a::g"]);
    let files = ["a".to_owned(), "a::c".to_owned()].into();
    assert_eq!(file_of("a::c::D", &files).as_deref(), Some("a::c"));
    assert_eq!(file_of("a::g", &files).as_deref(), Some("a"));
}

#[test]
fn nothing_unwraps_outside_tests() {
    let bad = |line: &str| line.contains(".unwrap()") || line.contains(".unwrap_err()");
    assert_none("unwrap", &lines_outside(&[], bad));
}

#[test]
fn no_unfinished_code_is_left() {
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
    // These macros panic if the output has no reader. The lint does not find them inside a macro's arguments.
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
    let files = files_below(&root().join("lua"), "lua");
    let silent = files.iter().filter(|file| {
        let mut lines = file.text.lines();
        // Without this first line Redis would start a script when memory is full, and the script would fail half-way. A
        // part in `lib` is included below that line.
        let engine = file.path.starts_with("lib/")
            || lines.next().is_some_and(|line| line == "#!lua" || line.starts_with("#!lua flags="));
        !(engine && lines.next().is_some_and(|line| line.starts_with("-- ")))
    });
    assert_none("no `#!lua` or no purpose", &silent.map(|s| format!("lua/{}", s.path)).collect::<Vec<_>>());
}

#[test]
fn no_file_is_too_long() {
    let long = |source: &Source| source.text.lines().count() > FILE_MAX_LINES;
    let found: Vec<String> =
        sources().iter().filter(|s| long(s)).map(|s| format!("src/{}", s.path)).collect();
    assert_none("longer than 400 lines", &found);
}

#[test]
fn lua_is_in_separate_files() {
    let found = lines_outside(&[], |line| line.contains("redis.call('") || line.contains("KEYS["));
    assert_none("Lua inside Rust", &found);
}

#[test]
fn every_limit_is_in_config_limits() {
    let words = [
        "MAX", "MIN", "LIMIT", "TIMEOUT", "DEADLINE", "INTERVAL", "POLL", "RETRY", "RETRIES", "TRIES",
        "GRACE", "PATIENCE", "LIFETIME", "AFTER", "WITHIN",
    ];
    let is_limit = |line: &str| {
        let constant = line.split_once("const ").and_then(|(_, constant)| constant.split_once(": "));
        constant.is_some_and(|(name, value)| {
            let is_constant = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            let is_named_so = name.split('_').any(|word| words.contains(&word));
            is_constant && (is_named_so || value.starts_with("Duration") || value.starts_with("std::time::"))
        })
    };
    let limits = fs::read_to_string(root().join("src/config/limits.rs")).unwrap();
    assert!(limits.lines().filter(|line| is_limit(line)).count() > 50, "no limit is recognised");
    // The bench has its own sizes.
    let mut found = lines_outside(&["bench"], is_limit);
    found.retain(|line| !line.starts_with("src/config/limits"));
    assert_none("limits outside src/config/limits", &found);
}
