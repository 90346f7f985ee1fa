//! Dialling back: whether a newcomer can be reached at the address that it gives, before anything is changed for it.
//!
//! Owns both ends. While it joins, the newcomer listens where it will listen as a manager, and answers handshakes with the
//! key of its join request; the manager dials that address from its own port and takes nobody else's key. Nothing is said
//! on the connection: the handshake is the proof. Called by the newcomer's join and by the managers' join handler.

use std::net::SocketAddr;
use std::time::Duration;

use rcgen::CertificateParams;
use tokio::task::JoinSet;

use crate::codes;
use crate::dial::{self, ConnectError};
use crate::endpoint::EndpointOptions;
use crate::identity::KeyPair;
use crate::network::Network;
use crate::peers::Peers;
use crate::socket::{self, BindError};
use crate::tls::{self, TlsError};

/// Handshakes at once: one manager dials, the rest is noise.
const CONNECTIONS_MAX: usize = 16;
/// How long one may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A newcomer's port while it joins.
#[derive(Debug)]
pub struct DialBack {
    endpoint: quinn::Endpoint,
}

impl DialBack {
    /// Listens. To be called on the tokio runtime that shall carry it; the port is free again when that runtime has ended.
    ///
    /// # Errors
    /// The port is in use or may not be used, or the key is unusable.
    pub fn listen(listen: SocketAddr, key: &KeyPair, network: &Network) -> Result<Self, BindError> {
        let unusable = |error: rcgen::Error| BindError::from(TlsError::of(error));
        let signer = key.signer().map_err(unusable)?;
        let certificate = CertificateParams::default().self_signed(&*signer).map_err(unusable)?;
        let protocols = vec![tls::DIAL_BACK_ALPN.to_vec()];
        let mut server = quinn::ServerConfig::with_crypto(tls::bare_server(certificate.der(), key, protocols)?);
        server.transport_config(socket::accept_transport(&EndpointOptions::default()));
        let (endpoint, _) = network.listen(listen, quinn::EndpointConfig::default(), server)?;
        Ok(Self { endpoint })
    }

    /// Where it listens.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.endpoint.local_addr().ok()
    }

    /// Answers until the future is dropped.
    ///
    /// Cancel safe: that is how it is stopped.
    pub async fn serve(self) {
        answer_handshakes(self.endpoint).await;
    }
}

/// Answers handshakes, and nothing after them, until the future is dropped.
pub(crate) async fn answer_handshakes(endpoint: quinn::Endpoint) {
    let mut tasks = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            Some(_ended) = tasks.join_next() => continue,
        };
        let Some(incoming) = incoming else { return };
        if tasks.len() >= CONNECTIONS_MAX {
            incoming.refuse();
            continue;
        }
        tasks.spawn(async move {
            let shaken = async {
                let Ok(connection) = incoming.await else { return };
                // The dialler closes: it knows when it has seen enough.
                let _ = connection.closed().await;
            };
            let _ = tokio::time::timeout(HANDSHAKE, shaken).await;
        });
    }
}

impl Peers {
    /// Whether the holder of the key with this digest (SHA-256 of its SubjectPublicKeyInfo) answers at `address`
    /// (`host:port`) while it joins. Dialled from this endpoint's own port, as a peer would be.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// Why it was not reached.
    pub async fn dial_back(&self, address: &str, key: [u8; 32], timeout: Duration) -> Result<(), ConnectError> {
        let shared = self.shared.clone();
        let attempt = |address: SocketAddr| {
            let shared = shared.clone();
            async move {
                let transport = socket::peer_transport(&shared.options);
                let tls = |verdict: &tls::Verdict| tls::dial_back_client(key, verdict);
                let connection =
                    dial::on(&shared.options.network, &shared.quinn, address, timeout, transport, tls).await?;
                connection.close(codes::DONE.into(), b"reached");
                Ok(())
            }
        };
        dial::race(&[address.to_owned()], timeout, dial::STAGGER, attempt).await.map(|(_, ())| ())
    }
}
