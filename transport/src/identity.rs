//! Who a node, an operator or a client is on the wire: key, certificate, and the CA it trusts.
//!
//! Owns what an identity is made of, and the reading of certificates; how it lies on the disk is `identity_file.rs`. Never
//! shows a key: no `Debug` of it, wiped from memory when dropped. Called by the node, the client and the TLS code.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_core::id::{ClusterId, Enrolled, NodeId};
use rcgen::{CertificateParams, PKCS_ED25519, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use x509_parser::oid_registry::OID_X509_DESCRIPTION;
use zeroize::Zeroizing;

use crate::ca::{CaError, CertRole, CertSubject, IssuerId, is_root, name_id};
use crate::text::{unix_seconds, utc};
use crate::token::CaHash;

/// The name in a node's certificate: `<node id>.<cluster id>.invalid`.
pub(crate) fn dns_name(cluster: ClusterId, node: NodeId) -> String {
    format!("{node}.{cluster}.invalid")
}

/// An Ed25519 key pair. Its private half is wiped when dropped and is never printed.
pub struct KeyPair {
    pkcs8: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
    spki_digest: [u8; 32],
}

impl KeyPair {
    /// A new random key.
    ///
    /// # Errors
    /// The operating system gave no random bits.
    pub fn generate() -> Result<Self, CaError> {
        let pair =
            Zeroizing::new(rcgen::KeyPair::generate_for(&PKCS_ED25519).map_err(|_no_detail| CaError::NoEntropy)?);
        Ok(Self::of(&pair))
    }

    /// Reads [`KeyPair::pkcs8_der`] back.
    ///
    /// # Errors
    /// Not an Ed25519 key in PKCS#8.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, CaError> {
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_ED25519)
            .map_err(|_may_hold_key_bytes| CaError::BadParts("the key is no Ed25519 key in PKCS#8".to_owned()))?;
        Ok(Self::of(&Zeroizing::new(pair)))
    }

    fn of(pair: &rcgen::KeyPair) -> Self {
        Self {
            pkcs8: Zeroizing::new(pair.serialized_der().to_vec()),
            public: pair.public_key_raw().to_vec(),
            spki_digest: Sha256::digest(pair.subject_public_key_info()).into(),
        }
    }

    /// The private key, PKCS#8 DER. Seal it or write it 0600.
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo): who its holder is on the wire.
    pub const fn digest(&self) -> [u8; 32] {
        self.spki_digest
    }

    pub(crate) fn public_key(&self) -> &[u8] {
        &self.public
    }

    pub(crate) fn signer(&self) -> Result<Zeroizing<rcgen::KeyPair>, rcgen::Error> {
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(self.pkcs8_der()), &PKCS_ED25519)
            .map(Zeroizing::new)
    }

    /// A signing request (DER) for this key. It asks for nothing: the CA decides what the certificate says.
    ///
    /// # Errors
    /// Signing failed.
    pub fn csr(&self) -> Result<Vec<u8>, CaError> {
        let signing = |error: rcgen::Error| CaError::Signing(error.to_string());
        let signer = self.signer().map_err(signing)?;
        let request = CertificateParams::default().serialize_request(&*signer).map_err(signing)?;
        Ok(request.der().to_vec())
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(redacted)")
    }
}

/// What a certificate of this cluster says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node, or the random id of an operator.
    pub node_id: NodeId,
    /// What it may be.
    pub role: CertRole,
    /// Holds from, seconds since 1970.
    pub not_before: u64,
    /// Holds until, seconds since 1970.
    pub not_after: u64,
    /// SHA-256 of the public key (SubjectPublicKeyInfo).
    pub key_digest: [u8; 32],
    /// Which root signed it.
    pub issuer: IssuerId,
    /// The raft id that it says was given to the node; `None` where it says none, or in a way that is not known here.
    pub enrolled: Option<Enrolled>,
}

