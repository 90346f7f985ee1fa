//! A secret that is typed at a terminal without being seen.
//!
//! Owns the terminal's echo while it waits: it is on again however the wait ends, also by Ctrl-C or TERM. Called by `keys`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// The terminal as it was, which it is again when this goes.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn new(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        quiet.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(&terminal, OptionalActions::Now, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _gone = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// What is typed in answer to `prompt`, without the end of its line.
///
/// # Errors
/// `Interrupted` by a signal that asks to end; others where there is no terminal.
pub(crate) async fn secret(prompt: &str) -> io::Result<String> {
    let mut endings = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [Ok(interrupt), Ok(terminate), Ok(hangup)] = &mut endings else {
        return Err(io::Error::other("the system gives no signals"));
    };
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let mut quiet = Quiet::new(terminal)?;
    quiet.terminal.write_all(prompt.as_bytes())?;
    let input = quiet.terminal.try_clone()?;
    let (sender, typed) = oneshot::channel();
    // A thread of its own: the end of the program does not wait for a line that nobody types.
    std::thread::Builder::new().spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(input).read_line(&mut line).map(|_bytes| line);
        let _nobody_waits = sender.send(read);
    })?;
    let interrupted = || Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted"));
    let line = tokio::select! {
        typed = typed => typed.map_err(io::Error::other)?,
        _ = interrupt.recv() => interrupted(),
        _ = terminate.recv() => interrupted(),
        _ = hangup.recv() => interrupted(),
    };
    if line.is_err() {
        let _gone = quiet.terminal.write_all(b"\n");
    }
    line.map(|line| line.trim_end_matches(['\r', '\n']).to_owned())
}
