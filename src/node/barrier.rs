//! The barrier: what is sealed above the log, and the leader's care for the keyring.
//!
//! Owns this manager's hand on the cluster's barrier keys. What goes into the log sealed is sealed here, before it is proposed,
//! and opened here, out of this manager's own state; which key a record names, and who has which copies, is in the keyring
//! record ([`quorate_core::keyring`]), whose rules are kept at apply. The leader gives newcomers their copies, replaces the active
//! key where that is due, and seals anew what names an older one: each by an order that is void when it comes late. Keys in clear
//! are in memory only. Called by founding, by everything that reads or writes a secret, and run beside the requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::{Command, CommandKind};
use quorate_core::id::{ClusterId, NodeId};
use quorate_core::keyring::{self, Ask, Care, Cipher, KeyCopy, KeyringOrder, KeyringOrderKind, KeyringRecord};
use quorate_core::keyring::{BarrierKey as StoredKey, OrderError, SealedRecord, SearchFrom};
use quorate_core::ports::{StateRead, StoreError, StoreResult};
use quorate_core::state::read;
use quorate_core::txn::Txn;
use quorate_storage::{BarrierKey, SealingPair};
use quorate_transport::api;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::facts::Facts;
use super::gate::Asker;
use super::once::Wished;
use super::router::Failure;
use super::service::{Service, blocking, broken, display_name};

/// Between two looks; a change of the records is looked at at once.
const EVERY: Duration = Duration::from_secs(1);
/// Between two orders: writers have the log for most of the time.
const BREATH: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(5);

/// This manager's hand on the barrier.
pub(crate) struct Barrier {
    cluster: ClusterId,
    pair: SealingPair,
    /// Opened copies, by id, each with the copy that it came out of.
    opened: Mutex<BTreeMap<u32, (Bytes, BarrierKey)>>,
}

fn corrupt(record: &str, detail: impl Into<String>) -> StoreError {
    StoreError::Corrupt { record: record.to_owned(), detail: detail.into() }
}

/// What a keyring holds, in clear: to be wrapped by a backup at once. Wiped when it is dropped.
pub(crate) struct ExportedKeyring {
    /// The key that seals.
    pub(crate) active: u32,
    /// All keys, ascending by id.
    pub(crate) keys: Vec<BarrierKey>,
}

impl Barrier {
    pub(crate) fn of(facts: &Facts) -> Self {
        Self { cluster: facts.cluster(), pair: facts.sealing_pair(), opened: Mutex::default() }
    }

    /// The keyring of a cluster that is being founded: one key, which only its first manager opens.
    pub(crate) fn found(facts: &Facts) -> StoreResult<(Self, KeyringRecord)> {
        let keys = ExportedKeyring { active: 1, keys: vec![BarrierKey::generate(1)?] };
        Self::import(facts, &keys)
    }

    /// The keyring of a state that goes on under one manager, with the keys that it had.
    pub(crate) fn import(facts: &Facts, exported: &ExportedKeyring) -> StoreResult<(Self, KeyringRecord)> {
        let barrier = Self::of(facts);
        let to = Bytes::copy_from_slice(barrier.pair.public());
        let copy = |key: &BarrierKey| -> StoreResult<StoredKey> {
            let sealed = key.copy_for(barrier.cluster.as_bytes(), &to)?;
            let sealed =
                sealed.ok_or_else(|| corrupt("this manager's sealing key", "nothing can be sealed to it"))?.into();
            Ok(StoredKey { id: key.id(), copies: vec![KeyCopy { to: to.clone(), sealed }], ..StoredKey::default() })
        };
        let keys = exported.keys.iter().map(copy).collect::<StoreResult<_>>()?;
        let keyring = KeyringRecord { serial: 1, active: exported.active, keys, due: false };
        Ok((barrier, keyring))
    }

    /// Of a backup, whose keyring has copies for this pair: it reads as a manager does.
    pub(crate) fn of_backup(cluster: ClusterId, pair: SealingPair) -> Self {
        Self { cluster, pair, opened: Mutex::default() }
    }

    /// A copy of every key of the keyring for whoever has the private half of `to`; none of them gets into the state. `None`
    /// when nothing can be sealed to it.
    pub(crate) fn copies_for(&self, keyring: &KeyringRecord, to: &Bytes) -> StoreResult<Option<Vec<(u32, Bytes)>>> {
        let copy = |key: &StoredKey| {
            let sealed = self.key(keyring, key.id)?.copy_for(self.cluster.as_bytes(), to)?;
            Ok(sealed.map(|sealed| (key.id, sealed.into())))
        };
        keyring.keys.iter().map(copy).collect()
    }

