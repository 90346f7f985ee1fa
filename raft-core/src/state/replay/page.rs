//! The pages of the replay table: what the requests of one entry of the log came to, in one place of the store.
//!
//! Owns how often each page is used, its going with the last use, and which ones little is used of. Never knows what a request
//! was. Called by the table.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;

use crate::id::ClientId;
use crate::ports::{StoreResult, WriteSet};
use crate::state::hash::Lanes;
use crate::state::layout::{self, corrupt};
use crate::state::stored::{ReplayPage, ReplayedRequest};

/// A page as the table counts it.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Outcomes in it that count, and clients of whom it is the last word.
    pub(super) uses: u64,
    /// Whose requests are in it as it is stored.
    pub(super) requests: Vec<(ClientId, u64)>,
    /// What it adds to the state hash; nothing while it is being filled.
    pub(super) lanes: Lanes,
}

impl Page {
    /// Little of it counts: each request that does is used once or twice.
    pub(super) fn is_thin(&self) -> bool {
        self.uses * 2 <= self.requests.len() as u64
    }

    /// Stores it with these requests.
    pub(super) fn write(&mut self, index: u64, page: &ReplayPage, ledger: &mut Ledger<'_>) {
        let named =
            page.requests.iter().filter_map(|request| Some((ClientId::from_slice(&request.client)?, request.sequence)));
        self.requests = named.collect();
        let (key, bytes) = (layout::replay_key(index), Bytes::from(page.encode_to_vec()));
        ledger.lanes.remove(self.lanes);
        self.lanes = Lanes::of(&key, &bytes);
        ledger.lanes.add(self.lanes);
        ledger.writes.put(key, bytes);
    }
}

/// The pages.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// Those that still count, by log index.
    pub(super) by_index: BTreeMap<u64, Page>,
    /// Those of them of which little counts.
    pub(super) thin: BTreeSet<u64>,
}

impl Pages {
    pub(super) fn used(&mut self, index: u64) {
        self.by_index.entry(index).or_default().uses += 1;
    }

    /// One use less of a page; it goes with the last one, unless it is the one that is being filled.
    pub(super) fn release(&mut self, index: u64, filling: u64, ledger: &mut Ledger<'_>) {
        let Some(page) = self.by_index.get_mut(&index) else { return };
        page.uses = page.uses.saturating_sub(1);
        if index == filling {
            return;
        }
        if page.uses == 0 {
            ledger.lanes.remove(page.lanes);
            ledger.writes.delete(layout::replay_key(index));
            self.by_index.remove(&index);
            self.thin.remove(&index);
        } else if page.is_thin() {
            self.thin.insert(index);
        }
    }
}

/// What a change of the table changes besides it.
pub(crate) struct Ledger<'a> {
    /// The state hash.
    pub(crate) lanes: &'a mut Lanes,
    /// The round's writes.
    pub(crate) writes: &'a mut WriteSet,
}

/// Visits the requests of a stored page; answers its log index.
pub(super) fn each_request(
    key: &[u8],
    value: &[u8],
    visit: &mut dyn FnMut(u64, ClientId, ReplayedRequest),
) -> StoreResult<u64> {
    let index = layout::parse_replay_key(key).ok_or_else(|| corrupt(key, "no key of this table"))?;
    let page = ReplayPage::decode(Bytes::copy_from_slice(value)).map_err(|error| corrupt(key, error.to_string()))?;
    for request in page.requests {
        let id = ClientId::from_slice(&request.client).ok_or_else(|| corrupt(key, "request of no client"))?;
        visit(index, id, request);
    }
    Ok(index)
}
