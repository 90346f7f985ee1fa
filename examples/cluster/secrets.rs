//! A config and a secret: made, given to one worker and not to the other, looked for on every disk; a manager locked and unlocked.
//!
//! Owns the three scans, each of which must find what it is to find: the disks of the managers as they are, one of them opened with
//! its key, and a file in which both lie readable. Called by the chapters.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use quorate::keys::Key;
use serde_json::Value;

use crate::Demo;
use crate::processes::Told;
use crate::story::Story;
use crate::watching::{LOOK, PATIENCE};

/// The item that is given both, and says what it was given without showing it.
const WITH: &str = "echo \"$QUORATE_SECRETS\" > with.1.place; cksum < \"$QUORATE_SECRETS/db-password\"; cat \"$QUORATE_SECRETS/motd\"; sleep 600";
/// The item of the other worker.
const WITHOUT: &str = "ls \"$QUORATE_SECRETS/db-password\" 2>/dev/null || echo nothing; sleep 600";
/// The file in which both lie readable: where the first two scans find nothing, this one must.
const CONTROL: &str = "control";

impl Demo {
    /// A config and a secret are made and delivered.
    pub(crate) fn deliver(&self, story: &mut Story) -> Told<(String, String)> {
        story.chapter("A config and a secret: one worker gets them, the other does not, and no disk shows them");
        let word = || Key::generate().map(|key| key.to_text().chars().skip(6).take(48).collect::<String>());
        let words = word().and_then(|secret| Ok((secret, word()?)));
        let (secret, config) = words.map_err(|error| error.to_string())?;
        let directory = self.processes.directory();
        let put = |name: &str, text: &str| {
            std::fs::write(directory.join(name), text).map_err(|error| format!("cannot write {name}: {error}"))
        };
        put("password", &secret)?;
        put("welcome", &config)?;
        let expected = Command::new("sh").args(["-c", "cksum < password"]).current_dir(directory).output();
        let expected = expected.map_err(|error| format!("cksum: {error}"))?;
        let processes = &self.processes;
        for make in [["secret", "create", "db-password", "password"], ["config", "create", "motd", "welcome"]] {
            story.say(&processes.quorate(story, &[&make[..], &["--data-dir", "n1"]].concat())?);
        }
        let given = ["--secret", "db-password", "--config", "motd", "--data-dir", "n1"];
        processes.quorate(story, &[&["assign", "set", "w1", "with.1", WITH][..], &given].concat())?;
        processes.quorate(story, &["assign", "set", "w2", "without.1", WITHOUT, "--data-dir", "n1"])?;
        let wanted = [
            ("with.1.out", format!("{}{config}", String::from_utf8_lossy(&expected.stdout))),
            ("without.1.out", "nothing\n".to_owned()),
        ];
        let live = story.waiting("both items say what they were given");
        for (file, wanted) in &wanted {
            said(&directory.join(file), wanted)?;
        }
        drop(live);
        story.say("with.1 on w1 has read both, out of files in memory; without.1 on w2 has nothing");
        let refused = processes.refused(story, &["secret", "rm", "db-password", "--data-dir", "n1"], 1)?;
        if !refused.contains("w1") {
            return Err(format!("the refusal does not say who uses the secret: {refused}"));
        }
        let place = directory.join("with.1.place");
        let given = std::fs::read_to_string(&place).map_err(|error| format!("{}: {error}", place.display()))?;
        let given = PathBuf::from(given.trim());
        if !given.join("db-password").exists() {
            return Err(format!("{} does not hold what the item has read", given.display()));
        }
        // They go with their items: the story goes on with the items that it had.
        for (worker, item) in [("w1", "with.1"), ("w2", "without.1")] {
            processes.quorate(story, &["assign", "rm", worker, item, "--data-dir", "n1"])?;
        }
        for name in ["password", "welcome"] {
            std::fs::remove_file(directory.join(name)).map_err(|error| format!("cannot remove {name}: {error}"))?;
        }
        gone(&given)?;
        story.say(&format!("with the item {} is gone", given.display()));
        // What the item has printed is the config.
        for name in ["with.1.out", "with.1.place"] {
            std::fs::remove_file(directory.join(name)).map_err(|error| format!("cannot remove {name}: {error}"))?;
        }
        Ok((secret, config))
    }

