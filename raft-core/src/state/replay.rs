//! The replay table: a retried request gets the outcome of its first application.
//!
//! Owns who asked what and what it came to, in memory as in the store (the store's copy is read at open and install,
//! never between). Never applies a transaction. Called by the machine. The rules are in [`crate::state`].
//!
//! # In the store
//! What the requests of one entry of the log came to lies in one *page*, under the entry's index, with the mark of each
//! client from then on: one write for an entry, however many requests are in it. A page goes when nothing of it counts any
//! more: each of its outcomes lies below its client's mark, and each of its clients has a later page or is forgotten. So a
//! client's own record is written only when it is first seen, by a request that leaves no outcome, and when its last page goes
//! before it; what it stands at is that record and what the later pages say of it. A page of which little counts after many
//! entries is thinned: written anew with what counts. All of this follows from the log alone and is the same on every member.

mod client;
mod page;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;

use crate::command::{Request, SilentClient};
use crate::id::{ClientId, LogIndex, RequestId};
use crate::limits::{
    REPLAY_BYTES_MAX, REPLAY_CLIENTS_MAX, REPLAY_OUTCOME_BYTES_MAX, REPLAY_PER_CLIENT_MAX, REPLAY_RECORD_BYTES,
};
use crate::mutants::{Mutant, on};
use crate::ports::{StateRead, StoreError, StoreResult, Visit, WriteSet};
use crate::state::contract::{Outcome, Refusal};
use crate::state::hash::Lanes;
use crate::state::layout::{self, corrupt};
use crate::state::stored::{Counter, ReplayPage, ReplayedRequest, StoredOutcome, decode};
use crate::txn::TxnResult;

pub(crate) use client::ClientRecord;
pub(crate) use page::Ledger;
use page::{Page, Pages, each_request};

#[derive(Debug, Default)]
struct Client {
    record: ClientRecord,
    /// The record as it is stored.
    stored: ClientRecord,
    /// What the stored record adds to the state hash.
    lanes: Lanes,
    outcomes: BTreeMap<u64, Kept>,
    /// The last page that says something of it, 0 is none.
    page: u64,
    /// Stored anew by the round at work.
    dirty: bool,
}

#[derive(Debug)]
struct Kept {
    bytes: Bytes,
    /// The page that it lies in.
    page: u64,
}

impl Kept {
    fn cost(&self) -> u64 {
        self.bytes.len() as u64 + REPLAY_RECORD_BYTES
    }
}

/// Entries of the log after which a page may be thinned: most have gone as a whole by then.
const THINNED_AFTER: u64 = 1_000;
/// Pages thinned with one entry at most.
const THINNED_AT_ONCE: usize = 4;

/// What a request is, before it is applied.
#[derive(Debug, PartialEq)]
pub(crate) enum Standing {
    /// Apply it, and [`ReplayTable::keep`] what it comes to.
    New(RequestId),
    /// It was applied before, or will not be: answer this and keep nothing.
    Settled(Outcome),
}

/// The whole table.
#[derive(Debug, Default)]
pub(crate) struct ReplayTable {
    clients: BTreeMap<ClientId, Client>,
    pages: Pages,
    /// The page of the entry at work.
    filling: ReplayPage,
    /// [`Kept::cost`] of all outcomes, and [`REPLAY_RECORD_BYTES`] for each client.
    bytes: u64,
    /// The highest first index of any client expired.
    floor: u64,
    dirty: Vec<ClientId>,
}

impl ReplayTable {
    /// Clients, and the cost of everything kept for them.
    pub(crate) fn size(&self) -> (usize, u64) {
        (self.clients.len(), self.bytes)
    }