impl Subject {
    /// Reads what a certificate says. It proves nothing: verification is the handshake's.
    ///
    /// # Errors
    /// Not a certificate of the form that this crate issues.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, CertificateProblem> {
        let malformed = |what: &str| CertificateProblem::Malformed(what.to_owned());
        let (rest, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_no_detail| malformed("it does not parse"))?;
        if !rest.is_empty() {
            return Err(malformed("there are bytes after it"));
        }
        let name = parsed.subject();
        let cluster: ClusterId = one(name.iter_organization()).ok_or_else(|| malformed("it names no cluster"))?;
        let node_id: NodeId = one(name.iter_common_name()).ok_or_else(|| malformed("it names no node"))?;
        let role = name
            .iter_organizational_unit()
            .next()
            .and_then(|unit| unit.as_str().ok())
            .and_then(CertRole::from_name)
            .ok_or_else(|| malformed("it names no role"))?;
        let names = parsed
            .subject_alternative_name()
            .ok()
            .flatten()
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let expected = dns_name(cluster, node_id);
        if !matches!(names, [x509_parser::extensions::GeneralName::DNSName(found)] if *found == expected) {
            return Err(malformed("its alternative name is not its node's"));
        }
        let described = name.iter_by_oid(&OID_X509_DESCRIPTION).next().and_then(|value| value.as_str().ok());
        let enrolled = described.and_then(Enrolled::parse).filter(|_| role == CertRole::Manager);
        let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        Ok(Self {
            cluster,
            node_id,
            role,
            not_before: seconds(parsed.validity().not_before),
            not_after: seconds(parsed.validity().not_after),
            key_digest: Sha256::digest(parsed.public_key().raw).into(),
            issuer: name_id(parsed.issuer().as_raw()),
            enrolled,
        })
    }

    /// Whether it holds at this time.
    ///
    /// # Errors
    /// [`CertificateProblem::Expired`] or [`CertificateProblem::NotYetValid`], with both clocks.
    pub fn check_time(&self, now: SystemTime) -> Result<(), CertificateProblem> {
        let now = unix_seconds(now);
        if now > self.not_after {
            Err(CertificateProblem::Expired { not_after: self.not_after, now })
        } else if now < self.not_before {
            Err(CertificateProblem::NotYetValid { not_before: self.not_before, now })
        } else {
            Ok(())
        }
    }

    /// When it was issued, by its issuer's clock: it begins somewhat before that.
    pub fn issued(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.not_before) + crate::ca::BACKDATE
    }

    /// How long it holds from its issue.
    pub fn life(&self) -> Duration {
        let end = UNIX_EPOCH + Duration::from_secs(self.not_after);
        end.duration_since(self.issued()).unwrap_or_default()
    }

    /// The part that a CA decides.
    pub const fn named(&self) -> CertSubject {
        CertSubject { cluster: self.cluster, node_id: self.node_id, role: self.role, enrolled: self.enrolled }
    }
}

fn one<'a, T: std::str::FromStr>(
    mut values: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Option<T> {
    let value = values.next()?.as_str().ok()?.parse().ok();
    if values.next().is_some() { None } else { value }
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// Signed by another CA than this cluster's.
    #[error(
        "the certificate is of another cluster, or of a CA that was replaced while one of the two was away: its CA is not ours. A node that was away comes back with `quorate join --replace --token TOKEN`, an operator with a new file (`quorate operator issue`)"
    )]
    OtherCa,
    /// Signed by our CA, but it names another cluster.
    #[error("the certificate names cluster {found}, ours is {expected}")]
    OtherCluster {
        /// Ours.
        expected: ClusterId,
        /// The one it names.
        found: ClusterId,
    },
    /// It no longer holds.
    #[error("the certificate expired at {}; the clock here says {}: renew it, or set the clock that is wrong", utc(*.not_after), utc(*.now))]
    Expired {
        /// The end in the certificate, by the issuer's clock, seconds since 1970.
        not_after: u64,
        /// This machine's clock, seconds since 1970.
        now: u64,
    },
    /// It does not hold yet.
    #[error("the certificate holds only from {} by its issuer's clock; the clock here says {}: set the clock that is wrong", utc(*.not_before), utc(*.now))]
    NotYetValid {
        /// The begin in the certificate, by the issuer's clock, seconds since 1970.
        not_before: u64,
        /// This machine's clock, seconds since 1970.
        now: u64,
    },
    /// Another node of the cluster than the one that was dialled.
    #[error("the certificate is node {found}'s, {expected} was expected at this address: an address may have moved")]
    OtherNode {
        /// Whom the caller expected.
        expected: NodeId,
        /// Who is there.
        found: NodeId,
    },
    /// The role does not allow this.
    #[error("the certificate is a {}'s; a {}'s is needed here", .found.name(), .needed.name())]
    WrongRole {
        /// What it would take.
        needed: CertRole,
        /// What it is.
        found: CertRole,
    },
    /// Another key than that of the newcomer that was dialled back.
    #[error("another process listens there, not the one that asks to join")]
    OtherKey,
    /// The chain does not hold the CA that the join token names.
    #[error("the other side does not hold the CA that the join token names")]
    NotPinned,
    /// A manager that is locked, by its own word, which nothing proves: its key is sealed.
    #[error("it says that it is a manager that is locked")]
    Locked,
    /// Not a certificate as this crate issues them.
    #[error("the certificate is malformed: {0}")]
    Malformed(String),
}