    /// Three scans, the second of a manager that is locked, and unlocked again.
    pub(crate) fn lock_and_look(&self, story: &mut Story, (secret, config): (String, String)) -> Told<()> {
        let processes = &self.processes;
        story.chapter("A manager is locked, and unlocked; three scans for the two words");
        let names: Vec<&str> = processes.managers.iter().map(|manager| manager.name.as_str()).collect();
        let place = processes.directory();
        let leader = self.until("n1", |status| status.leader.clone())?;
        let locked = names.iter().find(|name| **name != leader).copied().ok_or("nobody follows")?;
        // What a manager is to run itself is in its memory only.
        let given = ["--secret", "db-password", "--config", "motd", "--data-dir", "n1"];
        processes.quorate(story, &[&["assign", "set", locked, "held.1", "held"][..], &given].concat())?;
        self.has_item(locked, "held.1")?;
        processes.quorate(story, &["node", "update", locked, "--pause-replacement", "5m", "--data-dir", "n1"])?;
        let key = processes.quorate(story, &["autolock", "on", "--data-dir", locked])?;
        let key = key.trim();
        Key::from_text(key).map_err(|error| format!("`autolock on` printed no key: {error}"))?;
        story.say("(the unlock key alone goes to stdout; nothing on this machine holds it from now on)");
        let file = place.join("unlock.key");
        std::fs::write(&file, key).map_err(|error| format!("cannot keep the unlock key: {error}"))?;
        processes.stop(story, locked)?;

        let raw = holding(&names.iter().map(|name| place.join(name)).collect::<Vec<_>>(), &[&secret, &config])?;
        if !raw.is_empty() {
            return Err(format!("a word lies readable on a disk: {raw:?}"));
        }
        story.say(&format!("1. the disks of {}: neither the secret nor the config is in any file", names.join(", ")));
        let dump = ["inspect", "--dump", "--json", "--unlock-key-file", "unlock.key", "--data-dir", locked];
        check_dump(&processes.quorate_quietly(&dump)?, &secret, &config)?;
        story.say(&format!(
            "2. {locked} opened with its key: the config is in its place, the secret is there as ciphertext of the barrier only"
        ));
        std::fs::write(place.join(CONTROL), format!("{secret} {config}")).map_err(|error| error.to_string())?;
        if holding(&[place.to_owned()], &[&secret, &config])? != [place.join(CONTROL), place.join(CONTROL)] {
            return Err("the control was not found: the scan proves nothing".into());
        }
        story.say("3. the same scan over a control file: both words are found");

        let pid = processes.begin(story, locked)?;
        let live = story.waiting(&format!("{locked} says that it is locked"));
        let until = Instant::now() + PATIENCE;
        while !processes.quorate_quietly(&["status", "--json", "--data-dir", locked]).is_ok_and(|said| is_locked(&said))
        {
            if Instant::now() > until {
                return Err(format!("{locked} does not say that it is locked"));
            }
            std::thread::sleep(LOOK);
        }
        drop(live);
        story.say(&processes.quorate(story, &["status", "--data-dir", locked])?);
        story.say(&processes.quorate_from(story, &["unlock", "--data-dir", locked], &file)?);
        processes.wait_ready(story, locked, pid)?;
        // It has its item again, out of its own state.
        self.has_item(locked, "held.1")?;
        processes.quorate(story, &["assign", "rm", locked, "held.1", "--data-dir", "n1"])?;
        // So that the story can go on without anybody to type.
        processes.quorate(story, &["autolock", "off", "--data-dir", locked])?;
        processes.quorate(story, &["node", "update", locked, "--pause-replacement", "off", "--data-dir", "n1"])?;
        std::fs::remove_file(&file).map_err(|error| error.to_string())?;
        self.until_all_are_there("n1", names.len(), crate::watching::seats(names.len()))
    }
}