    /// Reads the table from a store.
    pub(crate) fn load(view: &dyn StateRead) -> StoreResult<Self> {
        let mut table = Self::default();
        if let Some(bytes) = view.get(layout::SYSTEM_FLOOR)? {
            table.floor = decode::<Counter>(layout::SYSTEM_FLOOR, &bytes)?.value;
        }
        let mut failed: Option<StoreError> = None;
        // Clients come before pages in the order of tables.
        view.scan(&[layout::CLIENT], &[layout::REPLAY + 1], &mut |key, value| {
            let loaded = match layout::parse_client_key(key) {
                Some(id) => table.load_client(id, key, value),
                None => table.load_page(key, value),
            };
            loaded.map_or_else(
                |error| {
                    failed = Some(error);
                    Visit::Enough
                },
                |()| Visit::More,
            )
        })?;
        table.bytes = table.clients.len() as u64 * REPLAY_RECORD_BYTES;
        for client in table.clients.values_mut() {
            drop_up_to(&mut client.outcomes, client.record.low_water);
            for kept in client.outcomes.values() {
                table.bytes += kept.cost();
                table.pages.used(kept.page);
            }
            if client.page > 0 {
                table.pages.used(client.page);
            }
        }
        let thin = table.pages.by_index.iter().filter(|(_, page)| page.is_thin());
        table.pages.thin = thin.map(|(index, _)| *index).collect();
        failed.map_or(Ok(table), Err)
    }

    fn load_client(&mut self, id: ClientId, key: &[u8], value: &[u8]) -> StoreResult<()> {
        let record = ClientRecord::parse(key, value)?;
        let client = Client { record, stored: record, lanes: Lanes::of(key, value), ..Client::default() };
        self.clients.insert(id, client);
        Ok(())
    }

    fn load_page(&mut self, key: &[u8], value: &[u8]) -> StoreResult<()> {
        let mut page = Page { lanes: Lanes::of(key, value), ..Page::default() };
        let index = each_request(key, value, &mut |index, id, request| {
            page.requests.push((id, request.sequence));
            // Forgotten since, and perhaps come again: what was before its first request is not of this one.
            let Some(client) = self.clients.get_mut(&id).filter(|client| client.record.first_index <= index) else {
                return;
            };
            if client.record.pass(index, &request) {
                drop_up_to(&mut client.outcomes, request.low_water);
            }
            // Its own record has a later word otherwise.
            if index >= client.stored.last_index {
                client.page = index;
            }
            // Bytes of its own: what is kept must not keep the whole page in memory.
            let bytes = Bytes::copy_from_slice(&request.outcome);
            client.outcomes.insert(request.sequence, Kept { bytes, page: index });
        })?;
        self.pages.by_index.insert(index, page);
        Ok(())
    }

    /// Takes a request in: raises the client's mark, notes that it spoke, and says what is to be done.
    pub(crate) fn admit(
        &mut self,
        request: &Request,
        index: LogIndex,
        ledger: &mut Ledger<'_>,
    ) -> StoreResult<Standing> {
        let refused = |refusal| Ok(Standing::Settled(Outcome::Refused(refusal)));
        let Some(id) = request.id() else {
            return refused(Refusal::Malformed { what: format!("client id of {} bytes", request.client.len()) });
        };
        if id.sequence == 0 {
            return refused(Refusal::Malformed { what: "sequence 0, the first request is 1".to_owned() });
        }
        let Some(client) = self.clients.get_mut(&id.client) else {
            return Ok(match self.admit_unknown(request, id, index, ledger) {
                Ok(()) => Standing::New(id),
                Err(refusal) => Standing::Settled(Outcome::Refused(refusal)),
            });
        };
        client.record.last_index = index.0;
        if request.low_water > client.record.low_water {
            client.record.low_water = request.low_water;
            for kept in drop_up_to(&mut client.outcomes, request.low_water).into_values() {
                self.bytes -= kept.cost();
                self.pages.release(kept.page, index.0, ledger);
            }
        }
        let low_water = client.record.low_water;
        let settled = if id.sequence <= low_water {
            Some(Outcome::Refused(Refusal::RequestExpired { sequence: id.sequence, low_water }))
        } else if let Some(kept) = client.outcomes.get(&id.sequence) {
            Some(replayed(id, &kept.bytes)?)
        } else {
            let kept = client.outcomes.len();
            // The oldest one that is open goes in all the same: until it is answered the client cannot raise its mark, and
            // with it refused no room would ever come about. There is one of them at a time.
            let is_oldest = id.sequence - low_water == 1;
            let full = kept >= REPLAY_PER_CLIENT_MAX && !is_oldest;
            let full = full.then_some(Refusal::ReplayFull { kept: kept as u64, max: REPLAY_PER_CLIENT_MAX as u64 });
            full.or_else(|| room(self.bytes).err()).map(Outcome::Refused)
        };
        Ok(match settled {
            Some(outcome) => {
                self.note_in_record(id.client, index.0, ledger);
                Standing::Settled(outcome)
            }
            None => Standing::New(id),
        })
    }

