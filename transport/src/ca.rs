//! The cluster's certificate authority.
//!
//! Owns the root certificate and its key while they are open in memory, and what a certificate of this cluster looks
//! like. Of a signing request it uses the public key alone, and only after the request has proven that its sender holds the private
//! half. Never stores anything and never reads a clock: the node seals the parts and passes the time. Called by the node.

use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use quorate_core::id::{ClusterId, Enrolled, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::identity::{KeyPair, dns_name};
use crate::text::unix_seconds;
use crate::token::CaHash;

/// How long a cluster's root certificate holds.
const ROOT_VALIDITY: Duration = Duration::from_secs(20 * 365 * 86_400);
/// How far before its issue a certificate begins: covers clocks that are behind its issuer's by less. Twice the hour that must be
/// survived: the first manager's clock may be ahead while another's is behind.
pub(crate) const BACKDATE: Duration = Duration::from_secs(2 * 3_600);
/// The attribute `description` of a name: an older program skips it.
const DESCRIPTION: [u64; 4] = [2, 5, 4, 13];
/// Longest signing request that is looked at, bytes.
const CSR_BYTES_MAX: usize = 16 * 1024;

/// Roots on the way from one that is trusted to the one that signs, at most: rotations within each other.
const STEPS_MAX: u8 = 4;

/// What a certificate lets its holder be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertRole {
    /// Holds the log: all planes.
    Manager,
    /// Holds a session: the client plane.
    Worker,
    /// A person or a program with an operator's rights: the client plane.
    Operator,
}

impl CertRole {
    /// The word in the certificate and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Worker => "worker",
            Self::Operator => "operator",
        }
    }

    /// The role with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Manager, Self::Worker, Self::Operator].into_iter().find(|role| role.name() == name)
    }
}

/// Whom a certificate names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertSubject {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node, or the random id of an operator.
    pub node_id: NodeId,
    /// What it may be.
    pub role: CertRole,
    /// The raft id that a manager was given. It is a word to those who have not heard of that yet.
    pub enrolled: Option<Enrolled>,
}

/// Why a certificate could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// The operating system gave no random bits.
    #[error("the operating system gave no random bits; no key was made")]
    NoEntropy,
    /// The stored parts do not fit together or do not parse.
    #[error("the stored cluster CA cannot be read ({0}); certificates cannot be issued from it, nothing was changed")]
    BadParts(String),
    /// The request to sign is malformed, or its sender does not hold the key in it.
    #[error("the certificate request was refused: {0}; nothing was signed")]
    BadRequest(String),
    /// The subject is of another cluster than this CA.
    #[error("a certificate for cluster {asked} was asked of the CA of cluster {ours}; nothing was signed")]
    WrongCluster {
        /// The CA's cluster.
        ours: ClusterId,
        /// The cluster asked for.
        asked: ClusterId,
    },
    /// The root does not hold at this time, so nothing it signs would.
    #[error("the cluster CA does not hold at {0}; nothing was signed: check this machine's clock")]
    OutOfTime(String),
    /// Signing failed.
    #[error("signing a certificate failed: {0}")]
    Signing(String),
}

/// The cluster's root: certificate, key, and the id of the cluster. No `Debug`, no `Clone`.
pub struct ClusterCa {
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    not_before: u64,
    not_after: u64,
    key: KeyPair,
}

