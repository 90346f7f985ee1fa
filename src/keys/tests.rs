use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn made(provider: &Provider) -> (Key, KeySlot) {
    let (key, slot) = provider.make().unwrap();
    assert_eq!(slot.id, key.id());
    (key, slot)
}

fn ids(found: Result<Vec<Key>, KeyError>) -> Vec<KeyId> {
    found.map_err(|error| error.to_string()).unwrap().iter().map(Key::id).collect()
}

#[test]
fn the_key_lies_beside_the_data_unless_something_else_is_said() {
    let place = tempfile::tempdir().unwrap();
    let provider = Keys::default().provider(place.path());
    let (key, slot) = made(&provider);
    assert_eq!((slot.kind, slot.place.as_str()), (KeyKind::File, BESIDE));
    let file = place.path().join(BESIDE);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // Asked again, as after a crash, it is the same key
    assert_eq!(made(&provider).0.id(), key.id());
    assert!(ids(provider.keys(std::slice::from_ref(&slot))).contains(&key.id()));
    // And moved with its directory, it is found there
    let moved = place.path().join("moved");
    std::fs::create_dir(&moved).unwrap();
    std::fs::rename(&file, moved.join(BESIDE)).unwrap();
    assert!(ids(Keys::default().provider(&moved).keys(&[slot])).contains(&key.id()));
}

#[test]
fn a_named_key_file_is_made_where_it_was_named_and_found_there_without_being_named_again() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("elsewhere/node.key");
    let (key, slot) = made(&Keys::file(&file).provider(place.path()));
    assert_eq!(slot.place, file.display().to_string());
    assert!(!place.path().join(BESIDE).exists());
    assert!(ids(Keys::default().provider(place.path()).keys(&[slot])).contains(&key.id()));
    std::fs::write(&file, "nonsense").unwrap();
    let error = Keys::file(&file).provider(place.path()).make().err().unwrap().to_string();
    assert!(error.contains("node.key") && error.contains("no key"), "{error}");
}

#[test]
fn a_store_is_made_with_no_short_passphrase_and_opened_with_any_that_it_was_made_with() {
    let place = tempfile::tempdir().unwrap();
    for short in ["", "abc", "eleven char"] {
        let refused = Keys::passphrase(short).provider(place.path()).make().map(|(key, _)| key.id()).unwrap_err();
        assert!(refused.to_string().contains("12 characters") && refused.to_string().contains("PASSPHRASE_CHARS_MIN"));
    }
    // Characters are counted, not bytes.
    assert!(too_short("größeöäüßég").is_some() && too_short("größeöäüßégt").is_none());
    // Given a store of before, when it is opened
    let salt = [7; 16];
    let key = stretch("abc", &salt).unwrap();
    let slot = KeySlot::new(&key, KeyKind::Passphrase, "").salted(salt);
    assert_eq!(ids(Keys::passphrase("abc").provider(place.path()).keys(&[slot])), [key.id()]);
}

#[test]
fn a_passphrase_makes_the_same_key_with_the_same_salt_only() {
    let place = tempfile::tempdir().unwrap();
    let provider = Keys::passphrase("correct horse").provider(place.path());
    let (key, slot) = made(&provider);
    assert_eq!(ids(provider.keys(std::slice::from_ref(&slot))), [key.id()]);
    assert_ne!(made(&provider).0.id(), key.id());
    let other = Keys::passphrase("wrong horse").provider(place.path());
    assert_ne!(ids(other.keys(std::slice::from_ref(&slot))), [key.id()]);
    let file = place.path().join("phrase");
    std::fs::write(&file, "correct horse\n").unwrap();
    assert_eq!(ids(Keys::passphrase_file(&file).provider(place.path()).keys(&[slot])), [key.id()]);
}

#[test]
fn a_command_prints_the_key_or_its_failure_is_told() {
    let place = tempfile::tempdir().unwrap();
    let key = Key::generate().unwrap();
    let file = place.path().join("k");
    std::fs::write(&file, key.to_text().as_bytes()).unwrap();
    let (made, slot) = made(&Keys::command(format!("cat {}", file.display())).provider(place.path()));
    assert_eq!((made.id(), slot.kind), (key.id(), KeyKind::Command));
    let failed = |command: &str| Keys::command(command).provider(place.path()).keys(&[]).err().unwrap().to_string();
    assert!(failed("echo the service is down >&2; exit 3").contains("the service is down"));
    let none = failed("echo a secret that is no key");
    assert!(none.contains("no key") && !none.contains("secret"), "{none}");
}

#[test]
fn who_has_to_give_a_key_is_told_how() {
    let place = tempfile::tempdir().unwrap();
    let key = Key::generate().unwrap();
    for (kind, word) in [
        (KeyKind::Unlock, "quorate unlock"),
        (KeyKind::Passphrase, "--passphrase-file"),
        (KeyKind::Command, "--key-command"),
        (KeyKind::Custom, "embeds"),
        (KeyKind::File, "no key file"),
    ] {
        let error = Keys::default().provider(place.path()).keys(&[KeySlot::new(&key, kind, "")]).err().unwrap();
        assert!(matches!(&error, KeyError::Missing(why) if why.contains(word)), "{kind:?}: {error}");
    }
}

#[test]
fn a_store_is_sealed_anew_only_where_there_is_room_for_it_once_more_and_some_to_spare() {
    let size = 5 << 30;
    let enough = size + crate::config::SPACE_LOW;
    assert_eq!(desk::too_full(enough, size), None);
    let why = desk::too_full(enough - 1, size).unwrap();
    assert!(why.contains("5376 MiB") && why.contains("5375 MiB are free") && why.contains("rotate again"), "{why}");
    assert!(desk::too_full(0, u64::MAX).is_some());
}

#[test]
fn a_place_for_a_key_that_does_not_last_or_is_on_the_disk_of_the_data_is_told() {
    let place = tempfile::tempdir().unwrap();
    let beside = desk::doubts(&place.path().join("elsewhere.key"), &place.path().join(".")).unwrap_or_default();
    assert_eq!(beside, "", "in the data directory that is said by the report");
    let data = place.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let told = desk::doubts(&place.path().join("n1.key"), &data).unwrap();
    let in_memory = quorate_storage::is_in_memory(place.path()).unwrap();
    assert!(told.contains(if in_memory { "tmpfs" } else { "same file system" }), "{told}");
    // (Where there is no such place, there is nothing to be told.)
    let memory = Path::new("/dev/shm");
    if memory.is_dir() && quorate_storage::is_in_memory(memory).unwrap() {
        let told = desk::doubts(&memory.join("n1.key"), &data).unwrap();
        assert!(told.contains("tmpfs") && told.contains("next boot"), "{told}");
    }
}
