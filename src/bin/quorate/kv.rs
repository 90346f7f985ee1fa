//! `kv put | get | ls | del | cas`; `txn`, `watch`, `export` and `import` have files of their own.
//!
//! Owns how values come in (text, file, stdin) and how entries go out. Never retries: the client does. Called by
//! `main`.

mod export;
mod import;
mod input;
mod parts;

use std::io::Read as _;

use data_encoding::BASE64;
use quorate::status::{at_most, counted};
use quorate::{Client, Entry, RangeBuilder, RangePage, compare, operation};
use serde_json::{Map, Value, json};

use crate::args::Global;
use crate::args_kv::{Cas, Del, Get, Kv, Ls, Put};
use crate::failure::Failure;
use crate::output::{Output, escaped, preview, table};
use crate::target;

/// Entries asked for at a time; the manager may answer with fewer.
const PAGE: u64 = 1_000;
/// Read from a file or stdin at most; far above what a value may be, so that the library's limit speaks.
const INPUT_BYTES_MAX: u64 = 64 << 20;

pub(crate) async fn run(verb: Kv, global: &Global, output: Output) -> Result<(), Failure> {
    match verb {
        Kv::Put(put) => self::put(put, global, output).await,
        Kv::Get(get) => self::get(get, global, output).await,
        Kv::Ls(ls) => list(ls, global, output).await,
        Kv::Del(del) => delete(del, global, output).await,
        Kv::Cas(cas) => compare_and_set(cas, global, output).await,
        Kv::Export(export) => export::export(export, global, output).await,
        Kv::Import(import) => Box::pin(import::import(import, global, output)).await,
        Kv::Txn(txn) => crate::kv_txn::run(txn, global, output).await,
        Kv::Watch(watch) => crate::kv_watch::run(watch, global, output).await,
    }
}

async fn put(put: Put, global: &Global, output: Output) -> Result<(), Failure> {
    let (key, value) = (key(put.key)?, value(put.value, put.literal)?);
    let write = target::client(global).await?.kv().put(key, value);
    let done = match put.lease {
        Some(lease) => write.lease(lease).await?,
        None => write.await?,
    };
    if output.json {
        return output.document(&json!({ "revision": done.revision }));
    }
    output.line(&format!("revision {}", done.revision))
}

async fn get(get: Get, global: &Global, output: Output) -> Result<(), Failure> {
    let wanted = key(get.key)?;
    let client = target::client(global).await?;
    // A prefix's first key is the key itself where it exists; unlike `get`, a range also tells the store's revision.
    let range = client.kv().prefix(wanted.clone().into_bytes()).limit(1);
    let page = with_reading(range, get.revision, get.serializable).await?;
    let Some(entry) = page.entries.first().filter(|entry| entry.key == wanted.as_bytes()) else {
        return Err(Failure::not_found(format!("there is no key `{wanted}` at revision {}", page.revision)));
    };
    if output.json {
        let mut document = entry_json(entry, true);
        document.insert("revision".into(), page.revision.into());
        if get.serializable {
            staleness(&mut document, &page);
        }
        return output.document(&Value::Object(document));
    }
    if get.serializable {
        output.note(&format!("as of revision {}, {}", page.revision, at_most(page.age)));
    }
    output.bytes(&entry.value)?;
    // A text stays as it was stored; only somebody who looks at it wants the line ended.
    if !entry.value.ends_with(b"\n") && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        output.bytes(b"\n")?;
    }
    Ok(())
}

fn with_reading(range: RangeBuilder, revision: Option<u64>, serializable: bool) -> RangeBuilder {
    let range = match revision {
        Some(revision) => range.revision(revision),
        None => range,
    };
    if serializable { range.serializable() } else { range }
}

