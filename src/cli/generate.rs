//! `seckill completions` and `seckill man`: made from the definition of the commands, so they never lag behind it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::command;
use super::output::print_line;

#[derive(Args)]
pub struct CompletionsArgs {
    /// Shell to complete commands in
    shell: Shell,
}

#[derive(Args)]
pub struct ManArgs {
    /// Write a page for each command into this folder, such as /usr/local/share/man/man1, instead of printing
    /// seckill(1)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "seckill", &mut script);
    print_line(String::from_utf8(script)?.trim_end())
}

pub fn man(args: &ManArgs) -> anyhow::Result<()> {
    // clap derives the page of `help` too, which says nothing.
    let mut command = command().disable_help_subcommand(true);
    command.build();
    let Some(dir) = &args.dir else { return print_line(page(&command)?.1.trim_end()) };
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    write_pages(&command, dir).with_context(|| format!("cannot write the pages into {}", dir.display()))?;
    print_line(&format!(
        "the pages are in {}: read one with `man -l {}/seckill.1`",
        dir.display(),
        dir.display()
    ))
}

/// Writes the page of the command and those of its subcommands.
fn write_pages(command: &Command, dir: &Path) -> anyhow::Result<()> {
    let (name, text) = page(command)?;
    fs::write(dir.join(name), text)?;
    command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
        .try_for_each(|inner| write_pages(inner, dir))
}

/// The name of a page's file, and its text.
fn page(command: &Command) -> anyhow::Result<(String, String)> {
    let man = Man::new(command.clone());
    let mut text = Vec::new();
    man.render(&mut text)?;
    // Without a date, clap_mangen leaves its place in the title out, and what follows is shown as the date.
    let title = |line: &str| match line.strip_prefix(".TH ").and_then(|title| title.split(' ').next()) {
        Some(name) => format!(".TH {name} 1 \"\" \"seckill {}\"", env!("CARGO_PKG_VERSION")),
        None => line.to_owned(),
    };
    let text: Vec<String> = String::from_utf8(text)?.lines().map(title).collect();
    Ok((man.get_filename(), text.join("\n") + "\n"))
}

#[cfg(test)]
mod tests {
    use super::{command, page};

    #[test]
    fn the_title_of_a_page_has_an_empty_date_and_the_programs_version() {
        let mut command = command();
        command.build();
        let audit = command.find_subcommand("audit").unwrap();
        let (name, text) = page(audit).unwrap();
        assert_eq!(name, "seckill-audit.1");
        let title = format!(".TH seckill-audit 1 \"\" \"seckill {}\"", env!("CARGO_PKG_VERSION"));
        assert_eq!(text.lines().filter(|line| line.starts_with(".TH")).collect::<Vec<_>>(), [title]);
    }
}
