//! The ciphers of the barrier: what is sealed above the log, and how a barrier key gets to each manager.
//!
//! Owns a manager's sealing key pair, a barrier key, and their one use each: a barrier key is sealed to a manager's public key
//! (HPKE, RFC 9180: X25519, HKDF-SHA256, ChaCha20-Poly1305), and data is sealed with a barrier key in the envelope that records
//! on the disk have (AES-256-GCM under a key derived for each seal from 128 random bits, so that no nonce ever meets its key
//! again, whoever seals, and wherever a copied directory is started). What is sealed is bound to the cluster and to the full key
//! of its record. Keys are wiped when they are dropped, and have no `Debug`. Never decides which key is used, never touches the
//! disk. Called by the node, which keeps the keys, and by whoever puts a keyring into a backup.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, single_shot_open, single_shot_seal};
use quorate_core::envelope::{ALGORITHM_AES_256_GCM, EPOCH_BYTES, HEADER_BYTES, Header};
use quorate_core::ports::{StoreError, StoreResult};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use crate::keyring::random;

/// Bytes of a barrier key, and of what a sealing key pair is made from.
const KEY_BYTES: usize = 32;
/// Bytes of what HPKE puts in front.
const ENCAPSULATED_BYTES: usize = 32;
/// The form of a copy.
const COPY_VERSION: u8 = 1;
/// What a copy is for.
const COPY_INFO: &[u8] = b"quorate barrier key 1";

/// A manager's key pair, to which barrier keys are sealed.
pub struct SealingPair {
    private: <X25519HkdfSha256 as Kem>::PrivateKey,
    public: [u8; KEY_BYTES],
}

impl SealingPair {
    /// Out of 32 random bytes that nobody else knows: always the same pair.
    #[must_use]
    pub fn from_seed(seed: &[u8; KEY_BYTES]) -> Self {
        let (private, public) = X25519HkdfSha256::derive_keypair(seed);
        Self { private, public: public.to_bytes().into() }
    }

    /// The public half: no secret.
    #[must_use]
    pub const fn public(&self) -> &[u8; KEY_BYTES] {
        &self.public
    }
}

/// Whether a barrier key can be sealed to this public key.
///
/// # Errors
/// The system gives no entropy.
pub fn takes_copies(public: &[u8]) -> StoreResult<bool> {
    Ok(BarrierKey::generate(0)?.copy_for(&[0; 16], public)?.is_some())
}

/// A key that secrets are sealed with, the same for the whole cluster.
#[derive(Clone)]
pub struct BarrierKey {
    id: u32,
    secret: Zeroizing<[u8; KEY_BYTES]>,
}

fn refused(doing: &'static str) -> StoreError {
    StoreError::Io { doing, detail: "the cipher refused it".to_owned() }
}

fn bound(cluster: &[u8; 16], id: u32) -> [u8; 20] {
    let mut bound = [0; 20];
    let (first, last) = bound.split_at_mut(16);
    first.copy_from_slice(cluster);
    last.copy_from_slice(&id.to_be_bytes());
    bound
}

