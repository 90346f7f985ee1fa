//! Who can open a backup: recipients by their public keys, or a passphrase.
//!
//! Owns the use of age. A key and a passphrase are never printed. Called by whoever takes a backup, and whoever opens one.

use std::io::{self, BufReader, Read, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use age::secrecy::{ExposeSecret as _, SecretString};
use age::stream::StreamReader;
use age::stream::StreamWriter;
use age::{Encryptor, scrypt, x25519};
use bytes::Bytes;
use quorate_transport::CaHash;

use super::BackupError;
use crate::keys::too_short;

/// Work of stretching a passphrase, as a power of two: as the age tool has it; about a second, and 256 MiB.
const STRETCH: u8 = 18;
/// The most that is done to open a file of somebody else's making: 1 GiB.
const STRETCH_MAX: u8 = 20;
/// The longest key file that is read.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Whom a backup is sealed for.
#[derive(Clone)]
pub struct BackupSeal(Lock);

#[derive(Clone)]
enum Lock {
    Recipients(Vec<x25519::Recipient>),
    Passphrase(SecretString),
}

impl std::fmt::Debug for BackupSeal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Lock::Recipients(keys) => write!(f, "BackupSeal({} recipients)", keys.len()),
            Lock::Passphrase(_) => f.write_str("BackupSeal(passphrase)"),
        }
    }
}

impl BackupSeal {
    /// For whoever has the secret half of one of these keys, `age1...`: as [`KeyPair::generate`], `quorate backup new-key` or
    /// `age-keygen` makes them.
    ///
    /// # Errors
    /// `Key` when there is none, or one is no such key.
    pub fn recipients<S: AsRef<str>>(keys: impl IntoIterator<Item = S>) -> Result<Self, BackupError> {
        let recipient = |key: S| {
            let key = key.as_ref().trim();
            key.parse::<x25519::Recipient>().map_err(|_why| {
                let said = if key.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
                    // Not repeated: it is the secret.
                    "a recipient is the public half of a key, `age1...`, and this is a secret one. If it is in use, make another".to_owned()
                } else {
                    let shown: String = key.chars().take(80).collect();
                    format!("`{}` is no recipient: it must be a public key, `age1...`, as `quorate backup new-key` prints it", shown.escape_debug())
                };
                BackupError::Key(said)
            })
        };
        let keys = keys.into_iter().map(recipient).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(BackupError::Key("a backup needs a recipient, or a passphrase".to_owned()));
        }
        Ok(Self(Lock::Recipients(keys)))
    }

    /// For whoever knows the passphrase. It is stretched (scrypt): a second of work, and 256 MiB of memory, for each that is
    /// tried.
    ///
    /// # Errors
    /// `Key` when it is shorter than `PASSPHRASE_CHARS_MIN`.
    pub fn passphrase(passphrase: impl Into<String>) -> Result<Self, BackupError> {
        let secret = secret(passphrase.into())?;
        match too_short(secret.expose_secret()) {
            Some((_met, why)) => Err(BackupError::Key(format!("{why}. There is no backup"))),
            None => Ok(Self(Lock::Passphrase(secret))),
        }
    }

    /// As [`passphrase`](Self::passphrase), from the first line of a file.
    ///
    /// # Errors
    /// `Key` when it cannot be read, or is too short.
    pub fn passphrase_file(path: impl AsRef<Path>) -> Result<Self, BackupError> {
        first_line(path.as_ref()).and_then(Self::passphrase)
    }
}

/// What opens a backup, and whose it has to be.
#[derive(Clone)]
pub struct BackupKey {
    opener: Opener,
    ca: Option<CaHash>,
}

#[derive(Clone)]
enum Opener {
    Keys(Vec<x25519::Identity>),
    Passphrase(SecretString),
}

impl std::fmt::Debug for BackupKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.opener {
            Opener::Keys(keys) => write!(f, "BackupKey({} keys)", keys.len()),
            Opener::Passphrase(_) => f.write_str("BackupKey(passphrase)"),
        }
    }
}

impl BackupKey {
    const fn with(opener: Opener) -> Self {
        Self { opener, ca: None }
    }

