//! The barrier's keyring: with which keys secrets are sealed above the log, and who can open them.
//!
//! Owns the keyring record, the form of a record with a sealed part, the orders that change the keyring, and the decision
//! which order is due. Each barrier key lies in it once for each manager, sealed to the public key in that manager's record;
//! nothing here seals or opens, and no key is ever here in clear. Called at apply, by the planner (who cannot open the active
//! key is not seated), and by the leader's housekeeping, which has the cipher.
//!
//! # Rules
//! - A record may name only a key of the keyring; a key other than the active one goes when no record names it.
//! - A manager's copies go with its sealing key: when its record loses that (demoted, removed, lost, another store), or says
//!   that somebody else may have it (compromised), and then the active key is due to be rotated.
//! - A new active key is given to everybody who could open the one before, at least.
//! - A manager that no key can be sealed to gets none, and so no seat; the care for everybody else goes on without it.

use bytes::Bytes;
use prost::Message as _;

use crate::envelope::Header;
use crate::id::NodeId;
use crate::keyspace::Section;
use crate::limits::BARRIER_USES_MAX;
use crate::membership::record::{NodeRecord, Role};
use crate::ports::{StateRead, StoreResult};
use crate::state::read;
use crate::txn::KeyValue;

/// Bytes of a sealing public key.
pub const SEALING_KEY_BYTES: usize = 32;

/// Bytes of records that are sealed anew by one order, at least one record.
const RESEAL_BYTES: usize = 1024 * 1024;
/// Records that are sealed anew by one order.
const RESEAL_RECORDS: usize = 64;

/// The keyring: a system record, without revision and history. Field numbers are for ever.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyringRecord {
    /// Rises with every change of keys and copies; an order says which it was made from.
    #[prost(uint64, tag = "1")]
    pub serial: u64,
    /// The key that seals; 0: there is no keyring.
    #[prost(uint32, tag = "2")]
    pub active: u32,
    /// Ascending by id.
    #[prost(message, repeated, tag = "3")]
    pub keys: Vec<BarrierKey>,
    /// The active key is to be replaced: somebody who could open it should not any more, or people asked for it.
    #[prost(bool, tag = "4")]
    pub due: bool,
}

/// One barrier key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BarrierKey {
    /// Counted from 1, never given twice.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// How often something sealed with it was written.
    #[prost(uint64, tag = "2")]
    pub uses: u64,
    /// How many live records name it.
    #[prost(uint64, tag = "3")]
    pub records: u64,
    /// One for each manager that can open it.
    #[prost(message, repeated, tag = "4")]
    pub copies: Vec<KeyCopy>,
}

/// A barrier key, sealed to one manager.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyCopy {
    /// The public key that it is sealed to.
    #[prost(bytes = "bytes", tag = "1")]
    pub to: Bytes,
    /// The sealed key.
    #[prost(bytes = "bytes", tag = "2")]
    pub sealed: Bytes,
}

/// A record of which one part is sealed. Every record with a sealed part has this form, whatever it is about.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SealedRecord {
    /// What may be read by whoever may read the record.
    #[prost(bytes = "bytes", tag = "1")]
    pub clear: Bytes,
    /// An envelope of [`crate::envelope`], bound to cluster and full key of the record.
    #[prost(bytes = "bytes", tag = "15")]
    pub sealed: Bytes,
}

/// Just the sealed part.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct SealedPart {
    #[prost(bytes = "bytes", tag = "15")]
    sealed: Bytes,
}

/// Whether records of this full key may have a sealed part.
pub fn is_sealed_section(key: &[u8]) -> bool {
    [Section::Identity, Section::Secret].iter().any(|section| key.first() == Some(&(*section as u8)))
}

/// Which barrier key the record at `key` names; `None` when it has no sealed part.
///
/// # Errors
/// The sealed part is no envelope.
pub fn named_key(key: &[u8], value: &[u8]) -> Result<Option<u32>, &'static str> {
    if !is_sealed_section(key) {
        return Ok(None);
    }
    let Ok(SealedPart { sealed }) = SealedPart::decode(value) else { return Ok(None) };
    if sealed.is_empty() {
        return Ok(None);
    }
    match Header::parse(&sealed) {
        Ok(header) => Ok(Some(header.key)),
        Err(_unreadable) => Err("a record whose sealed part is no envelope"),
    }
}