impl ClusterCa {
    /// Makes the root of a new cluster. It holds for 20 years from `now`, less the two hours it is backdated.
    ///
    /// # Errors
    /// No random bits, or signing failed.
    pub fn create(cluster: ClusterId, now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = root_name(cluster, &key);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(STEPS_MAX));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        set_validity(&mut params, now, ROOT_VALIDITY, u64::MAX);
        let signer = key.signer().map_err(|error| CaError::Signing(error.to_string()))?;
        let certificate = params.self_signed(&*signer).map_err(|error| CaError::Signing(error.to_string()))?;
        Self::from_parts(certificate.der().as_ref(), key.pkcs8_der())
    }

    /// Opens a root from what [`ClusterCa::to_parts`] gave.
    ///
    /// # Errors
    /// The parts do not parse, or the key is not the certificate's.
    pub fn from_parts(certificate_der: &[u8], key_der: &[u8]) -> Result<Self, CaError> {
        let bad = |what: &str| CaError::BadParts(what.to_owned());
        let key = KeyPair::from_pkcs8(key_der).map_err(|error| CaError::BadParts(error.to_string()))?;
        let (rest, parsed) = x509_parser::parse_x509_certificate(certificate_der)
            .map_err(|error| CaError::BadParts(format!("the certificate does not parse: {error}")))?;
        if !rest.is_empty() {
            return Err(bad("there are bytes after the certificate"));
        }
        let cluster = parsed
            .subject()
            .iter_organization()
            .next()
            .and_then(|name| name.as_str().ok())
            .and_then(|name| name.parse().ok())
            .ok_or_else(|| bad("the certificate names no cluster"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key() {
            return Err(bad("the key is not the certificate's"));
        }
        let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let not_before = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0);
        Ok(Self { cluster, certificate: CertificateDer::from(certificate_der.to_vec()), not_before, not_after, key })
    }

    /// Certificate (DER) and key (PKCS#8 DER, wiped when dropped), to be sealed and stored.
    pub fn to_parts(&self) -> (Vec<u8>, Zeroizing<Vec<u8>>) {
        (self.certificate.to_vec(), Zeroizing::new(self.key.pkcs8_der().to_vec()))
    }

    /// The cluster.
    pub const fn cluster_id(&self) -> ClusterId {
        self.cluster
    }

    /// The root certificate, which is public.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) const fn key(&self) -> &KeyPair {
        &self.key
    }

    /// What certificates that it signs name as their issuer.
    pub fn issuer_id(&self) -> IssuerId {
        subject_id(&self.certificate)
    }

    /// The key of the root that comes after this one, signed by this one: who trusts only this root finds the way to what the
    /// next one signs. Holds for as long as this root does.
    ///
    /// # Errors
    /// The two are of different clusters, or signing failed.
    pub fn cross_sign(&self, next: &Self, now: SystemTime) -> Result<CertificateDer<'static>, CaError> {
        if next.cluster != self.cluster {
            return Err(CaError::WrongCluster { ours: self.cluster, asked: next.cluster });
        }
        let signing = |error: rcgen::Error| CaError::Signing(error.to_string());
        let public = next.key.signer().map_err(signing)?;
        // Name, usages and key identifiers as in the other's own root.
        let mut params = CertificateParams::default();
        params.distinguished_name = root_name(self.cluster, &next.key);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(STEPS_MAX));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        set_validity(&mut params, now, ROOT_VALIDITY, self.not_after);
        // From when this root holds: it says no more than that, and whoever's clock is behind that of this machine must not be shut out.
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(self.not_before);
        let signer = self.key.signer().map_err(signing)?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &*signer).map_err(signing)?;
        let certificate = params.signed_by(&*public, &issuer).map_err(signing)?;
        Ok(certificate.der().clone())
    }

    /// What join tokens pin.
    pub fn hash(&self) -> CaHash {
        CaHash::of(&self.certificate)
    }

    /// Signs the public key of `csr_der` for `subject`, valid from two hours before `now` for `validity` after it, at most as
    /// long as the root itself. Names, extensions and usages asked for in the request are not looked at.
    ///
    /// # Errors
    /// The request is malformed or not signed by its own key, its key is neither Ed25519 nor P-256, the subject is of
    /// another cluster, or the root does not hold at `now`.
    pub fn issue(
        &self,
        csr_der: &[u8],
        subject: &CertSubject,
        validity: Duration,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, CaError> {
        if subject.cluster != self.cluster {
            return Err(CaError::WrongCluster { ours: self.cluster, asked: subject.cluster });
        }
        if unix_seconds(now) >= self.not_after {
            return Err(CaError::OutOfTime(crate::text::utc(unix_seconds(now))));
        }
        if csr_der.len() > CSR_BYTES_MAX {
            return Err(CaError::BadRequest(format!(
                "it has {} bytes, at most {CSR_BYTES_MAX} are read",
                csr_der.len()
            )));
        }
        // Parsing verifies the request's signature with its own key: proof that the sender holds the private half.
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
            .map_err(|error| CaError::BadRequest(error.to_string()))?;
        let algorithm = request.public_key.algorithm();
        if algorithm != &PKCS_ED25519 && algorithm != &PKCS_ECDSA_P256_SHA256 {
            return Err(CaError::BadRequest("its key is neither Ed25519 nor ECDSA P-256".to_owned()));
        }
        let mut params = CertificateParams::new(vec![dns_name(subject.cluster, subject.node_id)])
            .map_err(|error| CaError::Signing(error.to_string()))?;
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, subject.node_id.to_string());
        name.push(DnType::OrganizationName, subject.cluster.to_string());
        name.push(DnType::OrganizationalUnitName, subject.role.name());
        if let Some(enrolled) = subject.enrolled {
            name.push(DnType::CustomDnType(DESCRIPTION.to_vec()), enrolled.to_string());
        }
        params.distinguished_name = name;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Only managers are dialled, so only theirs may stand for a server.
        params.extended_key_usages = match subject.role {
            CertRole::Manager => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            CertRole::Worker | CertRole::Operator => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.serial_number = Some(serial()?);
        set_validity(&mut params, now, validity, self.not_after);
        let signer = self.key.signer().map_err(|error| CaError::Signing(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &*signer)
            .map_err(|error| CaError::Signing(error.to_string()))?;
        let certificate =
            params.signed_by(&request.public_key, &issuer).map_err(|error| CaError::Signing(error.to_string()))?;
        Ok(certificate.der().clone())
    }
}

/// A name of its own for each root: the issuer's name in a certificate says which root signed it.
fn root_name(cluster: ClusterId, key: &KeyPair) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("quorate cluster CA {}", HEXLOWER.encode(&key.digest()[..8])));
    name.push(DnType::OrganizationName, cluster.to_string());
    name
}

