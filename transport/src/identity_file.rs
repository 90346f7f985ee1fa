//! The identity file: how an identity lies on the disk.
//!
//! Owns its form, PEM: certificate, CA certificates, and the key, as it is (`operator.id`, a worker's `node.id`) or sealed by
//! its owner (a manager's `node.id`; how, is the node's). A file is replaced whole, mode 0600. Never opens a sealed key. Called
//! by the node and the client.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::identity::{Identity, IdentityError, KeyPair, Shown};
use crate::text::{pem_block, pem_content};
use crate::token::CaHash;

/// Before the hash of each of them in an identity file.
const FORMERLY: &str = "formerly of CA ";
/// The label of a key in an identity file.
const CLEAR: &str = "PRIVATE KEY";
/// The label of one that its owner has sealed.
const SEALED: &str = "QUORATE SEALED PRIVATE KEY";
/// How the name of a file ends that is not yet what it is to be.
const DRAFT: &str = ".tmp";

impl Shown {
    /// As PEM, all but the key.
    fn to_pem(&self) -> String {
        let mut text = String::new();
        for hash in &self.former {
            text.push_str(&format!("{FORMERLY}{hash}\n"));
        }
        for certificate in std::iter::once(&self.certificate).chain(self.authorities()) {
            text.push_str(&pem_block("CERTIFICATE", certificate));
        }
        text
    }
}

impl Identity {
    /// As PEM: certificate, CA certificates, key; before them a line for each root that signed for it once.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(self.shown().to_pem());
        text.push_str(&pem_block(CLEAR, self.key().pkcs8_der()));
        text
    }

    /// As PEM, with the key sealed by its owner.
    pub fn to_pem_sealed(&self, sealed: &[u8]) -> String {
        let mut text = self.shown().to_pem();
        text.push_str(&pem_block(SEALED, sealed));
        text
    }

    /// Reads [`Identity::to_pem`] back. `origin` is named in errors.
    ///
    /// # Errors
    /// A part is missing, malformed, sealed, or does not belong to the others.
    pub fn from_pem(text: &[u8], origin: &Path) -> Result<Self, IdentityError> {
        IdentityFile::from_pem(text, origin)?.into_identity(origin)
    }

    /// Writes the identity so that a crash leaves the old file or the new one, never a part: a temporary file of mode
    /// 0600 in the same directory, synced, renamed, directory synced.
    ///
    /// # Errors
    /// The file system refused.
    pub fn write(&self, path: &Path) -> Result<(), IdentityError> {
        replace(path, self.to_pem().as_bytes())
    }

    /// As [`Identity::write`], with the key sealed by its owner.
    ///
    /// # Errors
    /// The file system refused.
    pub fn write_sealed(&self, path: &Path, sealed: &[u8]) -> Result<(), IdentityError> {
        replace(path, self.to_pem_sealed(sealed).as_bytes())
    }

    /// Reads an identity file.
    ///
    /// # Errors
    /// Unreadable, sealed, or no identity.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        IdentityFile::load(path)?.into_identity(path)
    }
}

/// The key in an identity file.
pub enum FileKey {
    /// As it is.
    Clear(KeyPair),
    /// Sealed by its owner, who alone knows how.
    Sealed(Vec<u8>),
}

/// An identity file as it lies on the disk: a manager's has its key sealed.
pub struct IdentityFile {
    /// What everybody may see.
    pub shown: Shown,
    /// What nobody may.
    pub key: FileKey,
}

impl IdentityFile {
    /// Reads it.
    ///
    /// # Errors
    /// Unreadable, or no identity.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let text =
            Zeroizing::new(std::fs::read(path).map_err(|source| IdentityError::Io { path: path.to_owned(), source })?);
        Self::from_pem(&text, path)
    }

    fn from_pem(text: &[u8], origin: &Path) -> Result<Self, IdentityError> {
        let malformed = |what: &str| IdentityError::Malformed { path: origin.to_owned(), what: what.to_owned() };
        // First: one that is cut off could not be told from a certificate that is.
        let sealed = match pem_content(text, SEALED) {
            Some(content) => Some(content.ok_or_else(|| malformed("the sealed key in it does not parse"))?),
            None => None,
        };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(text)
            .collect::<Result<_, _>>()
            .map_err(|_no_detail| malformed("a certificate in it does not parse"))?;
        let found = certificates.len();
        let mut certificates = certificates.into_iter();
        let (Some(certificate), Some(ca)) = (certificates.next(), certificates.next()) else {
            return Err(malformed(&format!("it holds {found} certificates, 2 are needed at least")));
        };
        let mut shown = Shown::new(ca, certificate).map_err(|error| malformed(&error.to_string()))?;
        shown.others = certificates.collect();
        let lines = text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
        shown.former = lines.filter_map(|line| CaHash::parse(line.strip_prefix(FORMERLY)?.trim())).collect();
        let key = if let Some(sealed) = sealed {
            FileKey::Sealed(sealed)
        } else {
            let key =
                PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_no_detail| malformed("it holds no private key"))?;
            FileKey::Clear(KeyPair::from_pkcs8(key.secret_pkcs8_der()).map_err(|error| malformed(&error.to_string()))?)
        };
        Ok(Self { shown, key })
    }

    fn into_identity(self, origin: &Path) -> Result<Identity, IdentityError> {
        match self.key {
            FileKey::Clear(key) => Identity::of(self.shown, key)
                .map_err(|error| IdentityError::Malformed { path: origin.to_owned(), what: error.to_string() }),
            FileKey::Sealed(_) => Err(IdentityError::Sealed { path: origin.to_owned() }),
        }
    }
}

/// Removes what writes that a crash cut off have left beside an identity file: there may be a key in it.
///
/// # Errors
/// The file system refused.
pub fn sweep(path: &Path) -> std::io::Result<()> {
    let (directory, drafts) = drafts_of(path)?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(drafts.as_encoded_bytes()) && name.ends_with(DRAFT.as_bytes()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Where an identity file is written before it takes its name, and how the names there begin.
fn drafts_of(path: &Path) -> std::io::Result<(&Path, OsString)> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| std::io::Error::other("the path names no file"))?;
    let mut drafts = OsString::from(".");
    drafts.push(name);
    drafts.push(".");
    Ok((directory, drafts))
}

fn replace(path: &Path, text: &[u8]) -> Result<(), IdentityError> {
    write_private(path, text).map_err(|source| IdentityError::Io { path: path.to_owned(), source })
}

/// Replaces a file atomically by one that only its owner reads.
fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let (directory, mut temporary_name) = drafts_of(path)?;
    // Two may write at once: one that renews, and one for which the node changes its role.
    static WRITTEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    temporary_name.push(format!("{}.{number}{DRAFT}", std::process::id()));
    let temporary = directory.join(temporary_name);
    // One that an earlier crash left is ours to replace; `create_new` then never opens a file with another mode.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // Best effort: the error that is reported is the first one.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
