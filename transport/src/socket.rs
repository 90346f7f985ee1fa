//! Sockets and QUIC parameters: everything that touches quinn's socket API or its numbers is here.
//!
//! Owns the values of the transport parameters, each with its reason, and the binding of the UDP port. Never a default by
//! accident. Called by the endpoint and the connector.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hkdf::Hkdf;
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use sha2::Sha256;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use zeroize::Zeroizing;

use crate::endpoint::EndpointOptions;

/// UDP buffers asked of the kernel; drops there look like loss on the wire.
const UDP_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Unread bytes of one stream. It also bounds what a snapshot has in flight, so that the send window is never full of it.
pub(crate) const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// Unread bytes of one connection: what a peer can make us hold.
const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;
/// Unacknowledged bytes of one connection: more than append and snapshot stream together may have under way.
const SEND_WINDOW: u64 = 16 * 1024 * 1024;
/// Largest datagram that a node takes, and that is tried on the way to one: what the way really carries QUIC finds out by
/// itself, and an Ethernet with jumbo frames, or the machine itself, carries four times what others do, at a quarter of the
/// packets. Ten of them, as many as leave in one call, fit into what the kernel takes at once (64 KiB). Who only asks, and a
/// worker, keeps to QUIC's 1472: a sender holds ten datagrams for each connection.
const DATAGRAM_BYTES_MAX: u16 = 6_500;
/// Requests in flight on one connection. QUIC keeps an entry for each stream that the other side may open, whether it does or
/// not: 1024 cost about 90 KiB.
const BIDI_STREAMS: u32 = 1024;
/// As long as it is not known who calls, and on a worker's connection, of which a manager may have thousands: its session,
/// and a few requests beside it.
const BIDI_STREAMS_FEW: u32 = 32;
/// Lanes; snapshots and requests are bidirectional.
const UNI_STREAMS: u32 = 8;

/// Why the endpoint could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error(
        "UDP port {0} is in use: another process listens there (perhaps this node, already running); stop it, or prepare a directory with another --listen address"
    )]
    Busy(SocketAddr),
    /// The address is not one of this machine's, or may not be used.
    #[error(
        "cannot listen on {address}: {source}; give this machine that address, or prepare a directory with another --listen address"
    )]
    Address {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Called outside a tokio runtime.
    #[error("an endpoint must be bound inside a tokio runtime")]
    NoRuntime,
    /// The identity cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// The operating system gave no random bits.
    #[error("the operating system gave no random bits")]
    NoEntropy,
}

/// Binds the node's port. `[::]` serves IPv4 too where the machine has IPv6.
pub(crate) fn bind(address: SocketAddr) -> Result<UdpSocket, BindError> {
    let open = |address: SocketAddr| -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() && address.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        // Best effort, and said when it was not enough: the kernel clips to its own limits.
        let asked = socket.set_recv_buffer_size(UDP_BUFFER_BYTES).and(socket.set_send_buffer_size(UDP_BUFFER_BYTES));
        socket.bind(&address.into())?;
        let got = socket.recv_buffer_size().unwrap_or(0);
        if asked.is_err() || got < UDP_BUFFER_BYTES {
            tracing::info!(
                got,
                wanted = UDP_BUFFER_BYTES,
                "the kernel gave a smaller UDP buffer; under load packets may be dropped: raise net.core.rmem_max and wmem_max"
            );
        }
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    let bound = match open(address) {
        // IPv6 is switched off on this machine, and "any address" was asked for: IPv4's any address is what is left.
        Err(error) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && error.kind() != io::ErrorKind::AddrInUse => {
            tracing::info!(%error, "no IPv6 on this machine; listening on IPv4 only");
            open((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        other => other,
    };
    bound.map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            BindError::Busy(address)
        } else {
            BindError::Address { address, source }
        }
    })
}

/// What the kernel gave to a socket, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UdpBuffers {
    /// For receiving; 0 where that cannot be told.
    pub receive: usize,
    /// For sending.
    pub send: usize,
    /// What was asked for.
    pub wanted: usize,
}

