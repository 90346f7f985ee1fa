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
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::args::Global;
use crate::args_lease::{Lock, UnderLock};
use crate::failure::Failure;
use crate::target;

/// How long the command has to end by itself, at most.
const GRACE: Duration = Duration::from_secs(5);
/// It is a part of the lease's time to live: what it may take fits in twice before that is over, once for whoever ends the
/// command and once for what comes between, and the renewals have their third before.
const GRACE_PART: u32 = 6;

fn grace_of(ttl: Duration) -> Duration {
    GRACE.min(ttl / GRACE_PART)
}

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
    let grace = grace_of(ttl);
    let ended = match start(&held, grace, &command) {
        Ok((child, group)) => attend(child, group, &held, &name, grace, &mut signals).await,
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
fn start(held: &LockGuard, grace: Duration, command: &[OsString]) -> std::io::Result<(Child, Pid)> {
    let child = Command::new(std::env::current_exe()?)
        .arg("under-lock")
        .arg(std::process::id().to_string())
        .arg(grace.as_millis().to_string())
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
        let why = format!(
            "the lock `{name}` was lost while the command ran: its lease could not be renewed in time or was revoked, or \
             its key was deleted. The command was ended; what it had done stays"
        );
        return Err(Failure::refused("lock_lost", why));
    }
}

/// To everybody in the group that is still there.
fn send(group: Pid, signal: Signal) {
    let _nobody_left = kill_process_group(group, signal);
}

/// Runs the command in this process's group, and ends the group when the holder of the lock dies.
pub(crate) async fn supervise(wanted: UnderLock) -> Result<ExitCode, Failure> {
    let UnderLock { holder, grace_ms, command } = wanted;
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
                let _late = timeout(grace, child.wait()).await;
                // Itself included: nobody is left who would want to know.
                send(group, Signal::KILL);
            }
            // From the holder, it may be that the lease is nearly over: its death leaves no time after that.
            signal = signals.next() => if signal == Signal::TERM { grace = Duration::ZERO },
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
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}
