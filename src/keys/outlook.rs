//! Whether the key file that opens a store will be found at the next start.
//!
//! Owns that look and its words. Never changes anything. Called where the keys of a node are reported, running or stopped.

use std::path::Path;

use quorate_storage::{KeyKind, KeyProvider as _, KeySlot};

use super::{CREDENTIAL, Given, Provider, credential, file, is_same_file, located};
use crate::status::KeyReport;

impl Provider {
    /// The report, with what is in the way of the next start where it is a key file that is not as it must be. A store that is
    /// open has its key in memory, and can be given another.
    pub(crate) fn outlook(&self, slots: &[KeySlot], open: bool, mut report: KeyReport) -> KeyReport {
        let Some(slot) = slots.first().filter(|slot| slot.kind == KeyKind::File) else { return report };
        if open {
            report.given = self.given(slot);
        }
        if !matches!(self.keys.0, Given::Places | Given::File(_)) {
            return report;
        }
        let path = located(&self.directory, &slot.place);
        let why = match self.keys(slots) {
            Ok(keys) if keys.iter().any(|key| key.id() == slot.id) => return report,
            Ok(_others) => format!("the key file {} holds another key", path.display()),
            // It comes with the service and goes with it.
            Err(_missing) if is_credential(&path) && !path.exists() => return report,
            Err(error) => error.to_string(),
        };
        report.trouble = format!("the next start will fail: {why}");
        let shown = self.directory.display();
        let further = if open {
            format!(
                "while this store is open another key can still be made: quorate key move PATH --data-dir {shown}, or quorate autolock on --data-dir {shown}"
            )
        } else {
            lost(&self.directory)
        };
        report.advice = format!("put key {} back there, or start with --key-file FILE; {further}", slot.id);
        report
    }
}

impl Provider {
    /// Where this start had the key from, where that is not the key file that the store names.
    fn given(&self, slot: &KeySlot) -> String {
        let named = located(&self.directory, &slot.place);
        let elsewhere = |path: &Path| !is_same_file(path, &named) && file::holds(path, slot.id);
        match &self.keys.0 {
            Given::Command(_) => "the key command".to_owned(),
            Given::Custom(_) => "the program that embeds this node".to_owned(),
            Given::Key(_) => "somebody who gave it by hand".to_owned(),
            Given::File(path) if elsewhere(path) => format!("the key file {}", path.display()),
            Given::Places => match credential().filter(|path| elsewhere(path)) {
                Some(path) => format!("the service manager, as {}", path.display()),
                None => String::new(),
            },
            Given::File(_) | Given::Passphrase(_) | Given::PassphraseFile(_) => String::new(),
        }
    }
}

/// What is left to do where nobody has the key any more.
pub(crate) fn lost(directory: &Path) -> String {
    let shown = directory.display();
    format!(
        "if the key is lost for good, nothing in this store can be read again, and the node's own key with it: quorate join --replace --key-lost --token TOKEN --manager HOST:PORT --data-dir {shown}, with a manager's token, moves it aside (never deletes it) and brings this manager back from the others"
    )
}

/// Whether the service manager brings this file.
fn is_credential(path: &Path) -> bool {
    path.ends_with(CREDENTIAL) && path.components().any(|part| part.as_os_str() == "credentials")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_where_a_start_had_its_key_from_when_that_is_not_where_the_store_says() {
        let place = tempfile::tempdir().unwrap();
        let (key, slot) = crate::keys::Keys::default().provider(place.path()).make().unwrap();
        let slots = [slot];
        let given = |keys: crate::keys::Keys, open| {
            keys.provider(place.path()).outlook(&slots, open, KeyReport::default()).given
        };
        let other = place.path().join("other");
        std::fs::copy(place.path().join("key"), &other).unwrap();
        assert_eq!(given(crate::keys::Keys::default(), true), "");
        assert_eq!(given(crate::keys::Keys::file(place.path().join("key")), true), "");
        assert_eq!(given(crate::keys::Keys::command("cat other"), true), "the key command");
        assert_eq!(given(crate::keys::Keys::command("cat other"), false), "");
        assert_eq!(given(crate::keys::Keys::key(key), true), "somebody who gave it by hand");
        assert!(given(crate::keys::Keys::file(&other), true).ends_with("other"));
    }

    #[test]
    fn a_credential_is_told_from_a_file_of_that_name() {
        for (path, brought) in [
            ("/run/credentials/quorate.service/quorate.key", true),
            ("/run/user/1000/credentials/quorate.service/quorate.key", true),
            ("/mnt/key/quorate.key", false),
            ("/run/credentials/quorate.service/other", false),
        ] {
            assert_eq!(is_credential(Path::new(path)), brought, "{path}");
        }
    }
}
