//! Dialling: from host names to a TLS connection, with errors that say what to do.
//!
//! Owns name resolution at every dial, the race over several addresses and the finding of closed ports. Never speaks the
//! hello. Called by peers, the connector and the join client; needs a tokio runtime, has no threads of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use tokio::task::JoinSet;

use crate::hello::Refused;
use crate::identity::CertificateProblem;
use crate::network::Network;
use crate::socket;
use crate::tls::{TlsError, Verdict};

/// How long an address has for itself before the next one is tried beside it.
pub(crate) const STAGGER: Duration = Duration::from_millis(100);

/// Why no connection came about. Nothing was sent that could have changed anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No address was given.
    #[error("no address to connect to was given; name at least one manager as host:port")]
    NoAddress,
    /// A host name has no address, or the text is no `host:port`.
    #[error("cannot resolve `{host}`: {why}; write host:port and check the name")]
    Resolve {
        /// What was given.
        host: String,
        /// Why.
        why: String,
    },
    /// The machine answers that nobody has this port.
    #[error("nothing listens on {0} (port closed): start the node there, or check address and port")]
    PortClosed(SocketAddr),
    /// No route, or the local firewall says no.
    #[error("cannot send to {address}: {why}; check route and firewall")]
    Unreachable {
        /// Where to.
        address: SocketAddr,
        /// Why.
        why: String,
    },
    /// No answer in time.
    #[error("no answer from {address} within {} ms: the machine is off or unreachable, or a firewall drops UDP", .after.as_millis())]
    Timeout {
        /// Who did not answer.
        address: String,
        /// How long was waited.
        after: Duration,
    },
    /// The own certificate does not hold now: nothing was dialled.
    #[error("our own identity cannot be used: {0}")]
    OwnCertificate(CertificateProblem),
    /// The other side's certificate is not acceptable.
    #[error("{address} was not trusted: {problem}; check the address and the identity file (or join token)")]
    Certificate {
        /// Who.
        address: SocketAddr,
        /// What is wrong with its certificate.
        problem: CertificateProblem,
    },
    /// The other side did not accept our certificate during the handshake.
    #[error("{address} did not accept our certificate: {why}")]
    NotAccepted {
        /// Who.
        address: SocketAddr,
        /// What its alert means.
        why: String,
    },
    /// The other side does not serve this plane.
    #[error("{0} does not speak this protocol: it is not a quorate manager, or of another version")]
    WrongProtocol(SocketAddr),
    /// One of the two sides refused the other after the hello.
    #[error("{address} and this side do not fit: {refused}")]
    Refused {
        /// Who.
        address: SocketAddr,
        /// Why.
        refused: Refused,
        /// Whether it is this side that refused the other one: then it says nothing about this side.
        ours: bool,
    },
    /// The connection broke while it was made.
    #[error("the connection to {address} broke while it was made: {why}")]
    Broken {
        /// Who.
        address: SocketAddr,
        /// Why.
        why: String,
    },
    /// No local socket or no usable TLS set-up.
    #[error("this machine gave no socket: {0}")]
    Local(String),
    /// Several addresses were tried and each failed; the most telling reason comes first.
    #[error("no address could be used: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    All(Vec<Self>),
}

impl ConnectError {
    /// The most telling reason: of [`ConnectError::All`] the first, else itself.
    pub fn root(&self) -> &Self {
        if let Self::All(errors) = self { errors.first().map_or(self, Self::root) } else { self }
    }

    /// Whether somebody who was asked says that this operator's identity was taken back, and nobody says something else: nobody ever
    /// takes that word back, and who cannot be reached says nothing.
    pub fn is_revoked(&self) -> bool {
        match self {
            Self::All(errors) => {
                errors.iter().any(Self::is_revoked)
                    && errors.iter().all(|error| error.is_revoked() || error.is_silence())
            }
            Self::Refused { refused, ours, .. } => matches!(refused, Refused::Revoked) && !ours,
            Self::NoAddress
            | Self::Resolve { .. }
            | Self::PortClosed(_)
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::OwnCertificate(_)
            | Self::Certificate { .. }
            | Self::NotAccepted { .. }
            | Self::WrongProtocol(_)
            | Self::Broken { .. }
            | Self::Local(_) => false,
        }
    }