    /// Every key of the keyring, in clear.
    pub(crate) fn export(&self, view: &dyn StateRead) -> StoreResult<ExportedKeyring> {
        let keyring = read::keyring(view)?;
        let keys = keyring.keys.iter().map(|key| self.key(&keyring, key.id)).collect::<StoreResult<_>>()?;
        Ok(ExportedKeyring { active: keyring.active, keys })
    }

    fn key(&self, keyring: &KeyringRecord, id: u32) -> StoreResult<BarrierKey> {
        let record = || format!("barrier key {id}");
        let Some(stored) = keyring.key(id) else {
            return Err(corrupt(&record(), "it is not in the keyring"));
        };
        let Some(copy) = stored.copy_for(self.pair.public()) else {
            return Err(corrupt(&record(), "this manager has no copy of it"));
        };
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((from, key)) = opened.get(&id)
            && *from == copy.sealed
        {
            return Ok(key.clone());
        }
        let key = BarrierKey::from_copy(id, self.cluster.as_bytes(), &self.pair, &copy.sealed)?;
        // What has left the keyring is not needed any more.
        opened.retain(|id, _| keyring.key(*id).is_some());
        opened.insert(id, (copy.sealed.clone(), key.clone()));
        Ok(key)
    }

    /// The record at the full key `key`, its secret sealed with the active key of `view`.
    pub(crate) fn seal(&self, view: &dyn StateRead, key: &Bytes, clear: Bytes, secret: &[u8]) -> StoreResult<Bytes> {
        self.seal_with(&read::keyring(view)?, key, clear, secret)
    }

    /// As [`seal`](Self::seal), with a keyring in hand.
    pub(crate) fn seal_with(
        &self,
        keyring: &KeyringRecord,
        key: &Bytes,
        clear: Bytes,
        secret: &[u8],
    ) -> StoreResult<Bytes> {
        let active = self.key(keyring, keyring.active)?;
        let sealed = active.seal(self.cluster.as_bytes(), key, secret)?.into();
        Ok(SealedRecord { clear, sealed }.encode_to_vec().into())
    }

    /// What the record at the full key `key` holds: what is in clear, and what is sealed.
    pub(crate) fn open(
        &self,
        view: &dyn StateRead,
        key: &Bytes,
        value: &Bytes,
    ) -> StoreResult<(Bytes, Zeroizing<Vec<u8>>)> {
        self.open_with(&read::keyring(view)?, key, value)
    }

    /// As [`open`](Self::open), with a keyring in hand.
    pub(crate) fn open_with(
        &self,
        keyring: &KeyringRecord,
        key: &Bytes,
        value: &Bytes,
    ) -> StoreResult<(Bytes, Zeroizing<Vec<u8>>)> {
        let record = || format!("sealed record {}", key.escape_ascii());
        let SealedRecord { clear, sealed } =
            SealedRecord::decode(value.clone()).map_err(|error| corrupt(&record(), error.to_string()))?;
        let id = match keyring::named_key(key, value) {
            Ok(Some(id)) => id,
            Ok(None) => return Err(corrupt(&record(), "nothing in it is sealed")),
            Err(why) => return Err(corrupt(&record(), why)),
        };
        let secret = self.key(keyring, id)?.open(self.cluster.as_bytes(), key, &sealed)?;
        Ok((clear, secret))
    }
}

/// The barrier as the orders for the keyring need it.
struct Hand<'a> {
    barrier: &'a Barrier,
    drawn: Option<BarrierKey>,
}

impl Cipher for Hand<'_> {
    type Error = StoreError;

    fn draw(&mut self, id: u32) -> Result<(), StoreError> {
        self.drawn = Some(BarrierKey::generate(id)?);
        Ok(())
    }

    fn copy(&mut self, keyring: &KeyringRecord, key: u32, to: &Bytes) -> Result<Option<Bytes>, StoreError> {
        let key = match &self.drawn {
            Some(drawn) if drawn.id() == key => drawn.clone(),
            Some(_) | None => self.barrier.key(keyring, key)?,
        };
        Ok(key.copy_for(self.barrier.cluster.as_bytes(), to)?.map(Bytes::from))
    }

    fn reseal(&mut self, keyring: &KeyringRecord, key: &Bytes, value: &Bytes) -> Result<Bytes, StoreError> {
        let (clear, secret) = self.barrier.open_with(keyring, key, value)?;
        self.barrier.seal_with(keyring, key, clear, &secret)
    }
}

/// What a wish comes to, worked out from the state as it is, with what it writes sealed.
pub(super) type Plan = dyn Fn(&dyn StateRead, &Barrier) -> Result<Option<Txn>, Failure> + Send + Sync;

