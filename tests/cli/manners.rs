//! Completions, manual pages, and what changes on a terminal: colours, and tables that fit its width.

use std::process::Command;

use crate::harness::{FakeServer, Run, Sandbox};

const LETTERS: &str = r#"{"items":[{"id":3,"died_at":"2026-11-11T20:00:00Z","seen_at":null,"order":"01a20ddb-383c-73ca-9e44-c5cfc51aaa8d","replaced_by":null,"error":"new row for relation \"coupons\" violates check constraint \"coupons_stock_check\" and more words"}],"next":null}"#;

/// Runs a command line on a terminal of this width (`script` of util-linux), and returns what the terminal gets.
fn on_a_terminal(line: &str, columns: u16, environment: &[(&str, &str)]) -> String {
    let program = support::program().into_string().unwrap();
    let shell = format!("stty cols {columns} rows 50; exec {program} {line}");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &shell, "/dev/null"]).env_clear();
    script.env("PATH", "/usr/bin:/bin").env("TERM", "xterm").env("SHELL", "/bin/sh");
    let output = script.envs(environment.iter().copied()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_fits_the_terminal_and_keeps_ids_whole() {
    let server = FakeServer::start(vec![(200, LETTERS); 3]).await;
    let environment = [("SECKILL_URL", server.url.as_str()), ("SECKILL_ADMIN_TOKEN", "let-me-in")];
    let shown = on_a_terminal("dead list", 130, &environment);
    let plain = shown.replace("\x1b[1m", "").replace("\x1b[0m", "");
    assert!(plain.lines().all(|line| line.chars().count() <= 130), "{shown}");
    assert!(plain.lines().count() > 2, "the error is wrapped: {shown}");
    assert!(plain.contains("01a20ddb-383c-73ca-9e44-c5cfc51aaa8d"), "{shown}");
    assert!(shown.starts_with("\x1b[1mID"), "the heading is bold: {shown:?}");

    let colourless = [environment[0], environment[1], ("NO_COLOR", "1")];
    assert!(!on_a_terminal("dead list", 130, &colourless).contains('\x1b'));
    let piped = server.run("dead list").stdout;
    assert_eq!(piped.lines().count(), 2, "{piped}");
    assert!(!piped.contains('\x1b') && piped.contains("and more words"), "{piped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_is_too_narrow_still_shows_every_word() {
    let server = FakeServer::start(vec![(200, LETTERS)]).await;
    let environment = [("SECKILL_URL", server.url.as_str()), ("SECKILL_ADMIN_TOKEN", "x"), ("NO_COLOR", "1")];
    let shown = on_a_terminal("dead list", 60, &environment);
    let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count();
    assert!(
        letters(&shown) >= letters("01a20ddb-383c-73ca-9e44-c5cfc51aaa8dcoupons_stock_checkandmorewords"),
        "{shown}"
    );
    assert!(shown.contains("violates check constraint"), "a column of letters: {shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_coupons_with_long_titles_and_both_times_fits_eighty_columns() {
    const COUPONS: &str = r#"{"items":[{"id":"seat-with-a-longer-name","state":"open","stock":1,"total":1,"starts_at":"2026-01-01T00:00:00Z","ends_at":"2027-01-01T00:00:00Z","title":"A title that needs more than one line"}],"next":null}"#;
    let server = FakeServer::start(vec![(200, COUPONS); 2]).await;
    let environment = [("SECKILL_URL", server.url.as_str()), ("SECKILL_ADMIN_TOKEN", "x"), ("NO_COLOR", "1")];
    let shown = on_a_terminal("coupon list", 80, &environment);
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    for whole in ["2026-01-01T00:00:00Z to", "2027-01-01T00:00:00Z", "seat-with-a-longer-name", "title"] {
        assert!(shown.contains(whole), "{whole} is broken: {shown}");
    }
    assert_eq!(server.run("coupon list").stdout.lines().count(), 2);
}

#[test]
fn completions_are_scripts_that_their_shell_accepts() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let Run { status, stdout, stderr } = Sandbox::new().run(&["completions", shell]);
        assert_eq!((status, stderr.as_str()), (0, ""), "{shell}");
        assert!(stdout.contains("coupon") && stdout.contains("per-user-limit"), "{shell}");
    }
    let script = Sandbox::new().run(&["completions", "bash"]).stdout;
    let check = format!(
        "{script}\nCOMP_WORDS=(seckill coup); COMP_CWORD=1; _seckill seckill coup seckill; echo \"${{COMPREPLY[@]}}\""
    );
    let output = Command::new("bash").args(["-c", &check]).output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().trim(),
        "coupon",
        "{:?}",
        String::from_utf8(output.stderr)
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let sandbox = Sandbox::new();
    let run = sandbox.run(&["man", "--dir", "pages"]);
    assert_eq!((run.status, run.stderr.as_str()), (0, ""), "{run:?}");
    for page in ["seckill.1", "seckill-coupon-create.1", "seckill-stream-tail.1", "seckill-order-revoke.1"] {
        let text = std::fs::read_to_string(sandbox.path("pages").join(page)).unwrap();
        assert!(text.contains(".SH NAME") && text.contains("Examples:") || page == "seckill.1", "{page}");
    }
    let printed = sandbox.run(&["man"]).stdout;
    assert!(printed.contains(".TH seckill 1") && printed.contains("SECKILL_DATA_DIR"), "{printed}");
}

#[test]
fn help_ends_with_examples() {
    let help = Sandbox::new().run(&["coupon", "create", "--help"]).stdout;
    let examples = help.split_once("Examples:\n").unwrap().1;
    assert!(examples.contains("seckill coupon create coffee --total 100"), "{help}");
}