async fn list(ls: Ls, global: &Global, output: Output) -> Result<(), Failure> {
    let client = target::client(global).await?;
    if ls.count {
        let range = client.kv().prefix(ls.prefix.into_bytes()).count_only();
        let page = with_reading(range, ls.revision, ls.serializable).await?;
        if output.json {
            return output.document(&json!({ "count": page.count, "revision": page.revision }));
        }
        return output.line(&page.count.to_string());
    }
    let (entries, more, page) = pages(&client, &ls).await?;
    let last = entries.last().map(|entry| entry.key.clone()).unwrap_or_default();
    if output.json {
        let entries: Vec<Value> = entries.iter().map(|entry| Value::Object(entry_json(entry, !ls.keys_only))).collect();
        let mut document = Map::new();
        document.insert("count".into(), entries.len().into());
        document.insert("entries".into(), entries.into());
        document.insert("more".into(), more.into());
        document.insert("revision".into(), page.revision.into());
        if ls.serializable {
            staleness(&mut document, &page);
        }
        return output.document(&Value::Object(document));
    }
    if ls.keys_only {
        for entry in &entries {
            if ls.raw {
                output.bytes(&[&entry.key[..], b"\n"].concat())?;
            } else {
                output.line(&escaped(&entry.key))?;
            }
        }
    } else if !entries.is_empty() {
        let rows = entries
            .iter()
            .map(|entry| {
                vec![
                    preview(&entry.key, 80),
                    entry.mod_revision.to_string(),
                    entry.version.to_string(),
                    entry.value.len().to_string(),
                    preview(&entry.value, 40),
                ]
            })
            .collect();
        output.line(&table(&["KEY", "MOD REVISION", "VERSION", "BYTES", "VALUE"], &[1, 2, 3], rows))?;
    }
    let old = if ls.serializable { format!(", {}", at_most(page.age)) } else { String::new() };
    output.note(&format!("{} at revision {}{old}", counted(entries.len(), "key"), page.revision));
    if more {
        // In quotes, as a shell takes it.
        let last = preview(&last, usize::MAX).replace('\'', "'\\''");
        output.note(&format!("there are more: go on with --after '{last}' --revision {}", page.revision));
    }
    Ok(())
}

/// All pages up to the limit, read at the revision of the first one.
async fn pages(client: &Client, ls: &Ls) -> Result<(Vec<Entry>, bool, RangePage), Failure> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut revision = ls.revision;
    let mut after = ls.after.clone().into_bytes();
    loop {
        let left = ls.limit.map_or(PAGE, |limit| limit.saturating_sub(entries.len() as u64).min(PAGE));
        let kv = client.kv();
        let range = if after.is_empty() {
            kv.prefix(ls.prefix.clone().into_bytes())
        } else {
            // The successor of a key is the key with a zero byte behind it.
            kv.range([&after[..], &[0]].concat(), prefix_end(ls.prefix.as_bytes()))
        };
        let range = if ls.keys_only { range.keys_only() } else { range };
        let mut page = with_reading(range.limit(left), revision, ls.serializable).await?;
        revision = Some(page.revision);
        entries.append(&mut page.entries);
        let full = ls.limit.is_some_and(|limit| entries.len() as u64 >= limit);
        match entries.last() {
            Some(last) if page.more && !full => after = last.key.to_vec(),
            _ => {
                let more = page.more;
                return Ok((entries, more, page));
            }
        }
    }
}

/// The first key behind every key with this prefix; behind every key there can be when there is none.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0xff; 4096]
}

async fn delete(del: Del, global: &Global, output: Output) -> Result<(), Failure> {
    let name = del.key.map(key).transpose()?;
    let kv = target::client(global).await?.kv();
    let done = match (name, del.prefix) {
        (Some(name), None) => kv.delete(name).await?,
        (None, Some(prefix)) if del.in_parts => return parts::delete(&kv, prefix.as_bytes(), output).await,
        (None, Some(prefix)) => kv.delete_prefix(prefix).await.map_err(parts::instead)?,
        (Some(_), Some(_)) | (None, None) => return Err(Failure::usage("give a key or --prefix, not both")),
    };
    if output.json {
        return output.document(&json!({ "deleted": done.deleted, "revision": done.revision }));
    }
    output.line(&format!("{} deleted, revision {}", counted(done.deleted, "key"), done.revision))
}

