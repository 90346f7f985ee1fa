//! What is due, and the small rules of the keyring record.

use super::*;
use crate::envelope::{EPOCH_BYTES, TAG_BYTES};

fn public(n: u8) -> Bytes {
    Bytes::from(vec![n; SEALING_KEY_BYTES])
}

fn manager(n: u8) -> NodeRecord {
    NodeRecord {
        id: Bytes::from(vec![n; 16]),
        role: Role::Manager.into(),
        raft_id: u64::from(n),
        sealing_key: public(n),
        ..NodeRecord::default()
    }
}

fn key(id: u32, holders: &[u8]) -> BarrierKey {
    let copies = holders.iter().map(|n| KeyCopy { to: public(*n), sealed: Bytes::from_static(b"copy") });
    BarrierKey { id, copies: copies.collect(), ..BarrierKey::default() }
}

fn ring(active: u32, keys: Vec<BarrierKey>) -> KeyringRecord {
    KeyringRecord { serial: 1, active, keys, due: false }
}

fn to(nodes: &[u8]) -> Vec<(NodeId, Bytes)> {
    nodes.iter().map(|n| (NodeId::from_bytes([*n; 16]), public(*n))).collect()
}

#[test]
fn whoever_lacks_a_copy_gets_it_before_anything_else() {
    let nodes = [manager(1), manager(2), manager(3)];
    let mut ring = ring(2, vec![key(1, &[1, 2, 3]), key(2, &[1, 2])]);
    ring.due = true;
    assert_eq!(due(&ring, nodes.iter()), Some(Due::Share(to(&[3]))));
    // Nobody who is not to be a manager, or is lost, or has no key of its own, gets one.
    let gone = [
        NodeRecord { removing: true, ..manager(4) },
        NodeRecord { lost: true, ..manager(5) },
        NodeRecord { compromised: true, ..manager(9) },
        NodeRecord { role: Role::Worker.into(), ..manager(6) },
        NodeRecord { raft_id: 0, ..manager(7) },
        NodeRecord { sealing_key: Bytes::from_static(b"short"), ..manager(8) },
    ];
    assert_eq!(due(&ring, nodes.iter().take(2).chain(&gone)), Some(Due::Rotate(to(&[1, 2]))));
    // But one that is on its way out and can open the active key can open the next one, too: it may still have its seat.
    let leaving = NodeRecord { removing: true, ..manager(2) };
    assert_eq!(due(&ring, [manager(1), leaving].iter()), Some(Due::Rotate(to(&[1, 2]))));
}

#[test]
fn a_key_is_replaced_when_asked_for_and_when_it_is_worn() {
    let nodes = [manager(1)];
    let mut ring = ring(1, vec![key(1, &[1])]);
    assert_eq!(due(&ring, nodes.iter()), None);
    ring.keys[0].uses = BARRIER_USES_MAX - 1;
    assert_eq!(due(&ring, nodes.iter()), None);
    ring.keys[0].uses = BARRIER_USES_MAX;
    assert_eq!(due(&ring, nodes.iter()), Some(Due::Rotate(to(&[1]))));
    // And then what names the old one is sealed anew, as long as there is something.
    ring = self::ring(2, vec![key(1, &[1]), key(2, &[1])]);
    ring.keys[0].records = 1;
    assert_eq!(due(&ring, nodes.iter()), Some(Due::Reseal));
    assert_eq!(due(&KeyringRecord::default(), nodes.iter()), None, "where nothing is sealed nothing is due");
}

#[test]
fn who_loses_its_key_loses_all_its_copies_and_the_active_key_is_due() {
    let mut ring = ring(2, vec![key(1, &[1, 2]), key(2, &[1, 2])]);
    assert!(!ring.forget(&public(9)));
    assert_eq!((ring.serial, ring.due), (1, false));
    assert!(ring.forget(&public(2)));
    assert_eq!((ring.serial, ring.due), (2, true));
    assert!(ring.opens(&manager(1)) && !ring.opens(&manager(2)));
    assert!(ring.keys.iter().all(|key| key.copies.len() == 1));
}

#[test]
fn a_record_names_the_key_in_the_header_of_its_sealed_part() {
    let mut sealed = Vec::new();
    Header { algorithm: 1, key: 7, epoch: [0; EPOCH_BYTES], number: 0 }.write(&mut sealed);
    sealed.extend_from_slice(&[0; TAG_BYTES]);
    let record =
        |sealed: Vec<u8>| SealedRecord { clear: Bytes::from_static(b"clear"), sealed: sealed.into() }.encode_to_vec();
    let secret = Section::Secret.key(b"db");
    assert_eq!(named_key(&secret, &record(sealed.clone())), Ok(Some(7)));
    assert_eq!(named_key(&secret, &record(Vec::new())), Ok(None));
    assert!(named_key(&secret, &record(b"no envelope".to_vec())).is_err());
    // Users' values are nobody's business, whatever they look like.
    assert_eq!(named_key(&Section::User.key(b"db"), &record(sealed)), Ok(None));
}
