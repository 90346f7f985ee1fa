//! A small state store in memory and short ways to say what enters the log.

#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part of this")]

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use quorate_core::command::{
    Batch, Command, CommandKind, Compact, ExpireClients, LeaseOrder, LeaseOrderKind, Request, SilentClient,
};
use quorate_core::id::{ClientId, ClusterId, Lineage, LineageId, LogIndex, NodeId, RaftId, Term};
use quorate_core::keyspace::Section;
use quorate_core::log::{Configuration, HardState, LogStart};
use quorate_core::membership::record::{ClusterRecord, NodeRecord, Role};
use quorate_core::ports::{
    LogReset, RecoveryWrite, StagedId, StagedSnapshot, StateRead, StateReader, StateStore, StoreError, StoreResult,
    Visit, WriteSet,
};
use quorate_core::state::contract::{ApplyError, Committed, Outcome, Payload, Refusal, StateStatus};
use quorate_core::state::{Founding, Machine, SnapshotError, SnapshotReader, SnapshotWriter, found, read, scan_hash};
use quorate_core::txn::{Delete, Op, Put, Range, Txn, TxnResult};

/// Everything a store holds.
pub type Map = BTreeMap<Bytes, Bytes>;

/// A store whose content outlives the machine on it: clones are the same store.
#[derive(Clone, Default)]
pub struct Store(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    map: Arc<Map>,
    staged: BTreeMap<u64, Map>,
    commits: u64,
    fail: bool,
    last: usize,
}

struct View(Arc<Map>);

impl StateRead for View {
    fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
        let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        for (key, value) in self.0.range::<[u8], _>((Bound::Included(from), end)) {
            if visit(key, value) == Visit::Enough {
                break;
            }
        }
        Ok(())
    }
}

impl Store {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// A frozen copy.
    pub fn map(&self) -> Arc<Map> {
        self.inner().map.clone()
    }

    pub fn view(&self) -> Arc<dyn StateRead> {
        Arc::new(View(self.map()))
    }

    /// A store with the same content that goes its own way.
    pub fn fork(&self) -> Self {
        let fork = Self::default();
        fork.inner().map = self.map();
        fork
    }

    pub fn commits(&self) -> u64 {
        self.inner().commits
    }

    /// Writes of the last batch.
    pub fn last_writes(&self) -> usize {
        self.inner().last
    }

    pub fn fail_commits(&self) {
        self.inner().fail = true;
    }

    /// Changes the content behind the machine's back.
    pub fn tamper(&self, change: impl FnOnce(&mut Map)) {
        change(Arc::make_mut(&mut self.inner().map));
    }

    pub fn staging(&self) -> Box<dyn StagedSnapshot> {
        Box::new(Staged { store: self.clone(), map: Map::new() })
    }

    pub fn staged(&self) -> usize {
        self.inner().staged.len()
    }

    pub fn open(&self) -> Machine {
        Machine::open(Box::new(self.clone())).unwrap()
    }
}

impl StateRead for Store {
    fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
        Ok(self.inner().map.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
        View(self.map()).scan(from, to, visit)
    }
}

impl StateReader for Store {
    fn view(&self) -> Arc<dyn StateRead> {
        Store::view(self)
    }
}

impl StateStore for Store {
    fn commit(&mut self, writes: WriteSet) -> StoreResult<()> {
        let mut inner = self.inner();
        if inner.fail {
            return Err(StoreError::Io { doing: "writing state", detail: "made to fail".to_owned() });
        }
        inner.commits += 1;
        inner.last = writes.writes.len();
        let map = Arc::make_mut(&mut inner.map);
        for (from, to) in writes.ranges {
            map.retain(|key, _| *key < from || *key >= to);
        }
        for (key, value) in writes.writes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        Arc::new(self.clone())
    }

    fn install(&mut self, staged: StagedId, _reset: LogReset) -> StoreResult<()> {
        let mut inner = self.inner();
        let map = inner.staged.remove(&staged.0).unwrap();
        inner.map = Arc::new(map);
        Ok(())
    }

    fn found(&mut self, writes: WriteSet, _reset: LogReset) -> StoreResult<()> {
        assert!(self.map().is_empty(), "only an empty store is founded");
        self.commit(writes)
    }