impl Service {
    /// Settles a wish that may write something secret: worked out and sealed here, and again when the key that it was sealed with
    /// was replaced meanwhile.
    pub(super) async fn once_planned(
        &self,
        asker: &Asker,
        id: Option<api::Once>,
        plan: Arc<Plan>,
        until: Instant,
    ) -> Result<Wished, Failure> {
        loop {
            self.router.read_index(until).await?;
            let (reader, barrier, plan) = (self.store()?.reader, Arc::clone(&self.barrier), Arc::clone(&plan));
            let planned = blocking(move || Ok(plan(&*reader.view(), &barrier))).await?;
            match self.once(asker, id.clone(), planned, until).await {
                // Under the same request id: nothing is kept of the copy that was refused so.
                Err(error) if matches!(error.code(), api::Code::StaleKey) && Instant::now() < until => {}
                settled => return settled,
            }
        }
    }

    /// Asks the leader, by the log, for another active key in the place of this one; whether that is still the active one.
    pub(super) async fn ask_for_rotation(&self, asker: &Asker, active: u32, until: Instant) -> Result<bool, Failure> {
        let order = KeyringOrder { kind: Some(KeyringOrderKind::Ask(Ask { active })) };
        let command = Command::from(CommandKind::Keyring(order));
        Ok(self.router.execute_for(asker, command, until).await?.succeeded)
    }
}

/// Does what is due about the keyring, as long as this manager leads. Runs until the node stops.
pub(super) async fn keep(service: Arc<Service>) {
    let mut records = service.records.clone();
    let mut kept = Kept::default();
    loop {
        if let Ok(Err(_stopped)) = tokio::time::timeout(EVERY, records.changed()).await {
            return;
        }
        let (leads, low) = {
            let status = service.status.borrow();
            (status.lease.is_some(), status.low_space.is_some())
        };
        if !leads || low {
            continue;
        }
        loop {
            match step(&service, &mut kept).await {
                Ok(true) => tokio::time::sleep(BREATH).await,
                Ok(false) => break,
                Err(error) => {
                    tracing::debug!(error = error.message, "the keyring is cared for later");
                    break;
                }
            }
        }
    }
}

/// What is remembered from one order to the next.
#[derive(Default)]
struct Kept {
    search: SearchFrom,
    /// Managers that no key can be sealed to, and of which that was told.
    told: BTreeSet<NodeId>,
}

impl Kept {
    /// Those of these that are to be told of: each once, and again when it was well in between.
    fn untold(&mut self, unusable: Vec<NodeId>) -> Vec<NodeId> {
        let unusable: BTreeSet<NodeId> = unusable.into_iter().collect();
        let untold = unusable.difference(&self.told).copied().collect();
        self.told = unusable;
        untold
    }
}

/// One order, if one is due; whether there may be more to do.
async fn step(service: &Service, kept: &mut Kept) -> Result<bool, Failure> {
    let (reader, barrier) = (service.store()?.reader, Arc::clone(&service.barrier));
    let records = service.records.borrow().clone();
    let (known, mut search) = (Arc::clone(&records), std::mem::take(&mut kept.search));
    let (care, search) = blocking(move || {
        let view = reader.view();
        let mut care = || -> StoreResult<Care> {
            // Counted up to now; who is a manager may be a moment old, and every copy is checked at apply.
            let keyring = read::keyring(&*view)?;
            let mut hand = Hand { barrier: &barrier, drawn: None };
            keyring::care(&*view, &keyring, records.nodes.members(), &mut hand, &mut search).map_err(
                |error| match error {
                    OrderError::Store(error) | OrderError::Cipher(error) => error,
                },
            )
        };
        let care = care().map_err(|error| broken(&error))?;
        Ok((care, search))
    })
    .await?;
    kept.search = search;
    let Care { order, unusable } = care;
    for id in kept.untold(unusable) {
        let manager = known.nodes.get(id).map_or_else(|| id.to_string(), display_name);
        tracing::warn!(
            manager,
            "no barrier key can be sealed to this manager's public sealing key: it gets none, and no seat; the others are not held up. Next: quorate join --replace on it"
        );
    }
    let Some(order) = order else { return Ok(false) };
    let what = match &order.kind {
        Some(KeyringOrderKind::Share(_)) => "managers get copies of the barrier's keys",
        Some(KeyringOrderKind::Rotate(_)) => "the barrier's key is replaced",
        Some(KeyringOrderKind::Reseal(_)) => "records are sealed anew",
        Some(KeyringOrderKind::Ask(_)) | None => "nothing",
    };
    let until = Instant::now() + PATIENCE;
    let done = service.router.execute(Command::from(CommandKind::Keyring(order)), until).await?;
    if done.succeeded {
        tracing::info!(what, "keyring");
    }
    Ok(done.succeeded)
}

