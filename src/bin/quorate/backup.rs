//! `backup` and `restore`: the whole cluster into one sealed file, and back.
//!
//! Owns the words. Never seals or opens anything itself: the library does. Called by `main`.

use std::fmt::Write as _;
use std::path::Path;

use quorate::backup::{BackupContents, BackupInfo, BackupKey, BackupSeal, KeyPair, verify};
use quorate::status::{counted, date};
use quorate::{RestoreReport, restore as restored};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Global;
use crate::args_backup::{Backup, BackupVerb, Opens, Restore, Take};
use crate::failure::Failure;
use crate::node::directory;
use crate::output::{Output, Progress, Tone, table};
use crate::target;

pub(crate) async fn run(backup: Backup, global: &Global, output: Output) -> Result<(), Failure> {
    match backup.verb {
        None => take(backup.take, global, output).await,
        Some(BackupVerb::NewKey) => {
            let pair = KeyPair::generate();
            let shown = if output.json {
                output.document(&json!({ "recipient": pair.recipient(), "key_file": *pair.to_text() }))
            } else {
                output.bytes(pair.to_text().as_bytes())
            };
            shown.map_err(|failure| failure.after("Nothing is sealed for it: give the command again"))?;
            if !output.json {
                output.note(&format!("recipient: {}", pair.recipient()));
            }
            Ok(())
        }
        Some(BackupVerb::Verify { file, opens, ca }) => {
            let key = pinned(opens.key()?, ca.as_deref())?;
            let path = file.clone();
            let read = tokio::task::spawn_blocking(move || verify(&path, &key)).await;
            let read = read.map_err(|error| Failure::local(error.to_string()))?;
            let contents = read.map_err(|error| Failure::from(error).about(file.display()))?;
            if output.json {
                return output.document(&document(&contents)?);
            }
            output.line(&render(&contents, &file, output))
        }
    }
}

/// The key, for a backup of that cluster only where its CA was named.
fn pinned(key: BackupKey, ca: Option<&str>) -> Result<BackupKey, Failure> {
    Ok(match ca {
        Some(ca) => key.of_ca(ca)?,
        None => key,
    })
}

fn document(value: &impl serde::Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::local(format!("it cannot be written as JSON: {error}")))
}

