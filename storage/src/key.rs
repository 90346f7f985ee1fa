//! Keys that wrap the data key of a store, and where they come from.
//!
//! Owns the form of a key-encryption key (32 random bytes, a printed form with a checksum, an id that tells nothing about
//! it) and the trait by which a store asks for one. Never keeps a key anywhere. Called when a store is opened or made, and
//! by the node's own providers.

use std::fmt;
use std::sync::OnceLock;

use data_encoding::{Encoding, Specification};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::{Zeroize as _, Zeroizing};

/// How a printed key begins; the number is the form's version.
const PREFIX: &str = "QRK-1-";
const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 10;
const SUM_BYTES: usize = 4;

/// Base32, lower case, no padding: the alphabet of every printed id.
fn base32() -> &'static Encoding {
    static ENCODING: OnceLock<Encoding> = OnceLock::new();
    ENCODING.get_or_init(|| {
        let mut spec = Specification::new();
        spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
        spec.encoding().unwrap_or(data_encoding::BASE32_NOPAD_NOCASE)
    })
}

/// A key-encryption key. Wiped when it is dropped; it has no `Debug`.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl Key {
    /// A fresh one.
    ///
    /// # Errors
    /// When the system gives no entropy.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(bytes.as_mut_slice())
            .map_err(|error| KeyError::Failed(format!("the system gives no entropy: {error}")))?;
        Ok(Self(bytes))
    }

    /// From 32 bytes that nobody can guess, for example what a key service unwrapped. The caller wipes its own copy.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// From the printed form.
    ///
    /// # Errors
    /// `Failed` when it is none, or was mistyped. The text is not in the error.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let wrong =
            |why: &str| KeyError::Failed(format!("{why}; a key looks like {PREFIX}, then 58 letters and digits"));
        let Some(rest) = text.trim().strip_prefix(PREFIX) else { return Err(wrong("this is no key")) };
        let Ok(mut bytes) = base32().decode(rest.as_bytes()).map(Zeroizing::new) else {
            return Err(wrong("the key was mistyped"));
        };
        let parts = bytes.split_last_chunk::<SUM_BYTES>();
        let key = parts.and_then(|(key, sum)| {
            let fits = crc32c::crc32c(key).to_be_bytes() == *sum;
            <[u8; KEY_BYTES]>::try_from(key).ok().filter(|_| fits).map(Zeroizing::new)
        });
        bytes.zeroize();
        key.map(Self).ok_or_else(|| wrong("the key was mistyped: its checksum does not fit"))
    }

    /// The printed form: for a key file, and for people to keep.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let sum = crc32c::crc32c(&*self.0).to_be_bytes();
        let mut all = Zeroizing::new([0; KEY_BYTES + SUM_BYTES]);
        let (key, end) = all.split_at_mut(KEY_BYTES);
        key.copy_from_slice(&*self.0);
        end.copy_from_slice(&sum);
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 60));
        text.push_str(PREFIX);
        base32().encode_append(&*all, &mut text);
        text
    }

    /// Names the key and tells nothing about it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let mut id = [0; ID_BYTES];
        // Cannot fail: the length is far below what the derivation can give.
        let _ = Salt::new(HKDF_SHA256, b"quorate key id")
            .extract(&*self.0)
            .expand(&[b"1"], Length(ID_BYTES))
            .and_then(|okm| okm.fill(&mut id));
        KeyId(id)
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

/// How many bytes a derivation is to give.
pub(crate) struct Length(pub(crate) usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Names a key-encryption key; printed as 16 letters and digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; ID_BYTES]);

impl KeyId {
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32().encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What kind of place a key-encryption key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum KeyKind {
    /// A file that holds it.
    File = 0,
    /// People keep it: the node starts locked and waits for it.
    Unlock = 1,
    /// It is stretched out of a passphrase.
    Passphrase = 2,
    /// A command prints it.
    Command = 3,
    /// The program that embeds the node brings it.
    Custom = 4,
}

impl KeyKind {
    /// In words.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::File => "key file",
            Self::Unlock => "unlock key",
            Self::Passphrase => "passphrase",
            Self::Command => "command",
            Self::Custom => "custom",
        }
    }
}

