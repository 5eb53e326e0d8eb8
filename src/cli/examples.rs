//! Examples at the end of each command's help. A test runs the parser over each of them.

use clap::Command;

/// Examples by command; a line is a whole command line, with a comment after `#`.
const EXAMPLES: &[(&[&str], &[&str])] = &[
    (
        &[],
        &[
            "seckill demo                                    # sample coupons, a page at http://127.0.0.1:8080",
            "seckill serve                                   # your own sale, stores in ./data",
            "seckill coupon create coffee --total 100",
            "seckill stream tail                             # what happens, as it happens",
            "seckill doctor                                  # what is wrong, and what to do",
        ],
    ),
    (
        &["serve"],
        &[
            "seckill serve                                   # stores in ./data",
            "seckill serve --replace                         # a new version takes over the running server",
            "seckill serve --listen 0.0.0.0:8080 --data-dir /var/lib/seckill",
            "seckill serve --redis-url redis://10.0.0.5 --database-url postgres://seckill@10.0.0.6/shop",
        ],
    ),
    (
        &["worker"],
        &[
            "seckill worker --workers 2                      # on the stores of the server in ./data",
            "seckill worker --metrics-listen 127.0.0.1:9101  # with /metrics, /livez and /readyz",
        ],
    ),
    (&["demo"], &["seckill demo", "seckill demo --listen 127.0.0.1:0               # on a free port"]),
    (
        &["coupon", "create"],
        &[
            "seckill coupon create coffee --total 100 --title 'A coffee'",
            "seckill coupon create mug --total 500 --starts-at 2026-12-24T10:00:00+01:00",
            "seckill coupon create seat --total 50 --reserve-for 15m --waitlist   # 15 minutes to pay",
            "seckill coupon create tea --total 90 --per-user-limit 2",
        ],
    ),
    (&["coupon", "list"], &["seckill coupon list", "seckill coupon list --json"]),
    (&["coupon", "show"], &["seckill coupon show coffee"]),
    (
        &["coupon", "edit"],
        &[
            "seckill coupon edit coffee --total 150          # restocks: 50 units more",
            "seckill coupon edit coffee --ends-at none       # no end",
        ],
    ),
    (&["coupon", "pause"], &["seckill coupon pause coffee"]),
    (&["coupon", "resume"], &["seckill coupon resume coffee"]),
    (&["coupon", "waitlist"], &["seckill coupon waitlist seat"]),
    (
        &["coupon", "log"],
        &["seckill coupon log coffee", "seckill coupon log                              # all changes"],
    ),
    (
        &["claim"],
        &[
            "seckill claim coffee --user alice",
            "seckill claim coffee --user alice --wait 2s     # waits until the order is recorded",
            "seckill claim tea --user alice --key cart-7     # the same key again gets the same order",
        ],
    ),
    (
        &["order", "list"],
        &[
            "seckill order list --user alice",
            "seckill order list --coupon coffee --status reserved --limit 20",
        ],
    ),
    (&["order", "log"], &["seckill order log 01a20ddb-383c-73ca-9e44-c5cfc51aaa8d"]),
    (
        &["waitlist", "join"],
        &[
            "seckill waitlist join seat --user bob",
            "seckill waitlist join tea --user bob --key cart-8   # a user may hold several units of it",
        ],
    ),
    (&["waitlist", "show"], &["seckill waitlist show seat --user bob"]),
    (&["waitlist", "leave"], &["seckill waitlist leave seat --user bob"]),
    (&["waitlist", "list"], &["seckill waitlist list seat"]),
    (&["order", "show"], &["seckill order show 01a20ddb-383c-73ca-9e44-c5cfc51aaa8d"]),
    (&["order", "confirm"], &["seckill order confirm 01a20ddb-383c-73ca-9e44-c5cfc51aaa8d   # it is paid"]),
    (&["order", "cancel"], &["seckill order cancel 01a20ddb-383c-73ca-9e44-c5cfc51aaa8d"]),
    (
        &["order", "revoke"],
        &["seckill order revoke 01a20ddb-383c-73ca-9e44-c5cfc51aaa8d --reason 'paid twice' --return-unit"],
    ),
    (&["token"], &["seckill token --user alice", "seckill token --user alice --ttl 8h"]),
    (&["stream", "status"], &["seckill stream status", "seckill stream status --json"]),
    (
        &["stream", "tail"],
        &[
            "seckill stream tail",
            "seckill stream tail --lines 100 --no-follow",
            "seckill stream tail --json                      # one JSON object for each change",
        ],
    ),
    (&["dead", "list"], &["seckill dead list"]),
    (&["dead", "show"], &["seckill dead show 3"]),
    (&["dead", "replay"], &["seckill dead replay 3                           # a new claim for its user"]),
    (&["dead", "discard"], &["seckill dead discard 3                          # seen; nothing else to do"]),
    (
        &["reconcile"],
        &[
            "seckill reconcile                               # compares; changes nothing",
            "seckill reconcile --fix                         # repairs, while claims continue",
            "seckill reconcile --rebuild                     # after Postgres was restored from an older copy",
        ],
    ),
    (
        &["audit"],
        &[
            "seckill audit coffee                            # where each unit is, by both stores",
            "seckill audit coffee --csv                      # who has a unit",
            "seckill audit --aof ./data                      # replays the log of Redis, and names the first wrong byte",
        ],
    ),
    (&["doctor"], &["seckill doctor", "seckill doctor --json"]),
    (&["bench"], &["seckill bench --quick", "seckill bench claim end-to-end --json figures.json"]),
    (
        &["redis-cli"],
        &[
            "seckill redis-cli HGETALL 'seckill:{0}:coupon:coffee'",
            "seckill redis-cli XREVRANGE 'seckill:{0}:orders' + - COUNT 3",
        ],
    ),
    (&["psql"], &["seckill psql -c 'select status, count(*) from orders group by 1'"]),
    (&["completions"], &["seckill completions bash > /usr/share/bash-completion/completions/seckill"]),
    (&["man"], &["seckill man | man -l -", "seckill man --dir /usr/local/share/man/man1"]),
];