    fn recover(&mut self, recovery: RecoveryWrite) -> StoreResult<()> {
        self.commit(recovery.state)
    }
}

struct Staged {
    store: Store,
    map: Map,
}

impl StagedSnapshot for Staged {
    fn write(&mut self, records: &[(Bytes, Bytes)]) -> StoreResult<()> {
        for (key, value) in records {
            assert!(self.map.last_key_value().is_none_or(|(last, _)| last < key), "records come in order");
            self.map.insert(key.clone(), value.clone());
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> StoreResult<StagedId> {
        let mut inner = self.store.inner();
        let id = inner.staged.len() as u64 + 1;
        inner.staged.insert(id, self.map);
        Ok(StagedId(id))
    }
}

// Founding.

pub fn founding() -> Founding {
    let node = NodeId::from_bytes([1; 16]);
    Founding {
        cluster: ClusterRecord {
            cluster_id: Bytes::copy_from_slice(ClusterId::from_bytes([9; 16]).as_bytes()),
            lineage: Lineage(vec![LineageId::from_bytes([8; 16])]).to_bytes().into(),
            next_raft_id: 2,
            version: 1,
            max_voters: 5,
            tick_micros: 20_000,
            ..ClusterRecord::default()
        },
        node: NodeRecord {
            id: Bytes::copy_from_slice(node.as_bytes()),
            name: "n1".to_owned(),
            role: Role::Manager.into(),
            raft_id: 1,
            ..NodeRecord::default()
        },
        records: vec![(Section::Identity.key(b"token"), Bytes::from_static(b"sealed"))],
        ..Founding::default()
    }
}

pub fn founded() -> Store {
    let mut store = Store::default();
    let first = found(&founding()).unwrap();
    store.found(first.writes, first.reset).unwrap();
    store
}

// What enters the log.

pub fn key(name: impl AsRef<[u8]>) -> Bytes {
    Section::User.key(name.as_ref())
}

pub fn put(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Op {
    Put { key: key(name), value: Bytes::copy_from_slice(value.as_ref()), ..Put::default() }.into()
}

pub fn delete(name: impl AsRef<[u8]>) -> Op {
    Delete { key: key(name), ..Delete::default() }.into()
}

pub fn txn(then: impl IntoIterator<Item = Op>) -> Txn {
    Txn { then: then.into_iter().collect(), ..Txn::default() }
}

pub fn system(txn: Txn) -> Command {
    CommandKind::System(txn).into()
}

pub fn compact(revision: u64) -> Command {
    CommandKind::Compact(Compact { revision }).into()
}

pub fn client(n: u8) -> ClientId {
    ClientId::from_bytes([n; 16])
}

pub fn expire(clients: impl IntoIterator<Item = (u8, u64)>) -> Command {
    let clients = clients.into_iter().map(|(n, last_index)| SilentClient { client: bytes_of(n), last_index });
    CommandKind::ExpireClients(ExpireClients { clients: clients.collect() }).into()
}

pub fn bytes_of(n: u8) -> Bytes {
    Bytes::copy_from_slice(client(n).as_bytes())
}

pub fn request(n: u8, sequence: u64, low_water: u64, txn: Txn) -> Command {
    CommandKind::Request(Request { client: bytes_of(n), sequence, low_water, txn: Some(txn), ..Request::default() })
        .into()
}

/// A lease of five seconds.
pub fn grant(n: u8, sequence: u64) -> Command {
    order(n, sequence, LeaseOrderKind::Grant(5_000))
}

pub fn order(n: u8, sequence: u64, kind: LeaseOrderKind) -> Command {
    let lease = Some(LeaseOrder { kind: Some(kind), fence: None });
    CommandKind::Request(Request { client: bytes_of(n), sequence, lease, ..Request::default() }).into()
}

pub fn entry(index: u64, commands: Vec<Command>) -> Committed {
    raw_entry(index, Batch::new(commands).to_bytes())
}

pub fn raw_entry(index: u64, data: impl Into<Bytes>) -> Committed {
    Committed { index: LogIndex(index), term: Term(1), payload: Payload::Commands { data: data.into(), wanted: true } }
}

pub fn configuration_entry(index: u64, voters: &[u64], number: u64) -> Committed {
    let voters = voters.iter().copied().map(RaftId).collect();
    let result = Some(Configuration { voters, ..Configuration::default() });
    Committed { index: LogIndex(index), term: Term(1), payload: Payload::Configuration { result, number } }
}

/// A machine with its store, given commands one entry at a time.
pub struct Member {
    pub store: Store,
    pub machine: Machine,
}

impl Member {
    pub fn founded() -> Self {
        Self::on(founded())
    }

    pub fn on(store: Store) -> Self {
        Self { machine: store.open(), store }
    }

    /// Stops and starts again from what is in the store.
    pub fn reopen(&mut self) {
        self.machine = self.store.open();
    }

    pub fn next(&self) -> u64 {
        self.machine.status().applied.0 + 1
    }

    pub fn try_run(&mut self, commands: Vec<Command>) -> Result<Vec<Outcome>, ApplyError> {
        let mut entry = entry(self.next(), commands);
        entry.term = entry.term.max(self.machine.status().applied_term);
        let mut applied = self.machine.apply(&[entry])?;
        let (_, outcomes) = applied.outcomes.pop().unwrap();
        Ok(outcomes)
    }

    pub fn run(&mut self, command: Command) -> Outcome {
        self.try_run(vec![command]).unwrap().pop().unwrap()
    }

    pub fn done(&mut self, command: Command) -> TxnResult {
        match self.run(command) {
            Outcome::Done(result) => result,
            Outcome::Refused(refusal) => panic!("refused: {refusal}"),
        }
    }

    pub fn refused(&mut self, command: Command) -> Refusal {
        match self.run(command) {
            Outcome::Refused(refusal) => refusal,
            Outcome::Done(result) => panic!("done: {result:?}"),
        }
    }

    pub fn revision(&self) -> u64 {
        self.machine.status().revision.0
    }

    pub fn hash(&self) -> [u8; 32] {
        self.machine.status().hash
    }

    /// The incremental hash and count are those of the whole, and what the store says is what the machine says.
    pub fn check(&self) {
        let view = self.store.view();
        assert_eq!(scan_hash(&*view).unwrap(), self.hash(), "incremental hash against full scan");
        assert_eq!(&read::status(&*view).unwrap(), self.machine.status());
        assert_eq!(read::usage(&*view).unwrap(), read::recounted_usage(&*view).unwrap(), "what is held, counted anew");
    }

    /// All user keys with their values, at a revision (0: now).
    pub fn contents(&self, revision: u64) -> Result<Vec<(Bytes, Bytes)>, read::ReadError> {
        let range = Range { key: key(b""), end: Section::User.end(), revision, ..Range::default() };
        let result = read::range(&*self.store.view(), &range)?;
        assert!(!result.more);
        Ok(result.entries.into_iter().map(|kv| (Section::User.strip(&kv.key).unwrap(), kv.value)).collect())
    }

    pub fn get(&self, name: &str) -> Option<Bytes> {
        let range = Range { key: key(name), ..Range::default() };
        let result = read::range(&*self.store.view(), &range).unwrap();
        result.entries.into_iter().next().map(|kv| kv.value)
    }
}

pub fn chunks(store: &Store) -> Vec<Bytes> {
    let mut writer = SnapshotWriter::new(store.view()).unwrap();
    std::iter::from_fn(|| writer.next_chunk().unwrap()).collect()
}

/// Receives a stream into `store`'s staging area.
pub fn receive<C: AsRef<[u8]>>(
    store: &Store,
    chunks: impl IntoIterator<Item = C>,
) -> Result<(StateStatus, StagedId), SnapshotError> {
    let mut reader = SnapshotReader::new(store.staging());
    for chunk in chunks {
        reader.chunk(chunk.as_ref())?;
    }
    reader.finish()
}

/// A member that was filled by a snapshot of `from`.
pub fn restored(from: &Store) -> Member {
    let mut member = Member::on(Store::default());
    let (status, staged) = receive(&member.store, chunks(from)).unwrap();
    let start = LogStart { index: status.applied, term: status.applied_term };
    let hard_state = HardState { term: start.term, vote: RaftId(0), commit: start.index };
    member.machine.install(staged, LogReset { start, hard_state }).unwrap();
    member
}
