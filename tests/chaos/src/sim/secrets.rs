//! Secrets and the keyring: what proposers seal, what the leader does about the keys, and what must hold of both.
//!
//! Owns the part that the barrier's owner has on a real manager, with a cipher that is a model: a sealed part is the header that
//! names its key, and nothing else, since no member of the core ever opens one. What is due is decided by the core
//! ([`quorate_core::keyring`]), as on a node. Draws from a stream of its own. Called by the world.

use bytes::Bytes;
use prost::Message as _;

use super::check::{Broken, broken};
use super::config::{ELECTION, MILLIS};
use super::event::Event;
use super::world::{Step, World};
use quorate_core::command::{Command, CommandKind};
use quorate_core::consensus::io::RaftRole;
use quorate_core::envelope::{ALGORITHM_AES_256_GCM, EPOCH_BYTES, Header, TAG_BYTES};
use quorate_core::id::RaftId;
use quorate_core::keyring::{
    self, Ask, BarrierKey, Care, Cipher, KeyCopy, KeyringOrder, KeyringOrderKind, KeyringRecord, SEALING_KEY_BYTES,
    SealedRecord, SearchFrom, named_key,
};
use quorate_core::keyspace::Section;
use quorate_core::membership::record::NodeRecord;
use quorate_core::ports::StateRead;
use quorate_core::state::read;
use quorate_core::txn::{Delete, Op, Put, Txn};

/// How often the leader looks what is due.
const CARE: u64 = 60 * MILLIS;
/// Names of secrets: few, so that they are written, removed and made again.
const SECRETS: u64 = 12;

/// The public key of the store that has this raft id.
pub(super) fn sealing_key(id: u64) -> Bytes {
    let mut key = vec![0; SEALING_KEY_BYTES];
    for (at, byte) in key.iter_mut().zip(id.to_be_bytes()) {
        *at = byte;
    }
    key.into()
}

fn copy(to: &Bytes) -> KeyCopy {
    KeyCopy { to: to.clone(), sealed: Bytes::from_static(b"copy") }
}

/// A record that names this key.
fn sealed(key: u32, clear: Bytes) -> Bytes {
    let mut envelope = Vec::new();
    Header { algorithm: ALGORITHM_AES_256_GCM, key, epoch: [0; EPOCH_BYTES], number: 0 }.write(&mut envelope);
    envelope.extend_from_slice(&[0; TAG_BYTES]);
    SealedRecord { clear, sealed: envelope.into() }.encode_to_vec().into()
}

/// The keyring that a cluster is founded with: what its first manager holds.
pub(super) fn founded() -> KeyringRecord {
    let first = BarrierKey { id: 1, copies: vec![copy(&sealing_key(1))], ..BarrierKey::default() };
    KeyringRecord { serial: 1, active: 1, keys: vec![first], due: false }
}

struct Model;

impl Cipher for Model {
    type Error = Broken;

    fn draw(&mut self, _id: u32) -> Result<(), Broken> {
        Ok(())
    }

    fn copy(&mut self, _keyring: &KeyringRecord, _key: u32, _to: &Bytes) -> Result<Option<Bytes>, Broken> {
        Ok(Some(Bytes::from_static(b"copy")))
    }

    fn reseal(&mut self, keyring: &KeyringRecord, _key: &Bytes, value: &Bytes) -> Result<Bytes, Broken> {
        match SealedRecord::decode(value.clone()) {
            Ok(record) => Ok(sealed(keyring.active, record.clear)),
            Err(error) => broken("sealed_records_can_be_read", error.to_string()),
        }
    }
}

impl World {
    /// As the record of a manager is to be: with the key of its store.
    pub(super) fn with_sealing_key(&self, record: NodeRecord) -> NodeRecord {
        if !self.config.secrets || record.raft_id == 0 {
            return record;
        }
        NodeRecord { sealing_key: sealing_key(record.raft_id), ..record }
    }

    pub(super) fn begin_secrets(&mut self) {
        self.schedule(self.now + CARE, Event::Care);
        self.schedule(self.now + 2 * ELECTION, Event::Seal);
    }

    fn put_in(&mut self, at: RaftId, command: Command) -> Step {
        self.command(at, command)
            .map(|_ticket| ())
            .map_err(|violation| Broken { invariant: violation.invariant, detail: violation.detail })
    }

    /// Whoever leads does what is due; two may for a moment, and one may be late.
    pub(super) fn care_for_keys(&mut self) -> Step {
        self.schedule(self.now + CARE, Event::Care);
        let leads = |id: &RaftId| self.status(*id).is_some_and(|status| status.role == Some(RaftRole::Leader));
        let leading: Vec<RaftId> = self.ids().into_iter().filter(|id| self.is_up(*id) && leads(id)).collect();
        for leader in leading {
            let (Some(view), Some(records)) = (self.view(leader), self.records(leader)) else { continue };
            let Ok(keyring) = read::keyring(&*view) else { return broken("a_view_can_be_read", leader.to_string()) };
            let mut from = SearchFrom::default();
            match keyring::care(&*view, &keyring, records.nodes.members(), &mut Model, &mut from) {
                Ok(Care { order: Some(order), .. }) => self.put_in(leader, CommandKind::Keyring(order).into())?,
                Ok(Care { order: None, .. }) => {}
                Err(error) => return broken("orders_can_be_made", format!("{error:?}")),
            }
        }
        Ok(())
    }

