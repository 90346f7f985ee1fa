//! The help of every command, as it is shown and as `man` has it: an example can be pasted into a shell.
//!
//! Owns that no line of an example is broken, however narrow the terminal is: a command that was cut in two is another command. The
//! words themselves are in `args` and beside it. Called by `main` and `manual`.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};

use clap::CommandFactory as _;

use crate::args::{Cli, When};
use crate::output::colored;

/// Stands before the examples, which go on to the end.
const BEFORE: &str = "Example:\n";
/// A line of the source that is as long as this has no room for a further word.
const FULL: usize = 105;
/// A blank that no line is broken at, until it is shown.
const KEPT: char = '\u{a0}';

/// Everything that can be typed, with its help.
pub(crate) fn command() -> clap::Command {
    unbroken(Cli::command())
}

/// `help --help` is `help`: it takes the names of commands, and nothing else.
pub(crate) fn of_help(mut words: Vec<OsString>) -> Vec<OsString> {
    let all = Cli::command();
    let mut command = &all;
    for at in 1..words.len() {
        let Some(word) = words.get(at).and_then(|word| word.to_str()) else { break };
        if word == "help" && command.has_subcommands() {
            let rest = words.split_off(at + 1);
            words.extend(rest.into_iter().filter(|word| word != "--help" && word != "-h"));
            break;
        }
        let Some(verb) = command.find_subcommand(word) else { break };
        command = verb;
    }
    words
}

fn unbroken(command: clap::Command) -> clap::Command {
    let help = command.get_after_help().map(|help| kept(&help.to_string()));
    let command = if let Some(help) = help { command.after_help(help) } else { command };
    command.mut_subcommands(unbroken)
}

fn kept(help: &str) -> String {
    match help.rsplit_once(BEFORE) {
        Some((words, examples)) => format!("{}{BEFORE}{}", joined(words), examples.replace(' ', &KEPT.to_string())),
        None => joined(help),
    }
}

/// A line of the source goes on in the next one where it ends for lack of room: the terminal decides where it breaks.
fn joined(words: &str) -> String {
    let (mut whole, mut full) = (String::with_capacity(words.len()), false);
    for line in words.split_inclusive('\n') {
        if full && !line.starts_with([' ', '\n']) {
            whole.truncate(whole.trim_end().len());
            whole.push(' ');
        }
        whole.push_str(line);
        full = line.chars().count() >= FULL;
    }
    whole
}

/// What clap has to say, help or an error, where it belongs. That nobody reads it is no reason to fail.
pub(crate) fn show(said: &clap::Error, when: When) {
    let words = said.render();
    let words = |color: bool| if color { words.ansi().to_string() } else { words.to_string() }.replace(KEPT, " ");
    let _nobody_reads = if said.use_stderr() {
        std::io::stderr().write_all(words(colored(when, std::io::stderr().is_terminal())).as_bytes())
    } else {
        std::io::stdout().write_all(words(colored(when, std::io::stdout().is_terminal())).as_bytes())
    };
}