    /// Whether nobody has answered at all.
    const fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::PortClosed(_)
                | Self::Unreachable { .. }
                | Self::Timeout { .. }
                | Self::Resolve { .. }
                | Self::Broken { .. }
                | Self::NoAddress
        )
    }

    /// Whether trying again later can help without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.root(),
            Self::PortClosed(_)
                | Self::Unreachable { .. }
                | Self::Timeout { .. }
                | Self::Broken { .. }
                | Self::Resolve { .. }
                | Self::Refused {
                    refused: Refused::Busy(_) | Refused::NotAMember | Refused::Locked | Refused::Duplicate,
                    ..
                }
        )
    }

    /// The more an error says, the earlier it is told.
    const fn rank(&self) -> u8 {
        match self {
            Self::OwnCertificate(_) => 0,
            Self::Refused { .. } => 1,
            Self::Certificate { .. } | Self::NotAccepted { .. } => 2,
            Self::WrongProtocol(_) => 3,
            Self::PortClosed(_) => 4,
            Self::Unreachable { .. } => 5,
            Self::Resolve { .. } => 6,
            Self::Broken { .. } => 7,
            Self::Timeout { .. } | Self::Local(_) | Self::NoAddress | Self::All(_) => 8,
        }
    }
}

/// A TLS connection that nobody has spoken on yet, with the endpoint that carries it.
pub(crate) struct Dialled {
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) connection: quinn::Connection,
    pub(crate) address: SocketAddr,
}

/// Resolves every address now: names may have moved since the last time. Each comes with the place of what was given.
pub(crate) async fn resolve(addresses: &[String]) -> (Vec<(usize, SocketAddr)>, Vec<ConnectError>) {
    let mut found: Vec<(usize, SocketAddr)> = Vec::new();
    let mut errors = Vec::new();
    for (place, host) in addresses.iter().enumerate() {
        match tokio::net::lookup_host(host.as_str()).await {
            Ok(resolved) => {
                let before = found.len();
                for address in resolved {
                    if !found.iter().any(|(_, known)| *known == address) {
                        found.push((place, address));
                    }
                }
                if found.is_empty() && before == 0 {
                    errors.push(ConnectError::Resolve { host: host.clone(), why: "it has no address".to_owned() });
                }
            }
            Err(error) => errors.push(ConnectError::Resolve { host: host.clone(), why: error.to_string() }),
        }
    }
    (found, errors)
}

/// Tries all addresses, each a little later than the one before or as soon as that one failed; the first success wins
/// and the others are dropped. It comes with the place of its address among those given.
pub(crate) async fn race<T, F, A>(
    addresses: &[String],
    timeout: Duration,
    stagger: Duration,
    attempt: A,
) -> Result<(usize, T), ConnectError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ConnectError>> + Send + 'static,
    A: Fn(SocketAddr) -> F,
{
    if addresses.is_empty() {
        return Err(ConnectError::NoAddress);
    }
    let deadline = tokio::time::Instant::now() + timeout;
    let late = || ConnectError::Timeout { address: addresses.join(", "), after: timeout };
    let (mut left, mut errors) =
        tokio::time::timeout_at(deadline, resolve(addresses)).await.map_err(|_elapsed| late())?;
    left.reverse();
    let mut running = JoinSet::new();
    loop {
        if let Some((place, address)) = left.pop() {
            let attempt = attempt(address);
            running.spawn(async move { attempt.await.map(|made| (place, made)) });
        } else if running.is_empty() {
            break;
        }
        // The last address has nobody to wait for.
        let next = tokio::time::sleep(if left.is_empty() { timeout } else { stagger });
        tokio::select! {
            biased;
            ended = running.join_next() => match ended {
                Some(Ok(Ok(connection))) => return Ok(connection),
                Some(Ok(Err(error))) => errors.push(error),
                Some(Err(_)) | None => {}
            },
            () = tokio::time::sleep_until(deadline) => {
                errors.push(late());
                break;
            }
            () = next => {}
        }
    }
    errors.sort_by_key(ConnectError::rank);
    errors.dedup();
    if errors.len() > 1 {
        return Err(ConnectError::All(errors));
    }
    Err(errors.pop().unwrap_or_else(late))
}

/// Handshake over an endpoint of its own, for clients and newcomers.
pub(crate) async fn fresh(
    network: &Network,
    address: SocketAddr,
    timeout: Duration,
    tls: impl FnOnce(&Verdict) -> Result<Arc<QuicClientConfig>, TlsError>,
) -> Result<Dialled, ConnectError> {
    let endpoint = network.dialler(address, false)?;
    let transport = socket::client_transport(Duration::from_secs(5), Duration::from_secs(15), socket::STREAM_WINDOW);
    let connection = on(network, &endpoint, address, timeout, transport, tls).await?;
    Ok(Dialled { endpoint, connection, address })
}

