//! TLS 1.3 under the cluster's own CA.
//!
//! Owns the verifiers and the credentials of an endpoint, which can be swapped while it runs (new connections use the
//! new ones). Resumption, tickets and 0-RTT are off on both sides: a resumed session would skip the certificate checks.
//! Never trusts on first use, never falls back. Called by the endpoint, the connector and the join client.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quorate_core::id::{ClusterId, NodeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};

use crate::ca::CertRole;
use crate::clock::Clock;
use crate::handler::Plane;
use crate::identity::{CertificateProblem, Identity, KeyPair, Subject, dns_name};
use crate::locked::says_locked;
use crate::token::CaHash;

/// The ALPN of a newcomer that is dialled back; no plane, nothing is served on it.
pub(crate) const DIAL_BACK_ALPN: &[u8] = b"quorate-dial-back/1";

/// Why credentials could not be made from an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the identity cannot be used for TLS: {0}")]
pub struct TlsError(String);

impl TlsError {
    pub(crate) fn of(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Where a verifier leaves the typed reason of its refusal: rustls and quinn pass on text only.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict(Arc<Mutex<Option<CertificateProblem>>>);

impl Verdict {
    pub(crate) fn take(&self) -> Option<CertificateProblem> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn refuse(&self, problem: CertificateProblem) -> rustls::Error {
        // The alert that the other side sees follows from this; it has room for a number only.
        let error = match &problem {
            CertificateProblem::OtherCa | CertificateProblem::NotPinned => CertificateError::UnknownIssuer,
            CertificateProblem::Expired { .. } => CertificateError::Expired,
            CertificateProblem::NotYetValid { .. } => CertificateError::NotValidYet,
            CertificateProblem::OtherCluster { .. } | CertificateProblem::Malformed(_) => CertificateError::BadEncoding,
            CertificateProblem::WrongRole { .. }
            | CertificateProblem::OtherNode { .. }
            | CertificateProblem::OtherKey
            | CertificateProblem::Locked => CertificateError::Other(OtherError(Arc::new(problem.clone()))),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
        rustls::Error::InvalidCertificate(error)
    }
}

/// The one provider of this crate, passed explicitly everywhere: a process-wide default may be another's.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())).clone()
}

fn roots<'a, 'c: 'a>(trusted: impl Iterator<Item = &'a CertificateDer<'c>>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for root in trusted {
        store.add(root.clone().into_owned()).map_err(TlsError::of)?;
    }
    Ok(Arc::new(store))
}

/// What an endpoint shows and trusts at one moment.
pub(crate) struct Credentials {
    pub(crate) identity: Arc<Identity>,
    clock: Clock,
    roots: Arc<RootCertStore>,
    certified: Arc<CertifiedKey>,
}

impl Credentials {
    pub(crate) fn new(identity: Arc<Identity>, clock: Clock) -> Result<Self, TlsError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key().pkcs8_der().to_vec()));
        let key = provider().key_provider.load_private_key(key).map_err(TlsError::of)?;
        // The roots travel with the certificate: a newcomer finds in the chain what its token names, and who trusts an older root
        // the way from it.
        let chain = std::iter::once(identity.certificate()).chain(identity.authorities()).cloned().collect();
        Ok(Self {
            roots: roots(identity.roots())?,
            certified: Arc::new(CertifiedKey::new(chain, key)),
            identity,
            clock,
        })
    }

    fn cluster(&self) -> ClusterId {
        self.identity.subject().cluster
    }

    /// Whether the own certificate holds now: one that does not need not be shown to anybody.
    pub(crate) fn check_time(&self) -> Result<(), CertificateProblem> {
        self.identity.subject().check_time(self.clock.now())
    }

    /// For one incoming connection; the verdict is that connection's own.
    pub(crate) fn server(&self, verdict: &Verdict) -> Result<Arc<QuicServerConfig>, TlsError> {
        let inner = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider())
            .clear_root_hint_subjects()
            .allow_unauthenticated()
            .build()
            .map_err(TlsError::of)?;
        let verifier = ClientVerifier { inner, cluster: self.cluster(), verdict: verdict.clone() };
        let mut config = rustls::ServerConfig::builder_with_details(provider(), Arc::new(self.clock))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::of)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(Own(self.certified.clone())));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.alpn_protocols =
            [Plane::Peer, Plane::Client, Plane::Join].iter().map(|plane| plane.alpn().to_vec()).collect();
        QuicServerConfig::try_from(config).map(Arc::new).map_err(TlsError::of)
    }

    /// For one dial. `node` is whom the caller expects, if it knows.
    pub(crate) fn client(
        &self,
        plane: Plane,
        node: Option<NodeId>,
        verdict: &Verdict,
    ) -> Result<Arc<QuicClientConfig>, TlsError> {
        let verifier = ServerVerifier {
            trust: Trust::Roots(self.roots.clone()),
            cluster: Some(self.cluster()),
            node,
            verdict: verdict.clone(),
        };
        let config =
            client_builder(verifier, self.clock)?.with_client_cert_resolver(Arc::new(Own(self.certified.clone())));
        finish_client(config, plane.alpn())
    }
}