/// Which root signed a certificate: the beginning of the SHA-256 of the name it gives as its issuer. Roots have names of their
/// own, made from their keys; that the name is true is shown by the signature, which a handshake checks.
pub type IssuerId = [u8; 8];

pub(crate) fn name_id(name: &[u8]) -> IssuerId {
    let digest: [u8; 32] = Sha256::digest(name).into();
    let mut id = IssuerId::default();
    id.copy_from_slice(&digest[..8]);
    id
}

/// What certificates that this root signs name as their issuer.
pub fn subject_id(certificate: &CertificateDer<'_>) -> IssuerId {
    x509_parser::parse_x509_certificate(certificate)
        .map_or_else(|_| IssuerId::default(), |(_, root)| name_id(root.subject().as_raw()))
}

/// Whether a CA certificate is a root, which signs itself; else it is one root's word for another.
pub fn is_root(certificate: &CertificateDer<'_>) -> bool {
    x509_parser::parse_x509_certificate(certificate)
        .is_ok_and(|(_, parsed)| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

/// 16 random bytes, positive: two certificates never share a serial, also not over a renewal of one key.
fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|_no_detail| CaError::NoEntropy)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn set_validity(params: &mut CertificateParams, now: SystemTime, validity: Duration, last: u64) {
    // 9999-12-31: the last day a certificate can name.
    const LAST_DAY: u64 = 253_402_214_400;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = unix_seconds(now).min(LAST_DAY);
    let begin = now.saturating_sub(BACKDATE.as_secs());
    let end = now.saturating_add(validity.as_secs()).min(last).min(LAST_DAY);
    params.not_before = epoch + Duration::from_secs(begin);
    params.not_after = epoch + Duration::from_secs(end);
}
