//! `config`, `secret` and `keyring`.
//!
//! Owns their words, and the way of data in (a file or stdin, never an argument) and out (stdout, where it was asked for). Called by
//! `main`.

use std::io::Read as _;
use std::time::{Duration, Instant};

use quorate::Client;
use quorate::config::OBJECT_BYTES_MAX;
use quorate::objects::{KeyringReport, ObjectInfo};
use quorate::status::size;
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::args::Global;
use crate::args_objects::{ConfigVerb, Create, KeyringVerb, SecretVerb, Update};
use crate::failure::Failure;
use crate::output::{Output, Progress, table};
use crate::target;

/// Between two looks at a rotation.
const LOOK: Duration = Duration::from_millis(200);

/// The data: a little more than may be is read, so that the refusal names the limit.
fn data(file: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(OBJECT_BYTES_MAX + 1));
    let most = OBJECT_BYTES_MAX as u64 + 1;
    let read = if file == "-" {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(most).read_to_end(&mut bytes))
    };
    read.map_err(|error| {
        Failure::usage(format!("cannot read the data from {file}: {error}; give a file, or - for stdin"))
    })?;
    Ok(bytes)
}

/// The same, of a secret: that there is none of it is a mistake, which would stand for ever.
fn secret_data(file: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let data = data(file)?;
    if data.is_empty() {
        let from = if file == "-" { "stdin" } else { file };
        return Err(Failure::usage(format!(
            "there is nothing in {from}, and an empty secret is none: did what should print it fail? Nothing was sent"
        )));
    }
    Ok(data)
}

fn document(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value)
        .map_err(|error| Failure::local(format!("the answer cannot be written as JSON: {error}")))
}

pub(crate) async fn config(verb: ConfigVerb, global: &Global, output: Output) -> Result<(), Failure> {
    let configs = target::client(global).await?.configs();
    match verb {
        ConfigVerb::Create(Create { name, file, label }) => {
            let data = data(&file)?;
            let mut create = configs.create(name, data.to_vec());
            for (key, value) in label {
                create = create.label(key, value);
            }
            made(&create.await?, "config", output)
        }
        ConfigVerb::Ls(list) => {
            let listed = list.label.into_iter().fold(configs.list(), quorate::ListObjects::label).await?;
            show_list(&listed, "configs", output)
        }
        ConfigVerb::Inspect { name } => {
            let (info, data) = (configs.inspect(&name).await?, configs.read(&name).await?);
            if output.json {
                return output.document(&with_data(document(&info)?, &data));
            }
            output.line(&describe(&info))?;
            output.line("")?;
            output.bytes(&data)
        }
        ConfigVerb::Update(update) => {
            let changed = changes(configs.update(&update.name), &update).await?;
            labelled(&changed, "config", output)
        }
        ConfigVerb::Rm { name } => {
            configs.remove(&name).await?;
            removed(&name, "config", output)
        }
    }
}

pub(crate) async fn secret(verb: SecretVerb, global: &Global, output: Output) -> Result<(), Failure> {
    let secrets = target::client(global).await?.secrets();
    match verb {
        SecretVerb::Create(Create { name, file, label }) => {
            let data = secret_data(&file)?;
            let mut create = secrets.create(name, &data[..]);
            for (key, value) in label {
                create = create.label(key, value);
            }
            made(&create.await?, "secret", output)
        }
        SecretVerb::Ls(list) => {
            let listed = list.label.into_iter().fold(secrets.list(), quorate::ListObjects::label).await?;
            show_list(&listed, "secrets", output)
        }
        SecretVerb::Inspect { name, reveal: false } => {
            let info = secrets.inspect(&name).await?;
            if output.json { output.document(&document(&info)?) } else { output.line(&describe(&info)) }
        }
        SecretVerb::Inspect { name, reveal: true } => {
            let (info, data) = (secrets.inspect(&name).await?, secrets.reveal(&name).await?);
            if output.json {
                return output.document(&with_data(document(&info)?, data.expose()));
            }
            output.bytes(data.expose())
        }
        SecretVerb::Update(update) => {
            let changed = changes(secrets.update(&update.name), &update).await?;
            labelled(&changed, "secret", output)
        }
        SecretVerb::Rotate { name, file, successor } => {
            let data = secret_data(&file)?;
            let rotation = secrets.rotate(&name, &data[..], successor.as_deref()).await?;
            if output.json {
                return output.document(&document(&rotation)?);
            }
            output.line(&format!("secret {} stands beside {name}", rotation.successor.name))?;
            output.line(&still_used(&rotation.old))
        }
        SecretVerb::Rm { name } => {
            secrets.remove(&name).await?;
            removed(&name, "secret", output)
        }
    }
}

/// What of the old one is still to be done after a rotation.
fn still_used(old: &ObjectInfo) -> String {
    if old.users.is_empty() {
        return format!("no item refers to {0} any more: `quorate secret rm {0}` removes it", old.name);
    }
    let users: Vec<String> = old.users.iter().map(|user| format!("  {} of {}", user.item, user.node)).collect();
    format!("{} is still used by\n{}", old.name, users.join("\n"))
}

async fn changes(mut change: quorate::UpdateObject, update: &Update) -> Result<ObjectInfo, Failure> {
    for (key, value) in &update.label_add {
        change = change.label(key, value);
    }
    for key in &update.label_rm {
        change = change.without(key);
    }
    Ok(change.await?)
}

fn with_data(mut document: Value, data: &[u8]) -> Value {
    if let Value::Object(fields) = &mut document {
        fields.insert("data_base64".into(), data_encoding::BASE64.encode(data).into());
    }
    document
}

