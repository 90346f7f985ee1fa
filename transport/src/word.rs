//! Words that stand for a new incarnation of the cluster: signed and verified.
//!
//! Owns the signatures of [`quorate_core::succession::Succession`], and of the managers that vouch for backups. What they are worth, the core
//! weighs. Never stores anything. Called by recoveries, restores, whoever tells or takes a backup, and managers that meet a longer
//! lineage.

use bytes::Bytes;
use hkdf::Hkdf;
use quorate_core::id::{ClusterId, Lineage, NodeId};
use quorate_core::succession::{Checked, Succession, voucher};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::ca::{CaError, ClusterCa};
use crate::identity::{Identity, KeyPair};

/// What comes before an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Bytes of an Ed25519 public key.
const PUBLIC_KEY_BYTES: usize = 32;

/// The key that signs for a backup. Its seed lies in the sealed file and nowhere else.
pub struct BackupPair(Ed25519KeyPair);

impl BackupPair {
    /// The pair that goes with a backup's seed.
    ///
    /// # Errors
    /// None that is known: the seed has the length that is needed.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, CaError> {
        let mut own = Zeroizing::new([0; 32]);
        let failed = || CaError::Signing("no key could be made of the backup's seed".to_owned());
        Hkdf::<Sha256>::new(None, seed).expand(b"quorate backup signs 1", &mut *own).map_err(|_length| failed())?;
        Ed25519KeyPair::from_seed_unchecked(&*own).map(Self).map_err(|_no_detail| failed())
    }

    /// Its public half.
    pub fn public(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }
}

/// A manager's word for a backup that it tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Witness {
    /// The manager.
    pub member: NodeId,
    /// Its public key.
    pub member_key: Bytes,
    /// Its signature over the backup's public key.
    pub voucher: Bytes,
}

fn sign(key: &KeyPair, message: &[u8]) -> Result<Bytes, CaError> {
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.pkcs8_der())
        .map_err(|_may_hold_key_bytes| CaError::Signing("the key is no Ed25519 key in PKCS#8".to_owned()))?;
    Ok(Bytes::copy_from_slice(pair.sign(message).as_ref()))
}

fn holds(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
}

/// The digest of a public key as node records have it.
fn digest(public: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(SPKI).chain_update(public).finalize().into()
}

/// The word of the manager with this identity for a backup whose key is `backup_key`.
///
/// # Errors
/// `backup_key` is no key, or signing failed.
pub fn vouch(identity: &Identity, backup_key: &[u8]) -> Result<Witness, CaError> {
    if backup_key.len() != PUBLIC_KEY_BYTES {
        return Err(CaError::Signing(format!("a key of {} bytes is no backup's", backup_key.len())));
    }
    let subject = identity.subject();
    Ok(Witness {
        member: subject.node_id,
        member_key: Bytes::copy_from_slice(identity.key().public_key()),
        voucher: sign(identity.key(), &voucher(subject.cluster, subject.node_id, backup_key))?,
    })
}

/// The word of the survivor with this identity for the incarnation that it begins; with the CA's where that is at hand.
///
/// # Errors
/// Signing failed.
pub fn of_recovery(identity: &Identity, lineage: &Lineage, ca: Option<&ClusterCa>) -> Result<Succession, CaError> {
    let subject = identity.subject();
    let mut word = Succession {
        lineage: lineage.to_bytes().into(),
        member: Bytes::copy_from_slice(subject.node_id.as_bytes()),
        member_key: Bytes::copy_from_slice(identity.key().public_key()),
        ..Succession::default()
    };
    let signed = word.signed(subject.cluster);
    word.signature = sign(identity.key(), &signed)?;
    if let Some(ca) = ca {
        word.ca_signature = sign(ca.key(), &signed)?;
    }
    Ok(word)
}

/// The word for the incarnation that a backup begins with: signed with its own key, for which its witness stands, and by the CA in it.
///
/// # Errors
/// Signing failed.
pub fn of_restore(
    pair: &BackupPair,
    witness: &Witness,
    lineage: &Lineage,
    ca: &ClusterCa,
) -> Result<Succession, CaError> {
    let mut word = Succession {
        lineage: lineage.to_bytes().into(),
        member: Bytes::copy_from_slice(witness.member.as_bytes()),
        member_key: witness.member_key.clone(),
        backup_key: Bytes::copy_from_slice(pair.public()),
        voucher: witness.voucher.clone(),
        ..Succession::default()
    };
    let signed = word.signed(ca.cluster_id());
    word.signature = Bytes::copy_from_slice(pair.0.sign(&signed).as_ref());
    word.ca_signature = sign(ca.key(), &signed)?;
    Ok(word)
}

/// Which signatures of a word hold, by the cluster and the roots that `identity` trusts.
pub fn check(word: &Succession, identity: &Identity) -> Checked {
    check_by(word, identity.subject().cluster, identity.roots())
}

