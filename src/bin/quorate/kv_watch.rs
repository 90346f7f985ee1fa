//! `kv watch`.
//!
//! Owns how changes go out, and when it ends. Never goes back to a revision by itself: the client does. Called by `kv`.

use std::time::Duration;

use quorate::{Change, Changes, Watched};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::args::Global;
use crate::args_kv::Watch;
use crate::failure::Failure;
use crate::kv::{entry_json, key};
use crate::lock::Signals;
use crate::output::{Output, escaped};
use crate::target;

pub(crate) async fn run(asked: Watch, global: &Global, output: Output) -> Result<(), Failure> {
    let (name, prefix) = match (&asked.key, &asked.prefix) {
        (Some(name), None) => (key(name.clone())?, false),
        (None, Some(prefix)) => (prefix.clone(), true),
        _ => return Err(Failure::usage("give a key or --prefix, not both")),
    };
    let until = asked.lasts.and_then(|lasts| Instant::now().checked_add(lasts));
    let begun = begin(&asked, name, prefix, global, output);
    let watch = match until {
        Some(until) => timeout_at(until, begun).await.unwrap_or_else(|_elapsed| {
            Err(Failure::unavailable("no manager took the watch within --for. Nothing was told"))
        })?,
        None => begun.await?,
    };
    let over = async {
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    let mut signals = Signals::listen()?;
    tokio::select! {
        told = tell(watch, &asked, output) => told,
        // That it is over is what was asked for.
        () = over => Ok(()),
        _signal = signals.next() => Ok(()),
    }
}

/// The watch, once a manager has taken it.
async fn begin(
    asked: &Watch,
    name: String,
    prefix: bool,
    global: &Global,
    output: Output,
) -> Result<quorate::Watch, Failure> {
    let kv = target::client(global).await?.kv();
    if let Some(revision) = asked.from_revision {
        // Of an empty prefix there is no one key to read.
        let any = if prefix { kv.prefix(name.clone()) } else { kv.one(name.clone()) };
        let newest = any.limit(1).keys_only().serializable().await?.revision;
        if revision > newest + 1 {
            output.note(&format!(
                "revision {revision} is not reached yet, the newest is {newest}: nothing is told before it, also not what is \
                 written meanwhile"
            ));
        }
    }
    let mut watch = kv.watch(name);
    if prefix {
        watch = watch.prefix();
    }
    if let Some(revision) = asked.from_revision {
        watch = watch.from_revision(revision);
    }
    if asked.previous {
        watch = watch.previous();
    }
    if asked.puts_only {
        watch = watch.puts_only();
    }
    if asked.deletes_only {
        watch = watch.deletes_only();
    }
    if asked.keys_only {
        watch = watch.keys_only();
    }
    Ok(watch.await?)
}

async fn tell(mut watch: quorate::Watch, asked: &Watch, output: Output) -> Result<(), Failure> {
    let mut left = asked.count.unwrap_or(u64::MAX);
    while left > 0 {
        let lines = match watch.next().await {
            Ok(Watched::Changes(changes)) => {
                left -= 1;
                if output.json { format!("{}\n", document(&changes, asked)) } else { lines(&changes, asked) }
            }
            Ok(Watched::Bookmark(revision)) if asked.bookmarks => {
                if output.json {
                    format!("{}\n", json!({ "bookmark": revision }))
                } else {
                    format!("{revision} bookmark\n")
                }
            }
            Ok(_) => continue,
            Err(error) if error.is_retryable() => {
                output.note(&format!("{error}; still trying, the watch goes on at revision {}", watch.next_revision()));
                // The library has tried for --timeout: nothing is hurried.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if !output.streamed(lines.as_bytes())? {
            break;
        }
    }
    Ok(())
}

fn lines(changes: &Changes, asked: &Watch) -> String {
    let mut lines = String::new();
    for change in &changes.changes {
        let (revision, key) = (changes.revision, escaped(&change.key));
        let mut line = match &change.entry {
            Some(_) if asked.keys_only => format!("{revision} put {key}"),
            Some(entry) => format!("{revision} put {key} {}", escaped(&entry.value)),
            None => format!("{revision} delete {key}"),
        };
        if asked.previous {
            line += &before(change);
        }
        lines += &line;
        lines.push('\n');
    }
    lines
}

fn before(change: &Change) -> String {
    match &change.previous {
        Some(entry) => format!("  (before: {} of revision {})", escaped(&entry.value), entry.mod_revision),
        None if change.previous_omitted => "  (before: too large to be told)".to_owned(),
        None => "  (before: nothing)".to_owned(),
    }
}

fn document(changes: &Changes, asked: &Watch) -> Value {
    let with_values = !asked.keys_only;
    let of = |change: &Change| {
        let mut document = match &change.entry {
            Some(entry) => entry_json(entry, with_values),
            None => bare(change),
        };
        document.insert("type".into(), if change.is_delete() { "delete" } else { "put" }.into());
        if asked.previous {
            let previous = change.previous.as_ref().map(|entry| Value::Object(entry_json(entry, with_values)));
            document.insert("previous".into(), previous.into());
            if change.previous_omitted {
                document.insert("previous_omitted".into(), true.into());
            }
        }
        Value::Object(document)
    };
    json!({ "revision": changes.revision, "changes": changes.changes.iter().map(of).collect::<Vec<_>>() })
}

/// A removed key: its name alone.
fn bare(change: &Change) -> Map<String, Value> {
    crate::kv::named(&change.key)
}