#[cfg(test)]
mod tests {
    use quorate_core::keyspace::Section;
    use quorate_core::membership::record::{NodeRecord, Role};

    use super::*;

    fn facts(seed: u8) -> Facts {
        let cluster_id = Bytes::from(vec![1; 16]);
        Facts { cluster_id, sealing: Bytes::from(vec![seed; 32]), ..Facts::default() }
    }

    /// A state that holds nothing but a keyring.
    struct Only(KeyringRecord);

    impl StateRead for Only {
        fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
            Ok((key == b"\x10keyring").then(|| self.0.encode_to_vec().into()))
        }

        fn scan(
            &self,
            _: &[u8],
            _: &[u8],
            _: &mut dyn FnMut(&[u8], &[u8]) -> quorate_core::ports::Visit,
        ) -> StoreResult<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_exported_opens_everything_under_another_manager_and_nobody_else_opens_it() {
        // Given a secret that was sealed in a cluster whose key was replaced once
        let (barrier, mut keyring) = Barrier::found(&facts(1)).unwrap();
        let key = Section::Secret.key(b"db");
        let old = barrier.seal_with(&keyring, &key, Bytes::from_static(b"labels"), b"hunter2").unwrap();
        let mut hand = Hand { barrier: &barrier, drawn: None };
        hand.draw(2).unwrap();
        let to = Bytes::copy_from_slice(barrier.pair.public());
        let sealed = hand.copy(&keyring, 2, &to).unwrap().unwrap();
        keyring.keys.push(StoredKey { id: 2, copies: vec![KeyCopy { to, sealed }], ..StoredKey::default() });
        keyring.active = 2;
        let new = hand.reseal(&keyring, &key, &old).unwrap();
        assert_eq!(keyring::named_key(&key, &new), Ok(Some(2)));
        // When its keys are brought into the keyring of another manager
        let exported = barrier.export(&Only(keyring.clone())).unwrap();
        let (other, imported) = Barrier::import(&facts(2), &exported).unwrap();
        // Then that one opens what was sealed before and after, and the keyring as it was it does not
        for record in [&old, &new] {
            let (clear, secret) = other.open(&Only(imported.clone()), &key, record).unwrap();
            assert_eq!((&clear[..], secret.as_slice()), (&b"labels"[..], &b"hunter2"[..]));
            assert!(other.open(&Only(keyring.clone()), &key, record).is_err());
            assert!(other.open(&Only(imported.clone()), &Section::Secret.key(b"dc"), record).is_err(), "swapped");
        }
        assert_eq!(imported.active, 2);
    }

    #[test]
    fn a_manager_whose_public_sealing_key_is_none_is_named_and_holds_up_nobody() {
        // Given three managers, one of which has said what is no key, and another active key that is due
        let (barrier, mut keyring) = Barrier::found(&facts(1)).unwrap();
        let node = |n: u8, key: Bytes| NodeRecord {
            id: vec![n; 16].into(),
            raft_id: u64::from(n),
            role: Role::Manager.into(),
            sealing_key: key,
            ..NodeRecord::default()
        };
        let none = Bytes::from(vec![0; 32]);
        let nodes = [node(1, facts(1).sealing_key()), node(2, facts(2).sealing_key()), node(3, none.clone())];
        let mut hand = Hand { barrier: &barrier, drawn: None };
        // When the leader looks what to do, then the second gets its copy,
        let mut care = |keyring: &KeyringRecord| {
            keyring::care(&Only(keyring.clone()), keyring, nodes.iter(), &mut hand, &mut SearchFrom::default()).unwrap()
        };
        let Care { order: Some(KeyringOrder { kind: Some(KeyringOrderKind::Share(share)) }), unusable } =
            care(&keyring)
        else {
            panic!("no copies are given out");
        };
        assert_eq!((share.copies.len(), &unusable), (1, &vec![NodeId::from_bytes([3; 16])]));
        keyring.keys[0].copies.extend(share.copies.into_iter().filter_map(|given| given.copy));
        keyring.due = true;
        // and the new key is for both,
        let Care { order: Some(KeyringOrder { kind: Some(KeyringOrderKind::Rotate(rotate)) }), unusable } =
            care(&keyring)
        else {
            panic!("the key is not replaced");
        };
        assert_eq!((rotate.copies.len(), unusable.len()), (2, 1));
        // and it is told once
        let mut kept = Kept::default();
        let told =
            [unusable.clone(), unusable.clone(), Vec::new(), unusable].map(|unusable| kept.untold(unusable).len());
        assert_eq!(told, [1, 0, 0, 1]);
        assert!(barrier.copies_for(&keyring, &none).unwrap().is_none(), "a backup for it is refused too");
    }
}
