//! The one ordered keyspace: a section byte, then the key.
//!
//! Owns which section means what. User keys live in [`Section::User`] and can name nothing else, because the manager
//! adds the byte and strips it. Never reads or writes. Called by the state machine, by records and by the managers'
//! request handlers.

use bytes::{BufMut, Bytes, BytesMut};

/// A part of the replicated keyspace. The bytes are stored: they never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Section {
    /// Cluster-wide records: policy, counters, the cluster version.
    Cluster = b'c',
    /// Node records by node id.
    Node = b'n',
    /// Raft ids that were taken from their nodes for ever.
    Removed = b'r',
    /// Join tokens and the cluster CA; secret parts are sealed ([`crate::keyring`]).
    Identity = b'i',
    /// What a worker is to run, by node id.
    Assignment = b'a',
    /// Workers that are ready or down, by node id; apart from the node records, because they change by themselves.
    Liveness = b'l',
    /// What a worker says of its items, by node id.
    Report = b'w',
    /// Configs, by name.
    Config = b'g',
    /// Secrets, by name.
    Secret = b's',
    /// Which items refer to which secrets and configs, and how many items each node has; follows the items by itself.
    Reference = b'f',
    /// What users store.
    User = b'u',
}

impl Section {
    /// The full key of `key` in this section.
    pub fn key(self, key: &[u8]) -> Bytes {
        let mut full = BytesMut::with_capacity(key.len() + 1);
        full.put_u8(self as u8);
        full.put_slice(key);
        full.freeze()
    }

    /// The first full key after this section: the end of a range over all of it.
    pub fn end(self) -> Bytes {
        Bytes::copy_from_slice(&[self as u8 + 1])
    }

    /// The key without its section, when it is in this one.
    pub fn strip(self, full: &Bytes) -> Option<Bytes> {
        (full.first() == Some(&(self as u8))).then(|| full.slice(1..))
    }
}

/// The end of the range of all keys that begin with `prefix`; empty when there is none (all bytes 0xff).
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return end.into();
        }
        end.pop();
    }
    Bytes::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_key_cannot_leave_its_section() {
        let key = Section::User.key(b"\xff\xff");
        assert!(key < Section::User.end());
        assert_eq!(Section::User.strip(&key).as_deref(), Some(&b"\xff\xff"[..]));
        assert_eq!(Section::Node.strip(&key), None);
    }

    #[test]
    fn a_prefix_ends_after_its_last_key() {
        assert_eq!(&prefix_end(b"ab")[..], b"ac");
        assert_eq!(&prefix_end(b"a\xff")[..], b"b");
        assert_eq!(&prefix_end(b"\xff")[..], b"");
    }
}