    /// Only for a backup of the cluster whose CA has this hash: the middle part of its join tokens, which `quorate backup` prints. A
    /// file that is sealed for a recipient can be made by everybody who knows the public half; one that has this CA, with its key, can not.
    ///
    /// # Errors
    /// `Key` when it is no such hash.
    pub fn of_ca(self, hash: &str) -> Result<Self, BackupError> {
        // It is not repeated: it may be a whole join token.
        let ca = CaHash::try_from(hash).map_err(|_why| {
            let found = hash.trim().chars().count();
            BackupError::Key(format!(
                "what was given is no hash of a CA: it has {found} characters, and one has 52 of a-z and 2-7. `quorate backup` says it as `ca`, and it is the middle part of every join token (QRT-1-HASH-secret). Nothing was read"
            ))
        })?;
        Ok(Self { ca: Some(ca), ..self })
    }

    /// Whether a file with this CA is one that was asked for.
    pub(crate) fn check_ca(&self, found: CaHash) -> Result<(), BackupError> {
        match self.ca {
            Some(asked) if asked != found => {
                Err(BackupError::OtherCa { found: found.to_string(), asked: asked.to_string() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The secret half of a recipient's key, or several: lines `AGE-SECRET-KEY-1...`; empty ones and those that begin with `#`
    /// are for people.
    ///
    /// # Errors
    /// `Key` when there is none, or a line is no key.
    pub fn from_text(text: &str) -> Result<Self, BackupError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys = lines.map(|line| {
            line.parse::<x25519::Identity>().map_err(|_why| {
                // The line is not repeated: it may be a secret of another kind.
                BackupError::Key("a line of it is no key of a backup: these begin with AGE-SECRET-KEY-1".to_owned())
            })
        });
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(BackupError::Key("it holds no key: a line that begins with AGE-SECRET-KEY-1".to_owned()));
        }
        Ok(Self::with(Opener::Keys(keys)))
    }

    /// As [`from_text`](Self::from_text), from a file.
    ///
    /// # Errors
    /// `Key`.
    pub fn file(path: impl AsRef<Path>) -> Result<Self, BackupError> {
        let path = path.as_ref();
        let text = read_text(path)?;
        Self::from_text(text.expose_secret())
            .map_err(|error| BackupError::Key(format!("the key file {} cannot be used: {error}", path.display())))
    }

    /// The passphrase.
    ///
    /// # Errors
    /// `Key` when it is empty.
    pub fn passphrase(passphrase: impl Into<String>) -> Result<Self, BackupError> {
        secret(passphrase.into()).map(|secret| Self::with(Opener::Passphrase(secret)))
    }

    /// As [`passphrase`](Self::passphrase), from the first line of a file.
    ///
    /// # Errors
    /// `Key` when it cannot be read, or is empty.
    pub fn passphrase_file(path: impl AsRef<Path>) -> Result<Self, BackupError> {
        first_line(path.as_ref()).and_then(Self::passphrase)
    }

    /// What is sealed in a file, to be read to its end: only then it is whole. Blocks; a passphrase takes a second.
    pub(crate) fn open<R: Read>(&self, sealed: R) -> Result<StreamReader<BufReader<R>>, BackupError> {
        let file = age::Decryptor::new_buffered(BufReader::with_capacity(64 * 1024, sealed)).map_err(unopened)?;
        match (&self.opener, file.is_scrypt()) {
            (Opener::Keys(_), true) => Err(BackupError::WrongKey(
                "it is sealed with a passphrase, and a key was given. Give the passphrase it was taken with".to_owned(),
            )),
            (Opener::Passphrase(_), false) => Err(BackupError::WrongKey(
                "it is sealed for a key, and a passphrase was given. Give the key file that goes with its recipient"
                    .to_owned(),
            )),
            (Opener::Keys(keys), false) => {
                file.decrypt(keys.iter().map(|key| key as &dyn age::Identity)).map_err(unopened)
            }
            (Opener::Passphrase(passphrase), true) => {
                let mut identity = scrypt::Identity::new(passphrase.clone());
                identity.set_max_work_factor(STRETCH_MAX);
                file.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(unopened)
            }
        }
    }
}

/// What age says, in our words.
fn unopened(error: age::DecryptError) -> BackupError {
    use age::DecryptError;
    match error {
        DecryptError::NoMatchingKeys | DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
            BackupError::WrongKey(
                "it is sealed for another key or passphrase than the one that was given; or its first lines were altered".to_owned(),
            )
        }
        DecryptError::InvalidMac => BackupError::Damaged("the seal over its first lines does not hold".to_owned()),
        DecryptError::ExcessiveWork { required, .. } => BackupError::NotABackup(format!(
            "its passphrase is stretched with 2^{required}, and no backup with more than 2^{STRETCH_MAX}"
        )),
        DecryptError::Io(error) => super::parts::unread(&error, 0),
        // The last arm: the enum is age's, and may grow.
        DecryptError::InvalidHeader | DecryptError::UnknownFormat | _ => {
            BackupError::NotABackup("it does not begin as one does".to_owned())
        }
    }
}

/// A key for backups.
pub struct KeyPair(x25519::Identity);

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeyPair").field(&self.recipient()).finish()
    }
}

