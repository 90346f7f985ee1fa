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
    let script = script(shell);
    if output.json {
        return output.document(&json!({ "shell": shell.to_string(), "script": String::from_utf8_lossy(&script) }));
    }
    output.bytes(&script)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "quorate", &mut script);
    script
}

/// All that can be typed.
fn definition() -> clap::Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

pub(crate) fn pages(directory: &Path, output: Output) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(directory).and_then(|()| {
        let mut names = Vec::new();
        write_pages(definition(), directory, &mut names)?;
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
    let mut text = Vec::new();
    page.render(&mut text)?;
    let name = page.get_filename();
    std::fs::write(directory.join(&name), crate::help::unfilled(&String::from_utf8_lossy(&text)))?;
    names.push(name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every verb that people are shown, with those below it.
    fn verbs(of: &clap::Command) -> Vec<clap::Command> {
        let mut all = vec![of.clone()];
        for verb in of.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            all.extend(verbs(verb));
        }
        all
    }

    fn options(verb: &clap::Command) -> impl Iterator<Item = &str> {
        verb.get_arguments().filter(|argument| !argument.is_hide_set()).filter_map(clap::Arg::get_long)
    }

    #[test]
    fn every_verb_has_a_man_page_with_what_it_does_and_all_its_options() {
        let place = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        write_pages(definition(), place.path(), &mut names).unwrap();
        let all = verbs(&definition());
        let wanted: BTreeSet<String> =
            all.iter().map(|verb| format!("{}.1", verb.get_display_name().unwrap_or("quorate"))).collect();
        assert!(wanted.contains("quorate-kv-get.1") && wanted.len() == all.len(), "{wanted:?}");
        assert_eq!(names.iter().cloned().collect::<BTreeSet<_>>(), wanted);
        for verb in &all {
            let name = format!("{}.1", verb.get_display_name().unwrap_or("quorate"));
            let page = std::fs::read_to_string(place.path().join(&name)).unwrap();
            // In a page a hyphen is escaped.
            for option in options(verb) {
                let escaped = format!("\\-\\-{}", option.replace('-', "\\-"));
                assert!(page.contains(&escaped), "{name} does not have {escaped}");
            }
            // Each line of an example as it was written, where no line is broken.
            let (_, examples) = page.split_once("Example:\n.nf\n").unwrap_or_else(|| panic!("{name} has no example"));
            let (examples, _) = examples.split_once(".fi\n").unwrap_or_default();
            let written = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            let (_, written) = written.rsplit_once("Example:\n").unwrap_or_default();
            assert_eq!(examples.lines().count(), written.lines().count(), "{name}: {examples}");
        }
    }

    #[test]
    fn every_shell_completes_every_verb_and_every_option() {
        for shell in clap::ValueEnum::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            for verb in verbs(&definition()) {
                assert!(script.contains(verb.get_name()), "{shell} does not know {}", verb.get_name());
                for option in options(&verb) {
                    assert!(script.contains(option), "{shell} does not know {option} of {}", verb.get_name());
                }
            }
        }
    }
}
