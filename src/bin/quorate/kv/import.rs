//! `kv import`: an input into the store, in transactions.
//!
//! Owns how it goes on after it was cut off: a key that has its value is never written again. Called by `kv`.

use std::collections::HashSet;

use quorate::status::counted;
use quorate::{Client, Entry, TxnOutcome, compare, operation};
use serde_json::{Value, json};

use super::input::{Found, Source, placed, wrong};
use crate::args::Global;
use crate::args_kv::Import;
use crate::failure::Failure;
use crate::output::{Output, Progress};
use crate::target;

/// Keys written in one transaction: each takes a comparison, a write and a read of the 128 operations that it may have.
const BATCH_KEYS: usize = 42;
/// Bytes of keys and values after which a transaction is sent: far below what one may have.
const BATCH_BYTES: usize = 1 << 20;

type Pair = (Vec<u8>, Vec<u8>);

/// What became of the keys.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    written: u64,
    overwritten: u64,
    unchanged: u64,
    kept: u64,
}

impl Tally {
    const fn sum(self) -> u64 {
        self.written + self.overwritten + self.unchanged + self.kept
    }
}

pub(super) async fn import(import: Import, global: &Global, output: Output) -> Result<(), Failure> {
    let source = Source::open(&import.from)?;
    let under = import.under.into_bytes();
    let (source, under, found) = off_thread(move || {
        let found = checked(&source, &under)?;
        Ok((source, under, found))
    })
    .await?;
    if found.etcd > 0 && found.keys > 1 && found.empty == found.keys && !import.empty_values {
        return Err(wrong(format!(
            "all of its {} values are empty, as etcdctl prints them with --keys-only. If they are empty in truth, say --empty-values. Nothing was written",
            found.keys
        )));
    }
    if found.keys == 0 && !import.allow_empty {
        return Err(wrong(
            "there is no key in it: an input that was cut off, or another file than was meant? If it is to be so, say --allow-empty. Nothing was written".into(),
        ));
    }
    if found.more {
        output
            .note("warning: etcdctl said that there is more than it printed (--limit): the rest is not in this input");
    }
    let client = target::client(global).await?;
    let progress = Progress::of(found.keys, "keys");
    let mut importing = Importing { client, keep: import.keep, dry_run: import.dry_run, tally: Tally::default() };
    let (batches, mut taking) = tokio::sync::mpsc::channel::<Vec<Pair>>(4);
    let reading = tokio::task::spawn_blocking(move || batched(&source, &under, &batches));
    let mut failed = None;
    while let Some(batch) = taking.recv().await {
        if let Err(failure) = importing.take(&batch).await {
            failed = Some(failure);
            break;
        }
        progress.at(importing.tally.sum());
    }
    drop(taking);
    let read = reading.await.map_err(|error| Failure::local(format!("the input cannot be read: {error}")))?;
    let tally = importing.tally;
    if let Some(failure) = failed.or_else(|| read.err()) {
        let how = format!(
            "{} of {} are done; run the same command again, it goes on from there: what has its value is not written again",
            tally.sum(),
            counted(found.keys, "key")
        );
        return Err(failure.after(&how).with(tally_json(tally, found, import.dry_run)));
    }
    progress.done();
    if output.json {
        return output.document(&tally_json(tally, found, import.dry_run));
    }
    let (would, were) = if import.dry_run { ("would be ", "would be left") } else { ("", "left") };
    output.line(&format!(
        "{}: {} {would}written anew, {} {would}overwritten, {} unchanged, {} {were} as they were",
        counted(tally.sum(), "key"),
        tally.written,
        tally.overwritten,
        tally.unchanged,
        tally.kept
    ))
}

fn tally_json(tally: Tally, found: Found, dry_run: bool) -> Value {
    json!({
        "keys": found.keys,
        "written": tally.written,
        "overwritten": tally.overwritten,
        "unchanged": tally.unchanged,
        "kept": tally.kept,
        "dry_run": dry_run,
    })
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::local(format!("the input cannot be read: {error}"))))
}

/// Everything that can be refused is, before anything is written.
fn checked(source: &Source, under: &[u8]) -> Result<Found, Failure> {
    let mut refused = Vec::new();
    let mut count = 0_u64;
    let found = source.read(|key, value| {
        if let Err(why) = placed(under, &key, &value) {
            count += 1;
            if refused.len() < 5 {
                refused.push(why);
            }
        }
        Ok(())
    });
    let found = found.map_err(|failure| failure.after("Nothing was written"))?;
    if count > 0 {
        let more = if count > 5 { format!("; and {} more", count - 5) } else { String::new() };
        return Err(wrong(format!("{}{more}. Nothing was written", refused.join("; "))));
    }
    Ok(found)
}