    fn admit_unknown(
        &mut self,
        request: &Request,
        id: RequestId,
        index: LogIndex,
        ledger: &mut Ledger<'_>,
    ) -> Result<(), Refusal> {
        // Every client ever expired was born before its first request, so at or below the floor: who was born above it
        // is new. Who cannot say is taken for new only without a mark.
        let expired = if request.born > 0 { request.born <= self.floor } else { request.low_water > 0 };
        if expired || id.sequence <= request.low_water {
            return Err(Refusal::RequestExpired { sequence: id.sequence, low_water: request.low_water });
        }
        if self.clients.len() >= REPLAY_CLIENTS_MAX {
            return Err(Refusal::Limit {
                what: "the replay table".to_owned(),
                limit: "REPLAY_CLIENTS_MAX",
                max: REPLAY_CLIENTS_MAX as u64,
                actual: self.clients.len() as u64 + 1,
            });
        }
        room(self.bytes)?;
        self.bytes += REPLAY_RECORD_BYTES;
        let client = self.clients.entry(id.client).or_default();
        client.record = ClientRecord { low_water: request.low_water, last_index: index.0, first_index: index.0 };
        store(client, id.client, ledger.lanes, &mut self.dirty);
        Ok(())
    }

    /// Keeps what a request came to that was just admitted, in the entry at `index`.
    pub(crate) fn keep(&mut self, id: RequestId, index: LogIndex, outcome: &Outcome, ledger: &mut Ledger<'_>) {
        let Some(client) = self.clients.get_mut(&id.client) else { return };
        let bytes = encode_bounded(outcome);
        self.filling.requests.push(ReplayedRequest {
            client: Bytes::copy_from_slice(id.client.as_bytes()),
            sequence: id.sequence,
            low_water: client.record.low_water,
            outcome: bytes.clone(),
        });
        self.pages.used(index.0);
        let before = std::mem::replace(&mut client.page, index.0);
        if before != index.0 {
            self.pages.used(index.0);
            if before > 0 {
                self.pages.release(before, index.0, ledger);
            }
        }
        let kept = Kept { bytes, page: index.0 };
        self.bytes += kept.cost();
        client.outcomes.insert(id.sequence, kept);
        if on(Mutant::ReplayKeepsNewest)
            && let Some(newest) = client.outcomes.last_key_value().map(|(sequence, _)| *sequence)
        {
            for kept in drop_up_to(&mut client.outcomes, newest - 1).into_values() {
                self.bytes -= kept.cost();
                self.pages.release(kept.page, index.0, ledger);
            }
        }
    }

    /// Keeps nothing of a request that was just admitted, and did nothing: another copy of it may yet count.
    pub(crate) fn let_pass(&mut self, id: RequestId, ledger: &mut Ledger<'_>) {
        let Some(index) = self.clients.get(&id.client).map(|client| client.record.last_index) else { return };
        self.note_in_record(id.client, index, ledger);
    }

    /// No page will say that the client spoke in the entry at `index`, unless the one that is being filled says it already: whoever
    /// reads the table from the store takes that one for its last page, and so it must be here.
    fn note_in_record(&mut self, id: ClientId, index: u64, ledger: &mut Ledger<'_>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let before = if client.page == index { 0 } else { std::mem::take(&mut client.page) };
        store(client, id, ledger.lanes, &mut self.dirty);
        if before > 0 {
            self.pages.release(before, index, ledger);
        }
    }

