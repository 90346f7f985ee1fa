//! The replay table: a retried request gets the outcome of its first application.
//!
//! Owns who asked what and what it came to, in memory as in the store (the store's copy is read at open and install,
//! never between). Never applies a transaction. Called by the machine. The rules are in [`crate::state`].

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};
use prost::Message;

use crate::command::{Request, SilentClient};
use crate::id::{ClientId, LogIndex, RequestId};
use crate::limits::{
    REPLAY_BYTES_MAX, REPLAY_CLIENTS_MAX, REPLAY_OUTCOME_BYTES_MAX, REPLAY_PER_CLIENT_MAX, REPLAY_RECORD_BYTES,
};
use crate::ports::{StateRead, StoreError, StoreResult, Visit, WriteSet};
use crate::state::contract::{Outcome, Refusal};
use crate::state::hash::Lanes;
use crate::state::layout::{self, be64, corrupt};
use crate::state::stored::{Counter, StoredOutcome, decode};
use crate::txn::TxnResult;

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
    fn to_array(self) -> [u8; CLIENT_BYTES] {
        let mut bytes = [0; CLIENT_BYTES];
        let mut into = bytes.as_mut_slice();
        into.put_u8(CLIENT_FORMAT);
        into.put_u64(self.low_water);
        into.put_u64(self.last_index);
        into.put_u64(self.first_index);
        bytes
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

#[derive(Debug, Default)]
struct Client {
    record: ClientRecord,
    /// What the record adds to the state hash as it is now.
    lanes: Lanes,
    outcomes: BTreeMap<u64, Kept>,
    /// Changed since the last round was written.
    dirty: bool,
}

#[derive(Debug)]
struct Kept {
    bytes: Bytes,
    lanes: Lanes,
}

impl Kept {
    fn cost(&self) -> u64 {
        self.bytes.len() as u64 + REPLAY_RECORD_BYTES
    }
}

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
        view.scan(&[layout::CLIENT], &[layout::LEASE], &mut |key, value| match table.load_one(key, value) {
            Ok(()) => Visit::More,
            Err(error) => {
                failed = Some(error);
                Visit::Enough
            }
        })?;
        failed.map_or(Ok(table), Err)
    }

    fn load_one(&mut self, key: &[u8], value: &[u8]) -> StoreResult<()> {
        if let Some(id) = layout::parse_client_key(key) {
            let record = ClientRecord::parse(key, value)?;
            self.bytes += REPLAY_RECORD_BYTES;
            self.clients.insert(id, Client { record, lanes: Lanes::of(key, value), ..Client::default() });
            return Ok(());
        }
        let (id, sequence) = layout::parse_outcome_key(key).ok_or_else(|| corrupt(key, "no key of this table"))?;
        // Clients come before outcomes in the order of tables.
        let client = self.clients.get_mut(&id).ok_or_else(|| corrupt(key, "outcome of an unknown client"))?;
        let kept = Kept { bytes: Bytes::copy_from_slice(value), lanes: Lanes::of(key, value) };
        self.bytes += kept.cost();
        client.outcomes.insert(sequence, kept);
        Ok(())
    }

    /// Takes a request in: raises the client's mark, notes that it spoke, and says what is to be done.
    pub(crate) fn admit(
        &mut self,
        request: &Request,
        index: LogIndex,
        lanes: &mut Lanes,
        writes: &mut WriteSet,
    ) -> StoreResult<Standing> {
        let refused = |refusal| Ok(Standing::Settled(Outcome::Refused(refusal)));
        let Some(id) = request.id() else {
            return refused(Refusal::Malformed { what: format!("client id of {} bytes", request.client.len()) });
        };
        if id.sequence == 0 {
            return refused(Refusal::Malformed { what: "sequence 0, the first request is 1".to_owned() });
        }
        let Some(client) = self.clients.get_mut(&id.client) else {
            return Ok(match self.admit_unknown(request, id, index, lanes) {
                Ok(()) => Standing::New(id),
                Err(refusal) => Standing::Settled(Outcome::Refused(refusal)),
            });
        };
        client.record.last_index = index.0;
        if request.low_water > client.record.low_water {
            client.record.low_water = request.low_water;
            let above = request.low_water.checked_add(1).map(|first| client.outcomes.split_off(&first));
            let dropped = std::mem::replace(&mut client.outcomes, above.unwrap_or_default());
            for (sequence, kept) in dropped {
                self.bytes -= kept.cost();
                lanes.remove(kept.lanes);
                writes.delete(layout::outcome_key(id.client, sequence));
            }
        }
        touch(client, id.client, lanes, &mut self.dirty);
        let low_water = client.record.low_water;
        if id.sequence <= low_water {
            return refused(Refusal::RequestExpired { sequence: id.sequence, low_water });
        }
        if let Some(kept) = client.outcomes.get(&id.sequence) {
            return Ok(Standing::Settled(replayed(id, &kept.bytes)?));
        }
        let kept = client.outcomes.len();
        // The oldest one that is open goes in all the same: until it is answered the client cannot raise its mark, and with it
        // refused no room would ever come about. There is one of them at a time.
        let is_oldest = id.sequence - low_water == 1;
        if kept >= REPLAY_PER_CLIENT_MAX && !is_oldest {
            return refused(Refusal::ReplayFull { kept: kept as u64, max: REPLAY_PER_CLIENT_MAX as u64 });
        }
        match self.room() {
            Ok(()) => Ok(Standing::New(id)),
            Err(refusal) => refused(refusal),
        }
    }

    fn admit_unknown(
        &mut self,
        request: &Request,
        id: RequestId,
        index: LogIndex,
        lanes: &mut Lanes,
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
        self.room()?;
        self.bytes += REPLAY_RECORD_BYTES;
        let client = self.clients.entry(id.client).or_default();
        client.record = ClientRecord { low_water: request.low_water, last_index: index.0, first_index: index.0 };
        touch(client, id.client, lanes, &mut self.dirty);
        Ok(())
    }

    /// Room for one more outcome of any size.
    fn room(&self) -> Result<(), Refusal> {
        let actual = self.bytes + 2 * REPLAY_RECORD_BYTES + REPLAY_OUTCOME_BYTES_MAX as u64;
        if actual <= REPLAY_BYTES_MAX {
            return Ok(());
        }
        let what = "the replay table".to_owned();
        Err(Refusal::Limit { what, limit: "REPLAY_BYTES_MAX", max: REPLAY_BYTES_MAX, actual })
    }

    /// Keeps what an admitted request came to.
    pub(crate) fn keep(&mut self, id: RequestId, outcome: &Outcome, lanes: &mut Lanes, writes: &mut WriteSet) {
        let bytes = encode_bounded(outcome);
        let key = layout::outcome_key(id.client, id.sequence);
        let kept = Kept { lanes: Lanes::of(&key, &bytes), bytes: bytes.clone() };
        let Some(client) = self.clients.get_mut(&id.client) else { return };
        lanes.add(kept.lanes);
        self.bytes += kept.cost();
        client.outcomes.insert(id.sequence, kept);
        writes.put(key, bytes);
    }

    /// Forgets clients that have not spoken since the proposer looked; how many.
    pub(crate) fn expire(&mut self, silent: &[SilentClient], lanes: &mut Lanes, writes: &mut WriteSet) -> u64 {
        let mut expired = 0;
        for SilentClient { client: id, last_index } in silent {
            let Some(id) = ClientId::from_slice(id) else { continue };
            if self.clients.get(&id).is_none_or(|client| client.record.last_index != *last_index) {
                continue;
            }
            let Some(client) = self.clients.remove(&id) else { continue };
            expired += 1;
            self.floor = self.floor.max(client.record.first_index);
            self.bytes -= REPLAY_RECORD_BYTES;
            lanes.remove(client.lanes);
            writes.delete(layout::client_key(id));
            for (sequence, kept) in client.outcomes {
                self.bytes -= kept.cost();
                lanes.remove(kept.lanes);
                writes.delete(layout::outcome_key(id, sequence));
            }
        }
        expired
    }

    /// The highest first index of any client expired.
    pub(crate) const fn floor(&self) -> u64 {
        self.floor
    }

    /// Writes the clients that changed in this round, each once.
    pub(crate) fn flush(&mut self, writes: &mut WriteSet) {
        for id in std::mem::take(&mut self.dirty) {
            // One that was expired later in the round is not there, and its deletion is written already.
            let Some(client) = self.clients.get_mut(&id) else { continue };
            if std::mem::take(&mut client.dirty) {
                writes.put(layout::client_key(id), client.record.to_array().to_vec());
            }
        }
    }
}

/// Follows a change of a client's record in the hash, and marks it to be written.
fn touch(client: &mut Client, id: ClientId, lanes: &mut Lanes, dirty: &mut Vec<ClientId>) {
    // A client is never without last index: the lanes of one just made are zero and take nothing out.
    lanes.remove(client.lanes);
    client.lanes = Lanes::of(&layout::client_key(id), &client.record.to_array());
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
    let key = layout::outcome_key(id.client, id.sequence);
    let outcome =
        decode::<StoredOutcome>(&key, bytes)?.outcome().ok_or_else(|| corrupt(&key, "outcome of no known kind"))?;
    Ok(match outcome {
        Outcome::Done(result) => Outcome::Done(TxnResult { replayed: true, ..result }),
        Outcome::Refused(refusal) => Outcome::Refused(refusal),
    })
}