fn check_by<'a>(
    word: &Succession,
    cluster: ClusterId,
    roots: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> Checked {
    let signed = word.signed(cluster);
    let member = NodeId::from_slice(&word.member).unwrap_or_default();
    let by_member = if word.backup_key.is_empty() {
        holds(&word.member_key, &signed, &word.signature)
    } else {
        holds(&word.member_key, &voucher(cluster, member, &word.backup_key), &word.voucher)
            && holds(&word.backup_key, &signed, &word.signature)
    };
    let signed_it = |root: &CertificateDer<'static>| {
        x509_parser::parse_x509_certificate(root)
            .is_ok_and(|(_, root)| holds(&root.public_key().subject_public_key.data, &signed, &word.ca_signature))
    };
    let by_ca = roots.into_iter().any(signed_it);
    Checked { member, key_digest: digest(&word.member_key), by_member, by_ca }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use quorate_core::id::LineageId;

    use super::*;
    use crate::ca::{CertRole, CertSubject};

    const CLUSTER: ClusterId = ClusterId::from_bytes([1; 16]);
    type Change = fn(&mut Succession);

    fn lineage(ids: &[u8]) -> Lineage {
        Lineage(ids.iter().map(|id| LineageId::from_bytes([*id; 16])).collect())
    }

    fn manager(ca: &ClusterCa, node: u8) -> Identity {
        let key = KeyPair::generate().unwrap();
        let subject = CertSubject {
            cluster: CLUSTER,
            node_id: NodeId::from_bytes([node; 16]),
            role: CertRole::Manager,
            enrolled: None,
        };
        let life = Duration::from_secs(3_600);
        let certificate = ca.issue(&key.csr().unwrap(), &subject, life, SystemTime::now()).unwrap();
        Identity::new(ca.certificate().clone(), certificate, key).unwrap()
    }

    #[test]
    fn a_recovery_is_signed_by_its_survivor_and_by_the_ca() {
        let ca = ClusterCa::create(CLUSTER, SystemTime::now()).unwrap();
        let survivor = manager(&ca, 2);
        let word = of_recovery(&survivor, &lineage(&[1, 2]), Some(&ca)).unwrap();
        let checked = check_by(&word, CLUSTER, [ca.certificate()]);
        assert!(checked.by_member && checked.by_ca, "{checked:?}");
        // Whose key it is, as its node record has it.
        assert_eq!((checked.member, checked.key_digest), (survivor.subject().node_id, survivor.subject().key_digest));
        // Nothing of it holds for another cluster, under another CA, or once a part is changed.
        let other = ClusterCa::create(CLUSTER, SystemTime::now()).unwrap();
        assert!(!check_by(&word, ClusterId::from_bytes([2; 16]), [ca.certificate()]).by_member);
        assert!(!check_by(&word, CLUSTER, [other.certificate()]).by_ca);
        let changes: [Change; 4] = [
            |word| word.lineage = lineage(&[1, 3]).to_bytes().into(),
            |word| word.member = Bytes::from_static(&[9; 16]),
            |word| word.signature = Bytes::from_static(&[9; 64]),
            |word| word.member_key = Bytes::from_static(&[9; 32]),
        ];
        for change in changes {
            let mut changed = word.clone();
            change(&mut changed);
            assert!(!check_by(&changed, CLUSTER, [ca.certificate()]).by_member, "{changed:?}");
        }
        // Without the CA's key it is the survivor's word alone; nobody's is none.
        let alone = check_by(&of_recovery(&survivor, &lineage(&[1, 2]), None).unwrap(), CLUSTER, [ca.certificate()]);
        assert!(alone.by_member && !alone.by_ca);
        let none = check_by(&Succession::default(), CLUSTER, [ca.certificate()]);
        assert!(!none.by_member && !none.by_ca);
    }

    #[test]
    fn a_restore_is_signed_by_its_backups_key_for_which_the_manager_stands_that_told_it() {
        let ca = ClusterCa::create(CLUSTER, SystemTime::now()).unwrap();
        let (teller, pair) = (manager(&ca, 2), BackupPair::from_seed(&[5; 32]).unwrap());
        let witness = vouch(&teller, pair.public()).unwrap();
        let word = of_restore(&pair, &witness, &lineage(&[1, 2]), &ca).unwrap();
        let checked = check_by(&word, CLUSTER, [ca.certificate()]);
        assert!(checked.by_member && checked.by_ca && checked.member == teller.subject().node_id);
        // With the key of another backup, or the voucher for another, or another manager's name on it: the CA's word alone.
        let other = BackupPair::from_seed(&[6; 32]).unwrap();
        let misnamed = Witness { member: NodeId::from_bytes([3; 16]), ..witness.clone() };
        let borrowed = vouch(&teller, other.public()).unwrap();
        for (pair, witness) in [(&other, &witness), (&pair, &misnamed), (&pair, &borrowed)] {
            let word = of_restore(pair, witness, &lineage(&[1, 2]), &ca).unwrap();
            let checked = check_by(&word, CLUSTER, [ca.certificate()]);
            assert!(!checked.by_member && checked.by_ca, "{checked:?}");
        }
        // Who knows the voucher, as everybody does who was shown the word, makes no other of it: only who has the backup signs with its key.
        let changes: [Change; 3] = [
            |word| word.lineage = lineage(&[1, 3]).to_bytes().into(),
            |word| word.signature = Bytes::from_static(&[9; 64]),
            |word| word.signature = Bytes::new(),
        ];
        for change in changes {
            let mut changed = word.clone();
            change(&mut changed);
            assert!(!check_by(&changed, CLUSTER, [ca.certificate()]).by_member, "{changed:?}");
        }
        // Nor does the manager that told it, without the backup.
        let mut own = word.clone();
        own.lineage = lineage(&[1, 3]).to_bytes().into();
        own.signature = sign(teller.key(), &own.signed(CLUSTER)).unwrap();
        assert!(!check_by(&own, CLUSTER, [ca.certificate()]).by_member);
        // What stands for a backup stands for no recovery.
        let mut twisted = word;
        twisted.backup_key = Bytes::new();
        twisted.signature = twisted.voucher.clone();
        assert!(!check_by(&twisted, CLUSTER, [ca.certificate()]).by_member);
        assert!(vouch(&teller, b"short").is_err());
    }
}