impl KeyPair {
    /// A fresh one.
    #[must_use]
    pub fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    /// Its public half: what a backup is sealed for.
    #[must_use]
    pub fn recipient(&self) -> String {
        self.0.to_public().to_string()
    }

    /// The text of its key file.
    #[must_use]
    pub fn to_text(&self) -> zeroize::Zeroizing<String> {
        let secret = self.0.to_string();
        zeroize::Zeroizing::new(format!(
            "# Opens backups of quorate that are sealed for the recipient below; keep it away from them, and from the cluster.\n# recipient: {}\n{}\n",
            self.recipient(),
            secret.expose_secret()
        ))
    }
}

fn secret(passphrase: String) -> Result<SecretString, BackupError> {
    if passphrase.is_empty() {
        return Err(BackupError::Key("the passphrase of a backup must not be empty".to_owned()));
    }
    Ok(passphrase.into())
}

fn read_text(path: &Path) -> Result<SecretString, BackupError> {
    let failed = |error: io::Error| BackupError::Key(format!("cannot read {}: {error}", path.display()));
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(failed)?;
    Ok(text.into())
}

fn first_line(path: &Path) -> Result<String, BackupError> {
    let text = read_text(path)?;
    let line = text.expose_secret().lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(BackupError::Key(format!("the passphrase file {} is empty", path.display())));
    }
    Ok(line.to_owned())
}

/// Where age writes to, emptied as it fills.
#[derive(Clone, Default)]
struct Outlet(Arc<Mutex<Vec<u8>>>);

impl io::Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Seals what is written to it, in memory of what was not taken yet.
pub(crate) struct Sealer {
    stream: Option<StreamWriter<Outlet>>,
    outlet: Outlet,
}

impl Sealer {
    /// Blocks for a second where a passphrase is stretched.
    pub(crate) fn new(seal: &BackupSeal) -> Result<Self, BackupError> {
        let failed = |error: String| BackupError::Key(format!("the backup cannot be sealed: {error}"));
        let sealed = match &seal.0 {
            Lock::Recipients(keys) => Encryptor::with_recipients(keys.iter().map(|key| key as &dyn age::Recipient)),
            Lock::Passphrase(passphrase) => {
                let mut recipient = scrypt::Recipient::new(passphrase.clone());
                recipient.set_work_factor(STRETCH);
                Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            }
        };
        let outlet = Outlet::default();
        let stream = sealed
            .map_err(|error| failed(error.to_string()))?
            .wrap_output(outlet.clone())
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { stream: Some(stream), outlet })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let ended = || io::Error::other("it was finished");
        self.stream.as_mut().ok_or_else(ended)?.write_all(bytes)
    }

    /// What is sealed by now.
    pub(crate) fn take(&self) -> Bytes {
        std::mem::take(&mut *self.outlet.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }

    /// Nothing more comes: the rest is sealed.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        match self.stream.take() {
            Some(stream) => stream.finish().map(drop),
            None => Ok(()),
        }
    }
}