/// A change of the keyring, or of what it has sealed. Makes no revision.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyringOrder {
    /// Which; absent is refused.
    #[prost(oneof = "KeyringOrderKind", tags = "1, 2, 3, 4")]
    pub kind: Option<KeyringOrderKind>,
}

/// The orders there are.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum KeyringOrderKind {
    /// Managers get copies.
    #[prost(message, tag = "1")]
    Share(Share),
    /// Another key seals from now on.
    #[prost(message, tag = "2")]
    Rotate(Rotate),
    /// Records are sealed anew.
    #[prost(message, tag = "3")]
    Reseal(Reseal),
    /// Somebody asks for a rotation: the leader does it.
    #[prost(message, tag = "4")]
    Ask(Ask),
}

/// Copies of keys that are there, for managers that lack them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Share {
    /// The keyring's serial that it was made from; void at any other.
    #[prost(uint64, tag = "1")]
    pub serial: u64,
    /// The copies.
    #[prost(message, repeated, tag = "2")]
    pub copies: Vec<GivenCopy>,
}

/// A copy on its way into the keyring.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GivenCopy {
    /// 16 bytes: whose. Void unless that node's record has the public key that the copy is sealed to.
    #[prost(bytes = "bytes", tag = "1")]
    pub node: Bytes,
    /// Which key.
    #[prost(uint32, tag = "2")]
    pub key: u32,
    /// The copy.
    #[prost(message, optional, tag = "3")]
    pub copy: Option<KeyCopy>,
}

/// A new key, active from now on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rotate {
    /// As in [`Share`].
    #[prost(uint64, tag = "1")]
    pub serial: u64,
    /// The id of the new key: the one after the newest.
    #[prost(uint32, tag = "2")]
    pub id: u32,
    /// Its copies: for everybody who can open the active key, at least.
    #[prost(message, repeated, tag = "3")]
    pub copies: Vec<GivenCopy>,
}

/// Records, sealed anew.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reseal {
    /// Each void by itself unless the record is still what it was made from.
    #[prost(message, repeated, tag = "1")]
    pub records: Vec<Resealed>,
}

/// One record, sealed anew.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Resealed {
    /// The full key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The revision that last wrote it.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// The barrier key that it names.
    #[prost(uint32, tag = "3")]
    pub from: u32,
    /// The whole record as it is to be.
    #[prost(bytes = "bytes", tag = "4")]
    pub value: Bytes,
}

/// The active key is to be replaced.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Ask {
    /// The active key that is meant: asked for twice, it is replaced once.
    #[prost(uint32, tag = "1")]
    pub active: u32,
}

impl KeyringRecord {
    /// Where there is none: a state of a test that seals nothing.
    pub const fn is_none(&self) -> bool {
        self.active == 0
    }

    /// One key.
    pub fn key(&self, id: u32) -> Option<&BarrierKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    pub(crate) fn key_mut(&mut self, id: u32) -> Option<&mut BarrierKey> {
        self.keys.iter_mut().find(|key| key.id == id)
    }

    /// Whether the manager of this record can open the active key. Anybody can where there is no keyring.
    pub fn opens(&self, node: &NodeRecord) -> bool {
        self.is_none() || self.key(self.active).is_some_and(|key| key.is_for(&node.sealing_key))
    }

    /// The id of the next key.
    pub fn next_id(&self) -> u32 {
        self.keys.iter().map(|key| key.id).max().unwrap_or(0).saturating_add(1)
    }

    /// Takes the copies of a public key out, and asks for a rotation if there were any.
    pub(crate) fn forget(&mut self, public: &Bytes) -> bool {
        let before: usize = self.keys.iter().map(|key| key.copies.len()).sum();
        for key in &mut self.keys {
            key.copies.retain(|copy| copy.to != *public);
        }
        let gone = self.keys.iter().map(|key| key.copies.len()).sum::<usize>() < before;
        if gone {
            self.serial += 1;
            self.due = true;
        }
        gone
    }

    /// Lets go of keys that no record names.
    pub(crate) fn settle(&mut self) {
        let active = self.active;
        let before = self.keys.len();
        self.keys.retain(|key| key.id == active || key.records > 0);
        if self.keys.len() < before {
            self.serial += 1;
        }
    }
}