    /// Some member seals something with the key that it knows, which may be an old one by the time that it is applied.
    pub(super) fn seal_something(&mut self) -> Step {
        if !self.faults {
            return Ok(());
        }
        let next = self.now + self.sealing.between(MILLIS, self.config.seal_every);
        self.schedule(next, Event::Seal);
        let up: Vec<RaftId> = self.ids().into_iter().filter(|id| self.is_up(*id)).collect();
        let Some(at) = self.sealing.pick(&up) else { return Ok(()) };
        let Some(keyring) = self.view(at).and_then(|view| read::keyring(&*view).ok()) else { return Ok(()) };
        if keyring.active == 0 {
            return Ok(());
        }
        if self.sealing.chance(120) {
            let order = KeyringOrder { kind: Some(KeyringOrderKind::Ask(Ask { active: keyring.active })) };
            return self.put_in(at, CommandKind::Keyring(order).into());
        }
        let name = self.sealing.between(0, SECRETS - 1);
        let key = Section::Secret.key(format!("s{name}").as_bytes());
        let op: Op = if self.sealing.chance(250) {
            Delete { key, ..Delete::default() }.into()
        } else {
            let clear = Bytes::from(self.sealing.between(0, 1 << 20).to_string());
            Put { key, value: sealed(keyring.active, clear), ..Put::default() }.into()
        };
        self.put_in(at, CommandKind::System(Txn::of(op)).into())
    }

    /// What must hold wherever something was applied.
    pub(super) fn keys_are_right(&mut self, id: RaftId) -> Step {
        if !self.config.secrets {
            return Ok(());
        }
        let (Some(view), Some(records), Some(configuration)) = (
            self.view(id),
            self.records(id),
            self.process(id).map(|process| process.machine.status().configuration.clone()),
        ) else {
            return Ok(());
        };
        let Ok(keyring) = read::keyring(&*view) else { return broken("a_view_can_be_read", id.to_string()) };
        no_record_names_a_missing_key(&*view, &keyring)?;
        let voters = configuration.voters.iter().chain(&configuration.voters_outgoing);
        for voter in voters {
            // One without a record is on its way out.
            let Some(node) = records.by_raft_id(*voter) else { continue };
            if !node.lost && !keyring.opens(node) {
                return broken(
                    "who_is_seated_can_open",
                    format!("{id} has {voter} seated, which has no copy of key {}", keyring.active),
                );
            }
        }
        self.report.barrier_keys = self.report.barrier_keys.max(u64::from(keyring.active));
        Ok(())
    }

    /// Once nothing happens any more, one key is left, every manager has it, and nothing names another.
    pub(super) fn keys_at_rest(&self) -> Option<String> {
        if !self.config.secrets {
            return None;
        }
        let leader = self.leader()?;
        let (view, records) = (self.view(leader)?, self.records(leader)?);
        let keyring = read::keyring(&*view).ok()?;
        let due = keyring::due(&keyring, records.nodes.members());
        if let Some(due) = due {
            return Some(format!("of the keyring there is still due: {due:?}"));
        }
        (keyring.keys.len() > 1).then(|| format!("{} keys are left, and nothing is due", keyring.keys.len()))
    }
}

fn no_record_names_a_missing_key(view: &dyn StateRead, keyring: &KeyringRecord) -> Step {
    let mut found = Ok(());
    let mut named = std::collections::BTreeMap::new();
    for section in [Section::Identity, Section::Secret] {
        let scanned = read::live_records(view, section, &mut |record| {
            match named_key(&record.key, &record.value) {
                Ok(Some(id)) if keyring.key(id).is_none() => {
                    let key = record.key.escape_ascii().to_string();
                    found = broken("no_record_names_a_missing_key", format!("{key} names key {id}"));
                }
                Ok(Some(id)) => *named.entry(id).or_insert(0_u64) += 1,
                Ok(None) => {}
                Err(why) => found = broken("sealed_records_can_be_read", why),
            }
            found.is_ok()
        });
        if let Err(error) = scanned {
            return broken("a_view_can_be_read", error.to_string());
        }
    }
    found?;
    for key in &keyring.keys {
        let counted = named.get(&key.id).copied().unwrap_or(0);
        if counted != key.records {
            return broken(
                "records_of_a_key_are_counted",
                format!("{counted} records name key {}, the keyring says {}", key.id, key.records),
            );
        }
    }
    Ok(())
}
