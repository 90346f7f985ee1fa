//! Where words go: stdout for answers, stderr for errors, colours only where somebody sees them.
//!
//! Owns every write to stdout and stderr, and what becomes of one that fails: a reader that went away (`| head -1`) has read enough,
//! unless what it did not read is lost ([`Loss`]). Called by every verb.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use quorate::status::hides;

use crate::answer::Loss;
use crate::args::When;
use crate::failure::Failure;

/// How to answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
    color: bool,
    /// What is lost with what cannot be written.
    loss: Loss,
}

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Warning,
    Bad,
}

impl Output {
    pub(crate) fn new(json: bool, when: When, loss: Loss) -> Self {
        Self { json, color: colored(when, io::stdout().is_terminal()), loss }
    }

    /// A line of the answer.
    pub(crate) fn line(self, text: &str) -> Result<(), Failure> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// A piece of the answer, as it is.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        self.streamed(bytes).map(|_reader| ())
    }

    /// A piece of an answer that goes on; false once nobody reads it any more.
    pub(crate) fn streamed(self, bytes: &[u8]) -> Result<bool, Failure> {
        let mut out = io::stdout().lock();
        let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) else { return Ok(true) };
        let gone = error.kind() == io::ErrorKind::BrokenPipe;
        match self.loss {
            Loss::Nothing | Loss::Receipt if gone => Ok(false),
            Loss::Nothing => Err(Failure::unshown(&error)),
            Loss::Receipt => Err(Failure::unprinted(&error)),
            Loss::Whole(what) | Loss::OnlyCopy(what) => Err(Failure::lost(what, &error)),
        }
    }

    /// The answer for scripts: one document on one line.
    pub(crate) fn document(self, document: &Value) -> Result<(), Failure> {
        self.line(&document.to_string())
    }

    /// Something for people that is not the answer.
    pub(crate) fn note(self, text: &str) {
        note(text);
    }

    /// `text` in the colour of `tone`.
    pub(crate) fn tint(self, tone: Tone, text: &str) -> String {
        if self.color { painted(tone, text) } else { text.to_owned() }
    }
}

fn painted(tone: Tone, text: &str) -> String {
    let style = match tone {
        Tone::Good => Style::new().fg_color(Some(AnsiColor::Green.into())).bold(),
        Tone::Warning => Style::new().fg_color(Some(AnsiColor::Yellow.into())).bold(),
        Tone::Bad => Style::new().fg_color(Some(AnsiColor::Red.into())).bold(),
    };
    format!("{style}{text}{style:#}")
}

