//! `lease grant | keep-alive | revoke | list | show`.
//!
//! Owns their words. Never counts time: the library's keeper does. Called by `main`.

use data_encoding::BASE64;
use quorate::status::{counted, span};
use quorate::{Client, LeaseInfo};
use serde_json::{Value, json};

use crate::args::Global;
use crate::args_lease::LeaseVerb;
use crate::failure::Failure;
use crate::lock::Signals;
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
        LeaseVerb::KeepAlive { id, once: true } => keep_alive(&client, id, true, output).await,
        LeaseVerb::KeepAlive { id, once: false } => {
            let mut signals = Signals::listen()?;
            tokio::select! {
                kept = keep_alive(&client, id, false, output) => kept,
                _signal = signals.next() => Ok(()),
            }
        }
        LeaseVerb::Revoke { id } => {
            let deleted = client.leases().revoke(id).await?;
            if output.json {
                return output.document(&json!({ "lease": id, "deleted": deleted }));
            }
            output.line(&format!("lease {id} revoked, {} deleted", counted(deleted, "key")))
        }
        LeaseVerb::List => {
            let leases = client.leases().list().await?;
            if output.json {
                let leases: Vec<Value> = leases.iter().map(info_json).collect();
                return output.document(&json!({ "leases": leases }));
            }
            let row = |info: &LeaseInfo| {
                vec![
                    info.id.to_string(),
                    span(info.ttl),
                    span(info.left),
                    info.keys.to_string(),
                    info.bytes.to_string(),
                ]
            };
            if !leases.is_empty() {
                output.line(&table(
                    &["LEASE", "TTL", "LEFT", "KEYS", "BYTES"],
                    &[0, 3, 4],
                    leases.iter().map(row).collect(),
                ))?;
            }
            output.note(&counted(leases.len(), "lease"));
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
            output.note(&format!("{}, {} with their values", counted(keys.len(), "key"), counted(info.bytes, "byte")));
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
        tokio::time::sleep_until(sent + ttl / 3).await;
    }
}

fn info_json(info: &LeaseInfo) -> Value {
    json!({
        "lease": info.id, "ttl_ms": millis(info.ttl), "left_ms": millis(info.left), "keys": info.keys, "bytes": info.bytes,
    })
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
