//! `lock`: a command that runs while a lock is held, and no longer.
//!
//! Owns the two processes that see to it. `lock` holds the lock and starts itself again as `under-lock`, the first of a
//! process group, which runs the command in that group and ends it when its parent dies: whoever is killed cannot clean up
//! after itself. Never decides who has the lock. Called by `main`.

use std::ffi::OsString;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use quorate::LockGuard;
use rustix::process::{Pid, Signal, getppid, kill_process_group};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, sleep_until, timeout};

use crate::args::Global;
use crate::args_lease::{Lock, UnderLock};
use crate::failure::Failure;
use crate::target;

/// How long the command has to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// The signals that are passed on.
struct Signals {
    interrupt: unix::Signal,
    hang_up: unix::Signal,
    terminate: unix::Signal,
}

fn listen(kind: SignalKind) -> Result<unix::Signal, Failure> {
    unix::signal(kind).map_err(|error| Failure::local(format!("the system gives no signals: {error}")))
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.hang_up.recv() => Signal::HUP,
            _ = self.terminate.recv() => Signal::TERM,
        }
    }
}

/// Runs a command while the lock is held; the exit code is the command's.
pub(crate) async fn run(lock: Lock, global: &Global) -> Result<ExitCode, Failure> {
    let Lock { name, ttl, wait, command } = lock;
    let mut signals = Signals::listen()?;
    let mut wanted = target::client(global).await?.lock(name.clone()).ttl(ttl);
    if let Some(wait) = wait {
        wanted = wanted.wait_at_most(wait);
    }
    let interrupted = async {
        signals.next().await;
    };
    let Some(held) = wanted.unless(interrupted).await? else {
        let why = format!(
            "interrupted while waiting for the lock `{name}`. Nothing was run, and the place in line is given up"
        );
        return Err(Failure::refused("interrupted", why));
    };
    let ended = match start(&held, &command) {
        Ok((child, group)) => attend(child, group, &held, &name, &mut signals).await,
        Err(error) => Err(Failure::local(format!("the command cannot be run: {error}"))),
    };
    let left = held.unlock().await;
    let status = ended?;
    if let Err(error) = left {
        // Nobody is kept waiting for longer than the lease lasts.
        crate::output::note(&format!("the lock `{name}` is free once its lease has run out: {error}"));
    }
    Ok(code(status))
}

fn code(status: ExitStatus) -> ExitCode {
    let code =
        status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// The command's process group, with `under-lock` as its first process.
fn start(held: &LockGuard, command: &[OsString]) -> std::io::Result<(Child, Pid)> {
    let child = Command::new(std::env::current_exe()?)
        .arg("under-lock")
        .arg(std::process::id().to_string())
        .arg("--")
        .args(command)
        .env("QUORATE_FENCING_TOKEN", held.token().to_string())
        .env("QUORATE_LOCK_KEY", String::from_utf8_lossy(held.key()).into_owned())
        .process_group(0)
        .spawn()?;
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let group = id.ok_or_else(|| std::io::Error::other("it has ended already"))?;
    // What reads from a terminal has to be in front of it.
    let stdin = std::io::stdin();
    if rustix::termios::isatty(&stdin) {
        let _not_ours_to_give = rustix::termios::tcsetpgrp(&stdin, group);
    }
    Ok((child, group))
}

/// Until the command has ended, or had to.
async fn attend(
    mut child: Child,
    group: Pid,
    held: &LockGuard,
    name: &str,
    signals: &mut Signals,
) -> Result<ExitStatus, Failure> {
    let mut due: Option<Instant> = None;
    let lost = held.lost();
    let mut lost = std::pin::pin!(lost);
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map_err(|error| Failure::local(format!("the command cannot be waited for: {error}")));
            }
            () = &mut lost => {
                send(group, Signal::TERM);
                let _late = timeout(GRACE, child.wait()).await;
                // What the command has started may have outlived it.
                send(group, Signal::KILL);
                let _status = child.wait().await;
                let why = format!(
                    "the lock `{name}` was lost while the command ran: its lease could not be renewed in time or was revoked, or \
                     its key was deleted. The command was ended; what it had done stays"
                );
                return Err(Failure::refused("lock_lost", why));
            }
            signal = signals.next() => {
                send(group, signal);
                if signal != Signal::INT {
                    due.get_or_insert_with(|| Instant::now() + GRACE);
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                send(group, Signal::KILL);
                due = None;
            }
        }
    }
}

/// To everybody in the group that is still there.
fn send(group: Pid, signal: Signal) {
    let _nobody_left = kill_process_group(group, signal);
}

/// Runs the command in this process's group, and ends the group when the holder of the lock dies.
pub(crate) async fn supervise(wanted: UnderLock) -> Result<ExitCode, Failure> {
    let UnderLock { holder, command } = wanted;
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
                send(group, Signal::TERM);
                let _late = timeout(GRACE, child.wait()).await;
                // Itself included: nobody is left who would want to know.
                send(group, Signal::KILL);
            }
            _ = signals.next() => {}
            // The lease goes on, so the command does.
            _ = suspended.recv() => send(group, Signal::CONT),
        }
    }
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
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
}