pub(crate) fn colored(when: When, terminal: bool) -> bool {
    match when {
        When::Never => false,
        When::Always => true,
        When::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

/// Whether nobody can read what is written to stdout: it is the null device, also where it was closed when this program began.
pub(crate) fn nowhere() -> bool {
    let stdout = io::stdout().as_fd().try_clone_to_owned().and_then(|stdout| std::fs::File::from(stdout).metadata());
    let null = std::fs::metadata("/dev/null");
    match (stdout, null) {
        (Ok(stdout), Ok(null)) => {
            stdout.rdev() == null.rdev() && stdout.ino() == null.ino() && stdout.dev() == null.dev()
        }
        (Err(_closed), _) => true,
        (Ok(_), Err(_)) => false,
    }
}

/// A line on stderr. That nobody reads it is no reason to fail.
pub(crate) fn note(text: &str) {
    let _nobody_reads = writeln!(io::stderr().lock(), "{text}");
}

/// The failure, for people on stderr and with `--json` for scripts on stdout.
pub(crate) fn failed(failure: &Failure, json: bool, when: When) {
    let word = if colored(when, io::stderr().is_terminal()) { painted(Tone::Bad, "error:") } else { "error:".into() };
    // What a name or a key in it tells a terminal to do must not reach it.
    let lines: Vec<String> = failure.message().split('\n').map(visible).collect();
    note(&format!("{word} {}", lines.join("\n")));
    if json {
        let _nobody_reads = Output { json, color: false, loss: Loss::Nothing }.document(&failure.json());
    }
}

/// An aligned table without lines; columns named in `numbers` are set to the right. What a cell tells a terminal to do is shown.
pub(crate) fn table(header: &[&str], numbers: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| visible(cell)).collect::<Vec<_>>());
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// How far long work is, on a line that moves where somebody sees it.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Of work whose end is not known.
    pub(crate) fn counting(what: &str) -> Self {
        Self::shown(None, &format!("{{spinner}} {{human_pos}} {what}, {{per_sec}} ({{elapsed}})"))
    }

    /// Of so many.
    pub(crate) fn of(all: u64, what: &str) -> Self {
        Self::shown(Some(all), &format!("{{bar:30}} {{human_pos}} of {{human_len}} {what}, {{per_sec}}, {{eta}} left"))
    }

    /// Of about so many bytes.
    pub(crate) fn bytes(about: u64) -> Self {
        Self::shown(Some(about), "{bar:30} {bytes} of about {total_bytes}, {bytes_per_sec}, {elapsed}")
    }

    fn shown(all: Option<u64>, template: &str) -> Self {
        // A bar on stderr draws nothing where that is no terminal.
        let bar = ProgressBar::with_draw_target(all, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// So many are done.
    pub(crate) fn at(&self, count: u64) {
        self.0.set_position(count);
    }

    /// The line goes.
    pub(crate) fn done(self) {
        self.0.finish_and_clear();
    }
}

/// Bytes as a person can read them on one line; `most` characters of them.
pub(crate) fn preview(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == most {
            shown.push('…');
            break;
        }
        show(c, &mut shown);
    }
    shown
}

/// A text as it can be shown on one line.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|c| show(c, &mut shown));
    shown
}

/// What a stored value or a name tells a terminal to do must not reach it.
fn show(c: char, shown: &mut String) {
    if hides(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
}

/// Bytes on one line from which they can be told again: control characters, backslashes and what is no text as `\n`,
/// `\u{1b}`, `\\` and `\xff`, all else as it is.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' { shown.push_str("\\\\") } else { show(c, &mut shown) }
        }
        for byte in chunk.invalid() {
            let _infallible = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_is_one_line_without_control_characters() {
        assert_eq!(preview(b"a\nb\x1b[31mc", 60), "a\\nb\\u{1b}[31mc");
        assert_eq!(preview("äöü".as_bytes(), 2), "äö…");
        assert_eq!(preview(&[0xff, b'x'], 60), "\u{fffd}x");
    }

    #[test]
    fn what_is_escaped_can_be_told_again_and_commands_nothing() {
        for (bytes, shown) in [
            (&b"app/config"[..], "app/config"),
            ("grüße 🙂".as_bytes(), "grüße 🙂"),
            (b"a\nb\x1b[2Jc", "a\\nb\\u{1b}[2Jc"),
            (b"a\\nb", "a\\\\nb"),
            (b"\xff\x00", "\\xff\\u{0}"),
            ("\u{202e}exe".as_bytes(), "\\u{202e}exe"),
        ] {
            assert_eq!(escaped(bytes), shown);
        }
    }

    #[test]
    fn colours_follow_the_option() {
        assert!(colored(When::Always, false));
        assert!(!colored(When::Never, true));
        assert!(!colored(When::Auto, false));
    }

    #[test]
    fn a_table_is_aligned_and_has_no_lines() {
        let text =
            table(&["NAME", "LAG"], &[1], vec![vec!["n1".into(), "5".into()], vec!["long".into(), "1234".into()]]);
        assert_eq!(text, "NAME   LAG\nn1       5\nlong  1234");
    }

    #[test]
    fn a_cell_of_a_table_commands_nothing() {
        let text = table(&["NAME"], &[], vec![vec!["a\nb\u{202e}c\u{1b}[2J".into()]]);
        assert_eq!(text, "NAME\na\\nb\\u{202e}c\\u{1b}[2J");
    }
}