/// A file that is no identity, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Reading or writing failed.
    #[error("identity file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not hold what an identity needs.
    #[error(
        "{path} is no identity file: {what}; make a new one from a manager's directory, the cluster is not affected"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        what: String,
    },
    /// The key in it is sealed: it is a manager's.
    #[error(
        "the key in identity file {path} is sealed with the key of that manager's store: a client needs an operator's identity file"
    )]
    Sealed {
        /// The file.
        path: PathBuf,
    },
    /// The parts do not belong together.
    #[error("certificate, key and CA do not belong together: {0}")]
    Mismatch(String),
}

/// What an identity shows to everybody: all of it but the key. It proves nothing.
#[derive(Debug, Clone)]
pub struct Shown {
    pub(crate) ca: CertificateDer<'static>,
    /// Besides: other roots that are trusted, and cross certificates that lead from them to the first.
    pub(crate) others: Vec<CertificateDer<'static>>,
    /// Roots that signed for it once. Nothing is trusted for it: a token of one of these is still a token of this cluster.
    pub(crate) former: Vec<CaHash>,
    pub(crate) certificate: CertificateDer<'static>,
    subject: Subject,
}

impl Shown {
    pub(crate) fn new(
        ca: CertificateDer<'static>,
        certificate: CertificateDer<'static>,
    ) -> Result<Self, IdentityError> {
        let subject = Subject::of(&certificate).map_err(|problem| IdentityError::Mismatch(problem.to_string()))?;
        Ok(Self { ca, others: Vec::new(), former: Vec::new(), certificate, subject })
    }

    /// What the certificate says.
    pub const fn subject(&self) -> &Subject {
        &self.subject
    }

    pub(crate) fn authorities(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.ca).chain(&self.others)
    }

    fn roots(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.ca).chain(self.others.iter().filter(|other| is_root(other)))
    }

    /// Whether the root with this hash is trusted, or signed for this identity once: whoever names it means this cluster.
    pub fn knows(&self, ca: &CaHash) -> bool {
        self.former.contains(ca) || self.roots().any(|root| CaHash::of(root) == *ca)
    }
}

/// CA certificate, own certificate and key: everything that it takes to be somebody in the cluster.
pub struct Identity {
    shown: Shown,
    key: KeyPair,
}

/// Former roots that an identity remembers.
const FORMER_MAX: usize = 64;

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("subject", &self.shown.subject).finish_non_exhaustive()
    }
}

impl Identity {
    /// Puts the parts together.
    ///
    /// # Errors
    /// The certificate is malformed, or the key is not its key.
    pub fn new(
        ca: CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        key: KeyPair,
    ) -> Result<Self, IdentityError> {
        Self::of(Shown::new(ca, certificate)?, key)
    }

    /// What is shown, and the key to it.
    ///
    /// # Errors
    /// The key is not the certificate's.
    pub fn of(shown: Shown, key: KeyPair) -> Result<Self, IdentityError> {
        if shown.subject.key_digest != key.digest() {
            return Err(IdentityError::Mismatch("the key is not the certificate's".to_owned()));
        }
        Ok(Self { shown, key })
    }

    /// All of it but the key.
    pub const fn shown(&self) -> &Shown {
        &self.shown
    }

