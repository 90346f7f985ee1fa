//! `under-lock`: the process between the holder of a lock and its command.
//!
//! Owns the end of the command's process group when the holder cannot see to it: it died, or it stands still (stopped, or
//! starved) while its lease runs out. So it asks the holder again and again for how long the lock holds, and counts that
//! from when it asked. What stops both, as a machine that sleeps does, is for the fencing token. Called by `main`, and by
//! `lock` for the holder's end of the questions.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::args_lease::UnderLock;
use crate::failure::Failure;
use crate::lock::{Signals, code, listen, send};

/// Between two questions, in parts of the grace: several of them fit in before the answer of one has run out.
const ASKS_PER_GRACE: u32 = 2;
/// While nobody answers.
const PAUSE: Duration = Duration::from_millis(50);

/// The holder's end: a socket that nobody else can reach, and that is gone with this.
#[derive(Debug)]
pub(crate) struct Telling {
    listener: UnixListener,
    path: PathBuf,
}

impl Telling {
    pub(crate) fn bind() -> io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("quorate-lock-{:016x}", getrandom::u64()?));
        std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let path = directory.join("held");
        match UnixListener::bind(&path) {
            Ok(listener) => Ok(Self { listener, path }),
            Err(error) => {
                let _ = std::fs::remove_dir(&directory);
                Err(error)
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Answers every question with how long the lock holds, for as long as this is awaited.
    pub(crate) async fn tell(&self, remaining: impl Fn() -> Duration) -> Infallible {
        loop {
            let Ok((mut asker, _)) = self.listener.accept().await else {
                sleep(PAUSE).await;
                continue;
            };
            let mut question = [0];
            while asker.read_exact(&mut question).await.is_ok() {
                let left = u64::try_from(remaining().as_millis()).unwrap_or(u64::MAX);
                if asker.write_all(&left.to_be_bytes()).await.is_err() {
                    break;
                }
            }
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        sweep(&self.path);
    }
}

/// Takes away the socket and its directory: the holder does, or who outlives it. (A directory with anything else in it stays.)
fn sweep(path: &Path) {
    let _ = std::fs::remove_file(path);
    if let Some(directory) = path.parent() {
        let _ = std::fs::remove_dir(directory);
    }
}

/// For how long the lock holds, as its holder says.
struct Asking {
    path: PathBuf,
    every: Duration,
    /// Until the next question.
    pause: Duration,
    stream: Option<UnixStream>,
    /// Until then, whatever becomes of the holder.
    holds: Option<Instant>,
}

impl Asking {
    /// Asks once more, after a pause; waits for as long as there is no answer.
    ///
    /// Cancel safe: a question that was not answered is asked again.
    async fn ask(&mut self) {
        sleep(self.pause).await;
        self.pause = PAUSE.min(self.every);
        // Taken out while it is in use: an answer that comes late must not be taken for that to another question.
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => match UnixStream::connect(&self.path).await {
                Ok(stream) => stream,
                Err(_gone) => return,
            },
        };
        let asked = Instant::now();
        let mut left = [0; 8];
        let answered = async {
            stream.write_all(&[1]).await?;
            stream.read_exact(&mut left).await
        };
        if answered.await.is_ok() {
            self.holds = asked.checked_add(Duration::from_millis(u64::from_be_bytes(left)));
            self.stream = Some(stream);
            self.pause = self.every;
        }
    }

    /// Asks, until the lock holds for so long and no longer, as far as is known.
    async fn nearly_over(&mut self, before: Duration) {
        loop {
            let holds = self.holds;
            let over = async {
                match holds {
                    Some(until) => sleep_until(until.checked_sub(before).unwrap_or_else(Instant::now)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = over => return,
                () = self.ask() => {}
            }
        }
    }
}

/// Runs the command in this process's group, and ends the group when the holder of the lock dies, or does not end it in time.
pub(crate) async fn supervise(wanted: UnderLock) -> Result<ExitCode, Failure> {
    let UnderLock { holder, grace_ms, telling, command } = wanted;
    let mut grace = Duration::from_millis(grace_ms);
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::usage("say what to run behind --"));
    };
    // Signals to the group are the command's business; this process has to stay and see it end.
    let mut signals = Signals::listen()?;
    let mut suspended = unix::signal(SignalKind::from_raw(Signal::TSTP.as_raw()))
        .map_err(|error| Failure::local(format!("the system gives no signals: {error}")))?;
    let orphaned = orphaned(holder)?;
    let mut orphaned = std::pin::pin!(orphaned);
    let group = rustix::process::getpgrp();
    // The holder acts when two graces are left of the lease, and this one at half a grace after that, if it has not.
    let (late, last) = (grace + grace / 2, grace / 2);
    let left_behind = telling.clone();
    let mut asking =
        Asking { path: telling, every: grace / ASKS_PER_GRACE, pause: Duration::ZERO, stream: None, holds: None };
    // Of a holder that stands still before it has answered once nobody knows when the command has to end.
    while asking.holds.is_none() {
        tokio::select! {
            () = asking.ask() => {}
            () = &mut orphaned => {
                sweep(&left_behind);
                return Err(Failure::local("the process that holds the lock is gone. Nothing was run"));
            }
            _ = signals.next() => {
                return Err(Failure::refused("interrupted", "interrupted before the command began. Nothing was run"));
            }
        }
    }
    let mut told = false;
    let mut child = Command::new(program)
        .args(arguments)
        .spawn()
        .map_err(|error| Failure::local(format!("the command {} does not start: {error}", program.display())))?;
    loop {
        tokio::select! {
            status = child.wait() => {
                return status
                    .map(code)
                    .map_err(|error| Failure::local(format!("the command cannot be waited for: {error}")));
            }
            () = &mut orphaned => {
                sweep(&left_behind);
                send(group, Signal::TERM);
                let _late = timeout(grace, child.wait()).await;
                kill(group);
            }
            // From the holder, it may be that the lease is nearly over: its death leaves no time after that.
            signal = signals.next() => if signal == Signal::TERM { grace = Duration::ZERO },
            // The lease goes on, so the command does.
            _ = suspended.recv() => send(group, Signal::CONT),
            () = asking.nearly_over(if told { last } else { late }) => {
                if told {
                    kill(group);
                } else {
                    told = true;
                    if !grace.is_zero() {
                        send(group, Signal::TERM);
                    }
                }
            }
        }
    }
}

/// This process included: nobody is left who would want to know.
fn kill(group: Pid) {
    send(group, Signal::KILL);
}

fn is_parent(holder: u32) -> bool {
    getppid().is_some_and(|parent| u32::try_from(parent.as_raw_nonzero().get()) == Ok(holder))
}

/// Resolves when the process that holds the lock is gone. The system says so; that it may have gone before it was asked
/// to is looked at.
#[cfg(target_os = "linux")]
fn orphaned(holder: u32) -> Result<impl Future<Output = ()>, Failure> {
    // A signal that nobody sends to a whole group by chance.
    let mut told = listen(SignalKind::from_raw(Signal::POWER.as_raw()))?;
    rustix::process::set_parent_process_death_signal(Some(Signal::POWER))
        .map_err(|error| Failure::local(format!("the system does not tell when a process dies: {error}")))?;
    Ok(async move {
        while is_parent(holder) {
            told.recv().await;
        }
    })
}

/// Where the system does not say so, it is looked at.
#[cfg(not(target_os = "linux"))]
fn orphaned(holder: u32) -> Result<impl Future<Output = ()>, Failure> {
    Ok(async move {
        while is_parent(holder) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}