/// Sends the input on in transactions' worth; a key that comes twice comes in two of them, so that the later value stays.
fn batched(source: &Source, under: &[u8], batches: &tokio::sync::mpsc::Sender<Vec<Pair>>) -> Result<(), Failure> {
    let mut batch: Vec<Pair> = Vec::new();
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    let mut bytes = 0;
    // That nobody takes them any more is said there.
    let gone = || Failure::local("the import has ended");
    source.read(|key, value| {
        let key = [under, &key].concat();
        if let Err(why) = placed(under, &key, &value) {
            return Err(wrong(format!("{why} (with --under)")));
        }
        let size = key.len() + value.len();
        if batch.len() == BATCH_KEYS || (bytes + size > BATCH_BYTES && !batch.is_empty()) || seen.contains(&key) {
            batches.blocking_send(std::mem::take(&mut batch)).map_err(|_closed| gone())?;
            seen.clear();
            bytes = 0;
        }
        bytes += size;
        seen.insert(key.clone());
        batch.push((key, value));
        Ok(())
    })?;
    if batch.is_empty() { Ok(()) } else { batches.blocking_send(batch).map_err(|_closed| gone()) }
}

/// A key that gets its value, and whether it has another one.
struct Write<'a> {
    key: &'a [u8],
    value: &'a [u8],
    over: bool,
}

struct Importing {
    client: Client,
    keep: bool,
    dry_run: bool,
    tally: Tally,
}

impl Importing {
    /// Mostly none of the keys is there: one transaction writes them all, or says what is there.
    async fn take(&mut self, batch: &[Pair]) -> Result<(), Failure> {
        let mut present = if self.dry_run {
            self.read(batch).await?
        } else {
            let mut txn = self.client.kv().txn();
            for (key, value) in batch {
                txn = txn
                    .when(compare::absent(key.clone()))
                    .then(operation::put(key.clone(), value.clone()))
                    .or_else(operation::get(key.clone()));
            }
            let done = txn.await?;
            if done.succeeded {
                self.tally.written += batch.len() as u64;
                return Ok(());
            }
            self.found(batch, done).await?
        };
        loop {
            let (tally, writes) = self.decided(batch, &present);
            let mut txn = self.client.kv().txn();
            for Write { key, value, over } in &writes {
                // What is to be kept may have come since it was looked for.
                if self.keep && !over {
                    txn = txn.when(compare::absent(key.to_vec()));
                }
                txn = txn.then(operation::put(key.to_vec(), value.to_vec()));
            }
            if writes.is_empty() || self.dry_run || txn.await?.succeeded {
                self.tally = tally;
                return Ok(());
            }
            present = self.read(batch).await?;
        }
    }

    /// What becomes of each key, and what is to be written for that.
    fn decided<'a>(&self, batch: &'a [Pair], present: &[Option<Entry>]) -> (Tally, Vec<Write<'a>>) {
        let (mut tally, mut writes) = (self.tally, Vec::new());
        for ((key, value), present) in batch.iter().zip(present) {
            match present {
                Some(entry) if entry.value == *value => tally.unchanged += 1,
                Some(_) if self.keep => tally.kept += 1,
                there => {
                    *(if there.is_some() { &mut tally.overwritten } else { &mut tally.written }) += 1;
                    writes.push(Write { key, value, over: there.is_some() });
                }
            }
        }
        (tally, writes)
    }

    /// What is there of these keys, in one request.
    async fn read(&self, batch: &[Pair]) -> Result<Vec<Option<Entry>>, Failure> {
        let gets = batch.iter().map(|(key, _)| operation::get(key.clone()));
        let done = gets.fold(self.client.kv().txn(), quorate::TxnBuilder::then).await?;
        self.found(batch, done).await
    }

    /// What a transaction has found of these keys; where an answer has no room for all of them, the others are read one by one. (A
    /// copy of a request that was applied before answers without what it read, where that is large.)
    async fn found(&self, batch: &[Pair], done: TxnOutcome) -> Result<Vec<Option<Entry>>, Failure> {
        let whole = !done.more && done.results.len() == batch.len();
        let mut told = done.results.into_iter();
        let mut present = Vec::with_capacity(batch.len());
        for (key, _) in batch {
            let entry = told.next().and_then(|entries| entries.into_iter().next());
            let unknown = entry.is_none() && !whole;
            present.push(if unknown { self.client.kv().get(key.clone()).await? } else { entry });
        }
        Ok(present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_comes_twice_comes_in_two_transactions() {
        let line = |key: &str, value: &str| format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}\n");
        let input = line("a", "1") + &line("b", "1") + &line("a", "2");
        let (batches, mut taking) = tokio::sync::mpsc::channel(8);
        batched(&Source::Memory(input.into_bytes()), b"x/", &batches).unwrap();
        drop(batches);
        let mut sizes = Vec::new();
        while let Ok(batch) = taking.try_recv() {
            assert!(batch.iter().all(|(key, _)| key.starts_with(b"x/")));
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [2, 1]);
    }
}
