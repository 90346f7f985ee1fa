//! The plain numbers of a message as it is seen on the wire, apart from all code that the members run.
//!
//! Owns nothing. Called by the checks, for every message.

/// Raft's numbers of kinds.
pub(super) const APPEND: u64 = 3;
pub(super) const VOTE: u64 = 5;
pub(super) const VOTE_GIVEN: u64 = 6;

/// The plain numbers of a message, read without decoding the rest.
#[derive(Default)]
pub(super) struct Header {
    pub(super) kind: u64,
    pub(super) to: u64,
    pub(super) term: u64,
    pub(super) rejects: bool,
}

impl Header {
    pub(super) fn of(mut body: &[u8]) -> Self {
        let mut header = Self::default();
        while let Some(tag) = varint(&mut body) {
            match (tag >> 3, tag & 7) {
                // Entries are last of what is looked at; only an append has any.
                (7.., 2) => break,
                (field, 0) => {
                    let Some(value) = varint(&mut body) else { break };
                    match field {
                        1 if value == APPEND || value == VOTE || value == VOTE_GIVEN => header.kind = value,
                        1 => break,
                        2 => header.to = value,
                        4 => header.term = value,
                        10 => header.rejects = value != 0,
                        _ => {}
                    }
                }
                _ => break,
            }
        }
        header
    }
}

fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
