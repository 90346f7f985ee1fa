//! `lock`: a command that runs while a lock is held, and no longer.
//!
//! Owns the process that holds the lock. It starts itself again as `under-lock` ([`crate::under_lock`]), the first of a
//! process group, which runs the command in that group, and ends it when its parent dies or stands still: whoever is killed
//! or stopped cannot clean up after itself. Never decides who has the lock. Called by `main`.

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use quorate::LockGuard;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, sleep, sleep_until};

use crate::args::Global;
use crate::args_lease::Lock;
use crate::failure::Failure;
use crate::target;
use crate::under_lock::Telling;

/// How long the command has to end by itself, at most.
const GRACE: Duration = Duration::from_secs(5);
/// It is a part of the lease's time to live: what it may take fits in twice before that is over, once for whoever ends the
/// command and once for what comes between, and the renewals have their third before.
const GRACE_PART: u32 = 6;

fn grace_of(ttl: Duration) -> Duration {
    GRACE.min(ttl / GRACE_PART)
}

/// The signals that are passed on.
pub(crate) struct Signals {
    interrupt: unix::Signal,
    hang_up: unix::Signal,
    terminate: unix::Signal,
}

pub(crate) fn listen(kind: SignalKind) -> Result<unix::Signal, Failure> {
    unix::signal(kind).map_err(|error| Failure::local(format!("the system gives no signals: {error}")))
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Signal {
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
    let grace = grace_of(ttl);
    let started = Telling::bind().and_then(|telling| Ok((start(&held, grace, telling.path(), &command)?, telling)));
    let ended = match started {
        Ok(((child, group), telling)) => tokio::select! {
            ended = attend(child, group, &held, &name, grace, &mut signals) => ended,
            never = telling.tell(|| held.remaining()) => match never {},
        },
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

pub(crate) fn code(status: ExitStatus) -> ExitCode {
    let code =
        status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// The command's process group, with `under-lock` as its first process.
fn start(held: &LockGuard, grace: Duration, telling: &Path, command: &[OsString]) -> std::io::Result<(Child, Pid)> {
    let child = Command::new(std::env::current_exe()?)
        .arg("under-lock")
        .arg(std::process::id().to_string())
        .arg(grace.as_millis().to_string())
        .arg(telling)
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

/// Resolves when the lock holds for two graces more and no longer, unless it is renewed: so much is needed to end the
/// command before somebody else may have the lock.
async fn nearly_over(held: &LockGuard, grace: Duration) {
    loop {
        let left = held.remaining().saturating_sub(grace * 2);
        if left.is_zero() {
            return;
        }
        sleep(left).await;
    }
}

/// Until the command has ended, or had to.
async fn attend(
    mut child: Child,
    group: Pid,
    held: &LockGuard,
    name: &str,
    grace: Duration,
    signals: &mut Signals,
) -> Result<ExitStatus, Failure> {
    let mut due: Option<Instant> = None;
    let lost = held.lost();
    let mut lost = std::pin::pin!(lost);
    let nearly_over = nearly_over(held, grace);
    let mut nearly_over = std::pin::pin!(nearly_over);
    loop {
        let in_time = tokio::select! {
            biased;
            status = child.wait() => {
                if !held.is_held() {
                    // It may have been ended because this process stood still for too long.
                    return Err(lock_lost(name));
                }
                return status.map_err(|error| Failure::local(format!("the command cannot be waited for: {error}")));
            }
            () = &mut lost => false,
            () = &mut nearly_over => true,
            signal = signals.next() => {
                send(group, signal);
                if signal != Signal::INT {
                    due.get_or_insert_with(|| Instant::now() + GRACE);
                }
                continue;
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                send(group, Signal::KILL);
                due = None;
                continue;
            }
        };
        if in_time {
            send(group, Signal::TERM);
            tokio::select! {
                _status = child.wait() => {}
                () = lost => {}
                () = sleep(grace) => {}
            }
        }
        // What is lost may be somebody else's already. What the command has started may have outlived it.
        send(group, Signal::KILL);
        let _status = child.wait().await;
        return Err(lock_lost(name));
    }
}

fn lock_lost(name: &str) -> Failure {
    let why = format!(
        "the lock `{name}` was lost while the command ran: its lease could not be renewed in time or was revoked, or its \
         key was deleted. The command was ended; what it had done stays"
    );
    Failure::refused("lock_lost", why)
}

/// To everybody in the group that is still there.
pub(crate) fn send(group: Pid, signal: Signal) {
    let _nobody_left = kill_process_group(group, signal);
}
