//! `seckill completions` and `seckill man`: made from the definition of the commands, so they never lag behind it.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
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
    let command = command().disable_help_subcommand(true);
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        return print_line(String::from_utf8(page)?.trim_end());
    };
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    clap_mangen::generate_to(command, dir)
        .with_context(|| format!("cannot write the pages into {}", dir.display()))?;
    print_line(&format!(
        "the pages are in {}: read one with `man -l {}/seckill.1`",
        dir.display(),
        dir.display()
    ))
}