/// For a newcomer: no certificate of its own, and only a pinned CA is good enough.
pub(crate) fn join_client(
    pinned: &[CaHash],
    clock: Clock,
    verdict: &Verdict,
) -> Result<Arc<QuicClientConfig>, TlsError> {
    let trust = Trust::Pinned(pinned.to_vec());
    let verifier = ServerVerifier { trust, cluster: None, node: None, verdict: verdict.clone() };
    finish_client(client_builder(verifier, clock)?.with_no_client_auth(), Plane::Join.alpn())
}

/// For who answers handshakes and serves nothing: it shows this certificate and asks for none.
pub(crate) fn bare_server(
    certificate: &CertificateDer<'_>,
    key: &KeyPair,
    protocols: Vec<Vec<u8>>,
) -> Result<Arc<QuicServerConfig>, TlsError> {
    let chain = vec![certificate.clone().into_owned()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec()));
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::of)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::of)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = protocols;
    QuicServerConfig::try_from(config).map(Arc::new).map_err(TlsError::of)
}

/// For a manager that dials a newcomer back: only the holder of this key is good enough.
pub(crate) fn dial_back_client(key: [u8; 32], verdict: &Verdict) -> Result<Arc<QuicClientConfig>, TlsError> {
    let verifier = ServerVerifier { trust: Trust::Key(key), cluster: None, node: None, verdict: verdict.clone() };
    // The key is all that is looked at: no clock counts.
    finish_client(client_builder(verifier, Clock::default())?.with_no_client_auth(), DIAL_BACK_ALPN)
}

/// The handshake itself proves that the other side holds the private half.
fn check_key(end_entity: &CertificateDer<'_>, digest: &[u8; 32]) -> Result<(), CertificateProblem> {
    let (_, certificate) = x509_parser::parse_x509_certificate(end_entity)
        .map_err(|error| CertificateProblem::Malformed(error.to_string()))?;
    let found: [u8; 32] = Sha256::digest(certificate.public_key().raw).into();
    if found == *digest { Ok(()) } else { Err(CertificateProblem::OtherKey) }
}