async fn take(take: Take, global: &Global, output: Output) -> Result<(), Failure> {
    let Some(file) = take.file else { return Err(Failure::usage("say which FILE is to be written")) };
    let seal = match &take.backup_passphrase_file {
        Some(path) => BackupSeal::passphrase_file(path)?,
        None => BackupSeal::recipients(&take.recipients)?,
    };
    let failed = |error| Failure::local(format!("the signals cannot be listened to: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let client = target::client(global).await?;
    let taking = async {
        let wish = client.backup(&seal).deadline(global.timeout());
        let backup = if take.serializable { wish.serializable().await? } else { wish.await? };
        let progress = Progress::bytes(backup.info().about_bytes);
        let info = backup.save_telling(&file, take.force, |bytes| progress.at(bytes)).await?;
        progress.done();
        Ok::<BackupInfo, Failure>(info)
    };
    let info = tokio::select! {
        info = taking => info?,
        // What was begun of the file goes with it.
        _ = interrupt.recv() => return Err(Failure::local("interrupted. There is no backup, and the cluster was only read")),
        _ = terminate.recv() => return Err(Failure::local("interrupted. There is no backup, and the cluster was only read")),
    };
    let bytes = std::fs::metadata(&file).map_or(0, |found| found.len());
    if output.json {
        return output.document(&json!({ "file": file, "bytes": bytes, "info": info }));
    }
    output.line(&format!(
        "{} has everything of cluster {} as of revision {} ({}, sealed), told by {}",
        file.display(),
        info.cluster_id,
        info.revision,
        counted(bytes, "byte"),
        info.manager
    ))?;
    match info.age_ms {
        Some(0) => {}
        Some(age) => output
            .note(&format!("it was taken without a quorum: what was acknowledged in the last {age} ms may be missing")),
        None => output.note("it was taken without a quorum, and the manager does not know how old what it has is"),
    }
    output.note(&format!("ca {}: note it elsewhere, and give it as --ca to `backup verify` and `restore`; a file that somebody else made does not have it", info.ca));
    output.note("nobody opens it without the key: prove that yours does, with `quorate backup verify`");
    Ok(())
}

fn render(contents: &BackupContents, file: &Path, output: Output) -> String {
    let BackupContents { info, .. } = contents;
    let mut page = format!(
        "{}: {} opens, is whole and sound ({})\n\n",
        output.tint(Tone::Good, "GOOD"),
        file.display(),
        counted(contents.file_bytes, "byte")
    );
    let _infallible =
        writeln!(page, "cluster {}  generation {}  version {}", info.cluster_id, info.generation, info.cluster_version);
    let _infallible = writeln!(page, "ca      {}  (is it the one that you know?)", info.ca);
    let _infallible = writeln!(
        page,
        "taken   {} from {} ({}), revision {}, log index {}",
        date(info.taken_unix),
        info.manager,
        info.software,
        info.revision,
        info.applied
    );
    let _infallible = writeln!(
        page,
        "holds   {} with {} of values, {}, {}, {} of work, {}, {}",
        counted(contents.keys, "key"),
        counted(contents.value_bytes, "byte"),
        counted(contents.configs, "config"),
        counted(contents.secrets, "secret"),
        counted(contents.assignments, "item"),
        counted(contents.workers, "worker"),
        counted(contents.managers.len(), "manager")
    );
    let _infallible = writeln!(
        page,
        "opens   {}, and with that all that is sealed: {} (secrets, the CA's key, tokens)",
        counted(contents.barrier_keys, "barrier key"),
        counted(contents.opened, "record")
    );
    let rows = contents
        .managers
        .iter()
        .map(|node| vec![node.name.clone(), node.addresses.join(" "), node.id.clone()])
        .collect();
    let _infallible = writeln!(page, "\n{}", table(&["MANAGER OF THEN", "ADDRESS", "NODE ID"], &[], rows));
    let _infallible = writeln!(
        page,
        "\nnext    quorate restore {} --backup-key FILE --data-dir DIR     # when the cluster is gone",
        file.display()
    );
    page.trim_end().to_owned()
}

impl Opens {
    fn key(&self) -> Result<BackupKey, Failure> {
        match (&self.backup_key, &self.backup_passphrase_file) {
            (Some(path), _) => Ok(BackupKey::file(path)?),
            (None, Some(path)) => Ok(BackupKey::passphrase_file(path)?),
            (None, None) => {
                Err(Failure::usage("say what opens it: --backup-key FILE or --backup-passphrase-file FILE"))
            }
        }
    }
}

pub(crate) async fn restore(wish: Restore, global: &Global, output: Output) -> Result<(), Failure> {
    let directory = directory(global)?;
    let key = pinned(wish.opens.key()?, wish.ca.as_deref())?;
    let mut restore = restored(&wish.file, key, directory).keys(wish.keys.keys()?).despite_peers(wish.despite_peers);
    if let Some(listen) = wish.listen {
        restore = restore.listen(listen);
    }
    if let Some(advertise) = wish.advertise {
        restore = restore.advertise(advertise);
    }
    if let Some(name) = wish.name {
        restore = restore.name(name);
    }
    let report = restore.await?;
    if output.json {
        return output.document(&document(&report)?);
    }
    output.line(&told(&report, &directory.display().to_string(), output))?;
    crate::node::check_reach(&report.address, output);
    crate::node::check_key(directory, output)
}

fn told(report: &RestoreReport, directory: &str, output: Output) -> String {
    let mut page = format!(
        "{}: cluster {} begins generation {} with {} alone, as of revision {} of the backup.\n\n",
        output.tint(Tone::Good, "RESTORED"),
        report.backup.cluster_id,
        report.new_generation,
        report.name,
        report.kept_revision
    );
    let _infallible = writeln!(
        page,
        "kept     everything that the backup holds: keys, nodes, tokens, the CA; revisions go on at {}",
        report.first_revision
    );
    let _infallible = writeln!(page, "gone     whatever was written after the backup was taken");
    if !report.managers.is_empty() {
        let names: Vec<&str> = report.managers.iter().map(|manager| manager.name.as_str()).collect();
        let _infallible = writeln!(
            page,
            "lost     the managers of then, {}: fenced where they meet this one; they come back with `join --replace --token`",
            names.join(", ")
        );
    }
    let _infallible = writeln!(page, "next     quorate run --data-dir {directory}");
    let _infallible =
        writeln!(page, "         quorate token show manager --data-dir {directory}     # then join two managers");
    if report.workers > 0 {
        let _infallible = writeln!(
            page,
            "         on each worker ({}): quorate run --manager {} --data-dir DIR     # where this address is new",
            report.workers, report.address
        );
    }
    let _infallible = writeln!(
        page,
        "         operators of then come in with the identities they had; a fresh one: quorate operator issue --data-dir {directory}"
    );
    page.trim_end().to_owned()
}
