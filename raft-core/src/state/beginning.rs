//! What the first act of a force-new-cluster does to the state (design section 6, point 2).
//!
//! Owns the records that begin one; what follows from them at apply is in [`super::recovered`]. Pure. Called by a recovery.

use bytes::Bytes;
use prost::Message;

use crate::id::{Lineage, NodeId, RaftId};
use crate::keyring::KeyringRecord;
use crate::log::Configuration;
use crate::membership::record::NodeRecord;
use crate::ports::{StateRead, StoreResult, WriteSet};
use crate::state::hash::Lanes;
use crate::state::layout;
use crate::state::read;
use crate::state::stored::{StoredConfiguration, StoredRecovery, decode};
use crate::succession::{SUCCESSIONS_MAX, Succession};

/// Who `node` is, for the survivor's record.
pub(crate) fn found_record(now: Option<&NodeRecord>, id: NodeId, template: &NodeRecord) -> NodeRecord {
    let mut found = now.cloned().unwrap_or_else(|| template.clone());
    found.id = Bytes::copy_from_slice(id.as_bytes());
    found.store_id.clone_from(&template.store_id);
    found
}

/// The records that begin a recovery: the configuration {`own`} under the next number, and the longer lineage with the
/// word of who began it; of a backup on another disk also the keyring, with the copies that were made for it. The state hash follows them.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub(crate) fn beginning(
    view: &dyn StateRead,
    own: RaftId,
    lineage: &Lineage,
    succession: &Succession,
    keyring: Option<&KeyringRecord>,
) -> StoreResult<WriteSet> {
    let status = read::status(view)?;
    let mut progress = read::progress(view)?.unwrap_or_default();
    let number = status.configuration_number + 1;
    let alone = Configuration { voters: vec![own], ..Configuration::default() };
    let before = match view.get(layout::SYSTEM_RECOVERY)? {
        Some(bytes) => decode::<StoredRecovery>(layout::SYSTEM_RECOVERY, &bytes)?,
        None => StoredRecovery::default(),
    };
    let mut recovery = StoredRecovery { begun: lineage.to_bytes().into(), configuration_number: number, ..before };
    recovery.successions.push(succession.clone());
    let old = recovery.successions.len().saturating_sub(SUCCESSIONS_MAX);
    recovery.successions.drain(..old);
    let mut lanes = Lanes::from_digest(&status.hash);
    let mut writes = WriteSet::default();
    let begun = [
        (layout::SYSTEM_CONFIGURATION, StoredConfiguration::new(&alone, number).encode_to_vec()),
        (layout::SYSTEM_RECOVERY, recovery.encode_to_vec()),
    ];
    for (key, record) in
        begun.into_iter().chain(keyring.map(|keyring| (layout::SYSTEM_KEYRING, keyring.encode_to_vec())))
    {
        if let Some(old) = view.get(key)? {
            lanes.remove(Lanes::of(key, &old));
        }
        lanes.add(Lanes::of(key, &record));
        writes.put(key, record);
    }
    progress.hash = Bytes::copy_from_slice(&lanes.digest());
    writes.put(layout::META_PROGRESS, progress.encode_to_vec());
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Visit;

    /// A state that holds nothing but what recoveries have left.
    struct Only(StoredRecovery);

    impl StateRead for Only {
        fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
            Ok((key == layout::SYSTEM_RECOVERY).then(|| self.0.encode_to_vec().into()))
        }

        fn scan(&self, _: &[u8], _: &[u8], _: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
            Ok(())
        }
    }

    #[test]
    fn of_many_incarnations_the_newest_words_are_kept_the_oldest_first() {
        // Given as many words as are kept
        let word = |n: usize| Succession { lineage: n.to_string().into(), ..Succession::default() };
        let successions = (0..SUCCESSIONS_MAX).map(word).collect();
        let state = Only(StoredRecovery { successions, ..StoredRecovery::default() });
        // When one more incarnation begins
        let writes = beginning(&state, RaftId(1), &Lineage::default(), &word(SUCCESSIONS_MAX), None).unwrap();
        // Then its word is the last one, and the first is forgotten.
        let (_, record) = writes.writes.iter().find(|(key, _)| key[..] == *layout::SYSTEM_RECOVERY).unwrap();
        let written = StoredRecovery::decode(record.clone().unwrap()).unwrap();
        assert_eq!(written.successions, (1..=SUCCESSIONS_MAX).map(word).collect::<Vec<_>>());
    }
}