fn client_builder(
    verifier: ServerVerifier,
    clock: Clock,
) -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    Ok(rustls::ClientConfig::builder_with_details(provider(), Arc::new(clock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::of)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn finish_client(mut config: rustls::ClientConfig, alpn: &[u8]) -> Result<Arc<QuicClientConfig>, TlsError> {
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.alpn_protocols = vec![alpn.to_vec()];
    QuicClientConfig::try_from(config).map(Arc::new).map_err(TlsError::of)
}

/// Credentials that can be replaced while connections come and go.
pub(crate) struct CredentialSlot(RwLock<Arc<Credentials>>);

impl CredentialSlot {
    pub(crate) fn new(identity: Arc<Identity>, clock: Clock) -> Result<Self, TlsError> {
        Ok(Self(RwLock::new(Arc::new(Credentials::new(identity, clock)?))))
    }

    pub(crate) fn current(&self) -> Arc<Credentials> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn replace(&self, identity: Arc<Identity>) -> Result<(), TlsError> {
        let fresh = Arc::new(Credentials::new(identity, self.current().clock)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

/// Shows the one own certificate, whatever the other side hints at.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for Own {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl rustls::client::ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What webpki found, in our words.
fn problem(error: &rustls::Error, subject: Result<Subject, CertificateProblem>, now: UnixTime) -> CertificateProblem {
    let rustls::Error::InvalidCertificate(error) = error else {
        return CertificateProblem::Malformed(error.to_string());
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "the many others mean the same to us: malformed")]
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => CertificateProblem::Expired {
            not_after: subject.map_or(0, |subject| subject.not_after),
            now: now.as_secs(),
        },
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            CertificateProblem::NotYetValid {
                not_before: subject.map_or(0, |subject| subject.not_before),
                now: now.as_secs(),
            }
        }
        // A CA of the same name with another key: the signature does not hold.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => CertificateProblem::OtherCa,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => match subject {
            Ok(subject) => CertificateProblem::WrongRole { needed: CertRole::Manager, found: subject.role },
            Err(problem) => problem,
        },
        other => CertificateProblem::Malformed(other.to_string()),
    }
}

/// Checks callers. A caller without a certificate passes here and is refused on every plane but join, before any
/// of its streams is looked at: which plane it wants is not known yet at this point of the handshake.
struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    cluster: ClusterId,
    verdict: Verdict,
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let subject = Subject::of(end_entity);
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|error| self.verdict.refuse(problem(&error, subject.clone(), now)))?;
        let subject = subject.map_err(|problem| self.verdict.refuse(problem))?;
        if subject.cluster != self.cluster {
            return Err(self
                .verdict
                .refuse(CertificateProblem::OtherCluster { expected: self.cluster, found: subject.cluster }));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

enum Trust {
    Roots(Arc<RootCertStore>),
    Pinned(Vec<CaHash>),
    /// SHA-256 of one public key: of a newcomer that has no certificate yet.
    Key([u8; 32]),
}

/// Checks who is dialled: a manager of the cluster, and the very node where the caller knows it.
struct ServerVerifier {
    trust: Trust,
    cluster: Option<ClusterId>,
    node: Option<NodeId>,
    verdict: Verdict,
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl ServerVerifier {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateProblem> {
        let is_expected = |(cluster, node): &(ClusterId, NodeId)| {
            self.cluster.is_none_or(|expected| expected == *cluster)
                && self.node.is_none_or(|expected| expected == *node)
        };
        if !matches!(self.trust, Trust::Key(_))
            && let Some(told) = says_locked(end_entity)
        {
            return Err(if is_expected(&told) { CertificateProblem::Locked } else { CertificateProblem::OtherCa });
        }
        let roots = match &self.trust {
            Trust::Key(digest) => return check_key(end_entity, digest),
            Trust::Roots(roots) => roots.clone(),
            Trust::Pinned(hashes) => {
                let ca = intermediates.iter().find(|ca| hashes.contains(&CaHash::of(ca)));
                let ca = ca.ok_or(CertificateProblem::NotPinned)?;
                roots(std::iter::once(ca)).map_err(|error| CertificateProblem::Malformed(error.to_string()))?
            }
        };
        let subject = Subject::of(end_entity);
        // Addresses move and hosts have many names, so the name that must match is the one of the identity itself.
        let name = subject.clone().and_then(|subject| {
            ServerName::try_from(dns_name(subject.cluster, subject.node_id))
                .map_err(|error| CertificateProblem::Malformed(error.to_string()))
        })?;
        WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| CertificateProblem::Malformed(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, &name, &[], now)
            .map_err(|error| problem(&error, subject.clone(), now))?;
        let subject = subject?;
        if let Some(expected) = self.cluster.filter(|expected| *expected != subject.cluster) {
            return Err(CertificateProblem::OtherCluster { expected, found: subject.cluster });
        }
        if subject.role != CertRole::Manager {
            return Err(CertificateProblem::WrongRole { needed: CertRole::Manager, found: subject.role });
        }
        if let Some(expected) = self.node.filter(|expected| *expected != subject.node_id) {
            return Err(CertificateProblem::OtherNode { expected, found: subject.node_id });
        }
        Ok(())
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now).map_err(|problem| self.verdict.refuse(problem))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