/// Where a key-encryption key is to be found again. Lies beside the store in clear: nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeySlot {
    /// Which key.
    pub id: KeyId,
    /// Where such a key comes from.
    pub kind: KeyKind,
    /// The file, or what else tells people where; may be empty.
    pub place: String,
    /// What a passphrase is stretched with; empty for all others.
    pub salt: Vec<u8>,
}

impl KeySlot {
    /// How `key` is found again.
    #[must_use]
    pub fn new(key: &Key, kind: KeyKind, place: impl Into<String>) -> Self {
        Self { id: key.id(), kind, place: place.into(), salt: Vec::new() }
    }

    /// With what a passphrase is stretched with.
    #[must_use]
    pub fn salted(mut self, salt: impl Into<Vec<u8>>) -> Self {
        self.salt = salt.into();
        self
    }
}

impl fmt::Display for KeySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            KeyKind::File => write!(f, "key {} in the key file {}", self.id, self.place),
            KeyKind::Unlock => write!(f, "the unlock key {}", self.id),
            KeyKind::Passphrase => write!(f, "the passphrase that makes key {}", self.id),
            KeyKind::Command => write!(f, "key {}, which a command prints (--key-command)", self.id),
            KeyKind::Custom if self.place.is_empty() => write!(f, "key {} of the program that made the store", self.id),
            KeyKind::Custom => write!(f, "key {} of {}", self.id, self.place),
        }
    }
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Nobody has given it yet.
    #[error("{0}")]
    Missing(String),
    /// Where it should come from gave none.
    #[error("{0}")]
    Failed(String),
}

/// Gives key-encryption keys: the embedder's own, a key service, a TPM, or one of the node's providers.
///
/// Called on a thread that may block. A key that opens nothing does no harm: the store tells by its id.
pub trait KeyProvider: Send + Sync {
    /// The keys at hand for a store whose data key is wrapped as `slots` say. Several, where a key is being changed.
    ///
    /// # Errors
    /// [`KeyError`], in words for people.
    fn keys(&self, slots: &[KeySlot]) -> Result<Vec<Key>, KeyError>;

    /// The key for a store that is being made, and how it is found again. Whatever must be on disk for that is synced when
    /// this returns.
    ///
    /// # Errors
    /// [`KeyError`], in words for people.
    fn make(&self) -> Result<(Key, KeySlot), KeyError>;
}

/// A key in hand: what was given to unlock a store, or what a test uses.
#[derive(Clone)]
pub struct GivenKey(pub Key);

impl KeyProvider for GivenKey {
    fn keys(&self, _slots: &[KeySlot]) -> Result<Vec<Key>, KeyError> {
        Ok(vec![self.0.clone()])
    }

    fn make(&self) -> Result<(Key, KeySlot), KeyError> {
        Ok((self.0.clone(), KeySlot::new(&self.0, KeyKind::Custom, "")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_printed_form_and_a_slip_is_noticed() {
        let key = Key::generate().unwrap();
        let text = key.to_text();
        assert_eq!(text.len(), PREFIX.len() + 58);
        assert!(Key::from_text(&format!(" {}\n", *text)).unwrap().bytes() == key.bytes());
        for at in 0..text.len() {
            let mut wrong = text.as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'b' { b'c' } else { b'b' };
            let error = Key::from_text(std::str::from_utf8(&wrong).unwrap()).err();
            assert!(error.is_some(), "byte {at}");
            assert!(!error.unwrap().to_string().contains(&text[6..20]), "an error never holds a key");
        }
        assert!(Key::from_text(&text[..text.len() - 1]).is_err());
        assert!(Key::from_text("").is_err());
    }

    #[test]
    fn an_id_names_a_key_and_no_other() {
        let (one, other) = (Key::from_bytes(&[1; 32]), Key::from_bytes(&[2; 32]));
        assert_eq!(one.id(), Key::from_bytes(&[1; 32]).id());
        assert_ne!(one.id(), other.id());
        assert_ne!(one.id().as_bytes(), &one.bytes()[..ID_BYTES]);
        assert_eq!(one.id().to_string().len(), 16);
    }
}