impl BarrierKey {
    /// Whether there is a copy for this public key.
    pub fn is_for(&self, public: &[u8]) -> bool {
        self.copy_for(public).is_some()
    }

    /// The copy for this public key.
    pub fn copy_for(&self, public: &[u8]) -> Option<&KeyCopy> {
        self.copies.iter().find(|copy| copy.to == public && public.len() == SEALING_KEY_BYTES)
    }
}

/// Whether a node is, or is about to be, a manager that must be able to open what is sealed.
pub fn is_holder(node: &NodeRecord) -> bool {
    may_hold(node) && node.role == i32::from(Role::Manager) && !node.removing
}

/// Whether a node may have copies: also one that is on its way out and still has its seat.
pub(crate) fn may_hold(node: &NodeRecord) -> bool {
    node.raft_id != 0 && !node.lost && !node.compromised && node.sealing_key.len() == SEALING_KEY_BYTES
}

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// These managers lack copies of some keys.
    Share(Vec<(NodeId, Bytes)>),
    /// The active key is to be replaced, and these managers get the new one.
    Rotate(Vec<(NodeId, Bytes)>),
    /// Records name keys other than the active one.
    Reseal,
}

/// What is due, by the records as they are; the most urgent first. `None`: nothing.
pub fn due<'a>(keyring: &KeyringRecord, nodes: impl Iterator<Item = &'a NodeRecord>) -> Option<Due> {
    if keyring.is_none() {
        return None;
    }
    let (mut lacking, mut next) = (Vec::new(), Vec::new());
    for node in nodes.filter(|node| may_hold(node)) {
        let Some(id) = node.node_id() else { continue };
        let holder = (id, node.sealing_key.clone());
        if is_holder(node) && keyring.keys.iter().any(|key| !key.is_for(&node.sealing_key)) {
            lacking.push(holder.clone());
        }
        // Who is on its way out is not shut out before it is: it may have a seat for as long as that takes.
        if is_holder(node) || keyring.opens(node) {
            next.push(holder);
        }
    }
    if !lacking.is_empty() {
        return Some(Due::Share(lacking));
    }
    let active = keyring.key(keyring.active);
    if keyring.due || active.is_some_and(|key| key.uses >= BARRIER_USES_MAX) {
        return Some(Due::Rotate(next));
    }
    let older = keyring.keys.iter().any(|key| key.id != keyring.active && key.records > 0);
    older.then_some(Due::Reseal)
}

/// Who has the cipher: the leader's housekeeping, or a model of it in the simulator.
pub trait Cipher {
    /// Why it could not.
    type Error;

    /// Draws a new key under this id; [`copy`](Self::copy) can give copies of it from then on.
    ///
    /// # Errors
    /// Those of the cipher.
    fn draw(&mut self, id: u32) -> Result<(), Self::Error>;

    /// A copy of a key for this public key; `None` when nothing can be sealed to it: it has the right length, and is no key.
    ///
    /// # Errors
    /// Those of the cipher.
    fn copy(&mut self, keyring: &KeyringRecord, key: u32, to: &Bytes) -> Result<Option<Bytes>, Self::Error>;

    /// The record at this full key, sealed anew with the active key.
    ///
    /// # Errors
    /// Those of the cipher.
    fn reseal(&mut self, keyring: &KeyringRecord, key: &Bytes, value: &Bytes) -> Result<Bytes, Self::Error>;
}

/// What goes wrong while an order is put together.
#[derive(Debug)]
pub enum OrderError<E> {
    /// The store.
    Store(crate::ports::StoreError),
    /// The cipher.
    Cipher(E),
}

/// What is due next, as an order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Care {
    /// `None`: there is nothing to do.
    pub order: Option<KeyringOrder>,
    /// Managers that no key can be sealed to: they are left out, and hold up nobody else.
    pub unusable: Vec<NodeId>,
}

/// Where the search for records that name an older key goes on: it need not begin anew with each order. Never more than a
/// hint, the whole is searched before it is said that there are none.
#[derive(Debug, Clone, Default)]
pub struct SearchFrom(Option<Bytes>);

