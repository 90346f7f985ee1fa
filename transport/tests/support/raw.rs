//! A stranger with a QUIC stack of its own: no checks on its side, any ALPN, with or without a certificate.

use std::net::SocketAddr;
use std::sync::Arc;

use quorate_transport::*;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{TestCluster, TestNode, within};

pub struct Raw {
    endpoint: quinn::Endpoint,
    config: Arc<rustls::ClientConfig>,
    address: SocketAddr,
}

/// A client of our own making: no certificate checks on its side, any ALPN, with or without a certificate.
pub fn raw(node: &TestNode, identity: Option<&Identity>, alpn: &[u8]) -> Raw {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Blind));
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(
                vec![identity.certificate().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key().pkcs8_der().to_vec())),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    // Resumption stays on at this client: it is the server that must not offer it.
    config.resumption = rustls::client::Resumption::in_memory_sessions(16);
    config.enable_early_data = true;
    Raw {
        endpoint: quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap(),
        config: Arc::new(config),
        address: node.address.parse().unwrap(),
    }
}

impl Raw {
    pub fn connecting(&self) -> quinn::Connecting {
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(self.config.clone()).unwrap();
        self.endpoint.connect_with(quinn::ClientConfig::new(Arc::new(crypto)), self.address, "quorate.invalid").unwrap()
    }
}

#[derive(Debug)]
struct Blind;

impl rustls::client::danger::ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The hello of a manager of cluster 1.
fn hello_by_hand(n: u8) -> Vec<u8> {
    // Fields 1 cluster, 2 lineage, 3 node, 4 raft id, 6 and 7 versions, 11 instance.
    let mut hello = vec![0x0a, 16];
    hello.extend([1; 16]);
    hello.extend([0x12, 16]);
    hello.extend([1; 16]);
    hello.extend([0x1a, 16]);
    hello.extend([n; 16]);
    hello.extend([0x20, n, 0x30, 1, 0x38, 1, 0x58, 5]);
    hello
}

/// Manager 7 of a cluster, played by hand up to a good hello.
pub async fn greeted_by_hand(cluster: &TestCluster, node: &TestNode, plane: Plane) -> (Raw, quinn::Connection) {
    let stranger = raw(node, Some(&cluster.identity(7, CertRole::Manager)), plane.alpn());
    let connection = within("the handshake", stranger.connecting()).await.unwrap();
    let hello = hello_by_hand(7);
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&frame::encode(frame::FrameKind::Hello, &hello).unwrap()).await.unwrap();
    frame::read_kind(&mut receive, frame::FrameKind::HelloReply, frame::HELLO_BYTES_MAX).await.unwrap();
    send.write_all(&frame::encode(frame::FrameKind::HelloConfirm, &[]).unwrap()).await.unwrap();
    (stranger, connection)
}

/// Manager 7 of a cluster, played by hand at the other end: it listens.
pub struct Listening {
    endpoint: quinn::Endpoint,
    pub address: String,
}

/// Listens on the client plane.
pub async fn answering_by_hand(cluster: &TestCluster) -> Listening {
    let identity = cluster.identity(7, CertRole::Manager);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![identity.certificate().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key().pkcs8_der().to_vec())),
        )
        .unwrap();
    config.alpn_protocols = vec![Plane::Client.alpn().to_vec()];
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(config).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap().to_string();
    Listening { endpoint, address }
}

impl Listening {
    /// Takes the next caller, whoever it is.
    pub async fn greets(&self) -> quinn::Connection {
        let connection = self.endpoint.accept().await.unwrap().await.unwrap();
        let (mut send, mut receive) = connection.accept_bi().await.unwrap();
        frame::read_kind(&mut receive, frame::FrameKind::Hello, frame::HELLO_BYTES_MAX).await.unwrap();
        let hello = hello_by_hand(7);
        let reply = [&[0x0a, u8::try_from(hello.len()).unwrap()], &hello[..]].concat();
        send.write_all(&frame::encode(frame::FrameKind::HelloReply, &reply).unwrap()).await.unwrap();
        frame::read_kind(&mut receive, frame::FrameKind::HelloConfirm, frame::HELLO_BYTES_MAX).await.unwrap();
        connection
    }
}