    /// The entry at `index` is done: its page is written, unless nothing of it counts any more.
    pub(crate) fn close_page(&mut self, index: LogIndex, ledger: &mut Ledger<'_>) {
        let filled = std::mem::take(&mut self.filling);
        let Some(page) = self.pages.by_index.get_mut(&index.0) else { return };
        if page.uses == 0 {
            self.pages.by_index.remove(&index.0);
        } else {
            page.write(index.0, &filled, ledger);
            if page.is_thin() {
                self.pages.thin.insert(index.0);
            }
        }
        for _ in 0..THINNED_AT_ONCE {
            match self.pages.thin.first() {
                Some(oldest) if oldest.saturating_add(THINNED_AFTER) <= index.0 => self.thin_out(*oldest, ledger),
                Some(_) | None => break,
            }
        }
    }

    /// Writes a page anew with the outcomes of it that count. A client of whom it was the last word, and of whom nothing else
    /// is in it, has that in its own record from now on.
    fn thin_out(&mut self, index: u64, ledger: &mut Ledger<'_>) {
        self.pages.thin.remove(&index);
        let Some(page) = self.pages.by_index.get_mut(&index) else { return };
        let requests = std::mem::take(&mut page.requests);
        let mut left = ReplayPage::default();
        let mut named = BTreeSet::new();
        for (id, sequence) in &requests {
            let Some(client) = self.clients.get(id) else { continue };
            if let Some(kept) = client.outcomes.get(sequence).filter(|kept| kept.page == index) {
                named.insert(*id);
                left.requests.push(ReplayedRequest {
                    client: Bytes::copy_from_slice(id.as_bytes()),
                    sequence: *sequence,
                    low_water: client.record.low_water,
                    outcome: kept.bytes.clone(),
                });
            }
        }
        let mut uses = left.requests.len() as u64;
        let clients: BTreeSet<ClientId> = requests.into_iter().map(|(id, _)| id).collect();
        for id in clients {
            let Some(client) = self.clients.get_mut(&id).filter(|client| client.page == index) else { continue };
            if named.contains(&id) {
                uses += 1;
            } else {
                client.page = 0;
                store(client, id, ledger.lanes, &mut self.dirty);
            }
        }
        page.uses = uses;
        if uses == 0 {
            ledger.lanes.remove(page.lanes);
            ledger.writes.delete(layout::replay_key(index));
            self.pages.by_index.remove(&index);
        } else {
            page.write(index, &left, ledger);
        }
    }

    /// Forgets clients that have not spoken since the proposer looked; how many. `index` is that of the entry at work.
    pub(crate) fn expire(&mut self, silent: &[SilentClient], index: LogIndex, ledger: &mut Ledger<'_>) -> u64 {
        let mut expired = 0;
        for SilentClient { client: id, last_index } in silent {
            let Some(id) = ClientId::from_slice(id) else { continue };
            if self.clients.get(&id).is_none_or(|client| client.record.last_index != *last_index) {
                continue;
            }
            let Some(client) = self.clients.remove(&id) else { continue };
            expired += 1;
            // Should it come again in this very entry, nothing of before is taken for its own.
            self.filling.requests.retain(|request| request.client != id.as_bytes()[..]);
            self.floor = self.floor.max(client.record.first_index);
            self.bytes -= REPLAY_RECORD_BYTES;
            ledger.lanes.remove(client.lanes);
            ledger.writes.delete(layout::client_key(id));
            for kept in client.outcomes.into_values() {
                self.bytes -= kept.cost();
                self.pages.release(kept.page, index.0, ledger);
            }
            if client.page > 0 {
                self.pages.release(client.page, index.0, ledger);
            }
        }
        expired
    }

    /// The highest first index of any client expired.
    pub(crate) const fn floor(&self) -> u64 {
        self.floor
    }