impl Demo {
    /// Waits until the node of this name has this item.
    fn has_item(&self, name: &str, item: &str) -> Told<()> {
        let until = Instant::now() + PATIENCE;
        self.runtime.block_on(async {
            let client = self.client(name).await?;
            while !client.node_report().await.is_ok_and(|report| report.items.iter().any(|has| has == item)) {
                if Instant::now() > until {
                    return Err(format!("{name} does not say that it has the item {item}"));
                }
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        })
    }
}

/// Waits until there is nothing of this name.
fn gone(path: &Path) -> Told<()> {
    let until = Instant::now() + PATIENCE;
    while path.exists() {
        if Instant::now() > until {
            return Err(format!("{} is still there", path.display()));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn is_locked(status: &str) -> bool {
    serde_json::from_str::<Value>(status).is_ok_and(|status| status["health"] == "locked")
}

/// Waits until a file says this, and nothing else.
fn said(file: &Path, wanted: &str) -> Told<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = std::fs::read_to_string(file).unwrap_or_default();
        if found == wanted {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("{} does not say what it should", file.display()));
        }
        std::thread::sleep(LOOK);
    }
}

/// The files below these places in which one of the words lies, once for each word; sockets have no content.
fn holding(places: &[PathBuf], words: &[&str]) -> Told<Vec<PathBuf>> {
    let mut found = Vec::new();
    for place in places {
        let entries = std::fs::read_dir(place).map_err(|error| format!("{}: {error}", place.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.is_dir() {
                found.extend(holding(&[path], words)?);
            } else if let Ok(bytes) = std::fs::read(&path) {
                let held = words.iter().filter(|word| bytes.windows(word.len()).any(|part| part == word.as_bytes()));
                found.extend(held.map(|_word| path.clone()));
            }
        }
    }
    Ok(found)
}

/// What the store of a manager holds, opened with its key.
fn check_dump(dump: &str, secret: &str, config: &str) -> Told<()> {
    let mut seen = (false, false);
    for line in dump.lines() {
        let record: Value = serde_json::from_str(line).map_err(|error| format!("the dump cannot be read: {error}"))?;
        let value = record["value_base64"].as_str().unwrap_or_default();
        let value = data_encoding::BASE64.decode(value.as_bytes()).map_err(|error| error.to_string())?;
        let holds = |word: &str| value.windows(word.len()).any(|part| part == word.as_bytes());
        if holds(secret) || line.contains(secret) {
            return Err(format!("the secret lies open in record {} {}", record["section"], record["key"]));
        }
        seen.0 |= record["section"] == "config" && record["key"] == "motd" && holds(config);
        seen.1 |= record["section"] == "secret" && record["key"] == "db-password" && value.len() > secret.len();
    }
    match seen {
        (true, true) => Ok(()),
        (false, _) => Err("the config is not in its place".into()),
        (_, false) => Err("the secret's record is not there".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(section: &str, key: &str, value: &str) -> String {
        let value = data_encoding::BASE64.encode(value.as_bytes());
        format!(r#"{{"section":"{section}","key":"{key}","revision":1,"value_base64":"{value}"}}"#)
    }

    #[test]
    fn a_secret_that_lies_open_and_a_config_that_is_not_there_fail_the_demo() {
        let (config, sealed) = (line("config", "motd", "welcome!"), line("secret", "db-password", "ciphertext"));
        let check = |lines: &[&String]| {
            check_dump(&lines.iter().map(|l| l.as_str()).collect::<Vec<_>>().join("\n"), "hunter2", "welcome")
        };
        assert_eq!(check(&[&config, &sealed]), Ok(()));
        assert!(check(&[&sealed]).unwrap_err().contains("config"));
        assert!(check(&[&config]).unwrap_err().contains("secret"));
        assert!(check(&[&config, &sealed, &line("user", "k", "a hunter2 b")]).unwrap_err().contains("open"));
        assert!(check(&[&config, &line("secret", "db-password", "hunter2")]).unwrap_err().contains("open"));
    }

    #[test]
    fn a_word_on_a_disk_is_found_for_each_file_and_word() {
        let place = tempfile::tempdir().unwrap();
        let below = place.path().join("store");
        std::fs::create_dir(&below).unwrap();
        std::fs::write(below.join("a"), "xx hunter2 welcome").unwrap();
        std::fs::write(place.path().join("b"), "hunter").unwrap();
        let found = holding(&[place.path().to_owned()], &["hunter2", "welcome"]).unwrap();
        assert_eq!(found, [below.join("a"), below.join("a")]);
        assert!(holding(&[below], &["nothing"]).unwrap().is_empty());
    }
}