/// Handshake over a given endpoint.
pub(crate) async fn on(
    network: &Network,
    endpoint: &quinn::Endpoint,
    address: SocketAddr,
    timeout: Duration,
    transport: Arc<quinn::TransportConfig>,
    tls: impl FnOnce(&Verdict) -> Result<Arc<QuicClientConfig>, TlsError>,
) -> Result<quinn::Connection, ConnectError> {
    let verdict = Verdict::default();
    let crypto = tls(&verdict).map_err(|error| ConnectError::Local(error.to_string()))?;
    let mut config = quinn::ClientConfig::new(crypto);
    config.transport_config(transport);
    // The name is not what is verified (see tls.rs); a fixed one says nothing to who listens on the way.
    let connecting = endpoint
        .connect_with(config, address, "quorate.invalid")
        .map_err(|error| ConnectError::Unreachable { address, why: error.to_string() })?;
    tokio::select! {
        biased;
        result = connecting => result.map_err(|error| explain(&error, address, timeout, &verdict)),
        error = network.closed_port(address) => Err(error),
        () = tokio::time::sleep(timeout) => Err(ConnectError::Timeout { address: address.to_string(), after: timeout }),
    }
}

/// Ends only when the machine at `address` says that nobody has the port. QUIC's own socket is not connected and never
/// learns of that answer; a connected one beside it does. The byte it sends is no QUIC packet and is ignored.
pub(crate) async fn closed_port(address: SocketAddr) -> ConnectError {
    let probe = async {
        let socket = tokio::net::UdpSocket::from_std(socket::bind_client(address)?)?;
        socket.connect(address).await?;
        socket.send(&[0]).await?;
        let mut buffer = [0; 16];
        loop {
            socket.recv(&mut buffer).await?;
        }
    };
    let result: std::io::Result<std::convert::Infallible> = probe.await;
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => ConnectError::PortClosed(address),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NetworkUnreachable | std::io::ErrorKind::HostUnreachable) =>
        {
            ConnectError::Unreachable { address, why: error.to_string() }
        }
        // Whatever else: the handshake decides.
        Err(_) => std::future::pending().await,
        Ok(never) => match never {},
    }
}

/// The refusal in an application close, if it is one.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other ends are no refusals")]
pub(crate) fn refusal(error: &quinn::ConnectionError) -> Option<Refused> {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            Refused::from_close(close.error_code.into_inner(), &close.reason)
        }
        quinn::ConnectionError::ConnectionClosed(close)
            if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
        {
            Some(Refused::Busy("it has too many handshakes under way".to_owned()))
        }
        _ => None,
    }
}

/// A failed handshake, or a connection that ended during the hello, in words.
pub(crate) fn explain(
    error: &quinn::ConnectionError,
    address: SocketAddr,
    timeout: Duration,
    verdict: &Verdict,
) -> ConnectError {
    use quinn::ConnectionError as Quic;
    if let Some(problem) = verdict.take() {
        if problem == CertificateProblem::Locked {
            return ConnectError::Refused { address, refused: Refused::Locked, ours: false };
        }
        return ConnectError::Certificate { address, problem };
    }
    if let Some(refused) = refusal(error) {
        return ConnectError::Refused { address, refused, ours: false };
    }
    match error {
        Quic::TimedOut => ConnectError::Timeout { address: address.to_string(), after: timeout },
        Quic::VersionMismatch => ConnectError::WrongProtocol(address),
        Quic::ConnectionClosed(close) => match u64::from(close.error_code).checked_sub(0x100) {
            // TLS alerts, RFC 8446 section 6.
            Some(120) => ConnectError::WrongProtocol(address),
            Some(48) => not_accepted(
                address,
                "it is of another cluster (its CA is unknown there); use an identity file of that cluster",
            ),
            Some(45) => not_accepted(
                address,
                "by the clock there it has expired or does not hold yet; compare the clocks of both machines, or renew it",
            ),
            Some(42 | 43 | 46) => not_accepted(address, "it is not one that this cluster issues"),
            Some(116) => not_accepted(address, "none was shown"),
            _ => ConnectError::Broken { address, why: error.to_string() },
        },
        Quic::TransportError(_)
        | Quic::ApplicationClosed(_)
        | Quic::Reset
        | Quic::LocallyClosed
        | Quic::CidsExhausted => ConnectError::Broken { address, why: error.to_string() },
    }
}

fn not_accepted(address: SocketAddr, why: &str) -> ConnectError {
    ConnectError::NotAccepted { address, why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_revoked_by_the_word_of_one_whom_nobody_contradicts() {
        let at: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let refused = |refused, ours| ConnectError::Refused { address: at, refused, ours };
        let revoked = || refused(Refused::Revoked, false);
        let all = |errors: Vec<ConnectError>| ConnectError::All(errors).is_revoked();
        // Who cannot be reached says nothing,
        assert!(revoked().is_revoked() && all(vec![ConnectError::PortClosed(at), revoked()]));
        assert!(!all(vec![ConnectError::PortClosed(at)]) && !all(Vec::new()));
        // who answers something else does, and what this side says is about the other one.
        assert!(!all(vec![revoked(), refused(Refused::Busy("x".into()), false)]));
        assert!(!refused(Refused::Revoked, true).is_revoked());
    }
}