/// A man page whose examples stand as they are: lines of the rest are filled and broken.
pub(crate) fn unfilled(page: &str) -> String {
    let (mut whole, mut inside) = (String::with_capacity(page.len() + 16), false);
    for line in page.lines() {
        if inside && line.starts_with(".SH") {
            whole.push_str(".fi\n");
            inside = false;
        }
        whole.push_str(line);
        whole.push('\n');
        if line == BEFORE.trim_end() {
            whole.push_str(".nf\n");
            inside = true;
        }
    }
    if inside {
        whole.push_str(".fi\n");
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command with the words that lead to it, those among them that people are not shown.
    fn all(command: &clap::Command, path: &str) -> Vec<(String, clap::Command)> {
        let mut found = vec![(path.to_owned(), command.clone())];
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            found.extend(all(verb, &format!("{path} {}", verb.get_name())));
        }
        found
    }

    fn examples(help: &str) -> Vec<String> {
        let (_, examples) = help.rsplit_once(BEFORE).unwrap_or_default();
        examples.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
    }

    #[test]
    fn no_line_of_an_example_is_broken_at_any_width() {
        for width in [40, 80, 100] {
            let mut wide = command().term_width(width);
            wide.build();
            for ((path, mut shown), (_, written)) in
                all(&wide, "quorate").into_iter().zip(all(&Cli::command(), "quorate"))
            {
                let help = shown.render_long_help().to_string().replace(KEPT, " ");
                let written = written.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(!examples(&written).is_empty(), "{path} has no example");
                assert_eq!(examples(&help), examples(&written), "{path} at {width} columns");
                // All the rest is, where there is room for a word beside what it explains.
                let (prose, _) = help.rsplit_once(BEFORE).unwrap_or_default();
                let wide = |line: &&str| line.chars().count() > width && !line.starts_with("Usage:");
                assert!(width < 80 || prose.lines().find(wide).is_none(), "{path}: {:?}", prose.lines().find(wide));
            }
        }
    }

    /// The commands of a shell line, as words: what stands between the signs that end one. Redirections go with what they name.
    fn commands(line: &str) -> Vec<Vec<String>> {
        let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
        let mut letters = line.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '\'' | '"' => {
                    let word = word.get_or_insert_default();
                    while let Some(inner) = letters.next().filter(|inner| *inner != letter) {
                        word.push(inner);
                    }
                }
                '\\' => word.get_or_insert_default().extend(letters.next()),
                '#' if word.is_none() => break,
                ' ' => words.extend(word.take()),
                '|' | '&' | ';' | '(' | ')' | '<' | '>' => {
                    words.extend(word.take());
                    commands.push(std::mem::take(&mut words));
                }
                letter => word.get_or_insert_default().push(letter),
            }
        }
        words.extend(word);
        commands.push(words);
        commands
    }

    #[test]
    fn every_example_is_a_command_that_there_is() {
        let mut tried = 0;
        for (path, command) in all(&Cli::command(), "quorate") {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let script = examples(&help).join("\n").replace("\\\n", " ");
            // A shell takes all of it for commands.
            let shell = std::process::Command::new("sh").args(["-n", "-c", &script]).output().unwrap();
            assert!(shell.status.success(), "{path}: {}", String::from_utf8_lossy(&shell.stderr));
            for words in script.lines().flat_map(commands) {
                let Some(at) = words.iter().position(|word| word == "quorate") else { continue };
                let parsed = Cli::command().try_get_matches_from(&words[at..]);
                assert!(
                    parsed.is_ok(),
                    "{path}: {words:?}: {}",
                    parsed.err().map(|error| error.to_string()).unwrap_or_default()
                );
                tried += 1;
            }
        }
        assert!(tried > 100, "{tried}");
        // And they are seen: one that was broken is not one.
        assert_eq!(commands("a 'b c' | quorate x > /d # e"), [vec!["a", "b c"], vec!["quorate", "x"], vec!["/d"]]);
    }

    #[test]
    fn help_of_help_is_help() {
        let said = |words: &[&str]| {
            let words = of_help(words.iter().map(OsString::from).collect());
            command().try_get_matches_from(words).unwrap_err().to_string()
        };
        for asked in [["quorate", "help", "--help"], ["quorate", "help", "-h"]] {
            assert_eq!(said(&asked), said(&["quorate", "help"]));
        }
        assert_eq!(said(&["quorate", "kv", "help", "put", "--help"]), said(&["quorate", "kv", "help", "put"]));
        // What is no command is left as it is.
        let other = ["quorate", "lock", "help", "--", "help", "--help"].map(OsString::from).to_vec();
        assert_eq!(of_help(other.clone()), other);
    }

    #[test]
    fn words_are_filled_and_what_is_a_line_of_its_own_stays_one() {
        let long = "x".repeat(FULL);
        assert_eq!(joined(&format!("{long}\nb\n\nshort\nc\n")), format!("{long} b\n\nshort\nc\n"));
        assert_eq!(joined(&format!("{long}\n  put KEY\n")), format!("{long}\n  put KEY\n"));
    }

    #[test]
    fn the_examples_of_a_man_page_stand_as_they_are() {
        let page = ".SH EXTRA\nwords\nExample:\n  quorate a\n  quorate b\n.SH VERSION\nv\n";
        assert_eq!(unfilled(page), ".SH EXTRA\nwords\nExample:\n.nf\n  quorate a\n  quorate b\n.fi\n.SH VERSION\nv\n");
        assert_eq!(unfilled("Example:\n  quorate a\n"), "Example:\n.nf\n  quorate a\n.fi\n");
    }
}
