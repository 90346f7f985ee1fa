//! `key`, `autolock`, `unlock`, `unlock-key`: the keys of the manager on this machine.
//!
//! Owns their words, and how a key is read and shown: from stdin or a prompt, never from an argument; to stdout, alone on
//! its line. A running manager is asked over its local socket, a stopped directory is opened. Called by `main`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use quorate::keys::{self, Key, KeyKind, KeyOrder, Keys};
use quorate::status::KeyReport;
use quorate::{Client, Error, KeysChanged};
use serde_json::json;

use crate::args::Global;
use crate::args_keys::{AutolockVerb, KeyOptions, KeyVerb, UnlockKeyVerb};
use crate::failure::Failure;
use crate::node::{directory, look_into};
use crate::output::Output;

impl KeyOptions {
    /// Where the key comes from.
    pub(crate) fn keys(&self) -> Result<Keys, Failure> {
        if let Some(path) = &self.key_file {
            return Ok(Keys::file(path));
        }
        if let Some(command) = &self.key_command {
            return Ok(Keys::command(command));
        }
        if let Some(path) = &self.passphrase_file {
            return Ok(Keys::passphrase_file(path));
        }
        let Some(path) = &self.unlock_key_file else { return Ok(Keys::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read the unlock key from {}: {error}", path.display())))?;
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with('#'));
        Ok(Keys::key(Key::from_text(last.unwrap_or_default()).map_err(|error| Failure::usage(error.to_string()))?))
    }
}

/// What became of an order, from wherever.
struct Done {
    report: KeyReport,
    secret: String,
    notes: Vec<String>,
}

impl From<KeysChanged> for Done {
    fn from(changed: KeysChanged) -> Self {
        Self { report: changed.report, secret: changed.secret, notes: changed.notes }
    }
}

/// Asks the running manager, or does it in the stopped directory.
async fn order(directory: &Path, options: &KeyOptions, order: KeyOrder) -> Result<Done, Failure> {
    if let Ok(client) = Client::local(directory).await {
        return running(&client, order).await;
    }
    look_into(directory)?;
    let (directory, keys) = (directory.to_owned(), options.keys()?);
    let done = tokio::task::spawn_blocking(move || keys::change(&directory, &keys, &order)).await;
    let answer = done.map_err(|error| Failure::local(error.to_string()))??;
    let secret = answer.secret.map(|secret| secret.to_string()).unwrap_or_default();
    Ok(Done { report: answer.report, secret, notes: answer.notes })
}

async fn running(client: &Client, order: KeyOrder) -> Result<Done, Failure> {
    let keys = client.node_keys();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let changed = match &order {
        KeyOrder::Rotate => keys.rotate().await,
        KeyOrder::Move(path) => keys.move_to(&text(path)).await,
        KeyOrder::AutolockOn => keys.autolock_on().await,
        KeyOrder::AutolockOff(path) => keys.autolock_off(path.as_deref().map(text).as_deref()).await,
        KeyOrder::UnlockKeyShow => keys.unlock_key().await,
        KeyOrder::UnlockKeyRotate => keys.rotate_unlock_key().await,
        KeyOrder::Confirm => keys.confirm().await,
        KeyOrder::Passphrase(phrase) => keys.passphrase(phrase).await,
        KeyOrder::Show | _ => Err(Error::Invalid("this order is not known here".into())),
    };
    Ok(changed?.into())
}

/// Relative paths are meant from where the command is given, not from where the manager runs.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

pub(crate) async fn key(verb: KeyVerb, global: &Global, output: Output) -> Result<(), Failure> {
    match verb {
        KeyVerb::New => {
            let key = Key::generate().map_err(|error| Failure::local(error.to_string()))?;
            let shown = if output.json {
                output.document(&json!({ "key": *key.to_text(), "id": key.id().to_string() }))
            } else {
                output.line(&key.to_text())
            };
            shown.map_err(|failure| failure.after("Nothing counts on it: give the command again"))
        }
        KeyVerb::Show => show(directory(global)?, output).await,
        KeyVerb::Rotate(options) => {
            let done = order(directory(global)?, &options, KeyOrder::Rotate).await?;
            let anew = if done.report.sealing_anew { "; what older ones sealed is being sealed anew" } else { "" };
            told(&done, &format!("data key {} seals from now on{anew}", done.report.data_key), output)
        }
        KeyVerb::Move { path, keys } => {
            let done = order(directory(global)?, &keys, KeyOrder::Move(absolute(path))).await?;
            told(&done, &format!("the key file is {} from now on", done.report.place), output)?;
            warned(&done.report, output);
            Ok(())
        }
        KeyVerb::Passphrase(options) => {
            let phrase = secret("new passphrase: ").await?;
            if phrase.is_empty() {
                return Err(Failure::usage("the passphrase is empty. Nothing was changed"));
            }
            if std::io::stdin().is_terminal() && secret("once more: ").await? != phrase {
                return Err(Failure::usage("the two passphrases differ. Nothing was changed"));
            }
            let order = order(directory(global)?, &options, KeyOrder::Passphrase(phrase.into())).await?;
            told(&order, "the passphrase opens the store from now on; the next start waits for it", output)
        }
    }
}

pub(crate) async fn autolock(verb: AutolockVerb, global: &Global, output: Output) -> Result<(), Failure> {
    match verb {
        AutolockVerb::On(options) => {
            let words = "autolock is on: after each start this manager waits for `quorate unlock`";
            confirmed(directory(global)?, &options, KeyOrder::AutolockOn, words, output).await
        }
        AutolockVerb::Off { to, keys } => {
            let done = order(directory(global)?, &keys, KeyOrder::AutolockOff(to.map(absolute))).await?;
            told(&done, &format!("autolock is off: the key file is {}", done.report.place), output)?;
            warned(&done.report, output);
            Ok(())
        }
    }
}

pub(crate) async fn unlock_key(verb: UnlockKeyVerb, global: &Global, output: Output) -> Result<(), Failure> {
    match verb {
        UnlockKeyVerb::Show(options) => {
            let done = order(directory(global)?, &options, KeyOrder::UnlockKeyShow).await?;
            print_key(&done.report, &done.secret, "the unlock key of this manager:", output)
                .map_err(|failure| failure.after("Nothing was changed"))
        }
        UnlockKeyVerb::Rotate(options) => {
            let words = "there is another unlock key: the one before opens the store no more";
            confirmed(directory(global)?, &options, KeyOrder::UnlockKeyRotate, words, output).await
        }
    }
}

/// A key that people must keep is printed before it counts.
async fn confirmed(
    directory: &Path,
    options: &KeyOptions,
    wish: KeyOrder,
    words: &str,
    output: Output,
) -> Result<(), Failure> {
    let made = order(directory, options, wish).await?;
    let key = Key::from_text(&made.secret).map_err(|error| Failure::local(error.to_string()))?;
    let mut report = made.report;
    // Printed before it is so: who reads it counts on it only when the command ends well.
    (report.kind, report.id) = (KeyKind::Unlock.word().to_owned(), key.id().to_string());
    (report.place, report.advice) = (String::new(), String::new());
    (report.beside_data, report.pending) = (false, false);
    let heading = "the new unlock key. Keep it: without it nothing in the store can be read again:";
    if let Err(failure) = print_key(&report, &made.secret, heading, output) {
        forget(directory, options).await;
        return Err(failure.after(
            "It does not count, and the key before still opens the store: give the command again, where its answer can be read",
        ));
    }
    let failed = |failure: Failure| {
        failure.after(
            "The key that was printed does not count: the one before still opens the store. Give the command again",
        )
    };
    let done = match Client::local(directory).await {
        Ok(client) => running(&client, KeyOrder::Confirm).await.map_err(failed)?,
        Err(_stopped) => {
            let (directory, keys) = (directory.to_owned(), Keys::key(key));
            let done = tokio::task::spawn_blocking(move || keys::change(&directory, &keys, &KeyOrder::Confirm)).await;
            let answer = done.map_err(|error| Failure::local(error.to_string()))?;
            let answer = answer.map_err(|error| failed(error.into()))?;
            Done { report: answer.report, secret: String::new(), notes: answer.notes }
        }
    };
    if !output.json {
        output.note(words);
    }
    for note in &done.notes {
        output.note(note);
    }
    Ok(())
}

/// Ends, in a stopped directory, what was begun for a key that nobody saw. Where this fails the next start does it, and a
/// running manager's does.
async fn forget(directory: &Path, options: &KeyOptions) {
    if let (Err(_stopped), Ok(keys)) = (Client::local(directory).await, options.keys()) {
        let directory = directory.to_owned();
        let _next_start = tokio::task::spawn_blocking(move || keys::change(&directory, &keys, &KeyOrder::Show)).await;
    }
}

/// The key, alone on stdout: who cuts the answer off has the key or nothing.
fn print_key(report: &KeyReport, secret: &str, heading: &str, output: Output) -> Result<(), Failure> {
    if output.json {
        return output.document(&json!({ "key": report, "unlock_key": secret }));
    }
    output.note(heading);
    output.line(secret)
}

fn told(done: &Done, words: &str, output: Output) -> Result<(), Failure> {
    for note in &done.notes {
        output.note(note);
    }
    if output.json {
        return output.document(&json!({ "key": done.report, "notes": done.notes }));
    }
    output.line(words)
}

/// What speaks against where the key file lies now; the document has it.
fn warned(report: &KeyReport, output: Output) {
    if !output.json && !report.advice.is_empty() {
        output.note(&format!("warning: {}", report.advice));
    }
}

/// What is said of an argument that is none where a secret is read: it may be the secret, and is not repeated.
pub(crate) const NO_ARGUMENT: &str = "there is an argument that this command does not know; it is not repeated here, since it may be the secret. A key or passphrase is never an argument: other users of this machine and the shell's history see those. It is read from stdin, or asked for. If it was the real one, make another. Nothing was done; see --help for the options";

/// Whether these are the words of a command that reads a secret.
pub(crate) fn reads_a_secret(arguments: &[String]) -> bool {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    words.contains(&"unlock") || words.windows(2).any(|pair| pair == ["key", "passphrase"])
}

/// The secret that was piped in, or typed without being seen.
async fn secret(prompt: &str) -> Result<String, Failure> {
    let read = if std::io::stdin().is_terminal() {
        crate::prompt::secret(prompt).await
    } else {
        std::io::read_to_string(std::io::stdin())
            .map(|text| text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned())
    };
    read.map_err(|error| {
        if error.kind() == std::io::ErrorKind::Interrupted {
            return Failure::local("interrupted. Nothing was changed");
        }
        Failure::usage(format!("cannot read the key: {error}"))
    })
}

/// `unlock`.
pub(crate) async fn unlock(global: &Global, output: Output) -> Result<(), Failure> {
    let directory = directory(global)?;
    let client = Client::local(directory).await?.with_deadline(global.timeout());
    let report = client.node_report().await?;
    if report.trouble != "locked" {
        if output.json {
            return output.document(&json!({ "unlocked": true, "already": true }));
        }
        return output.line("this manager is not locked: nothing to do");
    }
    let typed =
        secret(&format!("{} {}: ", report.key.as_ref().map_or("key", |key| key.kind.as_str()), report.id)).await?;
    client.node_keys().unlock(&typed).await?;
    if output.json {
        return output.document(&json!({ "unlocked": true, "already": false }));
    }
    output.line("unlocked: the manager starts")
}

async fn show(directory: &Path, output: Output) -> Result<(), Failure> {
    let report = match Client::local(directory).await {
        Ok(client) => client.node_report().await?.key,
        Err(_stopped) => {
            look_into(directory)?;
            keys::status(directory)?
        }
    };
    let Some(report) = report else {
        return Err(Failure::refused(
            "refused",
            format!("{} holds no manager, and only a manager's store is sealed", directory.display()),
        ));
    };
    if output.json {
        return output.document(&json!({ "key": report }));
    }
    output.line(&words(&report))?;
    if report.data_key > 0 {
        let anew = if report.sealing_anew { "; what an older one sealed is being sealed anew" } else { "" };
        output.line(&format!("data key {} seals{anew}", report.data_key))?;
    }
    Ok(())
}

/// What opens the store, in a line or two.
pub(crate) fn words(report: &KeyReport) -> String {
    let place = if report.place.is_empty() { String::new() } else { format!(" {}", report.place) };
    let mut line = format!("the store is opened by the {}{place} (key {})", report.kind, report.id);
    if !report.given.is_empty() {
        line.push_str(&format!("; this start had it from {}", report.given));
    }
    let advice = [&report.trouble, &report.advice].into_iter().filter(|text| !text.is_empty());
    let advice = advice.map(String::as_str).collect::<Vec<_>>().join("; next: ");
    if !advice.is_empty() {
        line.push_str("\n  ");
        line.push_str(&advice);
    }
    line
}
