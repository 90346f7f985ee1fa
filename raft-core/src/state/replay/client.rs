//! The record of a client, as it lies in the store.
//!
//! Owns its form. Called by the table.

use bytes::BufMut;

use crate::ports::StoreResult;
use crate::state::layout::{be64, corrupt};
use crate::state::stored::ReplayedRequest;

/// The format byte in front of a client's record.
const CLIENT_FORMAT: u8 = 1;
/// Format byte and three counters.
const CLIENT_BYTES: usize = 1 + 3 * 8;

/// What is known of a client besides its outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ClientRecord {
    /// Outcomes at and below it are gone.
    pub(crate) low_water: u64,
    /// The log index of its last request.
    pub(crate) last_index: u64,
    /// The log index of its first request.
    pub(crate) first_index: u64,
}

impl ClientRecord {
    pub(super) fn to_array(self) -> [u8; CLIENT_BYTES] {
        let mut bytes = [0; CLIENT_BYTES];
        let mut into = bytes.as_mut_slice();
        into.put_u8(CLIENT_FORMAT);
        into.put_u64(self.low_water);
        into.put_u64(self.last_index);
        into.put_u64(self.first_index);
        bytes
    }

    /// What a request in a page at `index` says of its client; whether the mark rose.
    pub(super) fn pass(&mut self, index: u64, request: &ReplayedRequest) -> bool {
        self.last_index = self.last_index.max(index);
        let rises = request.low_water > self.low_water;
        if rises {
            self.low_water = request.low_water;
        }
        rises
    }

    /// Reads a stored client.
    pub(crate) fn parse(stored: &[u8], bytes: &[u8]) -> StoreResult<Self> {
        let read = || {
            if bytes.len() != CLIENT_BYTES || bytes.first() != Some(&CLIENT_FORMAT) {
                return None;
            }
            Some(Self { low_water: be64(bytes, 1)?, last_index: be64(bytes, 9)?, first_index: be64(bytes, 17)? })
        };
        read().ok_or_else(|| corrupt(stored, "no client of a known format"))
    }
}
