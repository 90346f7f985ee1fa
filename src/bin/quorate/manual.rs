//! `completions` and `man`: what shells and `man` know of the command line.
//!
//! Owns nothing: both are made from the definition in `args`, so that they cannot say anything else. Called by `main`.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::json;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn completions(shell: Shell, output: Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "quorate", &mut script);
    if output.json {
        return output.document(&json!({ "shell": shell.to_string(), "script": String::from_utf8_lossy(&script) }));
    }
    output.bytes(&script)
}

pub(crate) fn pages(directory: &Path, output: Output) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(directory).and_then(|()| {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let mut names = Vec::new();
        write_pages(command, directory, &mut names)?;
        Ok(names)
    });
    let names = written
        .map_err(|error| Failure::local(format!("cannot write man pages into {}: {error}", directory.display())))?;
    if output.json {
        return output.document(&json!({ "directory": directory, "pages": names }));
    }
    output.line(&format!("{} man pages in {}", names.len(), directory.display()))
}

/// `quorate-kv-get.1` for `quorate kv get`, as git and others do it.
fn write_pages(command: clap::Command, directory: &Path, names: &mut Vec<String>) -> std::io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        write_pages(verb.clone(), directory, names)?;
    }
    let page = clap_mangen::Man::new(command);
    page.generate_to(directory)?;
    names.push(page.get_filename());
    Ok(())
}