fn made(info: &ObjectInfo, word: &str, output: Output) -> Result<(), Failure> {
    if output.json {
        return output.document(&document(info)?);
    }
    output.line(&format!("{word} {} made at revision {}, {}", info.name, info.create_revision, size(info.size)))
}

fn labelled(info: &ObjectInfo, word: &str, output: Output) -> Result<(), Failure> {
    if output.json {
        return output.document(&document(info)?);
    }
    output.line(&format!("{word} {} has the labels {}", info.name, labels(info)))
}

fn removed(name: &str, word: &str, output: Output) -> Result<(), Failure> {
    if output.json {
        return output.document(&json!({ "name": name, "removed": true }));
    }
    output.line(&format!("{word} {name} is removed"))
}

fn labels(info: &ObjectInfo) -> String {
    if info.labels.is_empty() {
        return "-".into();
    }
    let labels: Vec<String> = info.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(",")
}

fn show_list(listed: &[ObjectInfo], word: &str, output: Output) -> Result<(), Failure> {
    if output.json {
        return output.document(&json!({ word: document(&listed)? }));
    }
    let rows = listed
        .iter()
        .map(|info| vec![info.name.clone(), info.size.to_string(), info.create_revision.to_string(), labels(info)])
        .collect();
    output.line(&table(&["NAME", "BYTES", "REVISION", "LABELS"], &[1, 2], rows))
}

fn describe(info: &ObjectInfo) -> String {
    let mut lines = vec![
        format!("name       {}", info.name),
        format!("bytes      {}", info.size),
        format!("revision   {} (made at {})", info.revision, info.create_revision),
        format!("labels     {}", labels(info)),
    ];
    if let Some(old) = &info.succeeds {
        lines.push(format!("succeeds   {old}"));
    }
    if let Some(key) = info.barrier_key {
        lines.push(format!("sealed by  barrier key {key}"));
    }
    let users: Vec<String> = info.users.iter().map(|user| format!("{} of {}", user.item, user.node)).collect();
    lines.push(format!("used by    {}", if users.is_empty() { "nothing".into() } else { users.join(", ") }));
    lines.join("\n")
}

pub(crate) async fn keyring(verb: KeyringVerb, global: &Global, output: Output) -> Result<(), Failure> {
    let client = target::client(global).await?;
    let report = match verb {
        KeyringVerb::Show => client.keyring().show().await?,
        KeyringVerb::Rotate { wait } => {
            let before = client.keyring().show().await?.active;
            let begun = client.keyring().rotate().await?;
            let done = |report: &KeyringReport| report.active > before && is_at_rest(report);
            let until = Instant::now() + global.patience(wait);
            let report = keyring_followed(&client, begun, until, done).await?;
            if !done(&report) && !output.json {
                output.note("it goes on by itself; `quorate keyring show` says how far it is");
            }
            report
        }
    };
    if output.json {
        return output.document(&document(&report)?);
    }
    show_keyring(&report, output)
}

/// One key is left, and none is to take its place.
pub(crate) fn is_at_rest(report: &KeyringReport) -> bool {
    !report.due && report.keys.len() <= 1
}

/// Shows how far the sealing anew is until it is `done`, or until then.
pub(crate) async fn keyring_followed(
    client: &Client,
    mut report: KeyringReport,
    until: Instant,
    done: impl Fn(&KeyringReport) -> bool,
) -> Result<KeyringReport, Failure> {
    let count = |report: &KeyringReport, of: fn(u32, u32) -> bool| -> u64 {
        report.keys.iter().filter(|key| of(key.id, report.active)).map(|key| key.records).sum()
    };
    let progress = Progress::of(count(&report, |_, _| true), "records sealed anew");
    while !done(&report) && Instant::now() < until {
        // (As long as the key that is to go is the active one, nothing is.)
        progress.at(if report.due { 0 } else { count(&report, |key, active| key == active) });
        tokio::time::sleep(LOOK).await;
        report = client.keyring().show().await?;
    }
    progress.done();
    Ok(report)
}

pub(crate) fn show_keyring(report: &KeyringReport, output: Output) -> Result<(), Failure> {
    let rows = report
        .keys
        .iter()
        .map(|key| {
            let state = match (key.id == report.active, report.due) {
                (true, true) => "active, to be replaced",
                (true, false) => "active",
                (false, _) => "being replaced",
            };
            let (uses, records) = (key.uses.to_string(), key.records.to_string());
            vec![key.id.to_string(), state.into(), uses, records, key.managers.join(",")]
        })
        .collect();
    output.line(&table(&["KEY", "STATE", "USES", "RECORDS", "MANAGERS"], &[0, 2, 3], rows))?;
    if report.lacking.is_empty() {
        return Ok(());
    }
    output.line(&format!("without a copy of the active key, and so without a seat: {}", report.lacking.join(", ")))?;
    if report.unusable.is_empty() {
        return Ok(());
    }
    output.line(&format!(
        "no key can be sealed to the public sealing key of {}: everybody else is cared for without it; next, on it: quorate join --replace",
        report.unusable.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_says_what_still_uses_the_old_one() {
        let mut old: ObjectInfo = serde_json::from_value(json!({
            "name": "db", "labels": {}, "size": 3, "create_revision": 7, "revision": 7, "created_ms": 0,
            "succeeds": null, "barrier_key": 1,
            "users": [{ "node": "w1", "node_id": "x", "item": "web.1" }],
        }))
        .unwrap();
        assert_eq!(still_used(&old), "db is still used by\n  web.1 of w1");
        assert!(describe(&old).ends_with("sealed by  barrier key 1\nused by    web.1 of w1"));
        old.users.clear();
        assert_eq!(still_used(&old), "no item refers to db any more: `quorate secret rm db` removes it");
    }
}
