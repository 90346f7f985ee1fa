//! How the demo tells what it does: chapters, real commands with their pids, a live line while it waits.
//!
//! Owns every line on stdout. Never decides anything. Called by all chapters.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The teller.
#[derive(Debug)]
pub(crate) struct Story {
    began: Instant,
    chapter: u32,
    terminal: bool,
}

impl Story {
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now(), chapter: 0, terminal: std::io::stdout().is_terminal() }
    }

    /// Time since the demo began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// What comes next.
    pub(crate) fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        let (bold, plain) = if self.terminal { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        print(&format!("\n{bold}{}. {title}{plain}   [{:.1} s]", self.chapter, self.elapsed().as_secs_f64()));
    }

    /// A sentence.
    pub(crate) fn say(&self, text: &str) {
        for line in text.lines() {
            print(&format!("   {line}"));
        }
    }

    /// A command as it was run; the pid when it goes on running.
    pub(crate) fn command(&self, command: &str, pid: Option<u32>) {
        let (dim, plain) = if self.terminal { ("\x1b[36m", "\x1b[0m") } else { ("", "") };
        let pid = pid.map(|pid| format!(" &   # pid {pid}")).unwrap_or_default();
        print(&format!("   {dim}$ {command}{plain}{pid}"));
    }

    /// A live line until it is dropped; one plain line where nobody watches.
    pub(crate) fn waiting(&self, for_what: &str) -> Live {
        if !self.terminal {
            print(&format!("   ... {for_what}"));
            return Live(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        if let Ok(style) = ProgressStyle::with_template("   {spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(for_what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Live(Some(bar))
    }
}

/// Says that something is being waited for.
#[derive(Debug)]
#[must_use = "the line is gone when this is dropped"]
pub(crate) struct Live(Option<ProgressBar>);

impl Live {
    /// What there is to see at the moment.
    pub(crate) fn show(&self, text: String) {
        if let Some(bar) = &self.0 {
            bar.set_message(text);
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A line on stdout. A reader that went away does not stop the demo: its cluster still has to be stopped.
pub(crate) fn print(line: &str) {
    let _nobody_reads = writeln!(std::io::stdout().lock(), "{line}");
}
