//! The word of a manager that is locked, to whoever dials it.
//!
//! Owns both ends. The key of its certificate is sealed, so it answers a handshake with a certificate that it has signed itself,
//! for a key that it has drawn for this wait: that names cluster and node, and says `locked` where others have their role.
//! Nothing proves it, and it is believed in one thing: it is a reason why no connection came about. Whoever can answer at that
//! address could as well say nothing. Nobody of the cluster completes a handshake with it. Called by the node that waits for its key, and by the
//! verifier of who dials.

use std::net::SocketAddr;

use quorate_core::id::{ClusterId, NodeId};
use rcgen::{CertificateParams, DistinguishedName, DnType};
use rustls_pki_types::CertificateDer;

use crate::dialback::answer_handshakes;
use crate::handler::Plane;
use crate::identity::KeyPair;
use crate::network::Network;
use crate::socket::{self, BindError};
use crate::tls::{self, TlsError};

/// Stands where other certificates name a role.
const LOCKED: &str = "locked manager";

/// The port of a manager that waits for its key.
#[derive(Debug)]
pub struct LockedDoor {
    endpoint: quinn::Endpoint,
}

impl LockedDoor {
    /// Listens. To be called on the tokio runtime that shall carry it; the port is free again when that runtime has ended.
    ///
    /// # Errors
    /// The port is in use or may not be used, or the system gives no entropy.
    pub fn listen(
        listen: SocketAddr,
        (cluster, node): (ClusterId, NodeId),
        network: &Network,
    ) -> Result<Self, BindError> {
        let key = KeyPair::generate().map_err(|error| BindError::from(TlsError::of(error)))?;
        let certificate = word(cluster, node, &key).map_err(|error| BindError::from(TlsError::of(error)))?;
        let protocols = [Plane::Peer, Plane::Client, Plane::Join].map(|plane| plane.alpn().to_vec());
        let mut server = quinn::ServerConfig::with_crypto(tls::bare_server(&certificate, &key, protocols.into())?);
        server.transport_config(socket::accept_transport(&crate::endpoint::EndpointOptions::default()));
        let (endpoint, _) = network.listen(listen, quinn::EndpointConfig::default(), server)?;
        Ok(Self { endpoint })
    }

    /// Answers until the future is dropped.
    ///
    /// Cancel safe: that is how it is stopped.
    pub async fn serve(self) {
        answer_handshakes(self.endpoint).await;
    }
}

fn word(cluster: ClusterId, node: NodeId, key: &KeyPair) -> Result<CertificateDer<'static>, rcgen::Error> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, node.to_string());
    name.push(DnType::OrganizationName, cluster.to_string());
    name.push(DnType::OrganizationalUnitName, LOCKED);
    params.distinguished_name = name;
    let signer = key.signer()?;
    Ok(params.self_signed(&*signer)?.der().clone())
}

/// Which manager says with this certificate that it is locked; none with any other.
pub(crate) fn says_locked(certificate: &CertificateDer<'_>) -> Option<(ClusterId, NodeId)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject();
    let text = |found: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
        found.and_then(|value| value.as_str().ok()).map(str::to_owned)
    };
    if text(name.iter_organizational_unit().next())? != LOCKED {
        return None;
    }
    let cluster = text(name.iter_organization().next())?.parse().ok()?;
    let node = text(name.iter_common_name().next())?.parse().ok()?;
    Some((cluster, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_of_a_locked_manager_is_taken_for_one() {
        let (cluster, node) = (ClusterId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
        let key = KeyPair::generate().unwrap();
        assert_eq!(says_locked(&word(cluster, node, &key).unwrap()), Some((cluster, node)));
        let now = std::time::SystemTime::now();
        let ca = crate::ca::ClusterCa::create(cluster, now).unwrap();
        let subject =
            crate::ca::CertSubject { cluster, node_id: node, role: crate::ca::CertRole::Manager, enrolled: None };
        let hour = std::time::Duration::from_secs(3_600);
        assert_eq!(says_locked(&ca.issue(&key.csr().unwrap(), &subject, hour, now).unwrap()), None);
        assert_eq!(says_locked(ca.certificate()), None);
        assert_eq!(says_locked(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
