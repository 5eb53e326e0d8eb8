//! The probe checks whether Redis's user may run every command that the program sends, and names missing rights.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use seckill::config::StoreAddresses;
use seckill::domain::Partition;
use seckill::redis::probe::probe_stream;
use seckill::redis::{RedisServer, lua};

use crate::harness::{PREFIX, Reply, TestRedis};

/// Commands that the program does not need: without them `doctor` shows less, and no claim can wait for a replica.
const OPTIONAL: [&str; 3] = ["client", "config", "wait"];
const WITH_VERB: [&str; 3] = ["script", "xgroup", "xinfo"];

fn folder(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, here): (Vec<PathBuf>, Vec<PathBuf>) = paths.partition(|path| path.is_dir());
    let below = folders.iter().flat_map(|folder| files(folder, extension));
    here.into_iter()
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .chain(below)
        .collect()
}

/// Texts in quotes that follow `before`, each with the 60 characters after it.
fn quoted(source: &str, before: &str, quote: char) -> Vec<(String, String)> {
    let after = source.match_indices(before).map(|(at, word)| &source[at + word.len()..]);
    let split = after.filter_map(|rest| rest.trim_start().strip_prefix(quote)?.split_once(quote));
    split.map(|(text, rest)| (text.to_lowercase(), rest.chars().take(60).collect())).collect()
}

/// Adds the verb that follows the command, if there is one: `xinfo|groups`.
fn with_verb(command: &str, rest: &str, quote: char) -> String {
    if !WITH_VERB.contains(&command) {
        return command.to_owned();
    }
    let verb = rest.split(quote).nth(1).unwrap().to_lowercase();
    format!("{command}|{verb}")
}

/// Commands that the scripts and the program send.
fn sent() -> BTreeSet<String> {
    let mut sent = BTreeSet::new();
    for script in lua::ALL {
        let calls = quoted(script.source(), "call(", '\'').into_iter();
        sent.extend(calls.map(|(command, rest)| with_verb(&command, &rest, '\'')));
    }
    let mut sources = files(&folder("src/redis"), "rs");
    // The search for the master asks nodes and Sentinels, before there is a connection that the probe checks.
    sources.retain(|path| !path.starts_with(folder("src/redis/topology")));
    sources.push(folder("src/redis.rs"));
    for path in sources {
        let source = fs::read_to_string(path).unwrap();
        // Commands whose verb is in a variable are in the list below.
        let calls = quoted(&source, ".call(", '"').into_iter();
        let calls = calls.filter(|(command, rest)| {
            !WITH_VERB.contains(&command.as_str()) || rest.starts_with(", vec![\"")
        });
        sent.extend(calls.map(|(command, rest)| with_verb(&command, &rest, '"')));
    }
    sent.extend(
        ["xrange", "xrevrange", "script|exists", "script|load", "xinfo|consumers"].map(str::to_owned),
    );
    sent.retain(|command| !OPTIONAL.contains(&command.as_str()));
    sent
}

/// Commands that the probe checks.
fn checked() -> BTreeSet<String> {
    let source = fs::read_to_string(folder("lua/probe.lua")).unwrap();
    let (_, list) = source.split_once("local needed = {").unwrap();
    let (list, _) = list.split_once("\n}\n").unwrap();
    quoted(list, "{", '\'').into_iter().map(|(command, rest)| with_verb(&command, &rest, '\'')).collect()
}

#[test]
fn the_probe_checks_every_command_that_the_program_sends() {
    assert!(sent().len() > 30, "{:?}", sent());
    assert_eq!(checked(), sent(), "checked by lua/probe.lua, sent by the program");
}

/// The rights that a user with these rights lacks, as the probe reports them.
fn lacks(redis: &mut TestRedis, rights: &[&str]) -> Vec<String> {
    let user = [&["ACL", "SETUSER", "limited", "reset", "on", ">secret", "&*"], rights].concat();
    assert_eq!(redis.raw.call(&user), Reply::Simple("OK".into()), "{rights:?}");
    let addresses = StoreAddresses {
        redis_url: format!("redis+unix://limited:secret@localhost{}", redis.socket().display()),
        database_url: String::new(),
    };
    redis.runtime.block_on(async {
        let limited =
            RedisServer::new(&addresses, PREFIX, Partition::DEFAULT).unwrap().connect().await.unwrap();
        probe_stream(&limited).await.unwrap_or_else(|error| panic!("{rights:?}: {error}")).lacks
    })
}

#[test]
fn only_the_forbidden_command_is_named_and_nothing_if_all_are_allowed() {
    let mut redis = TestRedis::start();
    assert_eq!(lacks(&mut redis, &["+@all", "~test:*"]), Vec::<String>::new());
    for command in checked() {
        assert_eq!(lacks(&mut redis, &["+@all", "~*", &format!("-{command}")]), [format!("+{command}")]);
    }
}

#[test]
fn keys_that_are_forbidden_or_read_only_are_named_by_their_pattern() {
    let mut redis = TestRedis::start();
    for keys in [
        &["~other:*"][..],
        &["%R~*"],
        &["%W~*"],
        &["~test:{0}:epoch", "~test:{0}:orders", "~test:{0}:tally", "~test:{0}:postgres_lsn"],
        &["~test:{0}:[c-o]*", "~test:{0}:tally", "%R~*"],
        &["~test:{0}:[d-z]*", "~test:{0}:coupon:*", "%R~*"],
    ] {
        assert_eq!(lacks(&mut redis, &[&["+@all"], keys].concat()), ["~test:{0}:*"], "{keys:?}");
    }
}
