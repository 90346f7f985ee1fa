//! `kv export`: keys and values as JSON lines.
//!
//! Owns the format (`docs/moving-data.md`), and that a part is never taken for the whole. Never writes to the cluster. Called
//! by `kv`.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use quorate::status::counted;
use quorate::{Client, Entry, RangePage};
use serde_json::{Map, Value, json};

use super::{prefix_end, text_or_base64, with_reading};
use crate::args::Global;
use crate::args_kv::Export;
use crate::failure::Failure;
use crate::output::{Output, Progress};
use crate::target;

/// The version of the format.
pub(super) const FORMAT: u32 = 1;
/// Entries read at a time; the manager may answer with fewer.
const PAGE: u64 = 1_000;

/// Where an export goes: beside its name until it is whole.
enum Sink {
    Stdout,
    File { to: PathBuf, beside: PathBuf, file: BufWriter<File>, replace: bool },
}

impl Sink {
    fn open(to: Option<PathBuf>, replace: bool) -> Result<Self, Failure> {
        let Some(to) = to else { return Ok(Self::Stdout) };
        let mut beside = to.clone().into_os_string();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let file = fresh(&beside).map_err(|error| cannot_write(&beside, &error))?;
        Ok(Self::File { to, beside, file: BufWriter::new(file), replace })
    }

    fn line(&mut self, document: &Value, output: Output) -> Result<(), Failure> {
        match self {
            // Whoever stops reading has a part of it.
            Self::Stdout => output.document(document).map_err(|failure| failure.after("The cluster was only read")),
            Self::File { beside, file, .. } => {
                writeln!(file, "{document}").map_err(|error| cannot_write(beside, &error))
            }
        }
    }

    /// It is whole: on disk, and under its name.
    fn finish(self) -> Result<(), Failure> {
        let Self::File { to, beside, file, replace } = self else { return Ok(()) };
        let synced = file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all());
        synced.map_err(|error| cannot_write(&beside, &error))?;
        // Somebody may have been faster.
        if let Err(taken) = check_name(&to, replace) {
            let _gone = std::fs::remove_file(&beside);
            return Err(taken);
        }
        std::fs::rename(&beside, &to).map_err(|error| cannot_write(&to, &error))
    }
}

/// What gets its name by a renaming takes the place of whatever had it: a file may be replaced where that was said, a device or a link
/// never.
fn check_name(to: &Path, replace: bool) -> Result<(), Failure> {
    let found = to.symlink_metadata();
    let other = found.as_ref().is_ok_and(|found| !found.is_file());
    if other || to.file_name().is_none() {
        return Err(Failure::usage(format!(
            "{} is no file, nor a name for one: give the name of a file, or leave --output out for stdout. Nothing was read",
            to.display()
        )));
    }
    if found.is_ok() && !replace {
        return Err(Failure::local(format!(
            "{} is there already. It was left as it is; choose another name, or say that it may be replaced (--force)",
            to.display()
        )));
    }
    Ok(())
}

/// Values may be anybody's secret: a file of them is its owner's only, and a new one. A link in its place is not followed; what
/// an earlier export that was cut off has left goes.
fn fresh(path: &Path) -> io::Result<File> {
    if path.symlink_metadata().is_ok_and(|found| found.is_file()) {
        std::fs::remove_file(path)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::local(format!("cannot write {}: {error}. The cluster was only read", path.display()))
}

pub(super) async fn export(export: Export, global: &Global, output: Output) -> Result<(), Failure> {
    if let Some(to) = &export.output {
        check_name(to, export.force)?;
    }
    let client = target::client(global).await?;
    let cluster = client.status().await?.cluster_id;
    let mut sink = Sink::open(export.output.clone(), export.force)?;
    let prefix = export.prefix.into_bytes();
    let mut page = with_reading(client.kv().prefix(prefix.clone()).limit(PAGE), export.revision, false).await?;
    let revision = page.revision;
    let mut head = Map::new();
    head.insert("quorate_export".into(), FORMAT.into());
    head.insert("cluster_id".into(), cluster.into());
    head.insert("revision".into(), revision.into());
    text_or_base64(&mut head, "prefix", &prefix);
    sink.line(&Value::Object(head), output)?;
    let progress = Progress::counting("keys");
    let mut count = 0_u64;
    let mut leased = 0_u64;
    loop {
        for entry in &page.entries {
            leased += u64::from(entry.lease != 0);
            sink.line(&line(entry), output)?;
        }
        count += page.entries.len() as u64;
        progress.at(count);
        match page.entries.last() {
            Some(last) if page.more => page = next_page(&client, last, &prefix, revision).await?,
            _ => break,
        }
    }
    sink.line(&json!({ "end": true, "count": count }), output)?;
    sink.finish()?;
    progress.done();
    // On stdout the last line of the export says how many there are.
    if output.json && export.output.is_some() {
        return output
            .document(&json!({ "exported": count, "revision": revision, "file": export.output, "leased": leased }));
    }
    output.note(&format!("{} exported, as of revision {revision}", counted(count, "key")));
    if leased > 0 {
        output.note(&format!("{} of them had a lease; where they are imported they have none", counted(leased, "key")));
    }
    Ok(())
}

/// The page behind this entry, at the same revision.
async fn next_page(client: &Client, last: &Entry, prefix: &[u8], revision: u64) -> Result<RangePage, Failure> {
    // The successor of a key is the key with a zero byte behind it.
    let from = [&last.key[..], &[0]].concat();
    let range = client.kv().range(from, prefix_end(prefix)).limit(PAGE).revision(revision);
    range.await.map_err(|error| Failure::from(error).after("the export is not whole; start it again"))
}

fn line(entry: &Entry) -> Value {
    let mut document = Map::new();
    text_or_base64(&mut document, "key", &entry.key);
    text_or_base64(&mut document, "value", &entry.value);
    if entry.lease != 0 {
        document.insert("lease".into(), entry.lease.into());
    }
    Value::Object(document)
}