impl BarrierKey {
    /// A fresh one.
    ///
    /// # Errors
    /// When the system gives no entropy.
    pub fn generate(id: u32) -> StoreResult<Self> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        random(secret.as_mut_slice())?;
        Ok(Self { id, secret })
    }

    /// As it was exported. The caller wipes its own copy.
    #[must_use]
    pub fn from_bytes(id: u32, secret: &[u8; KEY_BYTES]) -> Self {
        Self { id, secret: Zeroizing::new(*secret) }
    }

    /// Its number in the keyring.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// In clear: to be wrapped by something else at once.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.secret
    }

    /// A copy that only the holder of the private half opens; `None` when nothing can be sealed to `public`: it is no public
    /// key, or one that gives everybody the same secret.
    ///
    /// # Errors
    /// The system gives no entropy.
    pub fn copy_for(&self, cluster: &[u8; 16], public: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        // HPKE draws by itself; whether there is entropy is asked first, where that is an answer and not a panic.
        random(Zeroizing::new([0; KEY_BYTES]).as_mut_slice())?;
        let Ok(public) = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public) else { return Ok(None) };
        let sealed = single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            COPY_INFO,
            self.secret.as_slice(),
            &bound(cluster, self.id),
        );
        let Ok((encapsulated, sealed)) = sealed else { return Ok(None) };
        let mut copy = vec![COPY_VERSION];
        copy.extend_from_slice(&encapsulated.to_bytes());
        copy.extend_from_slice(&sealed);
        Ok(Some(copy))
    }

    /// Opens a copy.
    ///
    /// # Errors
    /// `Corrupt`: it was made for another pair, another key or another cluster, or was changed.
    pub fn from_copy(id: u32, cluster: &[u8; 16], pair: &SealingPair, copy: &[u8]) -> StoreResult<Self> {
        let corrupt = |detail: &str| StoreError::Corrupt {
            record: format!("this manager's copy of barrier key {id}"),
            detail: detail.to_owned(),
        };
        let Some((&COPY_VERSION, rest)) = copy.split_first() else {
            return Err(corrupt("it is of a form that this binary does not know"));
        };
        let (encapsulated, sealed) =
            rest.split_first_chunk::<ENCAPSULATED_BYTES>().ok_or_else(|| corrupt("it is too short"))?;
        let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated)
            .map_err(|_malformed| corrupt("it is no sealed key"))?;
        let opened = single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &pair.private,
            &encapsulated,
            COPY_INFO,
            sealed,
            &bound(cluster, id),
        )
        .map(Zeroizing::new)
        .map_err(|_refused| corrupt("this manager's sealing key does not open it, or it was changed"))?;
        let secret: [u8; KEY_BYTES] =
            opened.as_slice().try_into().map_err(|_length| corrupt("what is in it is no key"))?;
        Ok(Self { id, secret: Zeroizing::new(secret) })
    }

    fn cipher(&self, cluster: &[u8; 16], epoch: &[u8; EPOCH_BYTES]) -> StoreResult<LessSafeKey> {
        let info = [b"quorate barrier 1 aes-256-gcm".as_slice(), cluster, &self.id.to_be_bytes()];
        let secret = Salt::new(HKDF_SHA256, epoch).extract(&*self.secret);
        let derived = secret.expand(&info, &AES_256_GCM).map(|derived| LessSafeKey::new(UnboundKey::from(derived)));
        derived.map_err(|_unspecified| refused("deriving a key"))
    }

    /// Seals `payload` for the record at the full key `place`.
    ///
    /// # Errors
    /// When the system gives no entropy.
    pub fn seal(&self, cluster: &[u8; 16], place: &[u8], payload: &[u8]) -> StoreResult<Vec<u8>> {
        let mut epoch = [0; EPOCH_BYTES];
        random(&mut epoch)?;
        let cipher = self.cipher(cluster, &epoch)?;
        let mut envelope = Vec::with_capacity(HEADER_BYTES + payload.len() + AES_256_GCM.tag_len());
        Header { algorithm: ALGORITHM_AES_256_GCM, key: self.id, epoch, number: 0 }.write(&mut envelope);
        envelope.extend_from_slice(payload);
        let (_, inside) = envelope.split_at_mut(HEADER_BYTES);
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let tag = cipher
            .seal_in_place_separate_tag(nonce, Aad::from(place), inside)
            .map_err(|_unspecified| refused("sealing a secret"))?;
        envelope.extend_from_slice(tag.as_ref());
        Ok(envelope)
    }

    /// Opens what was sealed for the record at the full key `place`.
    ///
    /// # Errors
    /// `Corrupt`: it was changed, or belongs to another record or another cluster.
    pub fn open(&self, cluster: &[u8; 16], place: &[u8], envelope: &[u8]) -> StoreResult<Zeroizing<Vec<u8>>> {
        let corrupt = |detail: &str| StoreError::Corrupt {
            record: format!("sealed record {}", place.escape_ascii()),
            detail: detail.to_owned(),
        };
        let header = Header::parse(envelope).map_err(|_unreadable| corrupt("it is no envelope of a known form"))?;
        if (header.algorithm, header.number, header.key) != (ALGORITHM_AES_256_GCM, 0, self.id) {
            return Err(corrupt("it is sealed in a way that this binary does not know"));
        }
        let cipher = self.cipher(cluster, &header.epoch)?;
        let mut inside = Zeroizing::new(envelope.get(HEADER_BYTES..).unwrap_or_default().to_vec());
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let opened = cipher.open_in_place(nonce, Aad::from(place), inside.as_mut_slice());
        let length = opened
            .map_err(|_unspecified| {
                corrupt("its seal is broken: it was changed, or belongs to another record or another cluster")
            })?
            .len();
        inside.truncate(length);
        Ok(inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: [u8; 16] = [1; 16];

    fn pair(seed: u8) -> SealingPair {
        SealingPair::from_seed(&[seed; 32])
    }

    #[test]
    fn a_copy_opens_for_its_manager_and_for_nobody_else() {
        let key = BarrierKey::generate(3).unwrap();
        let copy = key.copy_for(&CLUSTER, pair(1).public()).unwrap().unwrap();
        assert!(!copy.windows(32).any(|window| window == key.expose()));
        let opened = BarrierKey::from_copy(3, &CLUSTER, &pair(1), &copy).unwrap();
        assert!(opened.expose() == key.expose() && opened.id() == 3);
        // Not by another manager, not as another key, not in another cluster.
        assert!(BarrierKey::from_copy(3, &CLUSTER, &pair(2), &copy).is_err());
        assert!(BarrierKey::from_copy(4, &CLUSTER, &pair(1), &copy).is_err());
        assert!(BarrierKey::from_copy(3, &[2; 16], &pair(1), &copy).is_err());
        for at in 0..copy.len() {
            let mut flipped = copy.clone();
            flipped[at] ^= 0x10;
            assert!(BarrierKey::from_copy(3, &CLUSTER, &pair(1), &flipped).is_err(), "byte {at}");
            assert!(BarrierKey::from_copy(3, &CLUSTER, &pair(1), &copy[..at]).is_err(), "cut to {at}");
        }
    }

    #[test]
    fn nothing_is_sealed_to_what_is_no_key() {
        let key = BarrierKey::generate(3).unwrap();
        // All zero, and one: whatever is agreed on with these, everybody knows.
        let mut one = [0; KEY_BYTES];
        one[0] = 1;
        for public in [&b"short"[..], &[0; KEY_BYTES], &one] {
            assert!(key.copy_for(&CLUSTER, public).unwrap().is_none(), "{public:?}");
            assert!(!takes_copies(public).unwrap());
        }
        assert!(takes_copies(pair(1).public()).unwrap());
    }

    #[test]
    fn what_is_sealed_opens_in_its_own_place_only() {
        let key = BarrierKey::generate(1).unwrap();
        let sealed = key.seal(&CLUSTER, b"sdb", b"hunter2 hunter2").unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(&**key.open(&CLUSTER, b"sdb", &sealed).unwrap(), b"hunter2 hunter2");
        assert!(key.open(&CLUSTER, b"sdc", &sealed).is_err(), "swapped to another name");
        assert!(key.open(&CLUSTER, b"gdb", &sealed).is_err(), "swapped to another kind");
        assert!(key.open(&[2; 16], b"sdb", &sealed).is_err(), "of another cluster");
        assert!(BarrierKey::generate(1).unwrap().open(&CLUSTER, b"sdb", &sealed).is_err(), "another key");
        let other = BarrierKey::from_bytes(2, key.expose());
        assert!(other.open(&CLUSTER, b"sdb", &sealed).is_err(), "the wrong key named");
        assert_ne!(sealed, key.seal(&CLUSTER, b"sdb", b"hunter2 hunter2").unwrap(), "never the same way");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let key = BarrierKey::generate(1).unwrap();
        let sealed = key.seal(&CLUSTER, b"sdb", b"payload").unwrap();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut flipped = sealed.clone();
                flipped[at] ^= 1 << bit;
                assert!(key.open(&CLUSTER, b"sdb", &flipped).is_err(), "byte {at} bit {bit}");
            }
            assert!(key.open(&CLUSTER, b"sdb", &sealed[..at]).is_err(), "cut to {at}");
        }
    }

    #[test]
    fn no_two_seals_share_a_derived_key() {
        let key = BarrierKey::generate(1).unwrap();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1_000 {
            let sealed = key.seal(&CLUSTER, b"s", b"").unwrap();
            assert!(seen.insert(Header::parse(&sealed).unwrap().epoch));
        }
    }
}
