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

/// Manager 7 of a cluster, played by hand up to a good hello.
pub async fn greeted_by_hand(cluster: &TestCluster, node: &TestNode, plane: Plane) -> (Raw, quinn::Connection) {
    let stranger = raw(node, Some(&cluster.identity(7, CertRole::Manager)), plane.alpn());
    let connection = within("the handshake", stranger.connecting()).await.unwrap();
    // Fields 1 cluster, 2 lineage, 3 node, 4 raft id, 6 and 7 versions, 11 instance.
    let mut hello = vec![0x0a, 16];
    hello.extend([1; 16]);
    hello.extend([0x12, 16]);
    hello.extend([1; 16]);
    hello.extend([0x1a, 16]);
    hello.extend([7; 16]);
    hello.extend([0x20, 7, 0x30, 1, 0x38, 1, 0x58, 5]);
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&frame::encode(frame::FrameKind::Hello, &hello).unwrap()).await.unwrap();
    frame::read_kind(&mut receive, frame::FrameKind::HelloReply, frame::HELLO_BYTES_MAX).await.unwrap();
    send.write_all(&frame::encode(frame::FrameKind::HelloConfirm, &[]).unwrap()).await.unwrap();
    (stranger, connection)
}