    /// What the certificate says.
    pub const fn subject(&self) -> &Subject {
        &self.shown.subject
    }

    /// The cluster's root certificate.
    pub const fn ca(&self) -> &CertificateDer<'static> {
        &self.shown.ca
    }

    /// The same with more that is trusted: other roots, and what leads from them to the one that has signed the certificate.
    #[must_use]
    pub fn with_others(mut self, others: Vec<CertificateDer<'static>>) -> Self {
        self.shown.others = others;
        self
    }

    /// Everything that is shown with the certificate: the root that has signed it, then other roots and cross certificates.
    pub fn authorities(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.shown.authorities()
    }

    /// Names what is trusted and shown, to compare it with what others have.
    pub fn trust_id(&self) -> [u8; 8] {
        trust_id(self.authorities().map(|authority| &authority[..]))
    }

    pub(crate) fn roots(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.shown.roots()
    }

    /// The hash of the root certificate, as in join tokens.
    pub fn ca_hash(&self) -> CaHash {
        CaHash::of(&self.shown.ca)
    }

    /// The hashes of all roots that are trusted, the newest first.
    pub fn trusted(&self) -> Vec<CaHash> {
        self.roots().map(CaHash::of).collect()
    }

    /// As [`Shown::knows`].
    pub fn knows(&self, ca: &CaHash) -> bool {
        self.shown.knows(ca)
    }

    /// The same, remembering what the one before knew.
    #[must_use]
    pub fn after(mut self, before: &Shown) -> Self {
        let known = before.former.iter().copied().chain(before.roots().map(CaHash::of));
        for hash in known.collect::<Vec<_>>() {
            if !self.knows(&hash) {
                self.shown.former.push(hash);
            }
        }
        let over = self.shown.former.len().saturating_sub(FORMER_MAX);
        self.shown.former.drain(..over);
        self
    }

    /// The own certificate.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.shown.certificate
    }

    /// The own key, for a renewal of the certificate.
    pub const fn key(&self) -> &KeyPair {
        &self.key
    }

    /// The same key with a new certificate.
    ///
    /// # Errors
    /// The certificate is malformed or not for this key.
    pub fn renewed(&self, certificate: CertificateDer<'static>) -> Result<Self, IdentityError> {
        let key =
            KeyPair::from_pkcs8(self.key.pkcs8_der()).map_err(|error| IdentityError::Mismatch(error.to_string()))?;
        Self::new(self.shown.ca.clone(), certificate, key)
            .map(|identity| identity.with_others(self.shown.others.clone()).after(&self.shown))
    }

    /// The same key with a new certificate, and what is trusted from now on: first the root that has signed it.
    ///
    /// # Errors
    /// The certificate is malformed or not for this key, or there is no root.
    pub fn renewed_under(
        &self,
        certificate: CertificateDer<'static>,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Self, IdentityError> {
        let mut authorities = authorities.into_iter();
        let ca = authorities.next().ok_or_else(|| IdentityError::Mismatch("there is no CA".to_owned()))?;
        let key =
            KeyPair::from_pkcs8(self.key.pkcs8_der()).map_err(|error| IdentityError::Mismatch(error.to_string()))?;
        Self::new(ca, certificate, key).map(|identity| identity.with_others(authorities.collect()).after(&self.shown))
    }

    /// The same with less that is trusted; `None` where that is not less, or not the same root.
    pub fn narrowed(&self, authorities: Vec<CertificateDer<'static>>) -> Option<Self> {
        let own: Vec<_> = self.authorities().collect();
        let is_less = authorities.len() < own.len() && authorities.iter().all(|one| own.contains(&one));
        if !is_less || authorities.first() != Some(&self.shown.ca) {
            return None;
        }
        self.renewed_under(self.shown.certificate.clone(), authorities).ok()
    }
}

/// Names a list of CA certificates.
pub fn trust_id<'a>(authorities: impl Iterator<Item = &'a [u8]>) -> [u8; 8] {
    let mut digest = Sha256::new();
    for authority in authorities {
        digest.update(Sha256::digest(authority));
    }
    let digest: [u8; 32] = digest.finalize().into();
    let mut id = [0; 8];
    id.copy_from_slice(&digest[..8]);
    id
}