/// Adds the examples to the help of their commands.
pub fn add(mut root: Command) -> Command {
    for (path, lines) in EXAMPLES {
        root = add_to(root, path, lines);
    }
    root
}

fn add_to(command: Command, path: &[&'static str], lines: &[&str]) -> Command {
    let Some((first, rest)) = path.split_first() else {
        return command.after_help(text(lines));
    };
    command.mut_subcommand(*first, |inner| add_to(inner, rest, lines))
}

pub fn text(lines: &[&str]) -> String {
    let lines = lines.iter().map(|line| format!("  {line}"));
    std::iter::once("Examples:".to_owned()).chain(lines).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::EXAMPLES;
    use crate::cli::{Cli, command};

    /// Splits like a shell: blanks, single quotes, a comment, a pipe or a redirection.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                '#' | '|' | '>' if !quoted && word.is_empty() => break,
                ' ' if !quoted => {
                    if !word.is_empty() {
                        words.push(std::mem::take(&mut word));
                    }
                }
                c => word.push(c),
            }
        }
        if !word.is_empty() {
            words.push(word);
        }
        words
    }

    #[test]
    fn every_example_is_a_command_line_of_its_command() {
        for (path, lines) in EXAMPLES {
            for line in *lines {
                let words = words(line);
                assert!(Cli::try_parse_from(&words).is_ok(), "{line}");
                assert!(path.iter().zip(&words[1..]).all(|(name, word)| name == word), "{line} of {path:?}");
            }
        }
    }

    #[test]
    fn every_command_has_an_example() {
        fn leaves(command: &clap::Command, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
            let shown = || {
                command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
            };
            if shown().next().is_none() {
                found.push(path.clone());
            }
            for inner in shown() {
                path.push(inner.get_name().to_owned());
                leaves(inner, path, found);
                path.pop();
            }
        }
        let mut found = Vec::new();
        leaves(&command(), &mut Vec::new(), &mut found);
        for path in found {
            assert!(EXAMPLES.iter().any(|(named, _)| *named == path), "{path:?}");
        }
    }
}