/// The order that does what is due by the records as they are, the most urgent first.
///
/// # Errors
/// [`OrderError`]; nothing was changed.
pub fn care<'a, C: Cipher>(
    view: &dyn StateRead,
    keyring: &KeyringRecord,
    nodes: impl Iterator<Item = &'a NodeRecord> + Clone,
    cipher: &mut C,
    from: &mut SearchFrom,
) -> Result<Care, OrderError<C::Error>> {
    let mut unusable: Vec<NodeId> = Vec::new();
    loop {
        let fit = nodes.clone().filter(|node| node.node_id().is_none_or(|id| !unusable.contains(&id)));
        let kind = match due(keyring, fit) {
            None => return Ok(Care { order: None, unusable }),
            Some(Due::Share(lacking)) => {
                let mut copies = Vec::new();
                let before = unusable.len();
                for holder in &lacking {
                    for key in keyring.keys.iter().filter(|key| !key.is_for(&holder.1)) {
                        match given(keyring, key.id, holder, cipher)? {
                            Some(copy) => copies.push(copy),
                            None => {
                                unusable.push(holder.0);
                                break;
                            }
                        }
                    }
                }
                // Whoever cannot be given any does not keep the rest from what is due next.
                if copies.is_empty() && unusable.len() > before {
                    continue;
                }
                KeyringOrderKind::Share(Share { serial: keyring.serial, copies })
            }
            Some(Due::Rotate(holders)) => {
                let id = keyring.next_id();
                cipher.draw(id).map_err(OrderError::Cipher)?;
                let mut copies = Vec::new();
                for holder in &holders {
                    match given(keyring, id, holder, cipher)? {
                        Some(copy) => copies.push(copy),
                        None => unusable.push(holder.0),
                    }
                }
                KeyringOrderKind::Rotate(Rotate { serial: keyring.serial, id, copies })
            }
            Some(Due::Reseal) => {
                let mut records = Vec::new();
                for KeyValue { key, value, mod_revision, .. } in
                    stale_records(view, keyring, from).map_err(OrderError::Store)?
                {
                    let Ok(Some(from)) = named_key(&key, &value) else { continue };
                    let value = cipher.reseal(keyring, &key, &value).map_err(OrderError::Cipher)?;
                    records.push(Resealed { key, revision: mod_revision, from, value });
                }
                if records.is_empty() {
                    return Ok(Care { order: None, unusable });
                }
                KeyringOrderKind::Reseal(Reseal { records })
            }
        };
        return Ok(Care { order: Some(KeyringOrder { kind: Some(kind) }), unusable });
    }
}

/// A copy of a key for a manager; `None` when nothing can be sealed to it.
fn given<C: Cipher>(
    keyring: &KeyringRecord,
    key: u32,
    (node, public): &(NodeId, Bytes),
    cipher: &mut C,
) -> Result<Option<GivenCopy>, OrderError<C::Error>> {
    let sealed = cipher.copy(keyring, key, public).map_err(OrderError::Cipher)?;
    let copy = |sealed| Some(KeyCopy { to: public.clone(), sealed });
    Ok(sealed.map(|sealed| GivenCopy { node: Bytes::copy_from_slice(node.as_bytes()), key, copy: copy(sealed) }))
}

/// Some live records that name another key than the active one: no more than one order takes, at least one where there is any.
fn stale_records(view: &dyn StateRead, keyring: &KeyringRecord, from: &mut SearchFrom) -> StoreResult<Vec<KeyValue>> {
    let begun = from.0.take();
    let mut found = search(view, keyring, begun.as_ref())?;
    if found.is_empty() && begun.is_some() {
        // Something before it was written with an older key meanwhile.
        found = search(view, keyring, None)?;
    }
    // With the first of these, and not behind the last: the order may come too late for some.
    from.0 = found.first().map(|record| record.key.clone());
    Ok(found)
}

/// The same, from this full key on.
fn search(view: &dyn StateRead, keyring: &KeyringRecord, from: Option<&Bytes>) -> StoreResult<Vec<KeyValue>> {
    let mut found = Vec::new();
    let mut bytes = 0;
    for section in [Section::Identity, Section::Secret] {
        if bytes >= RESEAL_BYTES || found.len() >= RESEAL_RECORDS {
            break;
        }
        read::live_records_from(view, section, from, &mut |record| {
            if named_key(&record.key, &record.value).is_ok_and(|named| named.is_some_and(|id| id != keyring.active)) {
                bytes += record.value.len();
                found.push(record);
            }
            bytes < RESEAL_BYTES && found.len() < RESEAL_RECORDS
        })?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