async fn compare_and_set(cas: Cas, global: &Global, output: Output) -> Result<(), Failure> {
    let name = key(cas.key)?;
    let value = value(cas.value, cas.literal)?;
    let condition = match (cas.expect_revision, cas.expect_value) {
        (Some(revision), _) => compare::mod_revision(name.clone(), revision),
        (None, Some(expected)) => compare::value(name.clone(), expected),
        (None, None) => compare::absent(name.clone()),
    };
    let kv = target::client(global).await?.kv();
    let done = kv
        .txn()
        .when(condition)
        .then(operation::put(name.clone(), value))
        .or_else(operation::get(name.clone()))
        .await?;
    if done.succeeded {
        if output.json {
            return output.document(&json!({ "succeeded": true, "revision": done.revision }));
        }
        return output.line(&format!("revision {}", done.revision));
    }
    let current = done.results.first().and_then(|found| found.first());
    let is = current.map_or_else(
        || "it does not exist".to_owned(),
        |entry| format!("its current revision is {} (version {})", entry.mod_revision, entry.version),
    );
    let extra = json!({
        "succeeded": false,
        "revision": done.revision,
        "current": current.map(|entry| Value::Object(entry_json(entry, true))),
    });
    Err(Failure::mismatch(format!("`{name}` is not as expected: {is}. Nothing was written"), extra, false))
}

pub(crate) fn key(key: String) -> Result<String, Failure> {
    if key.is_empty() {
        return Err(Failure::usage("the key is empty; a key has 1 byte to 4 KiB"));
    }
    Ok(key)
}

/// The value that an argument means.
pub(crate) fn value(argument: String, literal: bool) -> Result<Vec<u8>, Failure> {
    if literal {
        return Ok(argument.into_bytes());
    }
    let read = |from: &mut dyn std::io::Read, name: &str| {
        let mut bytes = Vec::new();
        from.take(INPUT_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map(|_length| bytes)
            .map_err(|error| Failure::usage(format!("cannot read the value from {name}: {error}")))
    };
    if argument == "-" {
        return read(&mut std::io::stdin().lock(), "stdin");
    }
    match argument.strip_prefix('@') {
        Some(path) => {
            let mut file = std::fs::File::open(path).map_err(|error| {
                Failure::usage(format!(
                    "cannot read the value from file {path}: {error} (a value that begins with @ needs --literal)"
                ))
            })?;
            read(&mut file, path)
        }
        None => Ok(argument.into_bytes()),
    }
}

/// An entry as the contract for scripts says: text where it is text, base64 where it is not.
pub(crate) fn entry_json(entry: &Entry, with_value: bool) -> Map<String, Value> {
    let mut document = named(&entry.key);
    if with_value {
        text_or_base64(&mut document, "value", &entry.value);
    }
    document.insert("create_revision".into(), entry.create_revision.into());
    document.insert("mod_revision".into(), entry.mod_revision.into());
    document.insert("version".into(), entry.version.into());
    if entry.lease != 0 {
        document.insert("lease".into(), entry.lease.into());
    }
    document
}

/// A key by its name alone.
pub(crate) fn named(key: &[u8]) -> Map<String, Value> {
    let mut document = Map::new();
    text_or_base64(&mut document, "key", key);
    document
}

/// Bytes under this name where they are text, in base64 under `NAME_base64` where they are not.
pub(crate) fn text_or_base64(document: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => document.insert(name.to_owned(), text.into()),
        Err(_not_text) => document.insert(format!("{name}_base64"), BASE64.encode(bytes).into()),
    };
}

fn staleness(document: &mut Map<String, Value>, page: &RangePage) {
    document.insert("applied".into(), page.applied.into());
    let age_ms = page.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    document.insert("age_ms".into(), age_ms.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_text_a_file_or_itself() {
        assert_eq!(value("hello".into(), false).unwrap(), b"hello");
        assert_eq!(value("@me".into(), true).unwrap(), b"@me");
        assert_eq!(value("-".into(), true).unwrap(), b"-");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"\xff\x00").unwrap();
        assert_eq!(value(format!("@{}", file.path().display()), false).unwrap(), b"\xff\x00");
        let failure = value("@/no/such/file".into(), false).unwrap_err();
        assert!(failure.exit == 2 && failure.message().contains("--literal"), "{}", failure.message());
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_all_its_keys() {
        assert_eq!(prefix_end(b"app/"), b"app0");
        assert_eq!(prefix_end(&[1, 0xff]), [2]);
        assert_eq!(prefix_end(&[0xff, 0xff]).len(), 4096);
        assert_eq!(prefix_end(b"").len(), 4096);
    }
}