pub(crate) fn buffers(socket: &UdpSocket) -> UdpBuffers {
    let socket = SockRef::from(socket);
    let (receive, send) = (socket.recv_buffer_size().unwrap_or(0), socket.send_buffer_size().unwrap_or(0));
    UdpBuffers { receive, send, wanted: UDP_BUFFER_BYTES }
}

/// A socket of a client, on any port, of the family of its target.
pub(crate) fn bind_client(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr =
        if target.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A socket that carries the connections of many clients, with buffers like a node's: what comes for all of them comes here.
pub(crate) fn bind_many(target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::from(bind_client(target)?);
    // Best effort: the kernel clips to its own limits.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER_BYTES).and(socket.set_send_buffer_size(UDP_BUFFER_BYTES));
    Ok(socket.into())
}

/// Reset key and connection ids out of the node's seed: after a restart the same node recognises packets of connections
/// that it no longer has, and tells the sender so at once instead of leaving it to the idle timeout.
pub(crate) fn endpoint_config(seed: &[u8; 32]) -> EndpointConfig {
    let hkdf = Hkdf::<Sha256>::new(Some(b"quorate/quic/1"), seed);
    let mut reset = Zeroizing::new([0u8; 32]);
    let mut connection_ids = [0u8; 8];
    // Expanding fails only for outputs over 8160 bytes.
    let expanded =
        hkdf.expand(b"stateless reset", &mut *reset).and(hkdf.expand(b"connection ids", &mut connection_ids));
    debug_assert!(expanded.is_ok());
    let mut config = EndpointConfig::new(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &*reset)));
    let key = u64::from_be_bytes(connection_ids);
    config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(key)));
    // Fails only below 1200.
    let taken = config.max_udp_payload_size(DATAGRAM_BYTES_MAX).is_ok();
    debug_assert!(taken);
    config
}

fn transport(idle: Duration, keep_alive: Option<Duration>, bidi: u32, uni: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(DATAGRAM_BYTES_MAX);
    config
        .mtu_discovery_config(Some(discovery))
        // A configured time over 2^62 ms does not exist; then there is none.
        .max_idle_timeout(IdleTimeout::try_from(idle).ok())
        .keep_alive_interval(keep_alive)
        // A LAN's, not the internet's: drives the recovery of the first packets.
        .initial_rtt(Duration::from_millis(50))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .max_concurrent_bidi_streams(VarInt::from_u32(bidi))
        .max_concurrent_uni_streams(VarInt::from_u32(uni))
        // Many short streams of one priority: first come, first served is cheaper and as fair.
        .send_fairness(false)
        // Datagrams are not used.
        .datagram_receive_buffer_size(None);
    config
}

/// What a manager uses that dials a manager.
pub(crate) fn peer_transport(options: &EndpointOptions) -> Arc<TransportConfig> {
    Arc::new(transport(options.peer_idle, Some(options.peer_keep_alive), BIDI_STREAMS, UNI_STREAMS))
}

/// What a client uses. Nobody opens a stream to a client.
pub(crate) fn client_transport(keep_alive: Duration, idle: Duration, stream_window: u32) -> Arc<TransportConfig> {
    let mut config = transport(idle, Some(keep_alive), 0, 0);
    config.stream_receive_window(VarInt::from_u32(stream_window));
    Arc::new(config)
}

/// What the accepting side uses: the plane is not known when it is needed. Of two idle timeouts the shorter holds, so a
/// peer's 5 s win; the dialler sends the keep-alives.
pub(crate) fn accept_transport(options: &EndpointOptions) -> Arc<TransportConfig> {
    Arc::new(transport(options.client_idle.max(options.peer_idle), None, BIDI_STREAMS_FEW, UNI_STREAMS))
}

/// The caller is known, and one that asks much.
pub(crate) fn allow_many_requests(connection: &quinn::Connection) {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(BIDI_STREAMS));
}
