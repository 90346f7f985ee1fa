//! `lease grant | keep-alive | revoke | list | show`, and `lock`.
//!
//! Owns their words, and the command that runs under a lock. Never counts time: the library's keeper does. Called by `main`.

use std::process::ExitCode;

use data_encoding::BASE64;
use quorate::status::span;
use quorate::{Client, LeaseInfo};
use serde_json::{Value, json};

use crate::args::Global;
use crate::args_lease::{LeaseVerb, Lock};
use crate::failure::Failure;
use crate::output::{Output, escaped, table};
use crate::target;

/// Between two attempts to renew that failed.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

pub(crate) async fn run(verb: LeaseVerb, global: &Global, output: Output) -> Result<(), Failure> {
    let client = target::client(global).await?;
    match verb {
        LeaseVerb::Grant { ttl } => {
            let lease = client.leases().grant(ttl).await?;
            if output.json {
                return output.document(&json!({ "lease": lease.id(), "ttl_ms": millis(lease.ttl()) }));
            }
            output.line(&lease.id().to_string())
        }
        LeaseVerb::KeepAlive { id, once } => keep_alive(&client, id, once, output).await,
        LeaseVerb::Revoke { id } => {
            let deleted = client.leases().revoke(id).await?;
            if output.json {
                return output.document(&json!({ "lease": id, "deleted": deleted }));
            }
            let keys = if deleted == 1 { "1 key".to_owned() } else { format!("{deleted} keys") };
            output.line(&format!("lease {id} revoked, {keys} deleted"))
        }
        LeaseVerb::List => {
            let leases = client.leases().list().await?;
            if output.json {
                let leases: Vec<Value> = leases.iter().map(info_json).collect();
                return output.document(&json!({ "leases": leases }));
            }
            let row =
                |info: &LeaseInfo| vec![info.id.to_string(), span(info.ttl), span(info.left), info.keys.to_string()];
            if !leases.is_empty() {
                output.line(&table(&["LEASE", "TTL", "LEFT", "KEYS"], &[0, 3], leases.iter().map(row).collect()))?;
            }
            output.note(&if leases.len() == 1 { "1 lease".to_owned() } else { format!("{} leases", leases.len()) });
            Ok(())
        }
        LeaseVerb::Show { id } => {
            let (info, keys) = client.leases().show(id).await?;
            if output.json {
                let keys: Vec<Value> = keys.iter().map(|key| key_json(key)).collect();
                let mut document = info_json(&info);
                document["attached"] = keys.into();
                return output.document(&document);
            }
            output.line(&format!("lease {id}: ttl {}, {} left", span(info.ttl), span(info.left)))?;
            for key in &keys {
                output.line(&escaped(key))?;
            }
            output.note(&if keys.len() == 1 { "1 key".to_owned() } else { format!("{} keys", keys.len()) });
            Ok(())
        }
    }
}

async fn keep_alive(client: &Client, id: u64, once: bool, output: Output) -> Result<(), Failure> {
    let mut holds_until = tokio::time::Instant::now();
    loop {
        let sent = tokio::time::Instant::now();
        let ttl = match client.leases().keep_alive(id).await {
            Ok(ttl) => ttl,
            Err(error) if error.is_retryable() && !once && tokio::time::Instant::now() < holds_until => {
                output.note(&format!("not renewed yet: {error}"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        holds_until = sent + ttl;
        if output.json {
            output.document(&json!({ "lease": id, "ttl_ms": millis(ttl) }))?;
        } else {
            output.line(&format!("lease {id} lasts {} more", span(ttl)))?;
        }
        if once {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep_until(sent + ttl / 3) => {}
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.map_err(|error| Failure::local(format!("the system gives no signals: {error}")))?;
                return Ok(());
            }
        }
    }
}

fn info_json(info: &LeaseInfo) -> Value {
    json!({ "lease": info.id, "ttl_ms": millis(info.ttl), "left_ms": millis(info.left), "keys": info.keys })
}

/// As with entries: text where it is text, base64 where it is not.
fn key_json(key: &[u8]) -> Value {
    match std::str::from_utf8(key) {
        Ok(text) => json!({ "key": text }),
        Err(_not_text) => json!({ "key_base64": BASE64.encode(key) }),
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Runs a command while the lock is held; the exit code is the command's.
pub(crate) async fn lock(lock: Lock, global: &Global) -> Result<ExitCode, Failure> {
    let Lock { name, ttl, wait, command } = lock;
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::usage("say what to run behind --"));
    };
    let client = target::client(global).await?;
    let mut wanted = client.lock(name.clone()).ttl(ttl);
    if let Some(wait) = wait {
        wanted = wanted.wait_at_most(wait);
    }
    let held = wanted.await?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| Failure::local(format!("the system gives no signals: {error}")))?;
    let spawned = tokio::process::Command::new(program)
        .args(arguments)
        .env("QUORATE_FENCING_TOKEN", held.token().to_string())
        .env("QUORATE_LOCK_KEY", String::from_utf8_lossy(held.key()).into_owned())
        .kill_on_drop(true)
        .spawn();
    let ended = match spawned {
        Ok(mut child) => loop {
            tokio::select! {
                status = child.wait() => {
                    break status.map_err(|error| Failure::local(format!("the command cannot be waited for: {error}")));
                }
                () = held.lost() => {
                    let _ended_already = child.kill().await;
                    break Err(Failure::unavailable(format!(
                        "the lock `{name}` was lost while the command ran: its lease could not be renewed in time, or was revoked. \
                         The command was killed; what it had done stays"
                    )));
                }
                // A terminal tells the command as well: it is the one to decide.
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {
                    let _ended_already = child.kill().await;
                    break Err(Failure::local("terminated; the command was killed, and the lock is let go"));
                }
            }
        },
        Err(error) => Err(Failure::local(format!("the command {} does not start: {error}", program.display()))),
    };
    let left = held.unlock().await;
    let status = ended?;
    if let Err(error) = left {
        // Nobody is kept waiting for longer than the lease lasts.
        crate::output::note(&format!("the lock `{name}` is free once its lease has run out: {error}"));
    }
    let code =
        status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal));
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)))
}