    /// Writes the clients whose stored record changed in this round, each once.
    pub(crate) fn flush(&mut self, writes: &mut WriteSet) {
        for id in std::mem::take(&mut self.dirty) {
            // One that was expired later in the round is not there, and its deletion is written already.
            let Some(client) = self.clients.get_mut(&id) else { continue };
            if std::mem::take(&mut client.dirty) {
                writes.put(layout::client_key(id), client.stored.to_array().to_vec());
            }
        }
    }
}

/// Room for one more outcome of any size.
fn room(bytes: u64) -> Result<(), Refusal> {
    let actual = bytes + 2 * REPLAY_RECORD_BYTES + REPLAY_OUTCOME_BYTES_MAX as u64;
    if actual <= REPLAY_BYTES_MAX {
        return Ok(());
    }
    let what = "the replay table".to_owned();
    Err(Refusal::Limit { what, limit: "REPLAY_BYTES_MAX", max: REPLAY_BYTES_MAX, actual })
}

/// Takes out what lies at or below a mark.
fn drop_up_to(outcomes: &mut BTreeMap<u64, Kept>, low_water: u64) -> BTreeMap<u64, Kept> {
    let above = low_water.checked_add(1).map(|first| outcomes.split_off(&first));
    std::mem::replace(outcomes, above.unwrap_or_default())
}

/// Clients whose last request is at or below `until`, at most `max` of them, as a view has them.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub(crate) fn silent(view: &dyn StateRead, until: LogIndex, max: usize) -> StoreResult<Vec<SilentClient>> {
    let mut records: BTreeMap<ClientId, ClientRecord> = BTreeMap::new();
    let mut failed: Option<StoreError> = None;
    view.scan(&[layout::CLIENT], &[layout::REPLAY + 1], &mut |key, value| {
        let read = match layout::parse_client_key(key) {
            Some(id) => ClientRecord::parse(key, value).map(|record| {
                records.insert(id, record);
            }),
            None => each_request(key, value, &mut |index, id, request| {
                if let Some(record) = records.get_mut(&id).filter(|record| record.first_index <= index) {
                    record.pass(index, &request);
                }
            })
            .map(|_| ()),
        };
        failed = read.err();
        if failed.is_some() { Visit::Enough } else { Visit::More }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let silent = records.into_iter().filter(|(_, record)| record.last_index <= until.0);
    let named = silent.map(|(id, record)| SilentClient {
        client: Bytes::copy_from_slice(id.as_bytes()),
        last_index: record.last_index,
    });
    Ok(named.take(max).collect())
}

/// Has the client's record stored as it is now.
fn store(client: &mut Client, id: ClientId, lanes: &mut Lanes, dirty: &mut Vec<ClientId>) {
    // A client is never without last index: the lanes of one just made are zero and take nothing out.
    lanes.remove(client.lanes);
    client.stored = client.record;
    client.lanes = Lanes::of(&layout::client_key(id), &client.stored.to_array());
    lanes.add(client.lanes);
    if !std::mem::replace(&mut client.dirty, true) {
        dirty.push(id);
    }
}

/// The outcome as kept: one that is too large loses the answers of its operations, never what it did.
fn encode_bounded(outcome: &Outcome) -> Bytes {
    match outcome {
        Outcome::Done(result) if result.encoded_len() > REPLAY_OUTCOME_BYTES_MAX => {
            StoredOutcome::encode_done(&TxnResult { results: Vec::new(), ..*result })
        }
        Outcome::Done(result) => StoredOutcome::encode_done(result),
        Outcome::Refused(refusal) => StoredOutcome::encode_refused(refusal),
    }
}

/// The kept outcome as answered to a retry.
fn replayed(id: RequestId, bytes: &[u8]) -> StoreResult<Outcome> {
    let key = layout::client_key(id.client);
    let outcome =
        decode::<StoredOutcome>(&key, bytes)?.outcome().ok_or_else(|| corrupt(&key, "outcome of no known kind"))?;
    Ok(match outcome {
        Outcome::Done(result) => Outcome::Done(TxnResult { replayed: true, ..result }),
        Outcome::Refused(refusal) => Outcome::Refused(refusal),
    })
}
